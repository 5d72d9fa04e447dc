"""What tracking makes of a launch, a summary and manifests, without W&B; tests/test_wandb_run.py has whole runs."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from made_rows import comparison

from tpo.config.check import check
from tpo.config.compose import compose_config
from tpo.config.fields import ConfigError
from tpo.config.schema import Config, register
from tpo.config.tracking import NoTracking, WandbTracking
from tpo.results.change import compared_change
from tpo.results.rate import Rate
from tpo.results.tracking import TRACKED, Tracker, load_tracker, log_evaluation
from tpo.results.tracking.connect import TrackingError, choose_mode, find_mode, has_wandb_key, unreachable
from tpo.results.tracking.labels import (
    MAX_GROUP,
    MAX_NAME,
    MAX_TAG,
    Labels,
    Launch,
    evaluation_labels,
    run_labels,
    sweep_name,
)
from tpo.results.tracking.lineage import lineage
from tpo.results.tracking.live import Live
from tpo.results.tracking.metrics import (
    GAIN_COLUMNS,
    final_metrics,
    gain_rows,
    iteration_metrics,
    numbers,
)
from tpo.results.winrate import corrected_by_category
from tpo.store.artifacts import finish
from tpo.store.files import write_json
from tpo.store.progress import State
from tpo.store.stage import Stage, Step
from tpo.store.store import Store

REPOSITORY = Path(__file__).parents[2]
RATE = {"rate": 0.25, "interval": [0.05, 0.7], "num_prompts": 4, "num_unscored": 1}
CHANGE = {"rate": -0.5, "interval": [-0.9, 0.1], "num_prompts": 4, "num_unscored": 1, "p_value": 0.125}
UNSCORED = {"rate": None, "interval": None, "num_prompts": 0, "num_unscored": 1}
ENTRY: dict[str, Any] = {
    "iteration": 1,
    "win_rate": RATE,
    "win_rate_answered": {**RATE, "rate": 0.3},
    "num_answers": 5,
    "num_no_response": 2,
    "change": {"win_rate": CHANGE, "checked": None, "checked_types": {"title": CHANGE}},
    "second_judge": {"judge": "length", "win_rate": RATE, "change": CHANGE, "agreement": {**RATE, "rate": 0.6}},
    "win_rate_length_controlled": {**RATE, "rate": 0.26, "interval": [0.0, 0.75]},
    "categories": {"maths": RATE, "code": UNSCORED},
    "mean_score": -1.06,
    "mean_thought_tokens": 13.0,
    "mean_response_tokens": 16.0,
    "format_rate": 0.0,
    "parse_rate": 0.94,
    "cut_thought_rate": 0.5,
    "empty_thought_rate": 0.25,
    "num_pairs": 6,
    "drops": {"tied": 2, "too_few_scored": 0},
    "sampling": {"num_completions": 18, "truncated_rate": 1.0, "split_errors": {"repeated_delimiter": 1}},
    "judging": {"num_scores": 18, "num_unscored": 1, "mean_score": -0.53},
    "training": {"num_pairs": 6, "first_loss": 0.69, "last": {"loss": 0.7}},
    "adapter": "train-0/epoch-2",
    "validation_scores": {"1": -1.18, "2": -1.06},
    "artifacts": {"answers": "sample-0", "comparison": "compare-0"},
}
LABELS = Labels("run", None, (), "a run")
register()


# --- names ------------------------------------------------------------------------------------------------------


def rated(name: str, rate: float, low: float = 0.05, high: float = 0.7) -> dict[str, float]:
    """The metrics of a rate of `RATE`'s kind."""
    values = {"": rate, "_low": low, "_high": high, "_num_prompts": 4, "_num_unscored": 1}
    return {f"{name}{suffix}": value for suffix, value in values.items()}


def changed(name: str) -> dict[str, float]:
    """The metrics of `CHANGE`."""
    return rated(name, -0.5, -0.9, 0.1) | {f"{name}_p_value": 0.125}


