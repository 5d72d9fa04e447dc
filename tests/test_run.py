"""The whole loop on the tiny model: what a run leaves behind, what runs share, and the command line."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from commands import run_command

import tpo.config.compose
import tpo.pipeline
import tpo.run
import tpo.store.execute
import tpo.store.open
from tpo.config.check import check
from tpo.config.schema import Config
from tpo.judge.judges.ensemble import EnsembleJudge
from tpo.judge.judges.length import LengthJudge
from tpo.judge.judges.llm_pairwise import PairwiseLLMJudge
from tpo.judge.judges.random import RandomJudge
from tpo.judge.protocol import Candidates, Judgement
from tpo.plan.stages import plan_job
from tpo.results.tracking.tracker import Tracker
from tpo.store.artifacts import open_artifact
from tpo.store.files import DIGEST
from tpo.store.records import Comparison, Completion, Pair, Prompt, Score

REPOSITORY = Path(tpo.run.__file__).parent.parent
NUM_TRAIN, NUM_VALIDATION, NUM_TEST, NUM_SAMPLES = 6, 3, 8, 3
NUM_POLICY, NUM_BASELINE = 1, 4  # answers to each test instruction, as conf/eval/held_out.yaml has them


def tiny_overrides(model: Path, root: Path, *more: str) -> list[str]:
    """The smallest run of the tiny model that trains; stores and runs lie below `root`."""
    return [
        "tracking=none",
        "model=pretrained",
        f"model.name={model}",
        "model.dtype=float32",
        "model.quantization=none",
        "model.max_model_len=1024",
        f"artifacts_dir={root}/artifacts",
        f"runs_dir={root}/runs",
        f"prompts.num_train={NUM_TRAIN}",
        f"prompts.num_validation={NUM_VALIDATION}",
        f"prompts.num_test={NUM_TEST}",
        f"sample.num_samples={NUM_SAMPLES}",
        "sample.max_thought_tokens=6",
        "sample.max_response_tokens=8",
        "engine.max_sequences=16",
        "judge=self_rating",
        "judge.positive=' Yes'",  # with the space, single tokens of the tiny tokenizer
        "judge.negative=' No'",
        "pairs.truncated_responses=keep",
        "train.learning_rate=1e-2",
        "train.num_epochs=2",
        "train.batch_size=4",
        "train.micro_batch_size=2",
        "train.gradient_checkpointing=false",
        "train.lora_rank=4",
        *more,
    ]


def compose_config(overrides: list[str]) -> Config:
    config = tpo.config.compose.compose_config(Config, overrides)
    check(config)
    return config


class Finished(NamedTuple):
    """A run that went to its end."""

    root: Path
    config: Config
    path: Path
    summary: dict[str, Any]

    def artifacts(self, stage: str) -> list[Any]:
        """Return the run's artifacts of one stage, in the order in which they were asked for."""
        found = [entry["artifact_id"] for entry in self.summary["stages"] if entry["stage"] == stage]
        return [open_artifact(self.root / "artifacts" / name) for name in found]


