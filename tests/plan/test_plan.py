"""Plans against what runs then do, and against counts by hand."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_imports import HEAVY
from test_run import NUM_TEST, NUM_TRAIN, NUM_VALIDATION, REPOSITORY, compose_config, tiny_overrides

from tpo.config.compose import CONF, composing
from tpo.config.groups import EngineConfig, ModelConfig, SampleConfig
from tpo.config.kinds import load_settings
from tpo.config.thought import ThoughtFormat
from tpo.judge.stages import Judging
from tpo.loop import iterate
from tpo.model.policy import PolicyRef
from tpo.pipeline import Pipeline
from tpo.plan.__main__ import PlanError, compose_jobs, expand, main, make_plan
from tpo.plan.cost import Past, token_budget
from tpo.plan.estimate import to_dict
from tpo.plan.stages import PlanStore
from tpo.plan.tables import notes
from tpo.results.text_table import format_duration, format_number
from tpo.sample.stages import sample
from tpo.store.artifacts import Artifact
from tpo.store.open import open_store
from tpo.store.stage import Stage

RHO = "pairs.length_penalty=0,0.1,0.2,0.3,0.4,0.5"
# Stages of a run of two epochs with a pointwise judge and the choice of the epoch by validation.
BEFORE = 8  # model, prompts, preflight, two sets of answers judged each, comparison
TO_TRAINING = 4  # sample, judge, pairs, train
PER_ITERATION = TO_TRAINING + 2 * 2 + 3  # each epoch's answers, judged; the selected one's, judged and compared


def plan(*overrides: str, is_sweep: bool = False) -> dict[str, Any]:
    return to_dict(make_plan(overrides, is_sweep=is_sweep))


def count(summary: dict[str, Any], kind: str, name: str = "num_distinct") -> int:
    (row,) = [row for row in summary["kinds"] if row["stage"] == kind]
    return int(row[name])


def to_training(summary: dict[str, Any]) -> tuple[int, int]:
    """Distinct stages of all jobs up to the first training of each, with it, and how many the jobs ask for."""
    kinds = {row["artifact_id"]: row["stage"] for row in summary["stages"]}
    asked = []
    for job in summary["jobs"]:
        last = [kinds[name] for name in job["stages"]].index("train")
        asked += job["stages"][: last + 1]
    return len(set(asked)), len(asked)


def in_all(summary: dict[str, Any]) -> tuple[int, int]:
    return summary["total"]["num_distinct"], summary["total"]["num_asked"]


class Ran(NamedTuple):
    """A run's stages, and the plan that was made before."""

    root: Path
    before: dict[str, Any]
    stages: list[Artifact]

    @property
    def ids(self) -> list[str]:
        return [artifact.artifact_id for artifact in self.stages]

    def artifacts(self, stage: str) -> list[Artifact]:
        return [artifact for artifact in self.stages if artifact.manifest["stage"] == stage]


