import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from tpo.artifacts import Artifact
from tpo.config import NoTracking, WandbTracking
from tpo.records import Completion, Pair, Score, write_records
from tpo.tracking import NullTracker, WandbTracker, has_wandb_key, iteration_metrics, load_tracker, log_evaluation

RATE = {"rate": 0.25, "interval": [0.05, 0.7], "num_prompts": 4, "num_unscored": 1}
UNSCORED = {"rate": None, "interval": None, "num_prompts": 0, "num_unscored": 1}
ENTRY: dict[str, Any] = {
    "iteration": 1,
    "win_rate": RATE,
    "win_rate_length_controlled": {**RATE, "rate": 0.26, "interval": [0.0, 0.75]},
    "categories": {"maths": RATE, "code": UNSCORED},
    "mean_score": -1.06,
    "mean_thought_tokens": 13.0,
    "mean_response_tokens": 16.0,
    "format_rate": 0.0,
    "parse_rate": 0.94,
    "num_pairs": 6,
    "drops": {"tied": 2, "too_few_scored": 0},
    "sampling": {"num_completions": 18, "truncated_rate": 1.0, "split_errors": {"repeated_delimiter": 1}},
    "judging": {"num_scores": 18, "num_unscored": 1, "mean_score": -0.53},
    "training": {"num_pairs": 6, "first_loss": 0.69, "last": {"loss": 0.7}},
    "adapter": "train-0/epoch-2",
    "validation_scores": {"1": -1.18, "2": -1.06},
    "artifacts": {"answers": "sample-0", "comparison": "compare-0"},
}
API_KEY = "0123456789abcdef" * 2 + "planted!"


# --- names ------------------------------------------------------------------------------------------------------