def run_here(root: Path, overrides: list[str]) -> Finished:
    config = compose_config(overrides)
    path = tpo.run.run_tpo(config, experiment="test")
    return Finished(root, config, path, json.loads((path / "summary.json").read_text()))


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two iterations with the generic thought prompt."""
    root = tmp_path_factory.mktemp("finished")
    return run_here(root, tiny_overrides(tiny_model, root))


def test_a_search_maximizes_the_selected_policys_validation_score(finished: Finished) -> None:
    scores = finished.summary["iterations"][2]["validation_scores"]
    assert len(scores) == 2 and tpo.run.objective(finished.summary) == max(scores.values())
    untrained = {"iterations": finished.summary["iterations"][:1]}
    assert tpo.run.objective(untrained) is None


def test_a_search_without_an_objective_ends_before_its_first_trial(tiny_model: Path, tmp_path: Path) -> None:
    overrides = tiny_overrides(tiny_model, tmp_path, "train.select=last")
    done = run_command("tpo.run", "-m", "hydra.sweeper._target_=hydra_plugins.any.Search", *overrides)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: hydra/sweeper: ") and "train.select=last" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_run_says_where_to_go_next(finished: Finished) -> None:
    tracker = Tracker()
    told = tpo.run.farewell(Path("runs/mine"), has_thought=True, tracker=tracker)
    assert told == {
        "page": "runs/mine/report.html",
        "next": "python -m tpo.chat policy=runs/mine",
        "": "python -m tpo.results runs/mine --samples",
        " ": "python -m tpo.evaluate policy=runs/mine eval=thought_value",
        "W&B": None,
    }
    tracker.sync_command = "wandb sync somewhere"
    told = tpo.run.farewell(Path("runs/my runs"), has_thought=False, tracker=tracker)
    assert told[" "] == "python -m tpo.export 'policy=runs/my runs' out=exports/mine"
    assert told["W&B"] == "wandb sync somewhere"
    page = (finished.path / "report.html").read_text(encoding="utf-8")
    assert f"python -m tpo.chat policy={finished.path}\n" in page


def test_summary_has_what_the_contract_names(finished: Finished) -> None:
    summary = finished.summary
    assert summary["experiment"] == "test"
    assert summary["seed"] == 0
    assert "direct answers" in summary["baseline"]
    assert [entry["iteration"] for entry in summary["iterations"]] == [0, 1, 2]
    for entry in summary["iterations"]:
        for name in ("win_rate", "win_rate_answered", "win_rate_length_controlled"):
            rate = entry[name]
            assert set(rate) - {"estimator"} == {"rate", "interval", "num_prompts", "num_unscored"}
            assert rate["num_prompts"] + rate["num_unscored"] == NUM_TEST
            assert rate["num_prompts"] > 0
            low, high = rate["interval"]
            assert 0 <= low <= high <= 1
        low, high = entry["win_rate"]["interval"]
        assert low <= entry["win_rate"]["rate"] <= high
        counts = [rate["num_prompts"] + rate["num_unscored"] for rate in entry["categories"].values()]
        assert sum(counts) == NUM_TEST
        assert 0 <= entry["format_rate"] <= entry["parse_rate"] <= 1
        assert 0 < entry["mean_thought_tokens"] <= 9, "the budget, and the newlines before the delimiter"
        assert 0 < entry["mean_response_tokens"] <= 8
    assert {stage["stage"] for stage in summary["stages"]} == {
        *("model", "prompts", "preflight", "sample", "judge", "pairs", "train", "compare")
    }
    assert all(stage["seconds"] > 0 and stage["is_reused"] is False for stage in summary["stages"])
    first, *trained = summary["iterations"]
    assert (first["num_pairs"], first["drops"], first["adapter"]) == (0, {}, None)
    assert all(entry["num_pairs"] > 0 for entry in trained), "a run without pairs tests little"


def test_win_rates_are_those_of_the_samples(finished: Finished) -> None:
    """The design in straight lines: each sample of the policy against each of the baseline, then over instructions."""

    def texts(name: str) -> dict[str, list[str | None]]:
        found: dict[str, list[str | None]] = {}
        for row in open_artifact(finished.root / "artifacts" / name).rows(Completion):
            found.setdefault(row.prompt_id, []).append(row.response)
        return found

    def scores(name: str) -> dict[tuple[str, int], float | None]:
        rows = open_artifact(finished.root / "artifacts" / name).rows(Score)
        return {(row.prompt_id, row.sample_index): row.score for row in rows}

    for entry, artifact in zip(finished.summary["iterations"], finished.artifacts("compare"), strict=True):
        inputs = artifact.manifest["inputs"]
        ours, theirs = texts(inputs["completions"]), texts(inputs["baseline_completions"])
        score, other = scores(inputs["scores"]), scores(inputs["baseline_scores"])
        means = []
        for prompt_id, samples in ours.items():
            assert (len(samples), len(theirs[prompt_id])) == (NUM_POLICY, NUM_BASELINE)
            wins = []
            for i, mine in enumerate(samples):
                for j, draw in enumerate(theirs[prompt_id]):
                    if mine is None or draw is None or mine == draw:
                        wins.append(0.5 if mine == draw else float(draw is None))
                    elif (first := score[prompt_id, i]) is not None and (second := other[prompt_id, j]) is not None:
                        wins.append(0.5 + 0.5 * ((first > second) - (first < second)))
            means.append(sum(wins) / len(wins))
        assert entry["win_rate"]["rate"] == pytest.approx(sum(means) / len(means))
        assert [row.win for row in artifact.rows(Comparison)] == pytest.approx(means)
        silent = sum(mine is None for samples in ours.values() for mine in samples)
        assert (entry["num_answers"], entry["num_no_response"]) == (NUM_TEST * NUM_POLICY, silent)


def test_changes_are_of_the_last_and_the_untrained_policy(finished: Finished) -> None:
    first, *others = finished.summary["iterations"]
    assert first["change"] is None
    for entry in others:
        change = entry["change"]
        assert set(change) == {"win_rate", "score", "response_tokens"}
        assert change["win_rate"]["rate"] == pytest.approx(entry["win_rate"]["rate"] - first["win_rate"]["rate"])
        assert 0 < change["win_rate"]["p_value"] <= 1
        low, high = change["response_tokens"]["interval"]
        assert low <= change["response_tokens"]["rate"] <= high
    assert finished.summary["null_control"] is None and first["second_judge"] is None


def test_figures_are_drawn(finished: Finished) -> None:
    for name in ("iterations", "lengths", "training"):
        content = (finished.path / "figures" / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 5000
    assert not (finished.path / "figures" / "categories.png").exists(), "a category has too few instructions"


def test_report_shows_every_instruction(finished: Finished) -> None:
    page = (finished.path / "report.html").read_text(encoding="utf-8")
    [data] = [json.loads(text) for text in re.findall(r'type="application/json">(.*?)</script>', page, re.DOTALL)]
    for entry in finished.summary["iterations"]:
        shown = [row for row in data["entries"] if row["iteration"] == entry["iteration"]]
        assert sum(row["outcome"] == "pair" for row in shown) == entry["num_pairs"]
        assert sum(row["split"] == "training" for row in shown) == (NUM_TRAIN if entry["iteration"] else 0)
        assert sum(row["split"] == "held-out" for row in shown) == NUM_TEST
        assert {len(row["samples"]) for row in shown if row["split"] == "training"} <= {NUM_SAMPLES}


def test_pairs_and_drops_account_for_every_instruction(finished: Finished) -> None:
    for entry, artifact in zip(finished.summary["iterations"][1:], finished.artifacts("pairs"), strict=True):
        assert entry["num_pairs"] + sum(entry["drops"].values()) == NUM_TRAIN
        rows = list(artifact.rows(Pair))
        assert len({row.prompt_id for row in rows}) == entry["num_pairs"]
        assert all(row.chosen_ids != row.rejected_ids for row in rows)


def test_no_instruction_is_used_twice(finished: Finished) -> None:
    (prompts,) = finished.artifacts("prompts")
    split = {row.prompt_id: row.split for row in prompts.rows(Prompt)}
    sampled: dict[str, set[str]] = {}
    for artifact in finished.artifacts("sample"):
        rows = list(artifact.rows(Completion))
        config = artifact.manifest["config"]
        ids = {row.prompt_id for row in rows}
        assert {split[key] for key in ids} == {config["split"]}
        assert len(rows) == len(ids) * config["settings"]["num_samples"]
        sampled.setdefault(config["split"], set()).update(ids)
    assert {name: len(ids) for name, ids in sampled.items()} == {
        "train-1": NUM_TRAIN,
        "train-2": NUM_TRAIN,
        "validation": NUM_VALIDATION,
        "test": NUM_TEST,
    }
    for name, ids in sampled.items():
        for other, others in sampled.items():
            assert name == other or not ids & others
    for artifact in finished.artifacts("pairs"):
        assert {split[row.prompt_id].split("-")[0] for row in artifact.rows(Pair)} == {"train"}


def test_trained_ids_are_those_that_were_sampled(finished: Finished) -> None:
    sampled = {
        (row.prompt_id, row.sample_index): row
        for artifact in finished.artifacts("sample")
        if artifact.manifest["config"]["split"].startswith("train")
        for row in artifact.rows(Completion)
    }
    for artifact in finished.artifacts("pairs"):
        for pair in artifact.rows(Pair):
            for side in ("chosen", "rejected"):
                row = sampled[pair.prompt_id, getattr(pair, f"{side}_index")]
                assert getattr(pair, f"{side}_ids") == row.completion_ids
                assert pair.prompt_ids == row.prompt_ids
                assert getattr(pair, f"{side}_forced") == [row.forced_start, row.forced_stop]


def test_every_completion_has_one_score(finished: Finished) -> None:
    sampled = {artifact.artifact_id: artifact for artifact in finished.artifacts("sample")}
    assert len(finished.artifacts("judge")) == len(sampled)
    for scores in finished.artifacts("judge"):
        samples = sampled.pop(scores.manifest["inputs"]["completions_0"])
        rows, judged = list(samples.rows(Completion)), list(scores.rows(Score))
        keys = [(row.prompt_id, row.sample_index) for row in rows]
        assert [(row.prompt_id, row.sample_index) for row in judged] == keys
        for row, score in zip(rows, judged, strict=True):
            assert (score.score is None) == (row.response is None)
            assert score.unscored_reason == row.split_error


def test_each_iteration_goes_on_from_the_selected_adapter(finished: Finished) -> None:
    first, second = finished.artifacts("train")
    entries = finished.summary["iterations"]
    assert "adapter" not in first.manifest["inputs"]
    assert second.manifest["inputs"]["adapter"] == first.artifact_id
    assert entries[1]["adapter"] == f"{first.artifact_id}/epoch-{second.manifest['config']['epoch']}"
    for entry, artifact in ((entries[1], first), (entries[2], second)):
        name, epoch = entry["adapter"].split("/")
        assert name == artifact.artifact_id
        scores = entry["validation_scores"]
        assert set(scores) == set(entry["validation_responses"]) == {"1", "2"}
        assert max(entry["validation_responses"].values()) <= entry["num_validation_answers"] == NUM_VALIDATION
        assert epoch == f"epoch-{max(scores, key=lambda key: (scores[key], -int(key)))}"
        assert entry["training"]["first_loss"] == pytest.approx(0.693147, abs=1e-3)
    sampled = [artifact.manifest["inputs"].get("adapter") for artifact in finished.artifacts("sample")]
    assert sampled[0] is None
    assert {first.artifact_id, second.artifact_id} <= set(sampled)


def without_stages(summary: dict[str, Any]) -> dict[str, Any]:
    """What equals a repetition's: without how long stages took, and the digest, which covers that."""
    return {key: value for key, value in summary.items() if key not in ("stages", DIGEST)}


