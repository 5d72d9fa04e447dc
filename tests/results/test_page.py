"""The report of a small run whose rows are written by hand, hostile ones among them, and the page in a real browser."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import made_up
import pytest
from commands import run_command
from hypothesis import given
from hypothesis import strategies as st

import tpo.store.execute
from tpo.config.compose import compose_config
from tpo.config.schema import Config, register
from tpo.evaluate.stages import COMPARE
from tpo.judge.score import count_scores
from tpo.pairs.build import count_drops
from tpo.pairs.stages import PAIRS
from tpo.results.folder import stage_list
from tpo.results.page.report import render_page, write_page
from tpo.results.page.samples import choose, held_out_entries
from tpo.results.page.shell import escape_json
from tpo.results.read import FinishedRun, read_run
from tpo.sample.completions import summarize
from tpo.store.artifacts import Artifact, finish, open_artifact
from tpo.store.files import read_sealed, write_json, write_sealed
from tpo.store.records import Check, Completion, Prompt, Record, Score, write_records
from tpo.store.stage import Step
from tpo.store.store import Store

REPOSITORY = Path(__file__).parents[2]
NUM_TRAIN, NUM_TEST, NUM_SAMPLES, NUM_ITERATIONS, NUM_BASELINE = 30, 24, 3, 2, 2
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(1)><!-- <style>*{display:none}</style> -->"
    " \u202egnp.exe\u202c \u200f\u2028 \x00 \x1b[31m & &lt; ' \" ` $name ${name} "
)
LONG_WORD = "W" * 3000
register()


class Small(NamedTuple):
    """A run whose samples and scores were written by hand; pairs and comparisons are the real stages'."""

    path: Path
    artifacts: Path

    @property
    def summary(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return content

    @property
    def config(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        return content

    @property
    def page(self) -> str:
        return (self.path / "report.html").read_text(encoding="utf-8")


def prompt(split: str, number: int) -> Prompt:
    text = f"Instruction {number} of {split}"
    category = ("maths", "poetry")[number % 2]
    if number == 3:
        text, category = f"{HOSTILE} instruction", "<b>bold</b> category"
    checks = (
        (Check("answer:number", {"answer": "42"}), Check("answer:exact", {"answer": "right"})) if number == 7 else ()
    )
    return Prompt(f"{split}-{number:03}", text, category, "hand", split, checks, f"{split}-{number:03}")


def completion(prompt_id: str, index: int, **changes: Any) -> Completion:
    row = {
        "prompt_id": prompt_id,
        "sample_index": index,
        "prompt_ids": [1, 2],
        "completion_ids": [3, 4, 5],
        "forced_start": 1,
        "forced_stop": 1 + index % 2,
        "response_start": 2,
        "is_prefilled": True,
        "completion": "raw",
        "thought": f"Thought {index} on {prompt_id}",
        "response": f"Response {index} to {prompt_id}",
        "split_error": None,
        "finish_reason": "stop" if index else "length",
        "num_thought_tokens": 2,
        "num_response_tokens": 3,
        "seed": 0,
    }
    return Completion(**{**row, **changes})


def training_rows(iteration: int) -> list[tuple[Completion, Score]]:
    """Samples and scores: by instruction a pair, a tie, too few scored, identical responses, hostile texts, ..."""
    rows = []
    for number in range(NUM_TRAIN):
        for index in range(NUM_SAMPLES):
            key = f"train-{iteration}-{number:03}"
            row, score = completion(key, index), Score(key, index, (index * 7 + number) % 5 - 2.5, None, None, 0)
            if number % 10 == 1:
                score = Score(key, index, 1.0, None, None, 0)
            elif number % 10 == 2 and index:
                score = Score(key, index, None, f"the judge's answer holds no verdict {HOSTILE}", None, 0)
            elif number == 3:
                row = completion(key, index, response=f"{HOSTILE} response {index}", thought=f"{HOSTILE} thought")
            elif number == 4 and index == 1:
                failed = {"thought": None, "response": None, "split_error": "missing_delimiter"}
                row = completion(key, index, completion=f"{HOSTILE} raw", **failed)
                score = Score(key, index, None, "missing_delimiter", None, 0)
            elif number == 5:
                row = completion(key, index, response=LONG_WORD, thought=LONG_WORD[:600])
                score = Score(key, index, 1.0, None, None, 0)
            rows.append((row, score))
    return rows


class Maker:
    """Makes artifacts: from rows that are given, or by the real stage."""

    def __init__(self, root: Path) -> None:
        self.rows: list[Record] = []
        self.metrics: dict[str, Any] = {}
        self.lines = ""  # of a training's metrics
        self.store = Store(root, execute=self._execute)
        self.made: list[Artifact] = []

    def __call__(self, step: Step, rows: list[Any] | None = None, metrics: dict[str, Any] | None = None) -> Artifact:
        self.rows, self.metrics = rows or [], metrics or {}
        contents = {role: open_artifact(self.store.root / name).content for role, name in step.inputs.items()}
        self.made.append(self.store.run(replace(step, contents=contents)))
        self.lines = ""
        return self.made[-1]

    def _execute(self, path: Path) -> None:
        if self.lines:
            (path / "metrics.jsonl").write_text(self.lines)
            finish(path, metrics={}, started=time.time())
            return
        if not self.rows:
            tpo.store.execute.execute(path)
            return
        write_records(path / "rows.jsonl", self.rows)
        finish(path, metrics=self.metrics, started=time.time())

    def trained(self, iteration: int) -> Artifact:
        """A training of four steps, of which there are metrics alone."""
        steps = [
            {"loss": 0.7 - 0.1 * step, "rewards/accuracies": 0.25 * step, "rewards/margins": 0.1 * step, "step": step}
            for step in range(1, 5)
        ]
        self.lines = "".join(json.dumps(step) + "\n" for step in steps)
        return self(Step("train", 1, {"iteration": iteration}))

    def sampled(self, name: str, rows: list[tuple[Completion, Score]]) -> tuple[Artifact, Artifact]:
        completions, scores = [row for row, _ in rows], [score for _, score in rows]
        made = self(Step("sample", 1, {"name": name}), completions, summarize(completions))
        return (
            made,
            self(
                Step("judge", 1, {"judge": "made up"}, {"completions_0": made.artifact_id}),
                scores,
                count_scores(scores),
            ),
        )


def make_run(root: Path) -> Small:
    """Write a run of two iterations: artifacts through the store, made-up numbers where the summary has others."""
    overrides = ["experiment=quickstart", "tracking=none", f"artifacts_dir={root}/artifacts", f"runs_dir={root}/runs"]
    overrides += ["pairs.length_penalty=0.25", "pairs.truncated_responses=keep"]
    config = asdict(compose_config(Config, overrides))
    make = Maker(root / "artifacts")
    splits = [("test", NUM_TEST), *((f"train-{number + 1}", NUM_TRAIN) for number in range(NUM_ITERATIONS))]
    prompts = make(
        Step("prompts", 1, {}), [prompt(split, number) for split, count in splits for number in range(count)]
    )
    tests = [f"test-{number:03}" for number in range(NUM_TEST)]
    baseline = make.sampled(
        "baseline",
        [
            (
                completion(key, index, thought=None, num_thought_tokens=0, response=f"Direct {index} to {key}"),
                Score(key, index, 0.0, None, None, 0),
            )
            for key in tests
            for index in range(NUM_BASELINE)
        ],
    )
    entries: list[dict[str, Any]] = []
    for iteration in range(NUM_ITERATIONS + 1):
        answers = [
            (
                completion(key, 0, response=f"Response {iteration} to {key}"),
                Score(key, 0, (number + iteration) % 3 - 1.0, None, None, 0),
            )
            for number, key in enumerate(tests)
        ]
        answers[5] = (answers[5][0], Score(tests[5], 0, None, "the server did not answer", None, 0))
        answers[3] = (completion(tests[3], 0, response=f"{HOSTILE} answer"), answers[3][1])
        answers[7] = (completion(tests[7], 0, response="Right." if iteration else "wrong"), answers[7][1])
        policy = make.sampled(f"answers-{iteration}", answers)
        inputs = {
            "prompts": prompts,
            "completions": policy[0],
            "scores": policy[1],
            "baseline_completions": baseline[0],
            "baseline_scores": baseline[1],
        }
        ids = {role: artifact.artifact_id for role, artifact in inputs.items()}
        settings = {"confidence": 0.95, "no_response": "loss", "are_together": False}
        artifacts = {
            "answers": policy[0],
            "comparison": make(Step("compare", COMPARE.version, settings, ids, work=COMPARE.work)),
        }
        trained: dict[str, Any] = {"judging": None, "num_pairs": 0, "drops": {}}
        if iteration:
            completions, scores = make.sampled(f"train-{iteration}", training_rows(iteration))
            ids = {"completions": completions.artifact_id, "scores": scores.artifact_id}
            pairs = make(Step("pairs", PAIRS.version, config["pairs"], ids, work=PAIRS.work))
            train = make.trained(iteration)
            artifacts |= {"completions": completions, "scores": scores, "pairs": pairs, "train": train}
            trained = {"judging": scores.metrics, **pairs.metrics}
        names = {role: artifact.artifact_id for role, artifact in artifacts.items()}
        entries.append(made_up.entry(iteration, 0.5, **artifacts["comparison"].metrics, **trained, artifacts=names))
    path = root / "runs" / "quickstart-made_up"
    path.mkdir(parents=True)
    write_json(path / "config.json", config)
    write_sealed(path / "summary.json", made_up.summary(*entries, stages=stage_list(make.made, run=path.name)))
    write_page(read_run(path))
    return Small(path, root / "artifacts")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_run(tmp_path_factory.mktemp("report"))


@pytest.fixture
def copied(small: Small, tmp_path: Path) -> Small:
    """A run that a test may damage."""
    copy = Small(tmp_path / "runs" / small.path.name, tmp_path / "artifacts")
    shutil.copytree(small.path, copy.path)
    shutil.copytree(small.artifacts, copy.artifacts)
    config = copy.config | {"artifacts_dir": str(copy.artifacts)}
    (copy.path / "config.json").write_text(json.dumps(config))
    return copy


class Elements(HTMLParser):
    """The elements of a page as a browser's parser sees them: (tag, attributes), and the text of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self.raw.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.raw[-1] += data
        else:
            self.words.append(data)


def data_of(page: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Elements(page).raw[1])
    return content


# --- the page as text -------------------------------------------------------------------------------------------


def test_run_leaves_a_page_with_every_instruction(small: Small) -> None:
    data = data_of(small.page)
    assert len(data["instructions"]) == NUM_ITERATIONS * NUM_TRAIN + NUM_TEST
    for entry in small.summary["iterations"]:
        shown = [row for row in data["entries"] if row["iteration"] == entry["iteration"]]
        training = [row["outcome"] for row in shown if row["split"] == "training"]
        held_out = [row["outcome"] for row in shown if row["split"] == "held-out"]
        reasons = [outcome for outcome in training if outcome != "pair"]
        assert (count_drops(reasons) if training else {}) == entry["drops"]
        assert training.count("pair") == entry["num_pairs"]
        assert len(training) == (NUM_TRAIN if entry["iteration"] else 0)
        rate = entry["win_rate"]
        assert held_out.count("unscored") == rate["num_unscored"] == 1
        assert len(held_out) == NUM_TEST
        assert held_out.count("win") + held_out.count("tie") / 2 == pytest.approx(rate["rate"] * rate["num_prompts"])
    assert {row["outcome"] for row in data["entries"]} >= {"pair", "tied", "too_few_scored", "identical_responses"}


def test_samples_are_those_of_the_rows(small: Small) -> None:
    data = data_of(small.page)
    entries = {(row["iteration"], row["prompt_id"]): row for row in data["entries"]}
    for row, score in training_rows(1):
        entry = entries[1, row.prompt_id]
        sample = entry["samples"][row.sample_index]
        assert (sample["response"], sample["thought"]) == (row.response, row.thought)
        assert (sample["score"], sample["unscored_reason"]) == (score.score, score.unscored_reason)
        assert sample["is_forced"] == (row.sample_index % 2 == 1)
        assert sample["is_truncated"] == (row.finish_reason == "length")
        assert sample["completion"] == (None if row.response else row.completion)
        assert sample["passed"] == ([False, False] if row.prompt_id.endswith("-007") else [])
    pair = entries[1, "train-1-000"]  # scores -2.5, -0.5 and 1.5, equal lengths
    assert (pair["chosen"], pair["rejected"], pair["outcome"]) == (2, 0, "pair")
    unscored = entries[2, "test-005"]
    assert (unscored["outcome"], unscored["reason"]) == ("unscored", "policy: the server did not answer")
    assert data["sides"][0]["answers"]["test-005"]["response"] == "Direct 0 to test-005"
    assert data["sides"][unscored["side"]]["title"] == "Iteration 2"
    assert data["sides"][unscored["side"]]["answers"]["test-005"]["reason"] == "the server did not answer"
    assert data["instructions"]["train-1-003"]["text"] == f"{HOSTILE} instruction"
    assert data["instructions"]["test-007"]["checks"] == ["number (answer: 42)", "exact (answer: right)"]
    held_out = entries[2, "test-007"]
    baseline, *_, last = (side["answers"]["test-007"] for side in data["sides"])
    assert (last["passed"], baseline["passed"]) == ([False, True], [False, False])
    assert (last["num_samples"], baseline["num_samples"]) == (1, NUM_BASELINE)
    assert (held_out["win"], held_out["outcome"], last["outcome"]) == (0.0, "loss", "loss"), "-1 against 0"


def test_hostile_text_is_no_markup(small: Small) -> None:
    elements = Elements(small.page)
    counts = {tag: sum(name == tag for name, _ in elements.tags) for tag in ("script", "style", "img", "b", "svg")}
    assert counts == {"script": 2, "style": 1, "img": 4, "b": 3, "svg": 0}
    assert all(str(attributes["src"]).startswith("data:") for tag, attributes in elements.tags if tag == "img")
    assert not any(name.startswith("on") for _, attributes in elements.tags for name in attributes)
    assert any("<b>bold</b> category" in text for text in elements.words), "below the table, as it is small"


def test_policy_lets_only_the_page_s_own_script_and_style_run(small: Small) -> None:
    elements = Elements(small.page)
    [policy] = [str(a["content"]) for _, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy"]
    style, _, script = elements.raw
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    digests = [
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'" for text in (style, script)
    ]
    assert [allowed["style-src"], allowed["script-src"]] == digests
    assert allowed["default-src"] == "'none'" and allowed["img-src"] == "data:"


JSON_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates included


@given(st.dictionaries(JSON_TEXT, JSON_TEXT | st.lists(JSON_TEXT | st.floats(allow_nan=False, allow_infinity=False))))
def test_escaped_json_survives_html_and_is_the_same_value(value: dict[str, Any]) -> None:
    text = escape_json(value)
    assert json.loads(text) == value
    assert not set("<>&") & set(text)
    assert text.encode("utf-8").decode("utf-8") == text
    assert Elements(f'<script type="application/json">{text}</script>').raw == [text]


def test_same_run_gives_the_same_bytes(small: Small, copied: Small) -> None:
    before = small.page
    assert write_page(read_run(small.path)).read_text(encoding="utf-8") == before
    write_json(copied.path / "config.json", small.config)  # whose folders the commands of the page name
    assert write_page(read_run(copied.path)).read_text(encoding="utf-8") == before, "places do not show"
    again = read_sealed(small.path / "summary.json")
    again["stages"] = [{**stage, "is_reused": True, "seconds": 1.0} for stage in again["stages"]]
    write_sealed(copied.path / "summary.json", again)
    assert write_page(read_run(copied.path)).read_text(encoding="utf-8") == before, "nor how long it took"
    assert before.count(str(small.artifacts)) == 1, "in the command that repeats the run"


def test_cap_is_stated_and_kept(copied: Small) -> None:
    write_page(read_run(copied.path), max_instructions=7)
    data = data_of(copied.page)
    for group in data["groups"]:
        there = NUM_TRAIN if group["split"] == "training" else NUM_TEST
        assert (group["num_instructions"], group["num_entries"]) == (there, 7)
    held_out = [
        {row["prompt_id"] for row in data["entries"] if (row["split"], row["iteration"]) == ("held-out", iteration)}
        for iteration in range(NUM_ITERATIONS + 1)
    ]
    assert held_out[0] == held_out[1] == held_out[2] == set(data["sides"][0]["answers"]), (
        "the same ones in every iteration"
    )
    assert set(data["instructions"]) == {row["prompt_id"] for row in data["entries"]}
    words = " ".join("".join(Elements(copied.page).words).split())
    assert "shows 14 of 60 training instructions and 21 of 72 held-out answers. At most 7 of each kind" in words


def test_what_changed_comes_first_and_the_run_can_be_repeated(small: Small, copied: Small) -> None:
    texts = " ".join("".join(Elements(small.page).words).split())
    assert "win rate: 47.8 \N{RIGHTWARDS ARROW} 50.0 %, change +20.0 points [+15.0, +25.0] (n = 12)" in texts
    assert texts.index("change +") < texts.index("Iteration 0 is the seed") < texts.index("This page shows")
    folders = f"artifacts_dir={small.artifacts} runs_dir={small.path.parent}"
    assert f"python -m tpo.run experiment=quickstart {folders} " in texts and "pairs.length_penalty" in texts
    assert f"python -m tpo.chat policy={small.path} " in texts
    assert f"python -m tpo.results {small.path} --samples" in texts
    assert "collapsed" not in texts and 'id="types"' not in small.page
    summary = made_up.full_summary() | {"collapse": "all answers are <empty>"}
    summary["iterations"][2]["collapse"] = "all answers are <empty>"
    usual = copied.config | {"artifacts_dir": "artifacts", "runs_dir": "runs"}
    page = render_page(FinishedRun(copied.path, summary, usual), samples=None)
    assert "artifacts_dir" not in page and "runs_dir" not in page and str(copied.path.parent.parent) not in page
    assert "python -m tpo.chat policy=runs/quickstart-made_up" in page
    assert "The policy collapsed. iteration 2: all answers are &lt;empty&gt;" in page
    for text in ("likelihood", "unseen in training", "second judge", "control", "checked rate: 27.8"):
        assert text in page.replace("&nbsp;", " "), text
    figures = [attributes["class"] for tag, attributes in Elements(page).tags if tag == "img"]
    assert figures == ["types", "iterations broad", "lengths", "categories"], "no artifacts of a training"


def test_training_curves_are_those_of_the_artifacts(small: Small) -> None:
    figures = [attributes["class"] for tag, attributes in Elements(small.page).tags if tag == "img"]
    assert figures == ["iterations", "lengths", "categories", "training broad"]
    steps = read_run(small.path).training(small.summary["iterations"][1])
    assert [step["loss"] for step in steps] == pytest.approx([0.6, 0.5, 0.4, 0.3])
    assert read_run(small.path).training(small.summary["iterations"][0]) == []


@given(
    st.sets(st.text(max_size=5), max_size=30), st.integers(1, 20), st.integers(0, 3), st.randoms(use_true_random=False)
)
def test_choice_depends_on_ids_and_seed_only(ids: set[str], limit: int, seed: int, shuffler: Any) -> None:
    chosen = choose(sorted(ids), seed=seed, limit=limit)
    assert chosen <= ids and len(chosen) == min(limit, len(ids))
    assert chosen == choose(shuffler.sample(sorted(ids), len(ids)), seed=seed, limit=limit)
    assert choose(ids, seed=seed, limit=limit - 1) <= chosen


def test_choice_is_a_fair_draw_that_changes_with_the_seed() -> None:
    ids = [str(number) for number in range(20)]
    drawn = [choose(ids, seed=seed, limit=5) for seed in range(400)]
    counts = [sum(name in chosen for chosen in drawn) for name in ids]
    assert min(counts) > 60 and max(counts) < 140  # 100 expected, standard deviation 8.7


def damage_missing(run: Small) -> None:
    shutil.rmtree(run.artifacts / run.summary["iterations"][1]["artifacts"]["completions"])


def damage_edited(run: Small) -> None:
    path = run.artifacts / run.summary["iterations"][2]["artifacts"]["scores"] / "rows.jsonl"
    path.write_text(path.read_text().replace("1.0", "2.0"))


def damage_drops(run: Small) -> None:
    path = run.artifacts / run.summary["iterations"][1]["artifacts"]["pairs"] / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["metrics"]["drops"]["tied"] += 1
    path.write_text(json.dumps(manifest))


def damage_version(run: Small) -> None:
    path = run.artifacts / run.summary["iterations"][1]["artifacts"]["pairs"] / "manifest.json"
    write_sealed(path, read_sealed(path) | {"version": 0})


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (damage_missing, "has no manifest.json"),
        (damage_edited, "differs from manifest.json"),
        (damage_drops, "manifest.json was edited"),
        (damage_version, "another version of tpo.pairs"),
    ],
)
def test_page_without_samples_says_why(copied: Small, damage: Any, why: str) -> None:
    damage(copied)
    write_page(read_run(copied.path))
    elements = Elements(copied.page)
    assert why in "".join(elements.words)
    assert data_of(copied.page)["entries"] == []
    assert {"id": "browser", "hidden": None} in [attributes for _, attributes in elements.tags]
    captions = sum(tag == "caption" for tag, _ in elements.tags)
    assert captions == 5, "the numbers are all there: changes, rates, counts, categories, pairs"


def test_run_without_training_has_a_page(small: Small) -> None:
    summary = small.summary
    summary["iterations"] = summary["iterations"][:1]
    page = render_page(FinishedRun(small.path, summary, small.config), samples=None, problem="not asked for")
    assert "not asked for" in page and "no training" in page


def report_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("tpo.results", "--page", *arguments)


def test_command_line(copied: Small, tmp_path: Path) -> None:
    done = report_cli(str(copied.path), "--max-instructions", "4")
    assert (done.returncode, done.stdout) == (0, f"{copied.path / 'report.html'}\n"), done.stderr
    assert len(data_of(copied.page)["entries"]) == 4 * (2 * NUM_ITERATIONS + 1)
    missing = report_cli(str(tmp_path / "nowhere"))
    assert missing.returncode == 1 and "there is no such folder" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert report_cli(str(copied.path), "--max-instructions", "0").returncode == 2


def test_a_reader_that_has_enough_is_no_fault(small: Small) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = run_command("tpo.results", str(small.path), stdout=closed)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


# --- the page in a browser --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, small: Small) -> Iterator[Any]:
    """The report in a tab; a message in the console, an error, a dialog or a request fails the test."""
    tab = chromium.new_page(viewport={"width": 1400, "height": 900})
    tab.set_default_timeout(10_000)
    faults: list[str] = []
    tab.on("console", lambda message: faults.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: faults.append(f"error: {error}"))
    tab.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    tab.on(
        "request", lambda request: faults.append(request.url) if not request.url.startswith(("file", "data")) else None
    )
    tab.goto((small.path / "report.html").as_uri())
    yield tab
    tab.close()
    assert faults == []


NUM_ENTRIES = NUM_ITERATIONS * NUM_TRAIN + (NUM_ITERATIONS + 1) * NUM_TEST


def status(page: Any) -> str:
    text: str = page.inner_text("#status")
    return text


def wait_for_entries(page: Any, count: int) -> None:
    """Wait for a filter that acts with a delay; the page's policy forbids Playwright's `wait_for_function`."""
    from playwright.sync_api import expect

    expect(page.locator(".entry")).to_have_count(count)


def open_hostile(page: Any) -> Any:
    """The entry of training with hostile text everywhere."""
    page.select_option("#category", "<b>bold</b> category")
    page.select_option("#split", "training")
    page.select_option("#iteration", "1")
    assert status(page).startswith("1 of ")
    return page.locator(".entry")


@pytest.mark.browser
def test_thought_is_folded_until_asked_for(page: Any) -> None:
    page.select_option("#split", "training")
    thought = page.locator("details .text").first
    assert not thought.is_visible()
    page.locator(".entry summary").first.focus()
    page.keyboard.press("Enter")
    assert thought.is_visible()
    assert thought.inner_text() == "Thought 0 on train-1-000"
    assert page.locator("details[open]").count() == 1


@pytest.mark.browser
def test_pair_and_its_sides_are_marked(page: Any) -> None:
    page.select_option("#outcome", "pair")
    entry = page.locator(".entry").first
    assert entry.locator(".sample").count() == NUM_SAMPLES
    assert entry.locator(".chosen .text").last.inner_text() == "Response 2 to train-1-000"
    assert entry.locator(".rejected .text").last.inner_text() == "Response 0 to train-1-000"
    assert "response delimiter forced" in entry.locator(".sample").nth(1).inner_text()
    assert "ended by the token limit" in entry.locator(".sample").nth(0).inner_text()
    page.select_option("#order", "score")
    titles = page.locator(".entry").first.locator("h4 span:first-child").all_inner_texts()
    assert titles == ["Sample 2", "Sample 1", "Sample 0"]


@pytest.mark.browser
def test_checks_stand_beside_the_responses(page: Any) -> None:
    page.goto(page.url + "#split=held-out&iteration=2&text=Instruction+7")
    wait_for_entries(page, 1)
    policy, baseline = (page.locator(".sample").nth(index).locator(".checks li") for index in (0, 1))
    assert policy.all_inner_texts() == ["\u2717 number (answer: 42)", "\u2713 exact (answer: right)"]
    assert [item.get_attribute("class") for item in policy.all()] == ["failed", "passed"]
    assert [item.get_attribute("class") for item in baseline.all()] == ["failed", "failed"]
    page.goto(page.url.replace("+7", "+8"))
    assert page.locator(".checks").count() == 0 and page.locator(".entry").count() == 1


@pytest.mark.browser
def test_entries_are_sorted(page: Any) -> None:
    def margins() -> list[float]:
        texts = page.locator(".entry h3").all_inner_texts()
        return [float(found[1].replace("\u2212", "-")) for text in texts if (found := re.search("margin (\\S+)", text))]

    page.select_option("#outcome", "pair")
    page.select_option("#sort", "margin")
    assert len(margins()) == 20 and margins() == sorted(margins(), reverse=True) and margins()[0] > margins()[-1]
    page.select_option("#sort", "-margin")
    assert margins() == sorted(margins())
    page.select_option("#outcome", "")
    page.select_option("#split", "held-out")
    page.select_option("#iteration", "2")
    page.select_option("#sort", "-score")
    scores = page.locator(".sample:first-child .score").all_inner_texts()
    found = [float(text.split()[-1].replace("\u2212", "-")) for text in scores]
    assert found == sorted(found) and found[0] == -1
    page.select_option("#sort", "change")
    first = page.locator(".entry .instruction").first.inner_text()
    assert first == "Instruction 0 of test", "from -1 to 1: the greatest gain"


@pytest.mark.browser
def test_an_instruction_is_shown_across_iterations(page: Any) -> None:
    from playwright.sync_api import expect

    page.select_option("#split", "held-out")
    page.locator(".entry").nth(2).get_by_text("across iterations").click()
    wait_for_entries(page, 1)
    titles = page.locator(".entry h4 span:first-child").all_inner_texts()
    assert titles == ["Baseline", "Iteration 0, untrained", "Iteration 1", "Iteration 2"]
    assert page.locator(".course .instruction").inner_text() == "Instruction 2 of test"
    assert "1 of 24 held-out instructions" in status(page)
    page.get_by_role("button", name="All instructions").click()
    wait_for_entries(page, 20)
    assert "24 of 24 held-out instructions" in status(page)
    page.go_back()  # to the view before the instruction's; the page hears of it later
    expect(page.locator("#status")).to_contain_text("(held-out: ")
    page.click("#reset")
    expect(page.locator("#status")).to_contain_text(f"{NUM_ENTRIES} of ")


@pytest.mark.browser
def test_two_iterations_are_compared_and_filtered_by_who_won(page: Any) -> None:
    page.get_by_role("link", name="Side by side").click()
    wait_for_entries(page, 20)
    assert (page.input_value("#first"), page.input_value("#second")) == ("1", "3"), "the untrained and the last policy"
    assert "The higher score by the judge" in page.inner_text("#rule")

    def number() -> int:
        return int(status(page).split(" of ")[0])

    def won(first: int, second: int) -> dict[str, int]:
        """From the scores that `make_run` gives; test-003 has the same answer, test-005 is unscored."""
        scores = [[(n + iteration) % 3 for iteration in (first, second)] for n in range(NUM_TEST)]
        kept = [pair for n, pair in enumerate(scores) if n not in (3, 5)]
        return {"first": sum(a > b for a, b in kept), "second": sum(a < b for a, b in kept), "undecided": 1}

    for place in (2, 3):
        page.select_option("#second", str(place))
        for outcome, count in won(0, place - 1).items():
            page.select_option("#won", outcome)
            assert number() == count, (place, outcome)
    titles = page.locator(".entry h4 span:first-child").all_inner_texts()
    assert titles == ["Iteration 0, untrained", "Iteration 2"]
    assert "Unscored: the server did not answer" in page.locator(".entry").inner_text()
    page.select_option("#won", "")
    page.select_option("#check", "exact")
    page.select_option("#passed", "second")
    assert number() == 1 and "Instruction 7 of test" in page.locator(".entry").inner_text()
    page.select_option("#second", "1")
    assert page.inner_text("#rule") == "Choose two sides that differ."
    assert not page.locator("#split").is_visible() and page.locator("#won").is_visible()


@pytest.mark.browser
def test_a_view_has_an_address(page: Any, chromium: Any) -> None:
    from playwright.sync_api import expect

    page.select_option("#split", "training")
    page.select_option("#sort", "-margin")
    page.select_option("#order", "score")
    page.fill("#text", "thought")
    expect(page).to_have_url(re.compile("text=thought"))  # a filter that acts with a delay
    page.get_by_role("button", name="Next").first.click()
    shown, address = page.locator(".entry").all_inner_texts(), page.url
    assert page.locator("#link").evaluate("node => node.href") == address
    assert "split=training&sort=-margin&order=score&text=thought&page=2" in address
    tab = chromium.new_page()
    tab.goto(address)
    assert tab.locator(".entry").all_inner_texts() == shown
    tab.goto(address.split("#")[0] + "#iteration=nonsense&page=-3&sort=x")
    assert tab.locator(".entry").count() == 20 and status(tab).startswith(f"{NUM_ENTRIES} of ")
    tab.close()
    page.click("#reset")
    expect(page).to_have_url(re.compile(r"report\.html$"))


@pytest.mark.browser
def test_what_failed_is_shown_as_such(page: Any) -> None:
    page.fill("#text", "Instruction 4 of train-1")
    wait_for_entries(page, 1)
    failed = page.locator(".sample").nth(1)
    assert "unscored" in failed.inner_text() and "No response: missing delimiter" in failed.inner_text()
    assert failed.locator("details .text").text_content() == f"{HOSTILE} raw"
    page.click("#reset")
    page.select_option("#outcome", "too_few_scored")
    assert "gave no pair" in page.locator(".entry h3").first.inner_text()
    assert "the judge's answer holds no verdict" in page.locator(".sample .problem").first.inner_text()
    page.select_option("#outcome", "unscored")
    assert "Unscored: policy: the server did not answer" in page.locator(".entry").first.inner_text()


@pytest.mark.browser
def test_filters_change_what_is_counted_and_shown(page: Any, small: Small) -> None:
    def number() -> int:
        return int(status(page).split(" of ")[0])

    assert number() == NUM_ENTRIES
    assert page.locator(".entry").count() == 20
    totals: dict[str, int] = {}
    for name in ("split", "iteration", "category", "outcome"):
        for value in page.eval_on_selector_all(f"#{name} option", "all => all.map((one) => one.value)")[1:]:
            page.select_option(f"#{name}", value)
            totals[name] = totals.get(name, 0) + number()
        page.select_option(f"#{name}", "")
    assert set(totals.values()) == {NUM_ENTRIES}, "each filter divides the entries"
    page.select_option("#outcome", "pair")
    assert number() == sum(entry["num_pairs"] for entry in small.summary["iterations"])
    page.select_option("#outcome", "")
    page.fill("#text", "DIRECT 0 to test-007")
    wait_for_entries(page, NUM_ITERATIONS + 1)
    page.fill("#text", "no such text anywhere")
    wait_for_entries(page, 0)
    assert "nothing matches" in status(page)
    page.click("#reset")
    wait_for_entries(page, 20)
    assert number() == NUM_ENTRIES


@pytest.mark.browser
def test_pages_show_every_entry_once(page: Any) -> None:
    seen: list[str] = []
    while True:
        seen += page.eval_on_selector_all(".entry", "all => all.map((one) => one.innerText)")
        following = page.locator(".pager").first.get_by_role("button", name="Next")
        if following.is_disabled():
            break
        following.click()
    assert len(seen) == NUM_ENTRIES and len(set(seen)) == NUM_ENTRIES
    assert f"page {-(-NUM_ENTRIES // 20)} of" in page.locator(".pager").first.inner_text()


@pytest.mark.browser
def test_pages_are_turned_with_the_keyboard(page: Any) -> None:
    page.locator(".pager").last.get_by_role("button", name="Next").focus()
    for number in (2, 3):
        page.keyboard.press("Enter")
        assert f"page {number} of" in page.locator(".pager").first.inner_text()
    page.keyboard.press("Shift+Tab")
    for number in (2, 1):
        page.keyboard.press("Enter")
        assert f"page {number} of" in page.locator(".pager").first.inner_text()
    assert page.evaluate("document.activeElement.textContent") == "Next", "at the first page only Next is left"


@pytest.mark.browser
def test_hostile_text_stays_text_in_the_browser(page: Any) -> None:
    entry = open_hostile(page)
    assert entry.locator(".instruction .text").text_content() == f"{HOSTILE} instruction"
    responses = entry.locator(".sample > .text").all()
    assert [node.text_content() for node in responses] == [f"{HOSTILE} response {i}" for i in range(NUM_SAMPLES)]
    assert entry.locator("details .text").first.text_content() == f"{HOSTILE} thought"
    assert (
        page.locator("script").count() == 2 and page.locator("#entries img, #entries script, #entries b").count() == 0
    )
    ordering = responses[0].evaluate("node => getComputedStyle(node).unicodeBidi")
    assert ordering in {"isolate", "plaintext"}, "a right-to-left mark ends with its text"


@pytest.mark.browser
def test_policy_stops_what_would_get_through(chromium: Any, small: Small, tmp_path: Path) -> None:
    planted = "<script>document.title = 'script'</script><img src=x onerror=\"document.title = 'handler'\">"
    path = tmp_path / "planted.html"
    path.write_text(small.page.replace("</main>", f"{planted}</main>"), encoding="utf-8")
    tab = chromium.new_page()
    blocked: list[str] = []
    tab.on("console", lambda message: blocked.append(message.text))
    tab.goto(path.as_uri())
    tab.wait_for_selector(".entry")
    assert tab.title() == "quickstart: TPO report"
    assert sum("Content Security Policy" in text for text in blocked) >= 2
    tab.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_its_window(page: Any, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 850})
    for outcome in ("", "pair", "identical_responses", "unscored"):
        page.select_option("#outcome", outcome)
        for summary in page.locator(".entry summary").all()[:4]:
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
    colors = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    lightness = [sum(int(part) for part in re.findall(r"\d+", color)[:3]) / 765 for color in colors]
    assert (
        (lightness[0] > 0.9 and lightness[1] < 0.2)
        if scheme == "light"
        else (lightness[0] < 0.2 and lightness[1] > 0.8)
    )
    assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 100)")


@pytest.mark.browser
def test_long_text_unfolds(page: Any) -> None:
    page.select_option("#outcome", "identical_responses")
    box = page.locator(".sample > .text").first
    folded = box.bounding_box()["height"]
    page.locator(".sample > .more").first.click()
    assert box.bounding_box()["height"] > folded
    assert page.locator(".sample > .more").first.inner_text() == "Show less"


@pytest.mark.parametrize(
    ("win", "outcome"),
    [(1.0, "win"), (0.75, "win"), (0.5, "tie"), (0.25, "loss"), (0.0, "loss"), (None, "unscored")],
)
def test_held_out_entry_says_who_won_where_judges_or_samples_disagree(win: float | None, outcome: str) -> None:
    row = made_up.comparison("p", win, unscored_reason=None if win is not None else "cut")
    [entry] = held_out_entries(1, [row], {"p"}, side=2)
    assert entry["outcome"] == outcome and entry["reason"] == row.unscored_reason
