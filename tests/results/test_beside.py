"""Two policies side by side: who won by hand-made scores, verdicts and checks, and the page in a real browser."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_page import HOSTILE, Maker, chromium, completion, data_of, wait_for_entries  # noqa: F401 (a fixture)

from tpo.evaluate.compare import compare, judged_by_scores, judged_by_verdicts
from tpo.evaluate.stages import COMPARE
from tpo.judge.responses import visible
from tpo.results.__main__ import main
from tpo.results.beside import Beside, checks_table, put_beside, won_table
from tpo.results.read import ResultError, read_run
from tpo.results.sides import Answers, read_side, read_sides, sides_of_run
from tpo.results.versus import OUTCOMES, _by_score, versus
from tpo.store.artifacts import Artifact
from tpo.store.files import write_json, write_sealed
from tpo.store.records import Check, Completion, Prompt, Score, Verdict
from tpo.store.stage import Step

RIGHT = Check("answer:exact", {"answer": "right"})
Given = Mapping[str, Sequence[tuple[str | None, float | None]]]  # by instruction: responses with their scores or wins


class MadeRuns:
    """Writes finished runs without training: answers are given, comparisons are made as the stage makes them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.make = Maker(root / "artifacts")

    def run(
        self,
        name: str,
        *answers: Given,
        judge: str = "made up",
        settings: str = "",
        checks: Sequence[Check] = (RIGHT,),
        bases: Mapping[str, str] | None = None,
        has_verdicts: bool = False,
        has_thoughts: bool = True,
        no_response: str = "loss",
    ) -> Path:
        """Write a run with one iteration for each of `answers`; the baseline answers "Direct", with a score of 0."""
        asked = [
            Prompt(
                key, key, "maths" if place % 2 else "poetry", "made", "test", tuple(checks), (bases or {}).get(key, key)
            )
            for place, key in enumerate(answers[0])
        ]
        prompts = self.make(Step("prompts", 1, {"name": name}), asked)
        self.identity = {"judge": judge, "settings": settings}
        baseline = self._sampled(f"{name} baseline", {key: [("Direct", 0.0)] for key in answers[0]})
        entries = []
        for iteration, found in enumerate(answers):
            policy = self._sampled(f"{name} {iteration}", found, has_thoughts=has_thoughts)
            inputs = {"prompts": prompts, "completions": policy[0], "baseline_completions": baseline[0]}
            if has_verdicts:
                inputs["verdicts"] = self._verdicts(policy[0], found)
                judged = judged_by_verdicts(inputs["verdicts"].rows(Verdict), baseline_start=1)
            else:
                inputs |= {"scores": policy[1], "baseline_scores": baseline[1]}
                judged = judged_by_scores(*(inputs[role].rows(Score) for role in ("scores", "baseline_scores")))
            answers_of = (policy[0].rows(Completion), list(visible(baseline[0].rows(Completion))))
            rows = compare(asked, *answers_of, judged, no_response=no_response, baseline_tokens={})
            config = {"confidence": 0.95, "no_response": no_response, "are_together": False}
            ids = {role: artifact.artifact_id for role, artifact in inputs.items()}
            compared = self.make(Step("compare", COMPARE.version, config, ids), rows)
            artifacts = {"answers": policy[0].artifact_id, "comparison": compared.artifact_id}
            entries.append(made_up.entry(iteration, 0.5, artifacts=artifacts))
        path = self.root / "runs" / name
        path.mkdir(parents=True)
        config = made_up.config() | {"artifacts_dir": str(self.root / "artifacts"), "seed": len(name)}
        write_json(path / "config.json", config)
        write_sealed(path / "summary.json", made_up.summary(*entries, judge=judge))
        return path

    def _sampled(self, name: str, found: Given, *, has_thoughts: bool = False) -> tuple[Artifact, Artifact]:
        rows, scores = [], []
        for key, some in found.items():
            for index, (text, score) in enumerate(some):
                thought = f"A thought on {key}" if has_thoughts and text is not None else None
                error = "no_response_delimiter" if text is None else None
                rows.append(completion(key, index, response=text, thought=thought, split_error=error))
                reason = None if score is not None else error or "the server was away"
                scores.append(Score(key, index, score if text is not None else None, reason, None, 0))
        made = self.make(Step("sample", 1, {"name": name}), rows)
        judged = self.make(Step("judge", 1, self.identity, {"completions_0": made.artifact_id}), scores)
        return made, judged

    def _verdicts(self, made: Artifact, found: Given) -> Artifact:
        rows = [
            Verdict(key, 0, 1, win, float(win is not None), None if win is not None else "no verdict", None, 0)
            for key, [(_, win)] in found.items()
        ]
        return self.make(Step("verdicts", 1, self.identity, {"completions_0": made.artifact_id}), rows)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeRuns:
    monkeypatch.chdir(tmp_path)
    return MadeRuns(tmp_path)


