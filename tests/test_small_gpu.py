"""`experiment=tpo_small_gpu`, whole, with tiny models of its architectures: Qwen3 as policy and as reward model."""

from pathlib import Path

import pytest
from chat_templates import TEMPLATES, with_template
from test_run import run_here

from tpo.store.artifacts import open_artifact
from tpo.store.records import Completion, Pair

pytestmark = pytest.mark.slow


def make_qwen3(folder: Path, *, is_reward: bool) -> Path:
    """Save a tiny Qwen3 with its chat template."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

    tokenizer = with_template(TEMPLATES["qwen3"], eos="<|im_end|>")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,
        num_labels=1,
    )
    torch.manual_seed(int(is_reward))
    model = (Qwen3ForSequenceClassification if is_reward else Qwen3ForCausalLM)(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_preset_runs_on_models_of_its_architectures(tmp_path: Path) -> None:
    policy = make_qwen3(tmp_path / "policy", is_reward=False)
    judge = make_qwen3(tmp_path / "judge", is_reward=True)
    run = run_here(
        tmp_path,
        [
            *("experiment=tpo_small_gpu", "engine=torch", "engine.num_workers=1", "tracking=none"),
            *("isolate_stages=false", "on_collapse=continue", "num_iterations=1"),
            *(f"model.name={policy}", "model.revision=null", "model.max_model_len=1024"),
            *(f"eval.judge.name={judge}", "eval.judge.revision=null"),
            *(f"artifacts_dir={tmp_path}/artifacts", f"runs_dir={tmp_path}/runs"),
            *("prompts.num_train=32", "prompts.num_validation=2", "prompts.num_test=6", "prompts.num_each_unseen=1"),
            *("prompts.min_words=0", "sample.num_samples=12"),
            *("sample.max_thought_tokens=12", "sample.max_response_tokens=24"),
            *("pairs.truncated_responses=keep", "train.batch_size=4"),
        ],
    )
    seed, trained = run.summary["iterations"]
    artifacts = trained["artifacts"]
    assert {"second_comparison", "checked", "baseline_checked"} <= artifacts.keys()
    pairs = list(open_artifact(tmp_path / "artifacts" / artifacts["pairs"]).rows(Pair))
    assert pairs, "random models keep some requests and not others"
    metrics = open_artifact(tmp_path / "artifacts" / artifacts["train"]).metrics
    assert metrics["slow_path"] is None and metrics["num_pairs"] == len(pairs)
    rows = list(open_artifact(tmp_path / "artifacts" / artifacts["completions"]).rows(Completion))
    assert all(row.thought is not None for row in rows if row.response is not None), "thoughts are closed by the switch"
    assert seed["iteration"] == 0