@pytest.fixture(scope="module")
def ran(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Two iterations, planned before anything was there; a run's folder is not needed."""
    root = tmp_path_factory.mktemp("planned")
    overrides = tiny_overrides(tiny_model, root)
    before = plan(*overrides)
    assert not (root / "artifacts").exists(), "a plan writes nothing"
    config = compose_config(overrides)
    with open_store(root / "artifacts") as store:
        tpo = Pipeline(config, store)
        iterate(tpo, lambda *_, **__: None, num_iterations=config.num_iterations)
    return Ran(root, before, store.asked)


# --- a plan and its run -----------------------------------------------------------------------------------------


def test_plan_of_a_run_before_anything_is_there(ran: Ran) -> None:
    summary = ran.before
    assert {row["stage"]: row["num_distinct"] for row in summary["kinds"]} == {
        **{"model": 1, "prompts": 1, "preflight": 1},
        **{"sample": 2 + 2 * 4, "judge": 2 + 2 * 4, "compare": 3, "pairs": 2, "train": 2},
    }
    total = summary["total"]
    assert total["num_distinct"] == total["num_missing"] == total["num_asked"] == BEFORE + 2 * PER_ITERATION
    assert (total["num_there"], total["num_shared"]) == (0, 0)
    assert total["expected_seconds"] is None and total["num_without_estimate"] == total["num_missing"]


def test_ids_are_those_of_the_run_until_an_epoch_is_selected(ran: Ran) -> None:
    planned = ran.before["stages"]
    known = [row["artifact_id"] for row in planned if not row["depends_on_selection"]]
    run = ran.ids
    assert known == run[: BEFORE + TO_TRAINING + 4], "with the answers that the selection is made by"
    assert [row["stage"] for row in planned] == [artifact.manifest["stage"] for artifact in ran.stages]
    assert not {row["artifact_id"] for row in planned if row["depends_on_selection"]} & set(run)


def test_after_the_run_everything_is_there(tiny_model: Path, ran: Ran) -> None:
    summary = plan(*tiny_overrides(tiny_model, ran.root))
    assert [row["artifact_id"] for row in summary["stages"]] == ran.ids
    assert all(row["is_there"] and not row["depends_on_selection"] for row in summary["stages"])
    assert (summary["total"]["token_budget"], summary["total"]["expected_seconds"]) == (0, 0)


def test_a_longer_run_goes_on_from_what_is_there(tiny_model: Path, ran: Ran) -> None:
    total = plan(*tiny_overrides(tiny_model, ran.root, "num_iterations=3"))
    assert (total["total"]["num_there"], total["total"]["num_missing"]) == (BEFORE + 2 * PER_ITERATION, PER_ITERATION)
    assert [row["stage"] for row in total["stages"] if row["depends_on_selection"]] == ["sample", "judge", "compare"]


def test_without_the_scores_of_an_epoch_nothing_after_it_counts_as_there(
    tiny_model: Path, ran: Ran, tmp_path: Path
) -> None:
    shutil.copytree(ran.root / "artifacts", tmp_path / "artifacts")
    validation = next(row for row in ran.artifacts("sample") if row.manifest["config"]["split"] == "validation")
    (scores,) = [
        row for row in ran.artifacts("judge") if row.manifest["inputs"].get("completions_0") == validation.artifact_id
    ]
    shutil.rmtree(tmp_path / "artifacts" / scores.artifact_id)
    summary = plan(*tiny_overrides(tiny_model, tmp_path))
    missing = [row for row in summary["stages"] if not row["is_there"]]
    assert missing[0]["artifact_id"] == scores.artifact_id
    assert [row["depends_on_selection"] for row in missing] == [False] + [True] * (3 + PER_ITERATION)


def test_too_few_instructions_are_an_error_where_it_is_known(tiny_model: Path, ran: Ran) -> None:
    with pytest.raises(PlanError, match=r"job .*num_iterations=99.*the instructions last for"):
        plan(*tiny_overrides(tiny_model, ran.root, "num_iterations=99"))


# --- what jobs share --------------------------------------------------------------------------------------------


def test_jobs_of_a_rho_sweep_share_all_before_the_pairs(tiny_model: Path, tmp_path: Path) -> None:
    summary = plan(*tiny_overrides(tiny_model, tmp_path, "pairs.length_penalty=0,0.1,0.2"), is_sweep=True)
    assert [job["overrides"][-1] for job in summary["jobs"]] == [f"pairs.length_penalty={rho}" for rho in (0, 0.1, 0.2)]
    assert to_training(summary) == (BEFORE + 2 + 3 * 2, 3 * (BEFORE + TO_TRAINING))
    assert in_all(summary) == (BEFORE + 2 + 3 * (2 * PER_ITERATION - 2), 3 * (BEFORE + 2 * PER_ITERATION))
    assert summary["total"]["num_shared"] == BEFORE + 2
    assert (count(summary, "pairs"), count(summary, "pairs", "num_shared")) == (6, 0)
    for row in summary["stages"]:
        assert row["jobs"] == [0, 1, 2] if row in summary["stages"][: BEFORE + 2] else len(row["jobs"]) == 1


def test_jobs_of_both_references_share_the_first_iteration(tiny_model: Path, tmp_path: Path) -> None:
    summary = plan(*tiny_overrides(tiny_model, tmp_path, "train.reference=previous,seed"), is_sweep=True)
    first, to_second_pairs = BEFORE + PER_ITERATION, 3
    assert to_training(summary) == (BEFORE + TO_TRAINING, 2 * (BEFORE + TO_TRAINING))
    distinct = first + to_second_pairs + 2 * (PER_ITERATION - to_second_pairs)
    assert in_all(summary) == (distinct, 2 * (first + PER_ITERATION))
    assert count(summary, "train") == 3


def test_jobs_of_a_thought_and_rho_sweep(tiny_model: Path, tmp_path: Path) -> None:
    swept = ("thought=generic,none", "pairs.length_penalty=0,0.3", "num_iterations=1")
    summary = plan(*tiny_overrides(tiny_model, tmp_path, *swept), is_sweep=True)
    everyone, one_thought = 4, 4  # model, prompts, baseline, judged; preflight, answers, judged, comparison
    shared = everyone + 2 * (one_thought + 2)
    assert to_training(summary) == (shared + 4 * 2, 4 * (BEFORE + TO_TRAINING))
    assert in_all(summary) == (shared + 4 * (PER_ITERATION - 2), 4 * (BEFORE + PER_ITERATION))
    assert sum(len(row["jobs"]) == 4 for row in summary["stages"]) == everyone
    assert sum(len(row["jobs"]) == 2 for row in summary["stages"]) == 2 * (one_thought + 2)


def test_another_rating_asks_a_pairwise_judge_nothing_again(tiny_model: Path, tmp_path: Path) -> None:
    own = [item for item in tiny_overrides(tiny_model, tmp_path) if not item.startswith("judge")]
    judge = ["judge=llm_pairwise", "judge.backend=server", "judge.name=x", "rating=elo,win_count", "num_iterations=1"]
    summary = plan(*own, *judge, is_sweep=True)
    # Shared: the comparison of iteration 0 and what it needs, the samples and the verdicts on them.
    assert to_training(summary) == (7 + 2 + 2 * 3, 2 * (7 + 5))
    assert in_all(summary) == (7 + 2 + 2 * 10, 2 * (7 + 12))
    assert (count(summary, "verdicts"), count(summary, "rate")) == (2 + 2 * 2, 4)


def test_rho_sweep_of_the_quickstart_runs_less_than_half_of_the_stages_to_the_first_training(tmp_path: Path) -> None:
    summary = plan("experiment=quickstart", RHO, f"artifacts_dir={tmp_path}/none", is_sweep=True)
    assert to_training(summary) == (24, 84)
    assert in_all(summary) == (96, 156)


def test_jobs_that_keep_artifacts_apart_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="artifacts_dir differs"):
        plan(*tiny_overrides(tiny_model, tmp_path), "artifacts_dir=a,b", is_sweep=True)