def beside(*names: Path | str) -> Beside:
    return put_beside(*read_sides([str(name) for name in names]))


def outcomes(found: Beside) -> dict[str, str]:
    return {name: found.versus.outcome(name) for name in found.prompts}


# --- who won ------------------------------------------------------------------------------------------------------

SCORED: list[dict[str, list[tuple[str | None, float | None]]]] = [
    {
        "lower": [("x", 2.0)],
        "higher": [("x", 1.0)],
        "equal scores": [("x", 1.0)],
        "equal texts": [("same", 1.0)],
        "only the second answers": [(None, None)],
        "neither answers": [(None, None)],
        "unscored": [("x", None)],
        "several": [("x", 1.0), ("y", 3.0)],
    },
    {
        "lower": [("y", 1.0)],
        "higher": [("y", 1.5)],
        "equal scores": [("y", 1.0)],
        "equal texts": [("same", 7.0)],
        "only the second answers": [("y", -9.0)],
        "neither answers": [(None, None)],
        "unscored": [("y", 5.0)],
        "several": [("z", 2.0), ("z", 0.0)],  # 2 beats 1; 3 beats 2, 1 and 3 beat 0
    },
]
WINS = [0.0, 1.0, 0.5, 0.5, 1.0, 0.5, None, 0.25]


def test_the_higher_score_of_one_judge_wins(runs: MadeRuns) -> None:
    path = runs.run("scored", *SCORED)
    found = beside(path)
    assert (found.sides[0].title, found.sides[1].title) == ("Iteration 0, untrained", "Iteration 1")
    assert found.versus.by == "score" and list(found.versus.wins.values()) == WINS
    assert found.versus.counts(list(found.prompts)) == {"first": 2, "second": 2, "tie": 3, "undecided": 1}
    backwards = beside(f"{path}@1", f"{path}@0").versus.wins
    assert backwards == {name: None if win is None else 1 - win for name, win in found.versus.wins.items()}
    rate = found.versus.rate(list(found.prompts.values()), confidence=0.95)
    assert rate.rate == pytest.approx(3.75 / 7) and (rate.num_prompts, rate.num_unscored) == (7, 1)


def test_against_its_baseline_a_run_wins_what_it_reported(runs: MadeRuns) -> None:
    path = runs.run("reported", *SCORED)
    run = read_run(path)
    sides = list(sides_of_run(run))
    answers = [side.answers(sides[0].prompts()) for side in sides]
    for place, entry in enumerate(run.summary["iterations"], start=1):
        assert dict(versus((sides[0], sides[place]), (answers[0], answers[place])).wins) == run.wins(entry)
    assert beside(f"{path}@baseline", path).versus.wins == run.wins(run.summary["iterations"][1])


def test_without_a_response_nobody_loses_where_that_is_unscored(runs: MadeRuns) -> None:
    found = beside(runs.run("unscored", *SCORED, no_response="unscored"))
    assert found.versus.wins["only the second answers"] is None and found.versus.wins["neither answers"] is None
    assert "no response loses" not in found.versus.text


def test_of_verdicts_the_baseline_is_the_measure(runs: MadeRuns) -> None:
    first = {"a": [("x", 1.0)], "b": [("x", 0.0)], "c": [("x", 0.5)], "d": [("x", None)], "e": [("x", 0.75)]}
    second = {"a": [("y", 0.0)], "b": [("y", 0.0)], "c": [("y", 1.0)], "d": [("y", 1.0)], "e": [("y", 1.0)]}
    path = runs.run("verdicts", first, second, has_verdicts=True)
    found = beside(path)
    assert found.versus.by == "comparison" and "same baseline" in found.versus.text
    assert list(found.versus.wins.values()) == [0.0, 0.5, 1.0, None, 1.0]
    assert list(beside(f"{path}@baseline", f"{path}@0").versus.wins.values()) == [1.0, 0.0, 0.5, None, 0.75]
    assert list(beside(f"{path}@0", f"{path}@baseline").versus.wins.values()) == [0.0, 1.0, 0.5, None, 0.25]
    other = runs.run("other_baseline", first, has_verdicts=True)
    assert beside(path, other).versus.by == "checks", "its baseline is another draw"