def test_metric_names_are_stable() -> None:
    # Dashboards and sweeps refer to these names: one that changes here breaks them.
    assert iteration_metrics(ENTRY) == {
        "iteration": 1,
        **changed("eval/change_win_rate"),
        **rated("eval/win_rate", 0.25),
        **rated("eval/win_rate_answered", 0.3),
        **rated("eval/win_rate_length_controlled", 0.26, 0.0, 0.75),
        **rated("eval/second_judge_win_rate", 0.25),
        **rated("eval/second_judge_agreement", 0.6),
        **changed("eval/second_judge_change"),
        "eval/num_answers": 5,
        "eval/num_no_response": 2,
        "eval/category/maths": 0.25,
        "eval/mean_thought_tokens": 13.0,
        "eval/mean_response_tokens": 16.0,
        "eval/format_rate": 0.0,
        "eval/parse_rate": 0.94,
        "eval/cut_thought_rate": 0.5,
        "eval/empty_thought_rate": 0.25,
        "eval/mean_score": -1.06,
        "pairs/num_pairs": 6,
        "pairs/drop_tied": 2,
        "pairs/drop_too_few_scored": 0,
        "sample/num_completions": 18,
        "sample/truncated_rate": 1.0,
        "judge/num_scores": 18,
        "judge/num_unscored": 1,
        "judge/mean_score": -0.53,
    }


def test_what_was_not_measured_is_left_out() -> None:
    untrained = {"win_rate": UNSCORED, "mean_score": None, "drops": {}, "sampling": None, "judging": None}
    found = iteration_metrics({**ENTRY, **untrained, "iteration": 0, "num_pairs": 0})
    assert not {"eval/win_rate", "eval/win_rate_low", "eval/mean_score"} & set(found)
    assert found["eval/win_rate_num_prompts"] == 0 and found["pairs/num_pairs"] == 0
    assert not [name for name in found if name.startswith(("sample/", "judge/", "pairs/drop"))]


FIRST = [comparison("a", 0.0, category="maths"), comparison("b", 0.5, category="maths"), comparison("c", 1.0)]
LAST = [comparison("c", None, category="code"), *(comparison(name, 1.0, category="maths") for name in "ba")]


def test_final_metrics_of_a_run() -> None:
    stage = {"stage": "sample", "artifact_id": "sample-0"}
    control = {"win_rate": RATE, "score": {**RATE, "rate": -0.01, "interval": [-2.0, 2.0]}}
    summary = {
        "iterations": [{**ENTRY, "iteration": 0, "num_pairs": 0}, ENTRY],
        "null_control": control,
        "stages": [{**stage, "seconds": 2.5, "is_reused": True}, {**stage, "seconds": 4.0, "is_reused": False}],
    }
    found = final_metrics(summary)
    assert found == {
        "num_iterations": 1,
        **changed("final_change_win_rate"),
        **rated("final_win_rate", 0.25),
        **rated("final_win_rate_answered", 0.3),
        **rated("final_win_rate_length_controlled", 0.26, 0.0, 0.75),
        **rated("final_second_judge_win_rate", 0.25),
        **rated("final_second_judge_agreement", 0.6),
        **changed("final_second_judge_change"),
        **rated("null_control_win_rate", 0.25),
        **rated("null_control_score", -0.01, -2.0, 2.0),
        "final_num_answers": 5,
        "final_num_no_response": 2,
        "final_mean_thought_tokens": 13.0,
        "final_mean_response_tokens": 16.0,
        "final_cut_thought_rate": 0.5,
        "final_validation_score": -1.06,
        "num_pairs": 6,
        "num_stages": 2,
        "num_stages_reused": 1,
        "total_seconds": 6.5,
        "computed_seconds": 4.0,
    }
    entry = {**ENTRY, "change": None, "second_judge": None, "validation_scores": {}}
    untrained = final_metrics({**summary, "iterations": [entry], "null_control": None})
    gone = {name for name in found if "change" in name or "second_judge" in name or "null" in name}
    assert set(found) - set(untrained) == gone | {"final_validation_score"}


