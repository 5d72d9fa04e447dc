"""Every kind of evaluation on the tiny model, through the entry point's own function."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from test_run import NUM_TEST, Finished, run_here, tiny_overrides
from test_stale import Rounding

import tpo.judge.judges.llm_pairwise
from tpo.config.check import check_evaluate
from tpo.config.fields import ConfigError
from tpo.config.schema import EvaluateConfig
from tpo.evaluate import inherit
from tpo.evaluate.__main__ import run_evaluation
from tpo.evaluate.measure import EvaluationError
from tpo.evaluate.policies import PolicyError
from tpo.judge.protocol import Candidates, Judgement
from tpo.results.run_tables import evaluation_table
from tpo.store.artifacts import open_artifact
from tpo.store.gc import find
from tpo.store.records import Comparison, Completion, Prompt
from tpo.store.stage import Stage
from tpo.store.store import Store
from tpo.store.verify import main as verify

RATE = {"rate", "interval", "num_prompts", "num_unscored"}


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One iteration with the generic thought prompt."""
    root = tmp_path_factory.mktemp("evaluated")
    return run_here(root, tiny_overrides(tiny_model, root, "num_iterations=1"))


def compose_evaluation(finished: Finished, *overrides: str) -> EvaluateConfig:
    model = finished.config.model.name
    left_out = ("train.", "pairs.", *(("judge",) if any(item.startswith("judge=") for item in overrides) else ()))
    shared = [item for item in tiny_overrides(Path(model), finished.root) if not item.startswith(left_out)]
    config = inherit.compose_evaluation([*shared, *overrides])
    check_evaluate(config)
    return config


def evaluate(finished: Finished, *overrides: str) -> tuple[Path, dict[str, Any]]:
    path = run_evaluation(compose_evaluation(finished, f"policy={finished.path}", *overrides))
    return path, json.loads((path / "summary.json").read_text())


def opened(finished: Finished, name: str) -> Any:
    return open_artifact(finished.root / "artifacts" / name)


def test_held_out_repeats_what_the_run_measured(finished: Finished) -> None:
    path, summary = evaluate(finished)
    entry = finished.summary["iterations"][1]
    assert summary["win_rate"] == entry["win_rate"] and summary["categories"] == entry["categories"]
    assert summary["artifacts"] == {name: entry["artifacts"][name] for name in ("answers", "comparison")}  # reused
    assert summary["policy"] == f"{finished.path.name}@1" and summary["baseline"].endswith("direct")
    assert (path / "config.json").exists()
    untrained = run_evaluation(compose_evaluation(finished, f"policy={finished.path}@0"))
    assert (
        json.loads((untrained / "summary.json").read_text())["win_rate"]
        == (finished.summary["iterations"][0]["win_rate"])
    )


def test_adapter_and_run_are_the_same_policy(finished: Finished, tmp_path: Path) -> None:
    _, summary = evaluate(finished)
    adapter = finished.root / "artifacts" / finished.summary["iterations"][1]["adapter"]
    by_adapter = run_evaluation(compose_evaluation(finished, f"policy={adapter}"))
    assert json.loads((by_adapter / "summary.json").read_text())["artifacts"] == summary["artifacts"]
    elsewhere = tmp_path / "downloaded"
    elsewhere.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (elsewhere / name).write_bytes((adapter / name).read_bytes())
    imported = json.loads(
        (run_evaluation(compose_evaluation(finished, f"policy={elsewhere}")) / "summary.json").read_text()
    )
    assert imported["artifacts"] != summary["artifacts"] and imported["win_rate"] == summary["win_rate"]


def test_one_policy_against_another(finished: Finished) -> None:
    _, summary = evaluate(finished, f"baseline={finished.path}")
    # The same policy on both sides, with other random numbers: neither all ties nor an error.
    assert summary["baseline"] == summary["policy"]
    assert set(summary["win_rate"]) == RATE and summary["win_rate"]["num_prompts"] == NUM_TEST


def test_several_samples_are_averaged(finished: Finished) -> None:
    _, summary = evaluate(finished, "eval.num_samples=3", "eval.baseline_samples=2")
    rows = list(opened(finished, summary["artifacts"]["comparison"]).rows(Comparison))
    assert len(rows) == NUM_TEST == summary["win_rate"]["num_prompts"]
    assert {row.num_samples for row in rows} == {3} and max(row.num_pairs for row in rows) == 6
    assert len(list(opened(finished, summary["artifacts"]["answers"]).rows(Completion))) == 3 * NUM_TEST


