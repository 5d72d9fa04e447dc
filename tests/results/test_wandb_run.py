"""Whole runs written by W&B offline and read back: config, groups, metrics, tables, lineage, and no secret anywhere.

The pipeline, the store, pairs, comparisons and tracking are real; models are not: what loads one is replaced.
"""

import contextlib
import gzip
import json
import logging
import multiprocessing
import os
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

import tpo.store.execute
from tpo.config.compose import compose_config
from tpo.config.schema import Config, EvaluateConfig, register
from tpo.evaluate.__main__ import run_evaluation
from tpo.evaluate.length_control import length_controlled_win_rate
from tpo.model.stages import MODEL
from tpo.results.read import read_folders
from tpo.results.tracking.labels import Launch
from tpo.results.tracking.lineage import lineage
from tpo.results.tracking.metrics import GAIN_COLUMNS, iteration_metrics
from tpo.results.winrate import corrected_by_category
from tpo.run import run_tpo
from tpo.sample.completions import summarize
from tpo.sample.stages import PREFLIGHT, SAMPLE
from tpo.store.artifacts import open_artifact
from tpo.store.files import read_sealed
from tpo.store.job import Job, Metrics
from tpo.store.progress import Progress
from tpo.store.records import Comparison, Completion, Prompt, write_records
from tpo.store.seeds import derive_seed
from tpo.train.stages import TRAIN

