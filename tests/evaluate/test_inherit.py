"""What an evaluation of a run takes from the run, and what the command line lays over it."""

import copy
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import run_command
from hydra.errors import HydraException
from omegaconf import OmegaConf

from tpo.config.check import check_evaluate
from tpo.config.compose import compose_config
from tpo.config.fields import ConfigError
from tpo.config.schema import Config, EvaluateConfig
from tpo.config.under import Under, lay_over, loosened
from tpo.evaluate.inherit import TAKEN, compose_evaluation
from tpo.evaluate.policies import PolicyError, find_policy
from tpo.plan.stages import PlanStore
from tpo.results.read import ResultError
from tpo.store.files import write_json, write_sealed

REPOSITORY = Path(__file__).parents[2]
# Nothing of this is what conf/evaluate.yaml starts from.
UNUSUAL = [
    "seed=7",
    "prompts=file",
    "prompts.num_test=11",
    "judge=length",
    "rating=bradley_terry",
    "engine.max_sequences=3",
    "model=pretrained",
    "model.name=some/model",
    "sample.max_response_tokens=33",
    "thought=specific",
    "eval.num_samples=3",
    "eval.confidence=0.9",
]


def make_run(root: Path, *overrides: str, name: str = "mine-0123") -> Path:
    """The folder of a finished run; nothing of it was computed."""
    (root / "mine.jsonl").write_text('{"text": "a"}\n')
    path = root / "runs" / name
    path.mkdir(parents=True)
    config = compose_config(Config, [*UNUSUAL, f"prompts.path={root}/mine.jsonl", *overrides])
    write_json(path / "config.json", asdict(config))
    write_sealed(path / "summary.json", {"iterations": [{"iteration": 0, "adapter": None}]})
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


def config_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "config.json").read_text()))


@pytest.mark.parametrize("suffix", ["", "@0"])
def test_all_that_both_have_is_the_runs(run: Path, suffix: str) -> None:
    config = asdict(compose_evaluation([f"policy={run}{suffix}"]))
    assert {key: config[key] for key in TAKEN} == {key: config_of(run)[key] for key in TAKEN}
    assert set(TAKEN) == set(config) & set(config_of(run)) - {
        "artifacts_dir",
        "runs_dir",
        "isolate_stages",
        "tracking",
    }
    assert config["policy"] == f"{run}{suffix}"


def test_artifacts_are_looked_for_where_the_run_left_them(run: Path, tmp_path: Path) -> None:
    assert compose_evaluation([f"policy={run}"]).artifacts_dir == "artifacts"
    config = config_of(run) | {"artifacts_dir": str(tmp_path)}
    write_json(run / "config.json", config)
    assert compose_evaluation([f"policy={run}"]).artifacts_dir == str(tmp_path)
    assert compose_evaluation([f"policy={run}", "artifacts_dir=moved"]).artifacts_dir == "moved"


def test_single_keys_are_laid_over_the_runs(run: Path, tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"text": "b"}\n')
    # prompts.path is no key of the source that conf/evaluate.yaml starts from.
    own = ["seed=1", f"prompts.path={tmp_path}/other.jsonl", "eval.num_samples=4", "sample.max_thought_tokens=5"]
    config = compose_evaluation([f"policy={run}", *own])
    expected = config_of(run)
    expected["prompts"]["path"] = f"{tmp_path}/other.jsonl"
    expected["eval"]["num_samples"] = 4
    expected["sample"]["max_thought_tokens"] = 5
    assert {key: asdict(config)[key] for key in TAKEN} == {key: expected[key] for key in TAKEN} | {"seed": 1}


def test_an_option_takes_the_whole_group(run: Path) -> None:
    config = compose_evaluation([f"policy={run}", "prompts=builtin", "judge=random", "eval=held_out"])
    plain = compose_evaluation(["policy=seed", "judge=random"])
    assert (config.prompts, config.judge, config.eval) == (plain.prompts, plain.judge, plain.eval)
    assert config.seed == 7 and config.thought.name == "specific"


@pytest.mark.parametrize(("preset", "judge"), [("alpaca_eval", "alpaca_eval"), ("arena_hard_v2", "llm_pairwise")])
def test_a_benchmark_that_names_a_judge_keeps_it(run: Path, preset: str, judge: str) -> None:
    config = compose_evaluation([f"policy={run}", f"eval={preset}"])
    assert config.judge.kind == judge and config.eval.num_samples == 1
    assert asdict(config)["prompts"] == config_of(run)["prompts"]
    assert compose_evaluation([f"policy={run}", f"eval={preset}", "judge=length"]).judge.kind == "length"
    check_evaluate(config)


def test_another_evaluation_has_its_own_settings(run: Path) -> None:
    config = compose_evaluation([f"policy={run}", "eval=categories", "eval.per_category=2"])
    assert (config.eval.kind, config.eval.num_samples, config.judge.kind) == ("categories", 1, "length")


def test_baseline_that_is_a_run_counts_where_the_policy_is_none(run: Path, tmp_path: Path) -> None:
    config = compose_evaluation(["policy=seed", f"baseline={run}"])
    assert asdict(config)["prompts"] == config_of(run)["prompts"] and config.seed == 7
    (tmp_path / "other").mkdir()
    other = make_run(tmp_path / "other", "seed=8", name="other-4567")
    assert compose_evaluation([f"policy={other}", f"baseline={run}"]).seed == 8


