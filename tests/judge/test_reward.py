"""Training a reward model: what it learns from, that it learns, that it repeats, and that a kill loses nothing."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tpo.judge.judges.reward_model import chat_with_response
from tpo.judge.judges.self_taught import SelfTaught, load_classifier
from tpo.judge.protocol import Candidates
from tpo.judge.reward_training import RewardSettings, make_trainer, measure, tokenize, train_reward_model
from tpo.model.policy import Policy
from tpo.store.records import Preference
from tpo.train.checkpoints import MarkComplete
from tpo.train.settings import TrainingError

SETTINGS = RewardSettings(
    learning_rate=2e-2,
    lr_scheduler="constant",
    warmup_ratio=0.0,
    num_epochs=3,
    batch_size=8,
    micro_batch_size=4,
    max_tokens=200,
    max_grad_norm=1.0,
    gradient_checkpointing=False,
    lora_rank=4,
    lora_alpha=8,
    lora_targets="q_proj,v_proj,down_proj",
    num_layers=1,
    lora_first_layer=0,
)


def make_policy(path: Path) -> Policy:
    return Policy(str(path), None, str(path), "float32", 512, None)


def make_pairs(count: int) -> list[Preference]:
    """The response that speaks of rivers is the better one; length, position and instruction say nothing."""
    rows = []
    for number in range(count):
        rng = random.Random(number)
        good, bad = (" ".join([word] * rng.randint(3, 9)) for word in ("river", "stone"))
        is_first = rng.random() < 0.5
        first, second = (good, bad) if is_first else (bad, good)
        rows.append(Preference(f"Question {number}?", first, second, float(is_first), f"kind {number % 2}"))
    return rows


def load_judge(path: Path, policy: Policy, *, batch_tokens: int = 4096) -> SelfTaught:
    config = {"path": str(path), "dtype": policy.dtype, "max_tokens": 200, "batch_tokens": batch_tokens}
    return SelfTaught(config, policy)


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("reward")
    return path, train_reward_model(path, make_pairs(40), make_policy(tiny_model), SETTINGS, seed=3)


def test_learns_what_the_pairs_say_and_measures_it_on_others(
    tiny_model: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    path, metrics = trained
    assert metrics["num_pairs"] == 40
    assert metrics["num_steps"] == 3 * 40 // 8
    held_out = measure(path / "reward_model", make_pairs(120)[40:], make_policy(tiny_model), SETTINGS)
    assert held_out["all"]["num_pairs"] == 80
    assert held_out["all"]["accuracy"] >= 0.95
    low, high = held_out["all"]["interval"]
    assert low <= held_out["all"]["accuracy"] <= high
    assert held_out["kind 0"]["num_pairs"] == held_out["kind 1"]["num_pairs"] == 40


def test_accuracy_counts_against_the_label_not_the_position(
    tiny_model: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    wrong = [
        Preference(row.instruction, row.response_a, row.response_b, 1 - row.preference, "wrong")
        for row in make_pairs(80)[40:]
    ]
    held_out = measure(trained[0] / "reward_model", wrong, make_policy(tiny_model), SETTINGS)
    assert held_out["all"]["accuracy"] <= 0.05


def straight_score(path: Path, policy: Policy, instruction: str, response: str) -> float:
    """One chat, adapter unmerged, the mean over the response's tokens by hand."""
    from peft import PeftModel

    from tpo.model.chat import load_tokenizer

    tokenizer = load_tokenizer(policy.tokenizer_path)
    model = PeftModel.from_pretrained(load_classifier(policy, dtype="float32", num_layers=1), str(path)).eval()
    ids = chat_with_response(tokenizer, instruction, response)
    start = max(position for position, token in enumerate(ids) if token == tokenizer.bos_token_id)
    with torch.inference_mode():
        hidden = model.base_model.model.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        head = load_file(path / "adapter_model.safetensors")["base_model.model.score.weight"]
        return float(hidden[start + 1 :].mean(dim=0) @ head[0])


@pytest.mark.parametrize("batch_tokens", [1, 4096], ids=["one_by_one", "all"])
def test_judge_equals_a_straight_computation(
    tiny_model: Path, trained: tuple[Path, dict[str, Any]], batch_tokens: int
) -> None:
    path, policy = trained[0] / "reward_model", make_policy(tiny_model)
    items = [
        Candidates("What is 2 + 2?", ("4", "It is five, I believe, but let me think.", "river " * 30)),
        Candidates("Name a river.", ("stone",)),
    ]
    found = load_judge(path, policy, batch_tokens=batch_tokens).score(items)
    values = []
    for item, group in zip(items, found, strict=True):
        for response, judgement in zip(item.responses, group, strict=True):
            assert judgement.score == pytest.approx(straight_score(path, policy, item.instruction, response), abs=1e-4)
            values.append(judgement.score)
    assert len(set(values)) == 4