def test_metric_names_are_stable() -> None:
    # Dashboards and sweeps refer to these names: one that changes here breaks them.
    assert iteration_metrics(ENTRY) == {
        "iteration": 1,
        "eval/win_rate": 0.25,
        "eval/win_rate_low": 0.05,
        "eval/win_rate_high": 0.7,
        "eval/win_rate_num_prompts": 4,
        "eval/win_rate_length_controlled": 0.26,
        "eval/win_rate_length_controlled_low": 0.0,
        "eval/win_rate_length_controlled_high": 0.75,
        "eval/win_rate_length_controlled_num_prompts": 4,
        "eval/category/maths": 0.25,
        "eval/mean_thought_tokens": 13.0,
        "eval/mean_response_tokens": 16.0,
        "eval/format_rate": 0.0,
        "eval/parse_rate": 0.94,
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
def test_has_wandb_key(
    environment: dict[str, str], netrc: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environment, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    if netrc is not None:
        (tmp_path / ".netrc").write_text(f"{netrc}\n")
        (tmp_path / ".netrc").chmod(0o600)
    assert has_wandb_key() is expected


@pytest.mark.parametrize(
    ("settings", "is_finished"),
    [
        pytest.param(NoTracking(), False, id="switched_off"),
        pytest.param(WandbTracking(project="p", mode="offline"), True, id="tracked_to_its_end"),
    ],
)
def test_nothing_is_tracked(settings: Any, is_finished: bool, tmp_path: Path) -> None:
    tracker = load_tracker(settings, run_path=tmp_path, config={}, is_finished=is_finished)
    tracker.log_iteration(ENTRY)
    assert isinstance(tracker, NullTracker) and tracker.finish({}, []) is None
    assert list(tmp_path.iterdir()) == []


# --- a real offline run -----------------------------------------------------------------------------------------


def artifact(path: Path) -> Artifact:
    path.mkdir()
    return Artifact(path.name, path, {"metrics": {}}, is_reused=False)


def make_artifacts(root: Path) -> dict[str, Artifact]:
    made = {name: artifact(root / f"{name}-0") for name in ("sample", "judge", "pairs", "train")}
    completion = Completion("p", 0, [1], [2], 0, 0, True, "hm <R> yes", "hm", "yes", None, "stop", 1, 1, 0)
    write_records(made["sample"].path / "rows.jsonl", [completion])
    write_records(made["judge"].path / "rows.jsonl", [Score("p", 0, 1.5, None)])
    pair = Pair("p", [1], [2], [3], [0, 0], [0, 0], "better", "worse", 0, 1, 2.0, 1.5, -1.5, 1.0, 1.0)
    write_records(made["pairs"].path / "rows.jsonl", [pair])
    lines = [json.dumps({"loss": loss, "rewards/margins": loss / 2}) for loss in (0.75, 0.5)]
    (made["train"].path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (made["train"].path / "epoch-2").mkdir()
    (made["train"].path / "epoch-2" / "adapter_config.json").write_text("{}")
    return made


def read_offline_records(path: Path) -> list[Any]:
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


def wait_for_offline_records(path: Path) -> list[Any]:
    """Return all records; wandb's service may still be writing them when `finish` returns."""
    deadline = time.monotonic() + 30
    while not (records := read_offline_records(path)) or not records[-1].HasField("exit"):
        assert time.monotonic() < deadline, f"{path} did not get its last record"
        time.sleep(0.05)
    return records


@pytest.fixture
def offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    """A whole tracked run, with an API key in the environment: its folder and what `finish` returned."""
    for name in ("HOME", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    import matplotlib.image
    import numpy as np

    path = tmp_path / "smoke-0123"
    path.mkdir()
    made = make_artifacts(tmp_path)
    matplotlib.image.imsave(tmp_path / "win_rate.png", np.zeros((2, 2)))
    config = {"seed": 7, "thought": {"name": "generic"}}
    settings = WandbTracking(project="tpo-tests", mode="offline")
    tracker = load_tracker(settings, run_path=path, config=config, is_finished=False)
    assert isinstance(tracker, WandbTracker)
    for iteration in (1, 2):
        tracker.log_iteration({**ENTRY, "iteration": iteration})
        tracker.log_training(iteration, made["train"])
        tracker.log_tables(iteration, made["sample"], made["judge"], made["pairs"])
        tracker.log_adapter(iteration, made["train"], 2)
    where = tracker.finish({"iterations": [{**ENTRY, "iteration": 2}]}, [tmp_path / "win_rate.png"])
    assert where is not None
    return path, where


def test_offline_run_holds_config_metrics_tables_and_adapters_but_no_key(
    offline_run: tuple[Path, dict[str, Any]],
) -> None:
    path, where = offline_run
    assert where == {"mode": "offline", "run_id": "smoke-0123", "url": None}
    [file] = path.rglob("*.wandb")
    records = wait_for_offline_records(file)

    [run] = [record.run for record in records if record.HasField("run")]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.run_id, run.project) == ("smoke-0123", "tpo-tests")
    assert config["seed"] == 7 and config["thought"] == {"name": "generic"}

    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    metrics = [row for row in rows if "eval/win_rate" in row]
    assert [row["iteration"] for row in metrics] == [1, 2]
    assert {name: metrics[0][name] for name in iteration_metrics(ENTRY)} == iteration_metrics(ENTRY)
    steps = [row for row in rows if "train/loss" in row]
    # The step keeps counting, so that the second iteration's curve does not lie over the first's.
    assert [(row["train/step"], row["train/iteration"], row["train/loss"]) for row in steps] == [
        (1, 1, 0.75),
        (2, 1, 0.5),
        (3, 2, 0.75),
        (4, 2, 0.5),
    ]
    assert len([row for row in rows if any(name.startswith("tables/samples") for name in row)]) == 2
    assert len([row for row in rows if any(name.startswith("figures/win_rate") for name in row)]) == 1

    axes = {record.metric.glob_name or record.metric.name: record.metric.step_metric for record in records}
    assert axes["eval/*"] == axes["pairs/*"] == "iteration" and axes["train/*"] == "train/step"
    adapters = [record.artifact for record in records if record.artifact.type == "model"]
    assert [set(found.aliases) for found in adapters] == [{"iteration-1", "latest"}, {"iteration-2", "latest"}]

    tables = [json.loads(table.read_text()) for table in path.rglob("*.table.json")]
    assert ["p", 0, 1.5, "hm", "yes", None, False] in [row for table in tables for row in table["data"]]
    assert ["p", 2.0, 1.5, -1.5, "better", "worse"] in [row for table in tables for row in table["data"]]
    leaking = [found for found in path.rglob("*") if found.is_file() and API_KEY.encode() in found.read_bytes()]
    assert leaking == []


def test_evaluation_is_a_run_of_its_own_and_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    path = tmp_path / "evaluate-thought_value-0123"
    path.mkdir()
    summary = {
        "evaluation": "thought_value",
        "num_prompts": 4,
        "is_final": True,
        "categories": {"maths": UNSCORED},
        "conditions": [{"name": "own", "win_rate": RATE}, {"name": "none", "win_rate": {**RATE, "rate": 0.75}}],
        "budgets": [{"max_thought_tokens": 16, "win_rate": RATE}],
    }
    settings = WandbTracking(project="tpo-tests", mode="offline")
    for _ in range(2):
        log_evaluation(settings, run_path=path, config={"seed": 7}, summary=summary)
    assert json.loads((path / "tracking.json").read_text())["run_id"] == path.name
    [file] = path.rglob("*.wandb")
    updates = [item for record in wait_for_offline_records(file) for item in record.summary.update]
    found = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}
    expected = {
        "eval/num_prompts": 4,
        "eval/conditions/own/win_rate/rate": 0.25,
        "eval/conditions/none/win_rate/rate": 0.75,
        "eval/conditions/own/win_rate/interval/0": 0.05,
        "eval/budgets/16/win_rate/num_prompts": 4,
        "eval/categories/maths/num_unscored": 1,
    }
    assert expected.items() <= found.items()
    assert not {"eval/is_final", "eval/evaluation", "eval/categories/maths/rate"} & set(found)
    log_evaluation(NoTracking(), run_path=tmp_path / "nowhere", config={}, summary=summary)
    assert not (tmp_path / "nowhere").exists()