# --- which jobs there are ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "is_sweep", "expected"),
    [
        pytest.param(["seed=1"], False, [["seed=1"]], id="run"),
        pytest.param(["seed=1"], True, [["seed=1"]], id="sweep_of_one"),
        pytest.param(
            ["seed=1,2", "thought=generic,none"],
            True,
            [[f"seed={seed}", f"thought={thought}"] for seed in (1, 2) for thought in ("generic", "none")],
            id="product",
        ),
        pytest.param(["seed=choice(1,2)"], True, [["seed=1"], ["seed=2"]], id="choice"),
        pytest.param(["rating=glob(*o*)"], True, [["rating=elo"], ["rating=win_count"]], id="glob"),
        pytest.param(
            ["experiment=smoke,quickstart"], True, [["experiment=smoke"], ["experiment=quickstart"]], id="presets"
        ),
        pytest.param(["experiment=swept"], False, [["experiment=swept"]], id="params_without_m"),
        pytest.param(
            ["experiment=swept"],
            True,
            [
                [f"pairs.length_penalty={rho}", f"seed={seed}", "experiment=swept"]
                for rho in ("0", "0.5")
                for seed in range(3)
            ],
            id="params",
        ),
        pytest.param(
            ["experiment=swept", "seed=7"],
            True,
            [[f"pairs.length_penalty={rho}", "seed=7", "experiment=swept"] for rho in ("0", "0.5")],
            id="params_and_an_override_of_one",
        ),
        pytest.param(
            ["experiment=swept", "seed=7", "hydra.mode=MULTIRUN"],
            False,
            [
                ["hydra.mode=MULTIRUN", f"pairs.length_penalty={rho}", "seed=7", "experiment=swept"]
                for rho in ("0", "0.5")
            ],
            id="mode",
        ),
    ],
)
def test_jobs_are_those_of_the_sweeper(
    overrides: list[str], is_sweep: bool, expected: list[list[str]], tmp_path: Path
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "swept.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params: {pairs.length_penalty: '0,0.5', seed: range(3)}\n"
    )
    assert expand(overrides, is_sweep=is_sweep, config_dir=tmp_path) == expected