def test_a_change_is_tracked_with_its_p_value() -> None:
    change = compared_change(FIRST, LAST, confidence=0.95, seed=0)["win_rate"]
    assert (change.rate, change.num_prompts, change.num_unscored) == (0.75, 2, 1)  # 1 - 0 and 1 - 0.5
    found = iteration_metrics({**ENTRY, "change": {"win_rate": change.to_dict()}})
    low, high = change.interval or (None, None)
    assert (found["eval/change_win_rate_low"], found["eval/change_win_rate_high"]) == (low, high)
    # Differences of one sign: 2 of 4 patterns of signs.
    assert found["eval/change_win_rate_p_value"] == pytest.approx(0.5)


def test_gains_by_category() -> None:
    before = {"maths": Rate(0.25, None, 2, 0)}
    code, maths = gain_rows(corrected_by_category(LAST, seed=0), before)
    assert code == ["code", 0, 1, *[None] * (len(GAIN_COLUMNS) - 3)]
    found = dict(zip(GAIN_COLUMNS, maths, strict=True))
    assert (found["num_prompts"], found["win_rate_before"], found["win_rate"], found["gain"]) == (2, 0.25, 1.0, 0.5)
    assert found["gain_low_simultaneous"] <= found["gain_low"] < found["gain_high"] == 0.5
    assert found["adjusted_p_value"] == found["p_value"] == pytest.approx(0.5)  # two wins; one scored category


def test_numbers_go_by_their_path() -> None:
    summary = {"n": 4, "is_final": True, "judge": "x", "conditions": [{"name": "own", "win_rate": RATE}], "cuts": [0.5]}
    assert dict(numbers(summary, "eval")) == {
        "eval/n": 4,
        "eval/conditions/own/win_rate/rate": 0.25,
        "eval/conditions/own/win_rate/interval/0": 0.05,
        "eval/conditions/own/win_rate/interval/1": 0.7,
        "eval/conditions/own/win_rate/num_prompts": 4,
        "eval/conditions/own/win_rate/num_unscored": 1,
        "eval/cuts/0": 0.5,
    }


# --- sweeps and tags --------------------------------------------------------------------------------------------

RHO = ("pairs.length_penalty",)


@pytest.mark.parametrize(
    ("launch", "expected"),
    [
        pytest.param(Launch(overrides=("seed=1",)), None, id="no_sweep"),
        pytest.param(Launch(is_sweep=True), "base", id="nothing_given"),
        pytest.param(
            Launch(overrides=("pairs.length_penalty=0.2", "experiment=base"), is_sweep=True, preset_keys=RHO),
            "base",
            id="preset",
        ),
        pytest.param(
            Launch(overrides=("thought=none", "+seed=1", "experiment=base"), is_sweep=True),
            "base+seed+thought",
            id="command_line",
        ),
        pytest.param(
            Launch(overrides=("pairs.length_penalty=0", "seed=1"), is_sweep=True, preset_keys=RHO),
            "base+seed",
            id="preset_and_more",
        ),
        pytest.param(
            Launch(overrides=("seed=1", "runs_dir=/x", "tracking.mode=offline", "tracking=wandb"), is_sweep=True),
            "base+seed",
            id="places_do_not_count",
        ),
        pytest.param(
            Launch(overrides=("train.beta=0.1",), is_sweep=True, sweeper="tpe", preset_keys=("train.beta",)),
            "base+tpe",
            id="search",
        ),
    ],
)
def test_sweep_name(launch: Launch, expected: str | None) -> None:
    assert sweep_name(launch, base="base") == expected


