"""A run's data for other programs: trl trains on the pairs as they are, and fields say what the artifacts hold."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_run import Finished, run_here, tiny_overrides

from tpo.results.__main__ import main
from tpo.store.records import Completion, Pair, Prompt

SHORT = ["num_iterations=1", "train.num_epochs=1"]


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("data")
    return run_here(root, tiny_overrides(tiny_model, root, *SHORT))


@pytest.fixture(scope="module")
def folder(run: Finished) -> Path:
    assert main([str(run.path), "--export", "pairs", "--out", str(run.root / "out")]) == 0
    return run.root / "out" / run.path.name / "pairs"


def load(folder: Path, name: str) -> list[dict[str, Any]]:
    import datasets

    return list(datasets.load_dataset(str(folder), name, split="train", cache_dir=str(folder.parent / "cache")))


def test_pairs_are_those_that_were_trained_on(run: Finished, folder: Path) -> None:
    (made,) = run.artifacts("pairs")
    pairs = list(made.rows(Pair))
    prompts = {row.prompt_id: row for row in run.artifacts("prompts")[0].rows(Prompt)}
    sampled = {row.key: row for artifact in run.artifacts("sample") for row in artifact.rows(Completion)}
    thoughts, responses = load(folder, "with_thoughts"), load(folder, "without_thoughts")
    assert len(pairs) == len(thoughts) == len(responses) > 0
    for pair, whole, bare in zip(pairs, thoughts, responses, strict=True):
        text = prompts[pair.prompt_id].text
        assert whole["prompt"][0]["content"].endswith(f"User query: {text}")
        assert bare["prompt"] == [{"role": "user", "content": text}]
        assert whole["chosen"][0]["content"] == "Here is my thought process:" + pair.chosen
        assert whole["rejected"][0] == {
            "role": "assistant",
            "content": "Here is my thought process:" + pair.rejected,
        }
        assert bare["chosen"][0]["content"] == sampled[pair.prompt_id, pair.chosen_index].response
        assert bare["rejected"][0]["content"] == sampled[pair.prompt_id, pair.rejected_index].response
        assert whole["score_chosen"] == pair.chosen_score > whole["score_rejected"] and whole["iteration"] == 1


@pytest.mark.slow  # compiles nothing, but as trl loads and trains
@pytest.mark.parametrize("name", ["with_thoughts", "without_thoughts"])
def test_trl_trains_on_the_pairs_as_they_are(folder: Path, tiny_model: Path, tmp_path: Path, name: str) -> None:
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    rows = datasets.Dataset.from_parquet(str(folder / f"{name}.parquet"), cache_dir=str(tmp_path / "cache"))
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        args=DPOConfig(
            output_dir=str(tmp_path), max_steps=1, logging_steps=1, report_to=[], use_cpu=True, save_strategy="no"
        ),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.6931, abs=1e-3)


def test_completions_are_all_that_was_sampled(run: Finished) -> None:
    out = run.root / "completions"
    assert main([str(run.path), "--export", "completions", "--out", str(out)]) == 0
    lines = (out / run.path.name / "completions" / "completions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    expected = {
        (row.prompt_id, row.sample_index, row.completion)
        for artifact in run.artifacts("sample")
        for row in artifact.rows(Completion)
    }
    assert {(row["prompt_id"], row["sample_index"], row["completion"]) for row in rows} == expected
    assert {(row["policy"], row["split"]) for row in rows} == {(None, "test"), (0, "test"), (0, "train-1"), (1, "test")}
    assert all((row["split"] == "test") == (row["score"] is None) or row["response"] is None for row in rows)
    documented = (Path(__file__).parents[2] / "tpo" / "results" / "README.md").read_text()
    for field in rows[0]:
        assert f"| `{field}` |" in documented, field


def test_what_is_there_stays_and_what_lacks_is_said(run: Finished, folder: Path, capsys: Any) -> None:
    assert main([str(run.path), "--export", "pairs", "--out", str(run.root / "out")]) == 1
    assert "exists already, and nothing is overwritten" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(run.path), "--export", "pairs"])
    assert "--export needs --out" in capsys.readouterr().err