def test_a_pattern_finds_the_options_of_a_group_and_no_schema() -> None:
    jobs = compose_jobs(
        ["experiment=smoke", "model.quantization=none", "thought=glob(*,exclude=custom)"], is_sweep=True
    )
    assert [(overrides[-1], config.thought.name) for overrides, config in jobs] == [
        (f"thought={name}", name)
        for name in ("generic", "no_think", "none", "prefilled", "specific", "stripped", "think")
    ]
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
    with composing() as loader:
        found = {group: loader.get_group_options(group) for group in groups}
    assert found == {group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in groups}


@pytest.mark.parametrize(
    ("overrides", "is_sweep", "message"),
    [
        pytest.param(
            ["seed=1", "pairs.length_penalty=0,-1"],
            True,
            "seed=1 pairs.length_penalty=-1: .*expected a number at least 0",
            id="range",
        ),
        pytest.param(["seed=1,a"], True, "seed=a: seed: Value .*could not be converted to Integer", id="type"),
        pytest.param(["seed=1,2"], False, "seed=1,2: seed=1,2: several values are a sweep", id="sweep_without_m"),
        pytest.param(["sed=1,2"], True, "sed=1: .*sed", id="key"),
        pytest.param(["model=pretrained"], False, "model=pretrained: model.name: no value", id="missing"),
    ],
)
def test_errors_name_the_job(overrides: list[str], is_sweep: bool, message: str) -> None:
    with pytest.raises(PlanError, match=f"(?s)^job experiment=quickstart {message}"):
        compose_jobs(["experiment=quickstart", *overrides], is_sweep=is_sweep)


def test_a_sweeper_that_chooses_as_it_goes_cannot_be_planned() -> None:
    with pytest.raises(PlanError, match="OptunaSweeper chooses jobs as results come in"):
        expand(["hydra.sweeper._target_=plugin.OptunaSweeper"], is_sweep=True)


# --- cost -------------------------------------------------------------------------------------------------------

THOUGHT, RESPONSE, SAMPLES = 6, 8, 3  # of tiny_overrides


def test_token_budgets_by_hand(ran: Ran) -> None:
    rows = iter(ran.before["stages"])
    budgets = [row["token_budget"] for _, row in zip(range(BEFORE + PER_ITERATION + 1), rows, strict=False)]
    both, judged = THOUGHT + RESPONSE, NUM_TEST * RESPONSE
    validation = [NUM_VALIDATION * both] * 2 + [NUM_VALIDATION * RESPONSE] * 2
    assert budgets == [
        *(0, 0, 0),
        *(4 * NUM_TEST * RESPONSE, NUM_TEST * both),  # four draws of the baseline, and the seed model's answers
        *(NUM_TRAIN * SAMPLES * both, judged, 4 * judged, 0),  # samples before answers are judged
        *(NUM_TRAIN * SAMPLES * RESPONSE, 0, NUM_TRAIN * 2 * both * 2),
        *validation,
        *(NUM_TEST * both, NUM_TRAIN * SAMPLES * both, judged, 0),
    ]