CHECKED_FIRST: Given = {"a": [("right", 9.0)], "b": [("no", 9.0)], "c": [("right", 1.0)], "d": [(None, None)]}
CHECKED_SECOND: Given = {"a": [("no", 9.0)], "b": [("right", 1.0)], "c": [("Right.", 9.0)], "d": [("no", 1.0)]}


@pytest.mark.parametrize(
    ("judge", "settings", "said"),
    [("another", "", "differ, made up and another"), ("made up", "others", "both made up, by settings or model")],
)
def test_between_judges_only_checks_decide(runs: MadeRuns, judge: str, settings: str, said: str) -> None:
    first = runs.run("first", CHECKED_FIRST)
    second = runs.run("second", CHECKED_SECOND, judge=judge, settings=settings)
    found = beside(first, second)
    assert found.versus.by == "checks" and said in found.versus.text
    assert list(outcomes(found).values()) == ["first", "second", "tie", "tie"]
    assert checks_table(found) is not None
    first = runs.run("first unchecked", CHECKED_FIRST, checks=())
    second = runs.run("second unchecked", CHECKED_SECOND, judge=judge, settings=settings, checks=())
    found = beside(first, second)
    assert found.versus.by == "" and set(found.versus.wins.values()) == {None}
    assert won_table(found) is None and checks_table(found) is None
    assert "nobody is said to have won" in found.versus.text


def test_the_judge_is_the_same_whatever_it_judged(runs: MadeRuns) -> None:
    first, second = runs.run("one", *SCORED), runs.run("two", *reversed(SCORED))
    assert read_side(str(first)).judge_id == read_side(f"{second}@baseline").judge_id
    assert beside(f"{first}@0", second).versus.wins == dict.fromkeys(SCORED[0], 0.5)
    assert read_side(str(runs.run("three", SCORED[0], settings="x"))).judge_id != read_side(str(first)).judge_id


scored = st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=3)


@given(scored, scored, st.booleans())
def test_swapped_sides_have_swapped_wins(
    first: list[tuple[str | None, float]], second: list[tuple[str | None, float]], loses: bool
) -> None:
    def of(some: list[tuple[str | None, float]]) -> Answers:
        samples = tuple(completion("p", index, response=text) for index, (text, _) in enumerate(some))
        return Answers(samples, tuple(score for _, score in some), None, None, None, ())

    decide = _by_score(loses=loses)
    win, back = decide(of(first), of(second)), decide(of(second), of(first))
    assert (win is None) == (back is None)
    assert win is None or (0 <= win <= 1 and win + back == pytest.approx(1))  # type: ignore[operator]
    assert decide(of(first), of(first)) in (0.5, None)


# --- what is shared -----------------------------------------------------------------------------------------------


def test_only_shared_instructions_count_and_the_others_are_counted(runs: MadeRuns) -> None:
    scores: Given = {name: [("x", 1.0)] for name in "abcd"}
    first = runs.run("first", scores, bases={"a": "tea", "b": "coffee"})
    second = runs.run("second", {name: [("y", 2.0)] for name in "cdef"}, bases={"e": "tea"})
    found = beside(first, second)
    assert list(found.prompts) == ["c", "d"] and found.num_alone == (2, 2) and found.num_same_base == (1, 1)
    assert found.shared().startswith(
        "2 held-out instructions that both were asked; 2 of the first alone are left out, 1"
    )
    table = won_table(found)
    assert table is not None and [row[:4] for row in table.rows] == [
        ("all", "2", "0", "2"), ("maths", "1", "0", "1"), ("poetry", "1", "0", "1")
    ]  # fmt: skip
    with pytest.raises(ResultError, match=r"no instruction in common \(of 4 and 1 held-out ones\)"):
        beside(first, runs.run("third", {"z": [("y", 2.0)]}))