def test_training_reads_what_the_judge_reads(tiny_model: Path, tmp_path: Path) -> None:
    """The first loss is that of the judge's own scores with the untrained adapter and head."""
    from tpo.model.chat import load_tokenizer

    policy = make_policy(tiny_model)
    pairs, _ = tokenize(make_pairs(8), load_tokenizer(tiny_model), max_tokens=200)
    trainer = make_trainer(tmp_path, pairs, policy, SETTINGS, seed=0)
    trainer.model.save_pretrained(tmp_path / "untrained")
    (tmp_path / "untrained" / "reward_model.json").write_text('{"num_layers": 1}')
    judge = load_judge(tmp_path / "untrained", policy)
    losses = []
    for row in make_pairs(8):
        [[first, second]] = judge.score([Candidates(row.instruction, (row.response_a, row.response_b))])
        assert first.score is not None
        assert second.score is not None
        margin = (first.score - second.score) * (1 if row.preference == 1.0 else -1)
        losses.append(math.log1p(math.exp(-margin)))
    batches = [trainer.data_collator([row]) for row in trainer.train_dataset]
    with torch.no_grad():
        found = [trainer.compute_loss(trainer.model, batch).item() for batch in batches]
    assert sum(found) / len(found) == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "reward_model" / "adapter_model.safetensors")


def test_same_seed_gives_the_same_bytes(tiny_model: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    train_reward_model(tmp_path, make_pairs(40), make_policy(tiny_model), SETTINGS, seed=3)
    for name in ("adapter_model.safetensors", "adapter_config.json", "reward_model.json"):
        assert (tmp_path / "reward_model" / name).read_bytes() == (trained[0] / "reward_model" / name).read_bytes()


class Killed(BaseException):
    """Stands for SIGKILL."""


def test_killed_training_goes_on_from_its_last_epoch(
    tiny_model: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(self: MarkComplete, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == 12:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(MarkComplete, "on_step_end", kill, raising=False)
        train_reward_model(tmp_path, make_pairs(40), make_policy(tiny_model), SETTINGS, seed=3)
    train_reward_model(tmp_path, make_pairs(40), make_policy(tiny_model), SETTINGS, seed=3)
    for name, tensor in weights(trained[0]).items():
        assert torch.equal(tensor, weights(tmp_path)[name]), name


def test_ties_and_long_chats_are_left_out_and_counted(tiny_model: Path) -> None:
    from tpo.model.chat import load_tokenizer

    rows = [
        *make_pairs(3),
        Preference("Q?", "a", "b", 0.5, "tie"),
        Preference("Q?", "a", "word " * 300, 1.0, "long"),
    ]
    pairs, drops = tokenize(rows, load_tokenizer(tiny_model), max_tokens=200)
    assert (len(pairs), drops) == (3, {"tied": 1, "too_long": 1})


def test_nothing_to_learn_from_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    rows: Sequence[Preference] = [Preference("Q?", "a", "b", 0.5, "tie")]
    with pytest.raises(TrainingError, match="no preference to train on"):
        train_reward_model(tmp_path, rows, make_policy(tiny_model), SETTINGS, seed=0)


def test_soft_preferences_count_by_their_side(tiny_model: Path) -> None:
    from tpo.model.chat import load_tokenizer

    tokenizer = load_tokenizer(tiny_model)
    [soft], _ = tokenize([Preference("Q?", "yes", "no", 0.2, "soft")], tokenizer, max_tokens=200)
    assert soft == {
        "chosen_ids": chat_with_response(tokenizer, "Q?", "no"),
        "rejected_ids": chat_with_response(tokenizer, "Q?", "yes"),
    }


def test_metrics_hold_every_step(trained: tuple[Path, dict[str, Any]]) -> None:
    entries = [json.loads(line) for line in (trained[0] / "metrics.jsonl").read_text().splitlines()]
    assert len(entries) == 15
    assert entries[0]["loss"] > entries[-1]["loss"]
    assert not (trained[0] / "checkpoints").exists()