REPOSITORY = Path(__file__).parents[2]
REPORT = REPOSITORY / "experiments" / "wandb_report.md"
SECRET_NAMES = ("WANDB_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "VLLM_API_KEY")
register()


# --- stages without a model -------------------------------------------------------------------------------------


def sample_stage(job: Job) -> Metrics:
    """Responses of a length that depends on all that a sample depends on; one of eight cannot be split."""
    source = job.inputs["adapter"].artifact_id if "adapter" in job.inputs else "seed model"
    rows = []
    for prompt in job.inputs["prompts"].rows(Prompt):
        for index in range(job.config["settings"]["num_samples"] if prompt.split == job.config["split"] else 0):
            number = derive_seed(job.seed, source, prompt.prompt_id, index)
            is_split = number % 8 > 0
            response = "word " * (1 + number % 11)
            rows.append(
                Completion(
                    prompt_id=prompt.prompt_id,
                    sample_index=index,
                    prompt_ids=[1],
                    completion_ids=[2] * (number % 11),
                    forced_start=0,
                    forced_stop=0,
                    response_start=0,
                    is_prefilled=False,
                    completion=response,
                    thought="hm" if is_split else None,
                    response=response if is_split else None,
                    split_error=None if is_split else "no_response_delimiter",
                    finish_reason="stop",
                    num_thought_tokens=int(is_split),
                    num_response_tokens=number % 11 if is_split else 0,
                    seed=job.seed,
                )
            )
    write_records(job.path / "rows.jsonl", rows)
    return {**summarize(rows), "tokens_per_second": 1.0}


def train_stage(job: Job) -> Metrics:
    entries = [{"loss": 0.75, "rewards/margins": 0.0}, {"loss": 0.5, "rewards/margins": 0.25}]
    for epoch in range(1, job.config["settings"]["num_epochs"] + 1):
        (job.path / f"epoch-{epoch}").mkdir()
        (job.path / f"epoch-{epoch}" / "adapter_model.safetensors").write_text(f"{job.path.name} {epoch}")
        (job.path / f"epoch-{epoch}" / "adapter_config.json").write_text("{}")
    (job.path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return {"num_pairs": 1, "num_steps": 2, "first_loss": 0.75, "last": entries[-1]}


def nothing(job: Job) -> Metrics:
    return {}


REPLACED = {MODEL.work: nothing, PREFLIGHT.work: nothing, SAMPLE.work: sample_stage, TRAIN.work: train_stage}
JOB = ["tracking=wandb", "tracking.mode=offline", "judge=length", "model.quantization=none"]
SMALL = ["experiment=smoke", "num_iterations=2", "prompts.num_test=20"]
CONTROLS = ["judge@eval.judge=random", "eval.null_control=true"]


def composed(root: Path, entry: str, *overrides: str) -> Any:
    places = [f"artifacts_dir={root}/artifacts", f"runs_dir={root}/runs"]
    kind: type[Any] = {"config": Config, "evaluate": EvaluateConfig}[entry]
    return compose_config(kind, [*JOB, *places, *overrides])


def launch(*overrides: str, is_sweep: bool = True) -> Launch:
    choices = {"thought": "generic", "judge": "length", "model": "smollm2_135m", "eval": "categories"}
    return Launch(choices=choices, overrides=overrides, is_sweep=is_sweep)


# --- what was written -------------------------------------------------------------------------------------------


def read_records(path: Path) -> list[Any]:
    """Return the records of a .wandb file: LevelDB's log format, blocks of 32 KiB with 7 bytes before each fragment."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, fragments, records = path.read_bytes(), 7, b"", []
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # too little room for a header: padding
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        fragments += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in {1, 4} and position <= len(content):  # whole, or the last fragment
            records.append(Record.FromString(fragments))
            fragments = b""
    return records


def values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


class Written(NamedTuple):
    """A finished W&B run."""

    path: Path  # of the run's folder
    records: list[Any]

    @property
    def run(self) -> Any:
        [run] = [record.run for record in self.records if record.HasField("run")]
        return run

    @property
    def summary(self) -> dict[str, Any]:
        return read_sealed(self.path / "summary.json")

    @property
    def history(self) -> list[dict[str, Any]]:
        """The logged rows; a table's or an image's values are below its name."""
        return [values(record.history.item) for record in self.records if record.HasField("history")]

    @property
    def tracked_summary(self) -> dict[str, Any]:
        return {
            name: value
            for record in self.records
            if record.HasField("summary")
            for name, value in values(record.summary.update).items()
        }

    @property
    def shown(self) -> dict[str, Any]:
        """The custom charts by name."""
        nested = [item for record in self.records for item in record.config.update if len(item.nested_key) == 3]
        charts = [item for item in nested if list(item.nested_key[:2]) == ["_wandb", "visualize"]]
        return {item.nested_key[2]: json.loads(item.value_json)["panel_config"] for item in charts}

    @property
    def stages(self) -> dict[str, Any]:
        """The stages' artifacts by name, without what W&B makes of tables."""
        found = [record.artifact for record in self.records if record.HasField("artifact")]
        return {item.name: item for item in found if item.type != "run_table" and not item.name.startswith("adapter-")}

    def table(self, name: str, iteration: int | None = None) -> dict[str, Any]:
        """A table's file: columns and data."""
        [row] = [row for row in self.history if f"{name}/path" in row and iteration in (None, row.get("iteration"))]
        [folder] = self.path.glob("wandb/offline-run-*/files")
        found: dict[str, Any] = json.loads((folder / row[f"{name}/path"]).read_text())
        return found


def read_back(path: Path) -> Written:
    """Return what W&B wrote for a run, once its service has written all of it."""
    [file] = path.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 60
    while not (records := read_records(file)) or not records[-1].HasField("exit"):
        assert time.monotonic() < deadline, f"{file} did not get its last record"
        time.sleep(0.05)
    return Written(path, records)


class Sweep(NamedTuple):
    """Two jobs of a sweep and an evaluation of the first one's policy."""

    root: Path
    secrets: dict[str, str]  # what was planted where
    jobs: tuple[Written, Written]
    evaluation: Written


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Write everything that is logged or printed to a file."""
    with path.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        handler = logging.StreamHandler(file)
        logging.getLogger().addHandler(handler)
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.DEBUG)
        try:
            yield
        finally:
            logging.getLogger().setLevel(level)
            logging.getLogger().removeHandler(handler)


def plant_secrets(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Put secrets wherever W&B may look: environment, netrc, command line, the git remote of the working directory."""
    secrets = {name: os.urandom(20).hex() for name in (*SECRET_NAMES, "netrc", "command line", "git remote")}
    for name in SECRET_NAMES:
        monkeypatch.setenv(name, secrets[name])
    monkeypatch.setenv("HOME", str(home))
    for name in ("NETRC", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.delenv(name, raising=False)
    home.mkdir()
    (home / ".netrc").write_text(f"machine api.wandb.ai login user password {secrets['netrc']}\n")
    (home / ".netrc").chmod(0o600)
    monkeypatch.setattr(sys, "argv", ["tpo.run", f"x=https://user:{secrets['command line']}@example.org"])
    subprocess.run(["git", "init", "-q", str(home / "work")], check=True)
    remote = f"https://{secrets['git remote']}@example.org/x.git"
    subprocess.run(["git", "-C", str(home / "work"), "remote", "add", "origin", remote], check=True)
    monkeypatch.chdir(home / "work")
    return secrets


def replace_slow(monkeypatch: pytest.MonkeyPatch, stages: dict[str, Any] | None = None) -> None:
    """Replace what loads a model, and let a bootstrap be short."""
    load: Callable[[str], Any] = tpo.store.execute.load_work
    monkeypatch.setattr(
        tpo.store.execute, "load_work", lambda path: (REPLACED | (stages or {})).get(path) or load(path)
    )
    short = partial(length_controlled_win_rate, num_resamples=20)
    monkeypatch.setattr("tpo.evaluate.compare.length_controlled_win_rate", short)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    root = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as monkeypatch, logged(root / "said.txt"):
        secrets = plant_secrets(root / "home", monkeypatch)
        replace_slow(monkeypatch)
        rho = [f"pairs.length_penalty={value}" for value in (0, 0.4)]
        jobs = [
            run_tpo(composed(root, "config", *SMALL, *CONTROLS, own), experiment="smoke", launch=launch(own))
            for own in rho
        ]
        policy = f"policy={jobs[0]}"
        config = composed(root, "evaluate", policy, "eval=categories", "prompts.num_test=20", "prompts.num_train=6")
        evaluation = run_evaluation(config, launch=launch(policy, is_sweep=False))
    first, second = map(read_back, jobs)
    return Sweep(root, secrets, (first, second), read_back(evaluation))


def test_jobs_of_a_sweep_are_runs_of_a_group(sweep: Sweep) -> None:
    for job, penalty in zip(sweep.jobs, (0, 0.4), strict=True):
        run, config = job.run, values(job.run.config.update)
        assert (run.run_id, run.project) == (job.path.name, "tpo")
        assert run.display_name == f"smoke pairs.length_penalty={penalty}"
        assert (run.run_group, run.job_type) == ("smoke+pairs.length_penalty", "run")
        assert list(run.tags) == [
            *("experiment=smoke", "thought=generic", "judge=length", "model=smollm2_135m"),
            f"pairs.length_penalty={penalty}",
        ]
        assert {key: config[key] for key in config if key != "_wandb"} == json.loads(
            (job.path / "config.json").read_text()
        )
        assert config["pairs"]["length_penalty"] == penalty
        assert json.loads((job.path / "tracking.json").read_text()) == {
            "mode": "offline",
            "run_id": job.path.name,
            "url": None,
        }


@pytest.mark.parametrize("reader", ["here", pytest.param("elsewhere", marks=pytest.mark.slow)])
def test_the_first_steps_are_there_while_training_is_at_half(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that the process of the run computes, and those that another process computes and this one hears of."""
    read: list[dict[str, Any]] = []

    def half_way(job: Job) -> Metrics:
        [file] = (tmp_path / "runs").glob("live-*/wandb/offline-run-*/run-*.wandb")
        with Progress(job.path, total=4, unit="step") as progress:
            for number in (1, 2):
                progress.measured(number, {"loss": 0.75 - number / 10, "step": number})
                progress.advance()
            deadline = time.monotonic() + 60
            while len(read) < 2 and time.monotonic() < deadline:
                time.sleep(0.2)
                rows = [values(record.history.item) for record in read_records(file) if record.HasField("history")]
                read[:] = [row for row in rows if "train/loss" in row]
        return train_stage(job)

    def in_a_child(job: Job) -> Metrics:
        child = multiprocessing.get_context("fork").Process(target=half_way, args=(job,))
        child.start()
        [file] = (tmp_path / "runs").glob("live-*/wandb/offline-run-*/run-*.wandb")
        child.join(90)
        rows = [values(record.history.item) for record in read_records(file) if record.HasField("history")]
        read[:] = [row for row in rows if "train/loss" in row]
        return {"num_pairs": 1, "num_steps": 2, "first_loss": 0.75, "last": {"loss": 0.5}}

    replace_slow(monkeypatch, {TRAIN.work: half_way if reader == "here" else in_a_child})
    more = ("tracking.name=mine", "tracking.tags=[a,b]", "tracking.notes=why", "num_iterations=1")
    path = run_tpo(composed(tmp_path, "config", *SMALL, *more), experiment="live")
    assert [(row["train/step"], row["train/iteration"], row["train/loss"]) for row in read[:2]] == [
        (1, 1, 0.65),
        (2, 1, 0.55),
    ]
    written = read_back(path)
    assert (written.run.display_name, written.run.notes, list(written.run.tags)[-2:]) == ("mine", "why", ["a", "b"])
    assert len([row for row in written.history if "train/loss" in row]) == 2, "each once"
    assert any(row.get("progress/train") == 0.5 for row in written.history)


def test_metrics_of_every_iteration_and_training_step(sweep: Sweep) -> None:
    for job in sweep.jobs:
        found = [row for row in job.history if "eval/win_rate" in row]
        expected = [iteration_metrics(entry) for entry in job.summary["iterations"]]
        assert [row["iteration"] for row in found] == [0, 1, 2]
        assert [{name: row[name] for name in want} for row, want in zip(found, expected, strict=True)] == expected
        assert {"pairs/num_pairs", "judge/num_scores", "sample/truncated_rate"} <= set(found[1])
        steps = [row for row in job.history if "train/loss" in row]
        # The step keeps counting, so that the second iteration's curve does not lie over the first's.
        assert [(row["train/step"], row["train/iteration"], row["train/loss"]) for row in steps] == [
            (1, 1, 0.75),
            (2, 1, 0.5),
            (3, 2, 0.75),
            (4, 2, 0.5),
        ]
        axes = {item.metric.glob_name or item.metric.name: item.metric.step_metric for item in job.records}
        assert {axes[f"{name}/*"] for name in ("eval", "pairs", "tables", "charts")} == {"iteration"}
        assert axes["train/*"] == "train/step"
        figures = {name for row in job.history for name in row if name.startswith("figures/")}
        assert {"figures/iterations/path", "figures/lengths/path"} <= figures


def test_gains_by_category_at_every_iteration_as_table_and_bars(sweep: Sweep) -> None:
    job = sweep.jobs[1]
    for entry in job.summary["iterations"]:
        iteration = entry["iteration"]
        table, bars = (job.table(name, iteration) for name in ("tables/category_gains", "charts/category_gains_table"))
        assert table["columns"] == list(GAIN_COLUMNS)
        rows = {row[0]: dict(zip(GAIN_COLUMNS, row, strict=True)) for row in table["data"]}
        compared = list(open_artifact(sweep.root / "artifacts" / entry["artifacts"]["comparison"]).rows(Comparison))
        tested = corrected_by_category(compared, seed=derive_seed(0, "gains"))
        assert set(rows) == set(tested) == set(entry["categories"]) and len(rows) > 10
        before = job.summary["iterations"][0]["categories"]
        for name, expected in tested.items():
            found, rate = rows[name], entry["categories"][name]
            assert expected.interval is not None and expected.simultaneous_interval is not None
            assert (found["num_prompts"], found["num_unscored"]) == (rate["num_prompts"], rate["num_unscored"])
            assert found["win_rate"] == pytest.approx(rate["rate"])
            assert found["win_rate_before"] == pytest.approx(before[name]["rate"])
            assert found["gain"] == pytest.approx(rate["rate"] - 0.5)
            for suffix, (low, high) in (("", expected.interval), ("_simultaneous", expected.simultaneous_interval)):
                assert (found[f"gain_low{suffix}"], found[f"gain_high{suffix}"]) == (low - 0.5, high - 0.5)
            assert (found["p_value"], found["adjusted_p_value"]) == (expected.p_value, expected.adjusted_p_value)
        assert bars["columns"] == ["category", "gain"]
        assert dict(bars["data"]) == {name: row["gain"] for name, row in rows.items()}
    chart = job.shown["charts/category_gains"]
    assert (chart["panelDefId"], chart["fieldSettings"]) == ("wandb/bar/v0", {"label": "category", "value": "gain"})


def test_samples_and_pairs_are_tables(sweep: Sweep) -> None:
    job = sweep.jobs[0]
    for iteration, entry in enumerate(job.summary["iterations"][1:], start=1):
        sampled = open_artifact(sweep.root / "artifacts" / entry["artifacts"]["completions"]).rows(Completion)
        table = job.table("tables/samples", iteration)
        texts = [(row.prompt_id, row.sample_index, row.response) for row in sampled]
        columns = [table["columns"].index(name) for name in ("prompt_id", "sample_index", "response")]
        assert [tuple(row[column] for column in columns) for row in table["data"]] == texts
        assert len(job.table("tables/pairs", iteration)["data"]) == entry["num_pairs"] > 0


def test_what_runs_are_compared_by_is_in_the_summary(sweep: Sweep) -> None:
    for job in sweep.jobs:
        found, first, last = job.tracked_summary, job.summary["iterations"][0], job.summary["iterations"][-1]
        assert found["final_win_rate"] == last["win_rate"]["rate"]
        assert [found["final_win_rate_low"], found["final_win_rate_high"]] == last["win_rate"]["interval"]
        assert found["final_win_rate_num_prompts"] == last["win_rate"]["num_prompts"] == 20  # length scores all
        change = last["win_rate"]["rate"] - first["win_rate"]["rate"]
        assert found["final_change_win_rate"] == pytest.approx(change)
        assert found["final_change_win_rate_low"] < change < found["final_change_win_rate_high"]
        assert found["final_validation_score"] == max(last["validation_scores"].values())
        assert found["num_pairs"] == sum(entry["num_pairs"] for entry in job.summary["iterations"])
        assert found["num_stages"] == len(job.summary["stages"])
    reused = [job.tracked_summary["num_stages_reused"] for job in sweep.jobs]
    assert reused[0] == 0 < reused[1]


def test_lineage_leads_from_samples_to_adapters(sweep: Sweep) -> None:
    for job in sweep.jobs:
        outputs = {name for name, item in job.stages.items() if not item.use_after_commit}
        inputs = {name for name, item in job.stages.items() if item.use_after_commit and item.user_created}
        assert outputs | inputs == set(job.stages) and job.run.run_id
        assert {name.split("-")[0] for name in outputs} == {"train", "compare"} and len(outputs) == 2 + 3
        listed = {stage["artifact_id"] for stage in job.summary["stages"] if stage["stage"] != "preflight"}
        assert set(job.stages) == listed

        parents = {name: json.loads(item.metadata)["inputs"] for name, item in job.stages.items()}
        entries = job.summary["iterations"]
        second = parents[entries[2]["artifacts"]["train"]]
        assert second["adapter"] == entries[1]["artifacts"]["train"]
        assert second["pairs"] == entries[2]["artifacts"]["pairs"]
        pairs = parents[second["pairs"]]
        assert pairs == {role: entries[2]["artifacts"][role] for role in ("completions", "scores")}
        samples = parents[pairs["completions"]]
        assert samples["adapter"] == entries[1]["artifacts"]["train"]
        assert [samples[role].split("-")[0] for role in ("model", "prompts")] == ["model", "prompts"]
        assert all(parent in job.stages for found in parents.values() for parent in found.values())

        adapters = [item.artifact for item in job.records if item.artifact.name == f"adapter-{job.path.name}"]
        assert [set(item.aliases) for item in adapters] == [{"iteration-1", "latest"}, {"iteration-2", "latest"}]
        assert [json.loads(item.metadata)["source"] for item in adapters] == [
            entry["artifacts"]["train"] for entry in entries[1:]
        ]


def test_jobs_share_the_artifacts_that_they_share(sweep: Sweep) -> None:
    first, second = (job.stages for job in sweep.jobs)
    shared = set(first) & set(second)
    assert {name.split("-")[0] for name in shared} == {"model", "prompts", "sample", "judge", "compare"}
    for name in shared:
        assert (first[name].type, first[name].digest) == (second[name].type, second[name].digest)
    assert {name.split("-")[0] for name in set(second) - shared} == {"pairs", "train", "sample", "judge", "compare"}
    nodes = {node.artifact_id: node for node in lineage(sweep.jobs[0].summary, sweep.root / "artifacts")}
    for name, item in first.items():
        [entry] = item.manifest.contents
        assert (entry.path, Path(entry.local_path).read_text()) == ("step.json", nodes[name].content)
        assert json.loads(item.metadata) == nodes[name].metadata


def test_an_offline_run_is_whole_in_its_folder_and_can_be_synced_without_harm(sweep: Sweep) -> None:
    # `wandb sync` removes the files that it has sent: none of them may be one of ours.
    for written in (*sweep.jobs, sweep.evaluation):
        sent = [
            Path(entry.local_path)
            for record in written.records
            if record.HasField("artifact")
            for entry in record.artifact.manifest.contents
        ]
        assert sent and all(path.is_absolute() and path.is_file() for path in sent)
        assert all(path.is_relative_to(written.path / "wandb") for path in sent)
    assert not [path for path in (sweep.root / "home").rglob("*") if "staging" in path.parts]


def test_an_evaluation_is_a_run_that_used_the_policy(sweep: Sweep) -> None:
    found, policy = sweep.evaluation, sweep.jobs[0]
    assert (found.run.job_type, found.run.run_group) == ("evaluate", "")
    assert list(found.run.tags)[:2] == ["eval=categories", "judge=length"]
    assert found.run.tags[2].startswith("policy=")
    adapter = policy.summary["iterations"][2]["artifacts"]["train"]
    assert found.stages[adapter].use_after_commit and not policy.stages[adapter].use_after_commit
    assert found.stages[adapter].digest == policy.stages[adapter].digest
    comparison = found.summary["artifacts"]["comparison"]
    assert [name for name, item in found.stages.items() if not item.use_after_commit] == [comparison]
    assert not [name for name in found.stages if name.startswith("pairs-")], "the run that trained it has these"
    numbers = found.tracked_summary
    assert numbers["eval/overall/rate"] == found.summary["overall"]["rate"]
    table = found.table("tables/category_gains")
    assert [row[0] for row in table["data"]] == list(found.summary["categories"])


def test_planted_secrets_appear_nowhere(sweep: Sweep) -> None:
    kept = {sweep.root / "home" / ".netrc", sweep.root / "home" / "work" / ".git" / "config"}
    files = {path: path.read_bytes() for path in sweep.root.rglob("*") if path.is_file()}
    assert {path for path, content in files.items() if sweep.secrets["netrc"].encode() in content} < kept
    names = {path.name for path in files}
    assert {"config.json", "said.txt", "request.json", "manifest.json", "debug.log", "debug-internal.log"} <= names
    written = {path: content for path, content in files.items() if path not in kept}
    for written_run in (*sweep.jobs, sweep.evaluation):  # records may be cut in the file where a block of it ends
        for record in written_run.records:
            written[Path(f"record {record.num}, {written_run.path.name}")] = record.SerializeToString()
    for place, secret in sweep.secrets.items():
        leaking = [str(path) for path, content in written.items() if secret.encode() in content]
        assert leaking == [], f"the secret of the {place}"
    assert [path for path, content in written.items() if b"pairs.length_penalty=0.4" in content], "the search finds"


def test_a_job_that_fails_is_a_failed_run_and_leaves_the_next_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, *_: Any) -> dict[str, Any]:
        raise OSError("the disk is gone")

    replace_slow(monkeypatch, {TRAIN.work: fail})
    with pytest.raises(OSError, match="disk is gone"):
        run_tpo(composed(tmp_path, "config", *SMALL), experiment="failing")
    run_tpo(composed(tmp_path, "config", *SMALL, "num_iterations=0"), experiment="fine")
    [failed], [fine] = (
        [read_back(path) for path in (tmp_path / "runs").glob(f"{name}-*")] for name in ("failing", "fine")
    )
    assert [item.records[-1].exit.exit_code for item in (failed, fine)] == [1, 0]
    assert not (failed.path / "tracking.json").exists() and (fine.path / "tracking.json").exists()
    assert len([row for row in fine.history if "eval/win_rate" in row]) == 1
    assert "final_win_rate" in fine.tracked_summary and "final_change_win_rate" not in fine.tracked_summary


# --- experiments/wandb_report.md --------------------------------------------------------------------------------


def test_the_document_names_what_is_logged(sweep: Sweep) -> None:
    names = {
        re.sub(r"/(path|_type|sha256|size)$", "", name)
        for written in (*sweep.jobs, sweep.evaluation)
        for name in [*(name for row in written.history for name in row), *written.tracked_summary, *written.shown]
    }
    text = REPORT.read_text()
    prefixes = "eval|sample|judge|pairs|train|tables|charts|figures"
    named = set(re.findall(rf"`((?:(?:{prefixes})/|final_|null_control_|num_|total_|computed_)[\w/<>@.-]+)`", text))
    patterns = {re.sub("<[a-z]+>", r"[^/]+", name) for name in named}
    assert len(named) > 20
    assert {pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in names)} == set()
    shared = {f"final_{key}" for key in ("win_rate", "win_rate_length_controlled", "change_win_rate")}
    assert {*shared, "eval/win_rate", "tables/category_gains", "charts/category_gains", "total_seconds"} <= named


# --- wandb sync -------------------------------------------------------------------------------------------------


def test_results_are_read_back_from_offline_runs(sweep: Sweep) -> None:
    folders = read_folders([f"{sweep.root}/runs/*/wandb/offline-run-*"])
    assert [(run.summary, run.config) for run in folders.runs] == [
        (job.summary, json.loads((job.path / "config.json").read_text()))
        for job in sorted(sweep.jobs, key=lambda job: job.path)
    ]
    assert [found.summary for found in folders.evaluations] == [sweep.evaluation.summary]
    for written in (*sweep.jobs, sweep.evaluation):
        saved = {item.path for record in written.records for item in record.files.files}
        assert {"config.json", "summary.json"} <= saved, "`wandb sync` sends them"
        assert not [file for file in written.path.glob("wandb/offline-run-*/files/*.json") if file.is_symlink()]


class StandIn(BaseHTTPRequestHandler):
    """As much of W&B's server as `wandb sync` of these runs asks for; remembers what it was sent."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []  # operation and variables
    sent: ClassVar[list[bytes]] = []
    known: ClassVar[set[tuple[str, str]]] = set()  # artifacts by name and digest

    def log_message(self, *_: Any) -> None:
        pass

    def do_PUT(self) -> None:  # noqa: N802
        self.read()
        self.answer({})

    def do_POST(self) -> None:  # noqa: N802
        content = self.read()
        if self.path != "/graphql":
            return self.answer({})
        request = json.loads(content)
        name, found = request["operationName"], request.get("variables") or {}
        self.asked.append((name, found))
        return self.answer({"data": self.data(name, found.get("input", found))})

    def data(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        url = f"http://{self.headers['Host']}/upload"
        file = {"id": "f", "name": "f", "displayName": "f", "uploadUrl": url, "uploadHeaders": []}
        match name:
            case "UpsertBucket":
                project = {"id": "p", "name": "tpo", "entity": {"id": "e", "name": "me"}}
                bucket = {"id": "b", "name": found["name"], "displayName": found["name"], "project": project}
                return {"upsertBucket": {"bucket": bucket, "inserted": True}}
            case "CreateArtifact":
                key = (found["artifactCollectionName"], found["digest"])
                state = "COMMITTED" if key in self.known else "PENDING"
                self.known.add(key)
                made = {"id": key[0], "state": state, "artifactSequence": {"id": "s", "latestArtifact": None}}
                return {"createArtifact": {"artifact": made}}
            case "CreateArtifactManifest":
                return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
            case "CreateArtifactFiles":
                nodes = [{**file, "artifact": {"id": item["artifactID"]}} for item in found["artifactFiles"]]
                return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
            case "CommitArtifact":
                return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}
            case "UseArtifact":
                return {"useArtifact": {"artifact": {"id": "a", "digest": "d", "state": "COMMITTED"}}}
            case "ClientIDMapping":
                return {"clientIDMapping": {"serverID": "QQ=="}}
            case "CreateRunFiles":
                files = [{"name": item, "uploadUrl": url} for item in found["files"]]
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
            case _:
                return {}

    def read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        else:
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        self.sent.append(content)
        return content

    def answer(self, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.mark.slow
def test_offline_runs_can_be_synced(sweep: Sweep, tmp_path: Path) -> None:
    # Last in this file: what was sent is removed below the runs' folders.
    kept = {path: path.read_bytes() for path in (sweep.root / "artifacts").rglob("*") if path.is_file()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WANDB")},
        "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}",
        "WANDB_API_KEY": sweep.secrets["WANDB_API_KEY"],
        "HOME": str(tmp_path),
    }
    try:
        for written in (*sweep.jobs, sweep.evaluation):
            command = [sys.executable, "-m", "wandb", "sync", str(written.path / "wandb" / "latest-run")]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
            assert done.returncode == 0 and "Finished syncing" in done.stderr, done.stderr[-2000:]
    finally:
        server.shutdown()
        server.server_close()
    made, linked = (
        [found["input"] for name, found in StandIn.asked if name == operation]
        for operation in ("CreateArtifact", "UseArtifact")
    )
    for written in (*sweep.jobs, sweep.evaluation):
        inputs = {name for name, item in written.stages.items() if item.use_after_commit}
        assert {item["artifactID"] for item in linked if item["runName"] == written.path.name} == inputs
        outputs = {item["artifactCollectionName"] for item in made if item["runName"] == written.path.name}
        assert {name for name in outputs if name in written.stages} == set(written.stages) - inputs
    names = [item["artifactCollectionName"] for item in made if item["artifactTypeName"] == "model"]
    assert names.count(next(name for name in sweep.jobs[0].stages if name.startswith("model-"))) == 3
    groups = [found["groupName"] for name, found in StandIn.asked if name == "UpsertBucket" and found["tags"]]
    assert groups == ["smoke+pairs.length_penalty"] * 2 + [None]
    files = [name for operation, found in StandIn.asked if operation == "CreateRunFiles" for name in found["files"]]
    assert files.count("summary.json") == files.count("config.json") == 3
    whole = json.loads((sweep.jobs[0].path / "summary.json").read_text())
    assert whole in [json.loads(content) for content in StandIn.sent if b'"iterations"' in content]
    assert not [secret for secret in sweep.secrets.values() for content in StandIn.sent if secret.encode() in content]
    assert kept == {path: path.read_bytes() for path in (sweep.root / "artifacts").rglob("*") if path.is_file()}