def test_second_judge_and_null_control_of_an_evaluation(finished: Finished) -> None:
    _, plain = evaluate(finished)
    path, summary = evaluate(finished, "judge@eval.judge=length", "eval.null_control=true")
    assert "second_judge" not in plain and "null_control" not in plain
    assert summary["artifacts"] == plain["artifacts"], "the same answers and the same comparison"
    assert summary["second_judge"]["judge"] == "length" and summary["second_judge"]["change"] is None
    assert sum(stage["stage"] == "compare" for stage in summary["stages"]) == 3
    assert verify([str(path)]) == 0
    unneeded = {leftover.path.name for leftover in find(finished.root / "artifacts", [path])}
    assert not unneeded & {stage["artifact_id"] for stage in summary["stages"]}
    for rate in (summary["second_judge"]["win_rate"], summary["null_control"]["win_rate"]):
        assert set(rate) == RATE and rate["num_prompts"] == NUM_TEST


def test_what_an_evaluation_has_computed_before_it_was_killed_in_its_first_stage_stays(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed:
        def __init__(self, config: EvaluateConfig, store: Store) -> None:
            store._execute = Rounding(model=0)
            store.request(Stage("model", 1, "none"), {})
            raise KeyboardInterrupt

    monkeypatch.setattr("tpo.evaluate.steps.Evaluation", Killed)
    left_out = ("train.", "pairs.")
    shared = [item for item in tiny_overrides(tiny_model, tmp_path) if not item.startswith(left_out)]
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(inherit.compose_evaluation([*shared, "policy=seed"]))
    assert list((tmp_path / "artifacts").glob("model-*")) and find(tmp_path / "artifacts", [tmp_path / "runs"]) == []


def test_categories_have_gains_and_corrections(finished: Finished) -> None:
    path, summary = evaluate(finished, "eval=categories", "eval.per_category=1")
    assert (path / "figures" / "categories.png").exists()
    prompts = list(opened(finished, summary["prompts"]).rows(Prompt))
    assert len({row.category for row in prompts}) == len(prompts) == len(summary["categories"])
    assert summary["drops"] == {"unclassified": 0, "surplus": NUM_TEST - len(prompts)}
    for rate in summary["categories"].values():
        assert {"rate", "interval", "simultaneous_interval", "p_value", "adjusted_p_value"} <= set(rate)
        assert rate["num_prompts"] + rate["num_unscored"] == 1


def test_thought_value_compares_with_the_policys_own_thought(finished: Finished) -> None:
    _, summary = evaluate(finished, "eval=thought_value", "eval.cuts=[0.5]")
    conditions = {item["name"]: item for item in summary["conditions"]}
    assert list(conditions) == ["own", "sampled", "none", "other", "cut-0.5", "seed", "direct"]
    answers = {
        name: list(opened(finished, item["artifacts"]["answers"]).rows(Completion)) for name, item in conditions.items()
    }
    own = {(row.prompt_id, row.sample_index): row for row in answers["sampled"]}
    for name in ("own", "none", "other", "cut-0.5", "seed"):
        for row in answers[name]:
            mine = own[row.prompt_id, row.sample_index].thought
            if name == "none":
                assert row.thought == ""
            elif mine is not None and name == "own":
                assert row.thought == mine
            elif mine is not None and name == "cut-0.5":
                assert mine.startswith(row.thought) and row.num_thought_tokens <= len(mine)
    assert all(row.thought is None for row in answers["direct"])
    assert conditions["own"]["minus_own"] is None
    for name, item in conditions.items():
        assert set(item["win_rate"]) == RATE
        if name != "own":
            rates_differ = item["win_rate"]["rate"] - conditions["own"]["win_rate"]["rate"]
            if item["minus_own"]["num_prompts"] == NUM_TEST:
                assert item["minus_own"]["rate"] == pytest.approx(rates_differ)
            assert item["minus_own"]["adjusted_p_value"] >= item["minus_own"]["p_value"]


def test_thought_budget_is_kept(finished: Finished) -> None:
    _, summary = evaluate(finished, "eval=thought_budget", "eval.budgets=[4,0,2]")
    assert [item["max_thought_tokens"] for item in summary["budgets"]] == [0, 2, 4]
    for item in summary["budgets"]:
        rows = list(opened(finished, item["artifacts"]["answers"]).rows(Completion))
        budget = item["max_thought_tokens"]
        if budget == 0:
            assert {row.thought for row in rows} == {""}
        else:  # the tiny model never writes a delimiter: each thought was ended by force, some where it ended its turn
            assert max(row.forced_start for row in rows) == budget


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy=seed", "thought=none", "eval=thought_value"], "does not think"),
        (["policy=seed", "thought.enforce=none", "eval=thought_budget"], "needs a thought format"),
        (["policy=seed", "baseline=seed", "eval=arena_hard", "judge=llm_pairwise_arena"], "set baseline=null"),
    ],
)
def test_evaluations_that_make_no_sense(finished: Finished, overrides: list[str], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        run_evaluation(compose_evaluation(finished, *overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["eval=thought_value", "eval.cuts=[1.5]"], "eval.cuts"),
        (["eval=thought_budget", "eval.budgets=[]"], "eval.budgets"),
        (["eval=thought_budget", "eval.budgets=[-1]"], "eval.budgets"),
        (["eval=categories", "eval.classify=true", "eval.categories=[]"], "eval.categories is empty"),
        (["eval=categories", "eval.classify=true", "eval.classifier.prompt=x"], "has no {instruction}"),
        (["eval=categories", "eval.classify=true", "eval.classifier.name=null"], "needs eval.classifier.name"),
        (["eval=alpaca_eval", "eval.length_control=none"], "eval.length_control=none"),
        (["eval=gsm8k", "eval.path=/nowhere.jsonl"], "eval.path: there is no file"),
        (["eval=arena_hard"], "judge=self_rating does not play"),
        (["eval=arena_hard", "judge=llm_pairwise_arena", "eval.num_samples=2"], "eval.num_samples=2: .* one answer"),
        (["eval=alpaca_eval", "judge=length", "eval.num_samples=3"], "eval.num_samples=3: .* one answer"),
        (["eval=alpaca_eval", "judge=length", "eval.baseline_samples=2"], "eval.baseline_samples=2: .* one answer"),
        (["judge@eval.judge=self_rating", "judge=self_rating"], "eval.judge is the judge"),
    ],
)
def test_settings_that_make_no_sense(finished: Finished, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_evaluation(finished, "policy=seed", *overrides)


def test_policy_that_does_not_exist(finished: Finished) -> None:
    with pytest.raises(PolicyError, match="no such directory"):
        run_evaluation(compose_evaluation(finished, "policy=runs/nowhere"))


def test_adapter_without_weights(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(PolicyError, match=rf"policy {tmp_path}: .*no weights \(adapter_model.safetensors\).*again"):
        run_evaluation(compose_evaluation(finished, f"policy={tmp_path}"))


# --- benchmarks ----------------------------------------------------------------------------------------------------


class FakePairwise:
    """Prefers the longer response, strongly where it is twice as long."""

    def compare(self, pairs: list[Candidates]) -> list[Judgement]:
        outcomes = [
            0.5 + 0.5 * ((len(m.responses[0]) > len(m.responses[1])) - (len(m.responses[0]) < len(m.responses[1])))
            for m in pairs
        ]
        return [Judgement(outcome, None, raw="[[A>>B]]", weight=3.0 if outcome != 0.5 else 1.0) for outcome in outcomes]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_gsm8k_counts_right_answers_and_compares(finished: Finished, tmp_path: Path) -> None:
    rows = [{"question": f"What is {number} + 1?", "answer": f"#### {number + 1}"} for number in range(5)]
    path = write_lines(tmp_path / "gsm8k.jsonl", rows)
    _, summary = evaluate(finished, "eval=gsm8k", f"eval.path={path}", "baseline=seed")
    assert summary["num_prompts"] == 5
    assert set(summary["accuracy"]) == set(summary["minus_baseline"]) == {"strict", "flexible"}
    assert summary["accuracy"]["strict"]["num_prompts"] == 5
    _, fewer = evaluate(finished, "eval=gsm8k", f"eval.path={path}", "eval.num_prompts=2")
    assert fewer["num_prompts"] == 2 and "minus_baseline" not in fewer


def test_arena_hard_plays_two_games_a_question(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpo.judge.judges.llm_pairwise, "PairwiseLLM", lambda *_, **__: FakePairwise())
    questions = [
        {"uid": f"u{number}", "category": "arena-hard-v0.1", "cluster": "c", "prompt": f"Question {number}?"}
        for number in range(4)
    ]
    answers = [
        {
            "uid": row["uid"],
            "model": "gpt-4-0314",
            "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": {"answer": "long " * 99}}],
        }
        for row in questions
    ]
    path, summary = evaluate(
        finished,
        "eval=arena_hard",
        "judge=llm_pairwise_arena",
        f"eval.path={write_lines(tmp_path / 'question.jsonl', questions)}",
        f"eval.answers_path={write_lines(tmp_path / 'answers.jsonl', answers)}",
    )
    assert summary["score"]["rate"] == 0.0 and summary["score"]["num_rows"] == 8
    assert summary["version"] == "v0.1" and summary["baseline"] == "gpt-4-0314"
    assert len((path / "model_answer.jsonl").read_text().splitlines()) <= 4
    assert len((path / "model_judgment.jsonl").read_text().splitlines()) == 4