def test_second_call_reuses_every_stage(tiny_model: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise AssertionError(f"{path} was computed again")

    monkeypatch.setattr("tpo.store.execute.execute", fail)
    again = run_here(finished.root, tiny_overrides(tiny_model, finished.root))
    assert again.path == finished.path
    assert again.summary == finished.summary


def test_runs_share_what_they_agree_on(tiny_model: Path, finished: Finished) -> None:
    overrides = tiny_overrides(tiny_model, finished.root, "num_iterations=1", "pairs.length_penalty=0.5")
    other = run_here(finished.root, overrides)
    assert other.path != finished.path
    computed = [stage for stage in other.summary["stages"] if not stage["is_reused"]]
    reused = {stage["artifact_id"] for stage in other.summary["stages"] if stage["is_reused"]}
    assert computed[0]["stage"] == "pairs", "the first stage that a length penalty can change"
    first_samples = next(
        artifact for artifact in finished.artifacts("sample") if artifact.manifest["config"]["split"] == "train-1"
    )
    first_scores = next(
        artifact
        for artifact in finished.artifacts("judge")
        if artifact.manifest["inputs"]["completions_0"] == first_samples.artifact_id
    )
    assert {first_samples.artifact_id, first_scores.artifact_id} <= reused


def test_direct_baseline_trains_without_thoughts(tiny_model: Path, finished: Finished) -> None:
    overrides = tiny_overrides(tiny_model, finished.root, "thought=none", "num_iterations=1", "train.num_epochs=1")
    direct = run_here(finished.root, overrides)
    assert direct.summary["thought"] == "none"
    for entry in direct.summary["iterations"]:
        assert entry["mean_thought_tokens"] == 0
        assert entry["format_rate"] == entry["parse_rate"]
    assert direct.summary["iterations"][1]["num_pairs"] > 0
    for artifact in direct.artifacts("sample"):
        for row in artifact.rows(Completion):
            assert row.thought is None
            assert (row.forced_start, row.forced_stop, row.is_prefilled) == (0, 0, False)
    baseline = finished.artifacts("sample")[0]
    assert direct.artifacts("sample")[0].artifact_id == baseline.artifact_id, "all runs share the baseline"


class LongerWins:
    """A fake pairwise judge: the longer response is better; it never sees a thought."""

    def compare(self, pairs: Sequence[Candidates]) -> list[Judgement]:
        return [
            Judgement(
                0.5 + 0.5 * ((len(m.responses[0]) > len(m.responses[1])) - (len(m.responses[0]) < len(m.responses[1]))),
                None,
                "[[A]]",
            )
            for m in pairs
        ]


@pytest.mark.parametrize("rating", ["elo", "bradley_terry", "win_count"])
def test_pairwise_judge_goes_through_the_loop(
    tiny_model: Path, tmp_path: Path, rating: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PairwiseLLMJudge, "make", lambda *_, **__: LongerWins())
    own = [item for item in tiny_overrides(tiny_model, tmp_path) if not item.startswith("judge")]
    judge = ["judge=llm_pairwise", "judge.backend=server", "judge.server.base_url=http://nowhere/v1", "judge.name=x"]
    run = run_here(tmp_path, [*own, *judge, f"rating={rating}", "num_iterations=1"])
    entry = run.summary["iterations"][1]
    assert entry["num_pairs"] > 0
    assert set(entry["validation_scores"]) == {"1", "2"}
    for pair in run.artifacts("pairs")[0].rows(Pair):
        assert len(pair.chosen) > 0
        assert pair.chosen_score > pair.rejected_score
    for artifact in run.artifacts("compare"):
        inputs = artifact.manifest["inputs"]
        assert "verdicts" in inputs and "scores" not in inputs, "a win is what the judge said of the two"
        sides = []
        for role in ("completions", "baseline_completions"):
            rows = open_artifact(run.root / "artifacts" / inputs[role]).rows(Completion)
            sides.append({row.prompt_id: row.response for row in rows if row.sample_index == 0})
        for row in artifact.rows(Comparison):
            ours, theirs = (side[row.prompt_id] for side in sides)
            if ours is not None and theirs is not None:
                assert row.win == 0.5 + 0.5 * ((len(ours) > len(theirs)) - (len(ours) < len(theirs)))


def test_ensemble_goes_through_the_loop(tiny_model: Path, tmp_path: Path) -> None:
    config = compose_config(tiny_overrides(tiny_model, tmp_path, "num_iterations=1", "train.num_epochs=1"))
    members = {"a": LengthJudge(), "b": RandomJudge()}
    config.judge = EnsembleJudge(members=members, weights={"a": 1.0, "b": 0.001})
    path = tpo.run.run_tpo(config, experiment="test")
    run = Finished(tmp_path, config, path, json.loads((path / "summary.json").read_text()))
    assert {"judge", "combine"} <= {stage["stage"] for stage in run.summary["stages"]}
    rows = run.artifacts("combine")[-1].rows(Score)
    assert all(abs(row.score) <= 2.01 for row in rows if row.score is not None), "normalized, five responses each"


def test_controls_and_a_second_judge_are_in_the_summary(tiny_model: Path, finished: Finished) -> None:
    more = ("eval.num_samples=2", "eval.null_control=true", "judge@eval.judge=length", "num_iterations=1")
    run = run_here(finished.root, tiny_overrides(tiny_model, finished.root, *more))
    control = run.summary["null_control"]
    assert set(control) == {"win_rate", "score"} and control["win_rate"]["num_prompts"] == NUM_TEST
    first, last = run.summary["iterations"]
    assert {"null_control", "second_comparison"} <= set(first["artifacts"])
    for entry in (first, last):
        second = entry["second_judge"]
        assert set(second) == {"judge", "win_rate", "change", "agreement"} and second["judge"] == "length"
        own = open_artifact(run.root / "artifacts" / entry["artifacts"]["comparison"]).manifest["inputs"]
        others = open_artifact(run.root / "artifacts" / entry["artifacts"]["second_comparison"]).manifest["inputs"]
        for role in ("completions", "baseline_completions"):
            assert own[role] == others[role], "the same answers"
    assert first["second_judge"]["change"] is None
    change = last["second_judge"]["win_rate"]["rate"] - first["second_judge"]["win_rate"]["rate"]
    assert last["second_judge"]["change"]["rate"] == pytest.approx(change)


def test_a_run_whose_policy_collapses_ends_there_with_all_that_a_run_leaves(
    tiny_model: Path,
    finished: Finished,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(tpo.pipeline, "find_collapse", lambda *_: "the policy has collapsed: it says nothing")
    overrides = tiny_overrides(tiny_model, finished.root, f"runs_dir={tmp_path}")
    run = run_here(finished.root, overrides)
    assert [entry["collapse"] for entry in run.summary["iterations"]] == [
        None,
        "the policy has collapsed: it says nothing",
    ]
    assert run.summary["collapse"] == "iteration 1: the policy has collapsed: it says nothing"
    assert (run.path / "report.html").exists() and (run.path / "figures" / "iterations.png").exists()
    [warning] = [record.getMessage() for record in caplog.records if "collapsed" in record.getMessage()]
    assert warning.startswith("iteration 1: ") and "the run ends here; on_collapse=continue goes on" in warning
    assert run_here(finished.root, overrides).summary == run.summary, "a resumed run says the same"
    planned = plan_job(run.config).stages
    assert [row.artifact_id for row in planned] == [row["artifact_id"] for row in run.summary["stages"]]

    onwards = run_here(finished.root, [*overrides, "on_collapse=continue"])
    assert onwards.path.name != run.path.name, "its summary is another"
    assert onwards.summary["collapse"] == run.summary["collapse"] and len(onwards.summary["iterations"]) == 3
    for mine, theirs in zip(onwards.summary["stages"], finished.summary["stages"], strict=True):
        assert mine["artifact_id"] == theirs["artifact_id"], "no artifact depends on it"


def test_seed_changes_samples_and_folder(tiny_model: Path, finished: Finished) -> None:
    overrides = tiny_overrides(tiny_model, finished.root, "num_iterations=0", "seed=1")
    other = run_here(finished.root, overrides)
    assert other.path != finished.path
    assert len(other.summary["iterations"]) == 1
    mine, theirs = (run.artifacts("sample")[0].rows(Completion) for run in (other, finished))
    assert [row.completion_ids for row in mine] != [row.completion_ids for row in theirs]


def test_quantized_policy_runs_through_the_loop(tiny_model: Path, tmp_path: Path) -> None:
    overrides = tiny_overrides(
        *(tiny_model, tmp_path, "model.quantization=nf4", "num_iterations=1"),
        *("train.num_epochs=1", "prompts.num_test=3", "prompts.num_validation=0"),
    )
    run = run_here(tmp_path, overrides)
    assert run.summary["iterations"][1]["training"]["first_loss"] == pytest.approx(0.693147, abs=1e-3)


def test_command_line_ends_with_the_run_folder(tiny_model: Path, tmp_path: Path) -> None:
    overrides = tiny_overrides(tiny_model, tmp_path, "num_iterations=0", "prompts.num_test=3")
    done = run_command("tpo.run", *overrides, loads_models=True)
    assert done.returncode == 0, done.stderr[-2000:]
    path = Path(done.stdout.splitlines()[-1])
    assert path.parent == tmp_path / "runs"
    assert path.name.startswith("custom-")
    assert (path / "summary.json").exists()


@pytest.mark.long
@pytest.mark.slow
def test_stages_in_processes_of_their_own_give_the_same(tiny_model: Path, finished: Finished, tmp_path: Path) -> None:
    changes = ("num_iterations=1", "train.num_epochs=1", "prompts.num_test=3", "prompts.num_validation=0")
    here = run_here(tmp_path / "a", tiny_overrides(tiny_model, tmp_path / "a", *changes))
    isolated = tiny_overrides(tiny_model, tmp_path / "b", "isolate_stages=true", *changes)
    assert_same_artifacts(run_here(tmp_path / "b", isolated), here)


@pytest.mark.slow
def test_a_process_that_executes_all_stages_of_the_device_gives_the_same(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU, here on the cores: the child samples, judges and trains, and keeps the judge's model.
    changes = ("num_iterations=1", "train.num_epochs=2", "prompts.num_test=3")
    here = run_here(tmp_path / "a", tiny_overrides(tiny_model, tmp_path / "a", *changes))
    monkeypatch.setattr(tpo.store.open, "has_gpu", lambda: True)
    monkeypatch.setattr(tpo.store.open, "execute", _only_on_host)
    assert_same_artifacts(run_here(tmp_path / "b", tiny_overrides(tiny_model, tmp_path / "b", *changes)), here)


def _only_on_host(path: Path) -> None:
    assert json.loads((path / "request.json").read_text())["runs_on"] == "host"
    tpo.store.execute.execute(path)


def assert_same_artifacts(run: Finished, other: Finished) -> None:
    """Both have the same stages, and the rows and weights of these are the same to the last bit."""
    assert run.path.name == other.path.name
    names = [row["artifact_id"] for row in other.summary["stages"]]
    assert [row["artifact_id"] for row in run.summary["stages"]] == names
    for name in names:
        first, second = (open_artifact(root / "artifacts" / name).manifest for root in (run.root, other.root))
        assert first["files"] == second["files"], name


@pytest.mark.slow
def test_sweep_makes_a_folder_for_each_job(tiny_model: Path, tmp_path: Path) -> None:
    overrides = tiny_overrides(tiny_model, tmp_path, "num_iterations=0", "prompts.num_test=3")
    done = run_command("tpo.run", "-m", "thought=generic,none", *overrides, loads_models=True)
    assert done.returncode == 0, done.stderr[-2000:]
    folders = sorted(path.parent for path in (tmp_path / "runs").glob("*/summary.json"))
    assert len(folders) == 2
    assert {json.loads((path / "summary.json").read_text())["thought"] for path in folders} == {"generic", "none"}
    assert Path(done.stdout.splitlines()[-1]) in folders