def test_checks_are_counted_by_who_passes(runs: MadeRuns) -> None:
    number = Check("answer:number", {"answer": "3"})
    first: Given = {
        "a": [("right", 0.0)],
        "b": [("The final answer is 3", 0.0)],
        "c": [("no", 0.0)],
        "d": [(None, None)],
    }
    second: Given = {"a": [("right", 0.0)], "b": [("no", 0.0)], "c": [("right", 0.0)], "d": [("no", 0.0)]}
    table = checks_table(beside(runs.run("checked", first, second, checks=[RIGHT, number])))
    assert table is not None
    assert {row[0]: row[1:] for row in table.rows} == {  # n, both, first only, second only, neither
        "all of an instruction's": ("4", "0", "0", "0", "4"),
        "exact": ("4", "1", "0", "1", "2"),
        "number": ("4", "0", "1", "0", "3"),
    }


def test_evaluations_have_sides_too(runs: MadeRuns) -> None:
    path = runs.run("run", *SCORED)
    made = runs.root / "runs" / "evaluate-held_out-1"
    made.mkdir()
    shutil.copy(path / "config.json", made)
    entry = json.loads((path / "summary.json").read_text())["iterations"][1]
    found = {"evaluation": "held_out", "policy": "run@1", "baseline": "small, direct", "judge": "made up"}
    write_sealed(made / "summary.json", found | {"artifacts": entry["artifacts"]})
    alone = beside(made)
    assert [side.title for side in alone.sides] == ["small, direct", "run@1"]
    assert alone.versus.wins == beside(f"{path}@baseline", path).versus.wins
    write_sealed(made / "summary.json", found | {"conditions": []})
    with pytest.raises(ResultError, match="eval=held_out has no comparison"):
        beside(made)


# --- the command --------------------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments, "--samples"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error and len(error.splitlines()) == 1
    return error