def test_tags_are_what_a_job_chose() -> None:
    long = "judge.question=" + "?" * 80
    launch = Launch(
        choices={"thought": "generic", "judge": "length", "model": "smollm2_135m", "eval": "held_out"},
        overrides=("judge=length", "experiment=x", "pairs.length_penalty=0.2", "+a=1", "artifacts_dir=/x", long),
        is_sweep=True,
    )
    job_type, group, tags, name = run_labels(launch, experiment="x")
    assert (job_type, group) == ("run", "x+a+judge+judge.question+pairs.length_penalty")
    assert tags[:-1] == (
        *("experiment=x", "thought=generic", "judge=length", "model=smollm2_135m"),
        *("pairs.length_penalty=0.2", "a=1"),
    )
    assert len(tags[-1]) == MAX_TAG and tags[-1].startswith("judge.question=???")
    other = run_labels(Launch(overrides=(long + "!",)), experiment="x")
    assert other.tags[-1] != tags[-1], "long tags stay distinct"
    evaluation = evaluation_labels(Launch(choices={**launch.choices}, overrides=("policy=runs/a",)))
    assert evaluation == (
        *("evaluate", None, ("eval=held_out", "judge=length", "policy=runs/a")),
        "evaluate policy=runs/a",
    )
    assert name.startswith("x judge=length pairs.length_penalty=0.2 a=1 judge.question=???") and len(name) <= MAX_NAME
    many = Launch(overrides=tuple(f"{key:0>20}=1" for key in range(9)), is_sweep=True)
    assert len(sweep_name(many, base="x") or "") == MAX_GROUP


APP = """
import json, sys
import hydra
from hydra.core.hydra_config import HydraConfig
from tpo.config.schema import register
from tpo.results.tracking.labels import read_launch, run_labels

register()

@hydra.main(config_path=sys.argv.pop(1), config_name="config", version_base="1.3")
def main(config):
    launch = read_launch(HydraConfig.get())
    print("labels", json.dumps(run_labels(launch, experiment=launch.choices.get("experiment", "custom"))))

main()
"""


def labels_of(folder: Path, *arguments: str) -> list[list[Any]]:
    """The labels of the jobs that a command line starts, as each job sees them."""
    (folder / "app.py").write_text(APP)
    done = run_command("app", str(REPOSITORY / "conf"), *arguments, f"runs_dir={folder}", cwd=folder)
    assert done.returncode == 0, done.stderr
    return [json.loads(line.removeprefix("labels ")) for line in done.stdout.splitlines() if line.startswith("labels ")]


def test_jobs_of_a_preset_and_those_repeated_are_one_group(tmp_path: Path) -> None:
    jobs = labels_of(tmp_path, "-m", "experiment=ablation_rho_small")
    own = ["experiment=ablation_rho_small", "thought=prefilled", "judge=checked", "model=smollm2_135m"]
    penalties = ["0", "0.1", "0.2", "0.3", "0.4", "0.5"]
    swept = [f"pairs.length_penalty={penalty}" for penalty in penalties]
    assert jobs == [["run", "ablation_rho_small", [*own, item], f"ablation_rho_small {item}"] for item in swept]
    assert labels_of(tmp_path, "-m", "pairs.length_penalty=0.2", "experiment=ablation_rho_small") == [jobs[2]]


# --- lineage ----------------------------------------------------------------------------------------------------


def store_of(root: Path) -> Store:
    def execute(path: Path) -> None:
        (path / "rows.jsonl").write_text(f"{path.name}\n")
        finish(path, metrics={"num_rows": 1}, started=0.0)

    return Store(root, execute=execute)


