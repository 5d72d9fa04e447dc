"""Whole runs of two tiny models that were taught something: one thinks by itself, one ends turns without its EOS."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_templates import CHATML, TEMPLATES, with_template
from conftest import make_model
from test_run import Finished, run_here, tiny_overrides

from tpo.sample.sources.builtin import load_builtin
from tpo.store.artifacts import open_artifact
from tpo.store.records import Completion

pytestmark = pytest.mark.slow

THOUGHTS, ANSWERS = ("hm", "well", "so"), ("yes", "no", "maybe")


def words(rng: random.Random, choices: Sequence[str]) -> str:
    return " ".join(rng.choices(choices, k=rng.randint(1, 5)))


def teach(directory: Path, tokenizer: Any, turns: Sequence[tuple[dict[str, Any], str]], *, steps: int = 150) -> Path:
    """Save a tiny model that was trained to answer any instruction in the manner of `turns`.

    Args:
        directory: Where to.
        tokenizer: Its tokenizer, with a chat template.
        turns: Arguments of the template and what follows it then, in which T and A stand for thought and answer.
        steps: Of the optimizer, each of eight sequences.
    """
    from transformers import AutoModelForCausalLM

    eos = tokenizer.eos_token_id
    make_model(directory, vocab_size=len(tokenizer), initializer_range=0.05, eos_token_id=eos)
    tokenizer.save_pretrained(directory)
    model, rng = AutoModelForCausalLM.from_pretrained(directory), random.Random(0)
    model.generation_config.eos_token_id = eos
    instructions = [prompt.text for prompt in load_builtin()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = []
        for arguments, turn in rng.choices(turns, k=8):
            asked = [{"role": "user", "content": rng.choice(instructions)}]
            text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, **arguments)
            answer = turn.replace("T", words(rng, THOUGHTS)).replace("A", words(rng, ANSWERS))
            ids = [tokenizer.encode(part, add_special_tokens=False) for part in (text, answer)]
            rows.append((ids[0] + ids[1], [-100] * len(ids[0]) + ids[1]))
        longest = max(len(ids) for ids, _ in rows)
        inputs = torch.tensor([ids + [eos] * (longest - len(ids)) for ids, _ in rows])
        labels = torch.tensor([ids + [-100] * (longest - len(ids)) for _, ids in rows])
        model(input_ids=inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    return directory


def rows_of(run: Finished, entry: dict[str, Any], role: str) -> list[Completion]:
    """The completions on one side of an iteration's comparison."""
    inputs = open_artifact(run.root / "artifacts" / entry["artifacts"]["comparison"]).manifest["inputs"]
    return list(open_artifact(run.root / "artifacts" / inputs[role]).rows(Completion))


def assert_answers(rows: Sequence[Completion]) -> None:
    """Most have a response, which ended by itself; none has anything of a thought, its tags or a control token."""
    answered = [row for row in rows if row.response is not None]
    assert len(answered) > 0.8 * len(rows)
    for row in answered:
        assert not any(word in row.response for word in (*THOUGHTS, "think", "<|")), row.response
        assert row.finish_reason == "stop" or row.num_response_tokens >= 20, "ended, and said to be cut off"
    assert sum(row.finish_reason == "stop" for row in rows) > 0.8 * len(rows)


def overrides(model: Path, root: Path, *more: str) -> list[str]:
    return tiny_overrides(
        *(model, root, "train.learning_rate=1e-3", "train.num_epochs=1"),
        *("sample.max_thought_tokens=24", "sample.max_response_tokens=24", *more),
    )


def test_a_run_of_a_model_that_thinks_by_itself(tmp_path: Path) -> None:
    tokenizer = with_template(TEMPLATES["qwen3"], eos="<|im_end|>")
    thinking = ({}, "<think>\nT\n</think>\n\nA<|im_end|>")
    model = teach(tmp_path / "model", tokenizer, [thinking, ({"enable_thinking": False}, "A<|im_end|>")])
    run = run_here(tmp_path, overrides(model, tmp_path, "thought=think"))
    assert [entry["iteration"] for entry in run.summary["iterations"]] == [0, 1, 2]
    for entry in run.summary["iterations"]:
        policy, baseline = rows_of(run, entry, "completions"), rows_of(run, entry, "baseline_completions")
        assert_answers(policy)
        assert_answers(baseline)
        thoughts = [row.thought for row in policy if row.response is not None]
        assert all(thought is not None and set(thought.split()) <= set(THOUGHTS) for thought in thoughts)
        assert sum(bool(thought) for thought in thoughts) > 0.8 * len(policy)
        assert all(row.thought is None for row in baseline), "direct answers do not think"


def test_a_run_of_a_model_whose_turns_end_without_its_eos(tmp_path: Path) -> None:
    tokenizer = with_template(CHATML, eos="<|endoftext|>")
    model = teach(tmp_path / "model", tokenizer, [({}, "A<|im_end|>")])
    run = run_here(tmp_path, overrides(model, tmp_path, "thought=none"))
    for entry in run.summary["iterations"]:
        assert_answers(rows_of(run, entry, "completions"))
        assert_answers(rows_of(run, entry, "baseline_completions"))