def test_what_cannot_be_shown_is_one_sentence(runs: MadeRuns, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(runs.run("run", *SCORED))
    runs.run("other", *SCORED)
    assert "3 are named: name one run, or two" in said(capsys, path, f"{path}@0", f"{path}@1")
    assert "has no iteration 7; it has @baseline, @0, @1" in said(capsys, f"{path}@7")
    assert "are the same answers" in said(capsys, path, f"{path}@1")
    assert "name what it is shown against" in said(capsys, f"{path}@baseline")
    assert "there is no such folder" in said(capsys, f"{path}-nowhere")
    assert "2 folders match" in said(capsys, f"{runs.root}/runs/*")
    (runs.root / "runs" / "empty").mkdir()
    assert "no finished run or evaluation" in said(capsys, f"{runs.root}/runs/empty")
    comparison = read_side(path).comparison.path
    shutil.rmtree(comparison)
    assert "is not at hand; the command that made the folder, repeated" in said(capsys, path)
    with pytest.raises(SystemExit):
        main([path, "--samples", "--over", "seed"])
    assert "--over says nothing about samples" in capsys.readouterr().err


def test_the_page_goes_where_it_is_told_and_the_terminal_has_the_numbers(
    runs: MadeRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile: Given = {f"{HOSTILE} instruction": [("x", 0.0)], "plain": [("x", 0.0)]}
    better: Given = {f"{HOSTILE} instruction": [(f"{HOSTILE} answer", 1.0)], "plain": [("W" * 1_000_000, 1.0)]}
    path = runs.run("hostile", hostile, better)
    assert main([str(path), "--samples", "--out", "here"]) == 0
    printed = capsys.readouterr().out
    *_, page = printed.splitlines()
    assert page == "here/hostile-0-beside-hostile-1.html"
    assert "\x1b" not in printed and "\u202e" not in printed
    assert (
        "2 held-out instructions that both were asked." in printed
        and "Iteration 0, untrained" in printed
        and "The higher score by the judge" in printed
    )
    text = (runs.root / page).read_text(encoding="utf-8")
    data = data_of(text)
    assert data["sides"][1]["answers"]["plain"]["response"] == "W" * 1_000_000
    assert text.count("<script") == 2 and data["versus"]["0 1"]["wins"] == dict.fromkeys(hostile, 1.0)
    assert str(runs.root) not in text
    assert main([str(path), "--samples", "--max-instructions", "1"]) == 0
    *_, page = capsys.readouterr().out.splitlines()
    assert page == "runs/hostile/hostile-0-beside-hostile-1.html"
    text = (runs.root / page).read_text(encoding="utf-8")
    assert len(data_of(text)["instructions"]) == 1 and "The page shows 1 of the instructions" in text


# --- the page in a browser ----------------------------------------------------------------------------------------

MANY: list[dict[str, list[tuple[str | None, float | None]]]] = [
    {f"Instruction {n}": [("right" if n % 3 else "wrong", float(n % 5))] for n in range(30)},
    {f"Instruction {n}": [("right" if n % 4 else "wrong", float(n % 7))] for n in range(30)},
]


@pytest.fixture
def tab(runs: MadeRuns, chromium: Any, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:  # noqa: F811
    """The page of two runs in a tab; a message in the console, an error or a request fails the test."""
    paths = [str(runs.run(name, answers)) for name, answers in zip(("first", "second"), MANY, strict=True)]
    assert main([*paths, "--samples", "--out", "."]) == 0
    tab = chromium.new_page(viewport={"width": 1200, "height": 900})
    faults: list[str] = []
    tab.on("console", lambda message: faults.append(message.text))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda one: faults.append(one.url) if not one.url.startswith("file") else None)
    tab.goto((runs.root / "first-0-beside-second-0.html").as_uri())
    yield tab
    tab.close()
    assert faults == []


@pytest.mark.browser
def test_filters_by_who_won_by_category_and_by_check(tab: Any) -> None:
    def count() -> int:
        return int(tab.inner_text("#status").split(" of ")[0])

    scores = [(n % 5, n % 7) for n in range(30)]
    won = {"first": sum(a > b for a, b in scores), "second": sum(a < b for a, b in scores)}
    # Equal responses tie whatever their scores.
    same = [(n % 3 > 0) == (n % 4 > 0) for n in range(30)]
    won = {
        "first": sum(a > b and not tie for (a, b), tie in zip(scores, same, strict=True)),
        "second": sum(a < b and not tie for (a, b), tie in zip(scores, same, strict=True)),
    }
    won |= {"tie": 30 - sum(won.values()), "undecided": 0}
    assert tuple(won) == OUTCOMES and count() == 30
    for outcome, number in won.items():
        tab.select_option("#won", outcome)
        assert count() == number, outcome
        label = tab.eval_on_selector("#won", "node => node.selectedOptions[0].textContent")
        assert label.endswith(f"({number})")
    tab.select_option("#won", "second")
    first = tab.locator(".entry").first
    assert first.locator(".badge").first.inner_text() == "second@0 won"
    assert first.locator(".sample.chosen h4 span").first.inner_text() == "second@0"
    tab.click("#reset")
    wait_for_entries(tab, 20)
    tab.select_option("#category", "maths")
    assert count() == 15
    tab.click("#reset")
    wait_for_entries(tab, 20)
    passed = {"both": 0, "first": 0, "second": 0, "neither": 0}
    for n in range(30):
        passed[{(1, 1): "both", (1, 0): "first", (0, 1): "second", (0, 0): "neither"}[n % 3 > 0, n % 4 > 0]] += 1
    tab.select_option("#check", "exact")
    for kind, number in passed.items():
        tab.select_option("#passed", kind)
        assert count() == number, kind
    tab.select_option("#won", "first")
    address = tab.url
    assert address.endswith("#won=first&check=exact&passed=neither")
    tab.goto(address)
    assert tab.input_value("#passed") == "neither"


@pytest.mark.browser
def test_two_answers_stand_beside_each_other_with_thoughts_folded(tab: Any) -> None:
    boxes = tab.locator(".entry").first.locator(".sample").all()
    assert len(boxes) == 2
    places = [box.bounding_box() for box in boxes]
    assert places[0]["y"] == places[1]["y"] and places[0]["x"] + places[0]["width"] < places[1]["x"]
    thought = boxes[0].locator("details .text")
    assert not thought.is_visible()
    boxes[0].locator("summary").click()
    assert thought.inner_text().startswith("A thought on Instruction")
    assert not tab.locator("#view").is_visible() and not tab.locator("#first").is_visible()
    tab.select_option("#sort", "margin")
    gains = [float(text.split("score +")[1].split(",")[0]) for text in tab.locator(".entry h3").all_inner_texts()[:5]]
    assert gains == sorted(gains, reverse=True) and gains[0] > 0
    tab.fill("#text", "instruction 17")
    wait_for_entries(tab, 1)
    for width in (400, 1200):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