def test_what_was_taken_is_said_in_a_line(
    run: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)  # where no artifacts/ is, as there is after a quickstart
    with caplog.at_level(logging.INFO):
        compose_evaluation([f"policy={run}", "prompts=builtin", "eval=alpaca_eval", "sample.top_p=0.5"])
    [said] = [record.getMessage() for record in caplog.records]
    assert said == (
        f"engine, model, rating, sample, seed, thought as in {run}, but sample.top_p=0.5; "
        "chosen here: eval=alpaca_eval, judge=alpaca_eval, prompts=builtin"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["judge=ensemble", "judge.weights={self_rating: 1.0, likelihood: 0.5}"],
        ["judge=custom", "judge._target_=own_classes.Longer"],
        ["prompts=custom", "prompts._target_=own_classes.Sums", "+prompts.upto=5"],
        ["thought=custom", "thought._target_=own_classes.LastLine"],
        ["engine=custom", "engine._target_=own_classes.Echo"],
    ],
)
def test_groups_of_groups_and_classes_of_ones_own_come_back(overrides: list[str], tmp_path: Path) -> None:
    group = overrides[0].partition("=")[0]
    left_out = ("judge", "prompts", "thought", "engine")
    config = compose_config(Config, [*(item for item in UNUSUAL if not item.startswith(left_out)), *overrides])
    path = tmp_path / "runs" / "mine-0123"
    path.mkdir(parents=True)
    write_json(path / "config.json", asdict(config))
    write_sealed(path / "summary.json", {"iterations": [{"iteration": 0, "adapter": None}]})
    assert getattr(compose_evaluation([f"policy={path}"]), group) == getattr(config, group)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("prompts.pth=x", "prompts.pth: there is no such key; did you mean prompts.path?"),
        ("sample.num_sample=2", "num_sample"),
        ("sample.num_samples=many", "num_samples"),
        ("eval.num_samples=many", "num_samples"),
        ("judge.batch_tokens=9", "judge.batch_tokens: there is no such key"),  # of the judge that conf/ starts from
        ("~seed", "seed"),
    ],
)
def test_keys_that_the_runs_groups_lack_are_named(run: Path, override: str, named: str) -> None:
    with pytest.raises((ConfigError, HydraException)) as caught:
        compose_evaluation([f"policy={run}", override])
    assert named in f"{caught.value} {caught.value.__cause__}"


def test_settings_of_another_version_are_the_runs(run: Path) -> None:
    config = config_of(run)
    config["prompts"]["shuffle"] = True
    write_json(run / "config.json", config)
    with pytest.raises(ConfigError) as caught:
        compose_evaluation([f"policy={run}"])
    assert "prompts.shuffle: there is no such key" in str(caught.value) and str(run) in str(caught.value)
    assert compose_evaluation([f"policy={run}", "prompts=builtin"]).seed == 7


def test_damaged_run_is_named(run: Path) -> None:
    (run / "config.json").write_text("{")
    with pytest.raises(ResultError, match="config.json is damaged"):
        compose_evaluation([f"policy={run}"])


def test_a_runs_policy_is_asked_as_the_command_line_says_but_on_its_own_model(run: Path, tmp_path: Path) -> None:
    store = PlanStore(tmp_path / "artifacts")

    def found(*overrides: str) -> Any:
        config = compose_evaluation([f"policy={run}", *overrides])
        groups = {"model": config.model, "form": config.thought, "sample": config.sample}
        return find_policy(config.policy, store, **groups, has_own_settings=False)

    policy = found("thought=none", "sample.max_response_tokens=5", "model.max_model_len=77")
    assert policy.form.name == "none" and policy.sampling.max_response_tokens == 5
    assert policy.settings.name == "some/model" and policy.settings.max_model_len == 77
    with pytest.raises(PolicyError, match="its weights are of model.name=some/model, not other/model"):
        found("model.name=other/model")


# --- the command ------------------------------------------------------------------------------------------------------


def test_cfg_shows_what_would_run(run: Path, tmp_path: Path) -> None:
    done = run_command("tpo.evaluate", "--cfg", "job", f"policy={run}", "prompts.num_test=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert shown["prompts"] == config_of(run)["prompts"] | {"num_test": 2} and shown["seed"] == 7


def test_jobs_of_a_sweep_take_each_from_its_own_run(run: Path, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    other = make_run(tmp_path / "second", "seed=8", name="other-4567")
    # Each job ends at a check of its own settings, which Hydra alone would not have let it come to.
    swept = ["-m", f"policy={run},{other}", "prompts.path=nowhere.jsonl", f"runs_dir={tmp_path}/out"]
    done = run_command("tpo.evaluate", *swept, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("prompts.path: there is no file nowhere.jsonl") >= 2, done.stderr
    logs = "".join(path.read_text() for path in (tmp_path / "out").rglob("*.log"))
    for path in (run, other):
        assert f"as in {path}, but prompts.path=nowhere.jsonl" in logs


def test_an_option_within_a_group_is_laid_over_it(run: Path) -> None:
    # As a judge within eval is chosen, which is no choice of the group judge.
    composed = OmegaConf.create(
        {"judge": {"kind": "random"}, "eval": {"kind": "held_out", "judge": {"kind": "length"}}}
    )
    below = Under("runs/x", {"judge": {"kind": "likelihood"}, "eval": {"kind": "held_out", "judge": None, "a": 1}})
    for override in ("+judge@eval.judge=length", "eval/judge=length"):
        laid = copy.deepcopy(composed)
        lay_over(laid, below, entry=EvaluateConfig, overrides=[override], chosen={})
        assert laid == {
            "judge": {"kind": "likelihood"},
            "eval": {"kind": "held_out", "judge": {"kind": "length"}, "a": 1},
        }
    assert loosened(["+judge@eval.judge=length", "judge.x=1"], lambda _: below)[1] == "++judge.x=1"