def manifest(stage: str, config: dict[str, Any], **inputs: str) -> dict[str, Any]:
    return {"stage": stage, "version": 1, "config": config, "inputs": inputs, "seed": 0, "metrics": {}}


def sampled(store: PlanStore, prompts: Artifact, num_samples: int, *, enforce: str) -> Artifact:
    """Completions of at most 10 tokens of thought and 20 of response."""
    form = ThoughtFormat("{instruction}", None, "R:", enforce)  # type: ignore[arg-type]
    sampling = SampleConfig(num_samples, 1.0, 1.0, max_thought_tokens=10, max_response_tokens=20)
    model = store.request(Stage("model", 1, "nowhere:work"), {})
    policy = PolicyRef.untrained(model, ModelConfig(name="m", max_model_len=64), form=form, sampling=sampling)
    engine = load_settings(EngineConfig, {"kind": "torch", "max_sequences": 1})
    return sample(store, policy, prompts, split="test", settings=sampling, engine=engine, seed=0)


SERVER = ["judge.name=some/judge", "judge.server.base_url=http://a/v1", "judge.backend=server"]


@pytest.mark.parametrize(
    ("overrides", "pairs", "expected"),
    [
        # Of 5 instructions: 3 samples that share 30 tokens, and 1 of at most 20 tokens after a forced switch.
        pytest.param(["judge=length"], None, 0, id="no_model"),
        pytest.param(["judge=armorm", "judge.max_tokens=4096"], None, 5 * (3 * 30 + 20), id="reward_model"),
        pytest.param(
            ["judge=llm_pointwise", *SERVER, "judge.max_tokens=7"],
            None,
            5 * (3 * (30 + 7) + (20 + 7)),
            id="writes",
        ),
        pytest.param(
            ["judge=llm_pairwise", *SERVER, "judge.max_tokens=100", "judge.orders=both"],
            None,
            5 * 6 * 2 * (2 * 30 + 100),
            id="all_pairs_in_both_orders",
        ),
        pytest.param(
            ["judge=alpaca_eval", *SERVER, "judge.max_tokens=1", "judge.orders=random"],
            "matched",
            5 * 3 * (2 * 30 + 1),
            id="matched_pairs_in_one_order",
        ),
        pytest.param(
            ["judge=llm_pairwise", *SERVER, "judge.max_tokens=100", "judge.orders=both"],
            "all",
            5 * 3 * 1 * 2 * (2 * 30 + 100),
            id="pairs_of_two_sets_in_both_orders",
        ),
    ],
)
def test_budget_of_judges_by_hand(overrides: list[str], pairs: str | None, expected: int) -> None:
    config, store = compose_config(["experiment=smoke", *overrides]), PlanStore(Path("nowhere"))
    judging = Judging(store, config.judge, config.rating, model=config.model, seed=0)
    prompts = store.request(Stage("prompts", 1, "nowhere:work"), {"settings": {"num_test": 5}})
    inputs = {
        "prompts": prompts,
        "completions_0": sampled(store, prompts, 3, enforce="none"),
        "completions_1": sampled(store, prompts, 1, enforce="switch"),
    }
    if config.judge.gives_verdicts:
        assert token_budget(judging.verdicts(inputs, pairs=pairs).manifest) == expected
    else:
        assert token_budget(judging.score(inputs).manifest) == expected


def test_budget_of_what_is_no_run_is_unknown() -> None:
    config, store = compose_config(["experiment=smoke", "judge=armorm"]), PlanStore(Path("nowhere"))
    judging = Judging(store, config.judge, config.rating, model=config.model, seed=0)
    labelled = store.request(Stage("labelled", 1, "nowhere:work"), {})
    assert judging.score({"labelled": labelled}).budget is None
    benchmark = store.request(Stage("benchmark", 1, "nowhere:work"), {"name": "ifeval"})
    assert sampled(store, benchmark, 1, enforce="none").budget is None