def test_alpaca_eval_exports_what_the_official_tool_reads(finished: Finished, tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Question {number}?", "output": "An answer.", "dataset": "x", "generator": "gpt4_1106_preview"}
        for number in range(4)
    ]
    path, summary = evaluate(
        finished,
        "eval=alpaca_eval",
        "judge=length",
        f"eval.path={write_lines(tmp_path / 'baseline.jsonl', rows)}",
    )
    assert summary["win_rate"]["num_prompts"] == 4
    assert summary["win_rate_length_controlled"]["estimator"] == "fitted"  # the judge is not the benchmark's
    outputs = json.loads((path / "model_outputs.json").read_text())
    assert [row["instruction"] for row in outputs] == [row["instruction"] for row in rows]
    sampled = opened(finished, summary["artifacts"]["answers"]).rows(Completion)
    assert [row["output"] for row in outputs] == [row.response or "" for row in sampled]
    assert not any("thought process" in row["output"] for row in outputs)
    annotations = json.loads((path / "annotations.json").read_text())
    assert [row["preference"] for row in annotations] == [
        1 + row.win
        for row in opened(finished, summary["artifacts"]["comparison"]).rows(Comparison)
        if row.win is not None
    ]


def test_table_has_a_row_for_every_rate() -> None:
    rate = {"rate": 0.5, "interval": [0.4, 0.6], "num_prompts": 9, "num_unscored": 1}
    summary = {
        "win_rate": rate,
        "evaluation": "made_up",
        "policy": "p",
        "categories": {"maths": rate},
        "conditions": [{"name": "own", "win_rate": rate, "minus_own": {**rate, "rate": 0.125, "interval": None}}],
        "budgets": [{"max_thought_tokens": 16, "win_rate": rate}],
    }
    table = evaluation_table(summary)
    assert table.title == "made_up: p"
    assert table.rows == [
        ("win_rate", "50.0 % [40.0, 60.0]", "9", "1"),
        ("categories maths", "50.0 % [40.0, 60.0]", "9", "1"),
        ("conditions own win_rate", "50.0 % [40.0, 60.0]", "9", "1"),
        ("conditions own minus_own", "+12.5 %", "9", "1"),
        ("budgets 16 win_rate", "50.0 % [40.0, 60.0]", "9", "1"),
    ]


def test_numbers_of_an_evaluation_without_rates_are_said() -> None:
    summary = {
        "evaluation": "custom",
        "policy": "p",
        "seed": 3,
        "confidence": 0.95,
        "num_left_out": 0,
        "num_loud": 2,
        "mean": 0.125,
        "names": ["a"],
    }
    assert evaluation_table(summary).notes == ["num_loud: 2", "mean: 0.125"]


def test_config_of_an_evaluation_is_kept(finished: Finished) -> None:
    config = compose_evaluation(finished, f"policy={finished.path}")
    path = run_evaluation(config)
    assert json.loads((path / "config.json").read_text()) == asdict(config)