def test_lineage_goes_from_samples_to_the_adapter_and_to_what_it_is_worth(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    prompts = store.request(Stage("prompts", 1, "nowhere:work"), {}, how={"server": "http://nowhere"})
    samples = store.request(Stage("sample", 1, "nowhere:work"), {"k": 2}, {"prompts": prompts}, seed=3)
    pairs = store.request(Stage("pairs", 1, "nowhere:work"), {}, {"completions": samples})
    check = store.request(Stage("preflight", 1, "nowhere:work"), {}, {"prompts": prompts})
    train = store.request(Stage("train", 1, "nowhere:work"), {}, {"pairs": pairs})
    answers = store.request(Stage("sample", 1, "nowhere:work"), {"k": 1}, {"prompts": prompts, "adapter": train})
    compare = store.request(Stage("compare", 1, "nowhere:work"), {}, {"completions": answers})
    named = {"completions": samples, "pairs": pairs, "train": train, "answers": answers, "comparison": compare}
    stages = [prompts, check, samples, pairs, train, answers, compare]
    run = {
        "iterations": [{"artifacts": {role: item.artifact_id for role, item in named.items()}}],
        "stages": [{"artifact_id": item.artifact_id, "stage": item.manifest["stage"]} for item in stages],
    }
    nodes = lineage(run, tmp_path)
    assert [(node.artifact_id, node.stage, node.is_output) for node in nodes] == [
        (item.artifact_id, item.manifest["stage"], item in (train, compare)) for item in stages if item is not check
    ]
    assert [node.metadata["inputs"] for node in nodes][2] == {"completions": samples.artifact_id}

    # An evaluation rests on the adapter; what that was made of belongs to the run that trained it.
    evaluation = {"conditions": [{"artifacts": {"answers": answers.artifact_id, "comparison": compare.artifact_id}}]}
    found = {node.artifact_id: node.is_output for node in lineage(evaluation, tmp_path)}
    ids = [item.artifact_id for item in (prompts, train, answers, compare)]
    assert found == dict(zip(ids, [False, False, False, True], strict=True))

    (answers.path / "manifest.json").unlink()
    assert [node.artifact_id for node in lineage(evaluation, tmp_path)] == [compare.artifact_id]


def test_equal_artifacts_have_equal_content_wherever_they_were_made(tmp_path: Path) -> None:
    contents = []
    for root in (tmp_path / "a", tmp_path / "b"):
        step = Step("verdicts", 1, {"name": "x"}, seed=5, how={"server": {"base_url": f"http://{root.name}"}})
        made = store_of(root).run(step)
        [node] = lineage({"artifacts": {"verdicts": made.artifact_id}}, root)
        contents.append(node.content)
        assert "base_url" not in node.content + json.dumps(node.metadata)
    assert contents[0] == contents[1]
    found = json.loads(contents[0])
    assert (found["config"], found["seed"], list(found["files"])) == ({"name": "x"}, 5, ["rows.jsonl"])


# --- which tracker ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "netrc", "expected"),
    [
        pytest.param({}, None, False, id="nothing"),
        pytest.param({"WANDB_API_KEY": "k"}, None, True, id="environment"),
        pytest.param({"WANDB_API_KEY": ""}, None, False, id="empty_variable"),
        pytest.param({}, "machine api.wandb.ai login user password k", True, id="netrc"),
        pytest.param({}, "machine example.org login user password k", False, id="netrc_of_others"),
        pytest.param({}, "machine", False, id="broken_netrc"),
        pytest.param(
            {"WANDB_BASE_URL": "https://wandb.example.org/"},
            "machine wandb.example.org login user password k",
            True,
            id="own_server",
        ),
        pytest.param(
            {"WANDB_BASE_URL": "https://wandb.example.org"},
            "machine api.wandb.ai login user password k",
            False,
            id="key_of_another_server",
        ),
    ],
)
def test_online_where_there_is_a_key(
    environment: dict[str, str], netrc: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environment, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    if netrc is not None:
        (tmp_path / ".netrc").write_text(f"{netrc}\n")
        (tmp_path / ".netrc").chmod(0o600)
    assert has_wandb_key() is expected
    assert find_mode() == ("online" if expected else "offline")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert find_mode() == "offline", "who says so stays offline, with a key too"


@pytest.mark.parametrize(
    ("settings", "is_finished"),
    [
        pytest.param(NoTracking(), False, id="switched_off"),
        pytest.param(WandbTracking(project="p", mode="offline"), True, id="tracked_to_its_end"),
        pytest.param(WandbTracking(project="p", mode="auto"), False, id="disabled"),
    ],
)
def test_nothing_is_tracked(settings: Any, is_finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    if is_finished:
        write_json(tmp_path / TRACKED, {"mode": "offline"})
    tracker = load_tracker(settings, run_path=tmp_path, config={}, labels=LABELS)
    tracker.log_iteration(ENTRY, {})
    assert type(tracker) is Tracker and tracker.finish({}, []) is None
    log_evaluation(NoTracking(), run_path=tmp_path / "nowhere", config={}, summary={}, labels=LABELS)
    assert [path.name for path in tmp_path.iterdir()] == [TRACKED] * is_finished


@pytest.mark.parametrize(
    ("tracked", "mode", "is_again"),
    [("offline", "online", True), ("offline", "offline", False), ("online", "online", False), (None, "offline", True)],
)
def test_what_was_tracked_offline_is_sent_by_the_same_command_once_it_can_be(
    tracked: str | None, mode: str, is_again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    class Made(Tracker):
        why_offline = None

        def __init__(self, *_: Any, mode: str, **__: Any) -> None:
            made.append(mode)

    monkeypatch.setattr("tpo.results.tracking.wandb_tracker.WandbTracker", Made)
    monkeypatch.setattr("tpo.results.tracking.load.choose_mode", lambda wanted: (mode, None))
    if tracked is not None:
        write_json(tmp_path / TRACKED, {"mode": tracked})
    load_tracker(WandbTracking(project="p"), run_path=tmp_path, config={}, labels=LABELS)
    assert made == [mode] * is_again


def test_another_processs_service_of_wandb_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the run of a command that was killed for one that goes on."""
    import wandb

    wandb.teardown()
    monkeypatch.setenv("WANDB_SERVICE", f"3-1-unix-{tmp_path}/socket")
    settings = WandbTracking(project="p", mode="offline")
    tracker = load_tracker(settings, run_path=tmp_path, config={}, labels=LABELS)
    tracker.fail()
    assert list(tmp_path.glob("wandb/offline-run-*"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("WANDB_NOTES", "see hunter2Zq9secretX"), ("WANDB_TAGS", "a,hunter2Zq9secretX"), ("WANDB_MODE", "foo")],
)
def test_what_wandb_would_read_from_the_environment_is_checked(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2Zq9secretX")
    monkeypatch.setenv(name, value)
    with pytest.raises(TrackingError, match=name) as error:
        load_tracker(WandbTracking(project="p", mode="offline"), run_path=tmp_path, config={}, labels=LABELS)
    assert "hunter2" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "value"), [("WANDB_INIT_TIMEOUT", "abc"), ("WANDB_MODE", "")])
def test_odd_variables_are_one_sentence_or_none(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    wandb.teardown()  # it has read the environment
    monkeypatch.setenv(name, value)
    settings = WandbTracking(project="p", mode="offline")
    if value:
        with pytest.raises(TrackingError, match=r"variables of the environment that begin with WANDB_"):
            load_tracker(settings, run_path=tmp_path, config={}, labels=LABELS)
    else:
        load_tracker(settings, run_path=tmp_path, config={}, labels=LABELS).fail()


@pytest.mark.parametrize("text", ["{", "[]", "{}", "5"])
def test_a_damaged_note_of_where_a_run_was_tracked_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / TRACKED).write_text(text)
    with pytest.raises(TrackingError, match=f"{TRACKED} is damaged: delete it"):
        load_tracker(WandbTracking(project="p"), run_path=tmp_path, config={}, labels=LABELS)


def test_a_netrc_that_is_no_text_has_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_bytes(b"\xeb\xff")
    (tmp_path / ".netrc").chmod(0o600)
    assert not has_wandb_key()


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2Zq9secretX/x@127.0.0.1:9",
        "me:hunter2Zq9secretX@127.0.0.1:9",
        "http://127.0.0.1:hunter2Zq9secretX",
        "http://me:p@hunter2Zq9secretX@127.0.0.1:9",
        "http://127.0.0.1:9/?api_key=hunter2Zq9secretX",
        "http://[hunter2Zq9secretX",
    ],
)
def test_no_part_of_an_address_that_may_be_a_password_is_said(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", url)
    said = unreachable()
    assert said is not None and "hunter2" not in said and "secret" not in said.lower()
    assert "127.0.0.1:9 does not answer" in said or "WANDB_BASE_URL is no address" in said


# --- no network -------------------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["closed", "silent", "no_name"])
def test_a_key_without_a_network_means_offline_within_seconds(
    kind: str, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tpo.results.tracking.connect.ANSWER_S", 0.3)
    monkeypatch.setattr("tpo.results.tracking.connect.PATIENCE_S", 0.6)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    url = {"closed": "http://127.0.0.1:9", "silent": silent, "no_name": "http://nowhere.invalid"}[kind]
    monkeypatch.setenv("WANDB_BASE_URL", url.replace("//", "//user:secret@"))
    started = time.monotonic()
    mode, reason = choose_mode("auto")
    assert mode == "offline" and reason is not None and url in reason and "does not answer" in reason
    assert time.monotonic() - started < 5 and "secret" not in reason
    assert choose_mode("offline") == ("offline", None)
    with pytest.raises(TrackingError, match="tracking.mode=online, but W&B at .* set tracking.mode=offline"):
        choose_mode("online")


# --- while it runs ----------------------------------------------------------------------------------------------

TRAINED = [{"loss": 0.7, "step": 1}, {"loss": 0.6, "step": 2}, {"loss": 0.5, "step": 3}]


@pytest.mark.parametrize("num_live", [0, 2, 3])
def test_each_step_of_training_is_logged_once_whenever_it_comes(num_live: int) -> None:
    rows: list[dict[str, Any]] = []
    live = Live(rows.append)
    for iteration in (1, 2):
        live.iteration = iteration
        for _ in range(2):  # the second time as from another attempt, which tells from the start
            for number, values in enumerate(TRAINED[:num_live], start=1):
                live.measured(f"train-{iteration}", number, values)
        live.finished(f"train-{iteration}", TRAINED)
    assert [(row["train/step"], row["train/iteration"], row["train/loss"]) for row in rows] == [
        *((1, 1, 0.7), (2, 1, 0.6), (3, 1, 0.5)),
        *((4, 2, 0.7), (5, 2, 0.6), (6, 2, 0.5)),
    ]


def test_a_run_that_continues_online_logs_what_is_new() -> None:
    rows: list[dict[str, Any]] = []
    live = Live(rows.append, num_logged=4)
    for iteration in (1, 2):
        live.iteration = iteration
        live.finished(f"train-{iteration}", TRAINED)
    assert [row["train/step"] for row in rows] == [5, 6]


def test_how_far_a_stage_is_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rows: list[dict[str, Any]] = []
    live, step = Live(rows.append), Step("sample", 1, {})
    for seconds, done in ((0, 0), (4, 20), (10, 50), (11, 100)):
        now[0] = seconds
        live.progressed(step, State(done, 100, "completion", "", 250.0, 1024.0 if done == 50 else None))
    assert [values["progress/sample"] for values in rows] == [0.0, 0.5, 1.0]
    assert rows[1] == {
        "progress/sample": 0.5,
        "progress/tokens_per_second": 250.0,
        "progress/device_memory_mib": 1024.0,
    }


# --- secrets in settings ----------------------------------------------------------------------------------------

SERVER = ["experiment=smoke", "judge=llm_pairwise", "judge.name=x", "judge.backend=server"]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("judge.server.base_url=https://user:planted-1234@example.org/v1", "judge.server.base_url"),
        ("judge.server.base_url=https://planted-1234@example.org/v1", "judge.server.base_url"),
        ("judge.server.base_url=https://example.org/planted-1234/v1", "judge.server.base_url"),
        ("judge.server.api_key_env=planted-1234", "judge.server.api_key_env"),
        ("judge.server.api_key_env=sk-another-planted-1", "judge.server.api_key_env"),
        ("judge.name=planted-1234", "judge.name"),
    ],
)
def test_secrets_among_the_settings_are_refused_and_not_shown(
    override: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "planted-1234")
    with pytest.raises(ConfigError, match=key) as caught:
        compose_config(Config, [*SERVER, override])
    assert "planted" not in str(caught.value)
    monkeypatch.delenv("MY_API_KEY")
    config = compose_config(Config, [*SERVER, "judge.server.base_url=http://h:8000/v1/a@b"])
    check(config)
    settings: Any = config
    group, *names = key.split(".")[::-1]
    for name in reversed(names):
        settings = getattr(settings, name)
    setattr(settings, group, override.partition("=")[2])
    monkeypatch.setenv("MY_API_KEY", "planted-1234")
    with pytest.raises(ConfigError, match=key) as caught:  # from a file, say
        check(config)
    assert "planted" not in str(caught.value)