def test_estimates_come_from_past_stages_alike(tiny_model: Path, ran: Ran) -> None:
    other = tiny_overrides(tiny_model, ran.root, "seed=1", "train.num_epochs=1", "prompts.num_test=4")
    rows = plan(*other)["stages"]
    direct, with_thought, *_ = [row for row in rows if row["stage"] == "sample"]
    baseline, *others = ran.artifacts("sample")
    assert direct["num_past"] == 1, "the other answers have thoughts"
    assert direct["expected_seconds"] == pytest.approx(baseline.seconds / 2), "half the instructions"
    assert direct["expected_tokens"] == pytest.approx(baseline.metrics["num_tokens"] / 2)
    before = {row["artifact_id"]: row["token_budget"] for row in plan(*tiny_overrides(tiny_model, ran.root))["stages"]}
    share = with_thought["token_budget"] / sum(before[row.artifact_id] for row in others)
    assert with_thought["num_past"] == len(others)
    assert with_thought["expected_seconds"] == pytest.approx(share * sum(row.seconds for row in others))
    assert with_thought["expected_tokens"] == pytest.approx(share * sum(row.metrics["num_tokens"] for row in others))
    training = next(row for row in rows if row["stage"] == "train")
    trained = [row.seconds for row in ran.artifacts("train")]
    assert training["expected_seconds"] == pytest.approx(sum(trained) / 4), "the mean, for half the epochs"
    compared = next(row for row in rows if row["stage"] == "compare")
    seconds = [row.seconds for row in ran.artifacts("compare")]
    assert compared["expected_seconds"] == pytest.approx(sum(seconds) / 3)


def test_nothing_is_expected_of_what_was_never_run(tiny_model: Path, ran: Ran) -> None:
    own = [item for item in tiny_overrides(tiny_model, ran.root) if not item.startswith("judge")]
    summary = plan(*own, "judge=likelihood")
    (judging,) = [row for row in summary["kinds"] if row["stage"] == "judge"]
    assert (judging["expected_seconds"], judging["expected_tokens"]) == (None, None)
    assert judging["num_without_estimate"] == judging["num_missing"] > 0 < judging["token_budget"]
    assert any(
        line.startswith(f"no estimate for {summary['total']['num_without_estimate']} stages") for line in notes(summary)
    )
    assert summary["devices"] and summary["devices"][0].startswith("cpu")


def test_past_reads_manifests_of_other_shapes(tmp_path: Path) -> None:
    (tmp_path / "sample-0").mkdir()
    (tmp_path / "sample-0" / "manifest.json").write_text(json.dumps(manifest("sample", {}, prompts="gone")))
    request = manifest("sample", {"engine": {"kind": "torch"}})
    assert Past(tmp_path, ["sample"]).expect(request, budget=10) == (None, None, 0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "no estimate"), (0.2, "0 s"), (89, "89 s"), (90, "1.5 min"), (5400, "1.5 h"), (172800, "2.0 days")],
)
def test_durations_for_people(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(None, "no estimate"), (999, "999"), (18432, "18.4 k"), (2_500_000, "2.5 M"), (3e9, "3.0 B")]
)
def test_counts_for_people(number: float | None, text: str) -> None:
    assert format_number(number) == text


# --- the command line -------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys
from tpo.plan.__main__ import main
main(sys.argv[2:])
print(json.dumps([name for name in json.loads(sys.argv[1]) if name in sys.modules]))
"""


def test_command_line_loads_nothing_heavy(tiny_model: Path, tmp_path: Path) -> None:
    arguments = ["--json", f"{tmp_path}/plan.json", "-m", "--stages", "seed=0,1", *tiny_overrides(tiny_model, tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(HEAVY), *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *printed, loaded = done.stdout.splitlines()
    assert json.loads(loaded) == ["hydra"]
    assert json.loads((tmp_path / "plan.json").read_text()) == plan(*arguments[4:], is_sweep=True)
    text = "\n".join(printed)
    assert "plan of 2 jobs" in text and "job 2: seed=1 " in text and "train-(epoch open)" in text
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_command_line_errors_have_no_traceback() -> None:
    with pytest.raises(SystemExit, match=r"^error: seed: Value 'x' .*Integer$"):
        main(["seed=x"])
