"""Training of all weights: the next policy is another model, and the one that is sampled."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_evaluate import compose_evaluation, evaluate
from test_run import Finished, run_here, tiny_overrides
from test_trainer import PAIRS, SETTINGS, read_history, reference_columns, reference_of, straight_logps
from transformers import AutoModelForCausalLM, AutoTokenizer

from tpo.evaluate.__main__ import run_evaluation
from tpo.evaluate.policies import PolicyError
from tpo.model.load import load_model, load_policy
from tpo.model.policy import Policy, open_policy
from tpo.store.artifacts import open_artifact
from tpo.train.checkpoints import MarkComplete
from tpo.train.dpo import dpo_loss, sequence_logps
from tpo.train.trainer import make_trainer, train_on_pairs

FULL = dataclasses.replace(SETTINGS, lora_rank=0, learning_rate=3e-4)


def policy_of(path: Path, *, seed: Path | None = None, dtype: str = "float32") -> Policy:
    return Policy(str(path), None, str(seed or path), dtype, 1024, None, seed_path=str(seed) if seed else None)


def run_train(path: Path, policy: Policy, **changes: Any) -> Path:
    path.mkdir()
    train_on_pairs(path, PAIRS, policy, dataclasses.replace(FULL, **changes), seed=3)
    return path


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_train(tmp_path_factory.mktemp("full") / "a", policy_of(tiny_model))


def test_training_moves_every_weight_from_ln_2_on(tiny_model: Path, trained: Path) -> None:
    history = read_history(trained)
    assert history[0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert history[-1]["loss"] < 0.5
    before, after = weights(tiny_model), weights(trained / "epoch-2")
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_epoch_is_a_model_by_itself(tiny_model: Path, trained: Path) -> None:
    # As any other program would load it, with the seed model's own configuration and tokenizer.
    model = AutoModelForCausalLM.from_pretrained(str(trained / "epoch-1"))
    assert model.dtype == torch.float32
    assert torch.equal(model.lm_head.weight, weights(trained / "epoch-1")["lm_head.weight"])
    configs = [json.loads((path / "config.json").read_text()) for path in (tiny_model, trained / "epoch-1")]
    assert configs[0] == configs[1]
    names = [{path.name for path in place.iterdir()} for place in (tiny_model, trained / "epoch-1")]
    assert names[0] == names[1]
    texts = [AutoTokenizer.from_pretrained(str(path)).encode("a thought") for path in (tiny_model, trained / "epoch-1")]
    assert texts[0] == texts[1]
    # How far it is and what a resumed training needs are no part of what is complete.
    assert {path.name for path in trained.iterdir()} == {
        *("metrics.jsonl", "epoch-1", "epoch-2", "progress.tmp", ".digests.json", "checkpoints")
    }


def straight_training(start: Path, reference: Path, *, num_steps: int) -> dict[str, torch.Tensor]:
    """The weights after steps on all pairs, by plain torch: no trl, no batches, no padding, one sequence at a time."""
    model, frozen = (AutoModelForCausalLM.from_pretrained(str(path)) for path in (start, reference))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)

    def logps(weights: Any, prompt_ids: list[int], completion_ids: list[int], forced: list[int]) -> torch.Tensor:
        ids = torch.tensor([prompt_ids + completion_ids])
        counts = [index not in range(*forced) for index in range(len(completion_ids))]
        mask = torch.tensor([[False] * len(prompt_ids) + counts])
        return sequence_logps(weights(input_ids=ids).logits, ids, mask)

    for step in range(num_steps):
        for pair in PAIRS:
            chosen = (pair.prompt_ids, pair.chosen_ids, pair.chosen_forced)
            rejected = (pair.prompt_ids, pair.rejected_ids, pair.rejected_forced)
            with torch.no_grad():
                expected = logps(frozen, *chosen), logps(frozen, *rejected)
            loss = dpo_loss(logps(model, *chosen), logps(model, *rejected), *expected, beta=FULL.beta).loss
            (loss.sum() / len(PAIRS)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), FULL.max_grad_norm)
        optimizer.param_groups[0]["lr"] = FULL.learning_rate * (1 - step / num_steps)
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("reference", ["previous", "seed"])
def test_two_steps_equal_plain_torch(tiny_model: Path, trained: Path, tmp_path: Path, reference: str) -> None:
    # In the first iteration and, where reference and policy differ, in a second one.
    start = {"previous": tiny_model, "seed": trained / "epoch-2"}[reference]
    policy = policy_of(start, seed=None if start == tiny_model else tiny_model)
    # A step takes all pairs, so that the order of the batches does not matter.
    path = run_train(tmp_path / "a", policy, batch_size=len(PAIRS), reference=reference)
    assert len(read_history(path)) == 2
    before, found = weights(start), weights(path / "epoch-2")
    expected = straight_training(start, tiny_model, num_steps=2)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (value - before[name]).abs().max() > FULL.learning_rate
        # Of a gradient near 0 AdamW, which divides by its size, makes a step like any other, out of its last digits,
        # which depend on the processor.
        gaps = (found[name] - value).abs()
        assert (gaps > FULL.learning_rate / 5).float().mean() < 1e-3
        assert gaps.mean() < FULL.learning_rate / 10_000


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sampled_policy_is_the_trained_one(tiny_model: Path, tmp_path: Path, dtype: str) -> None:
    policy = policy_of(tiny_model, dtype=dtype)
    trainer = make_trainer(tmp_path / "work", PAIRS, policy, FULL, seed=3)
    assert trainer.ref_model is None, "the model is held once"
    trainer.train()
    path = run_train(tmp_path / "a", policy)
    trainer.model.eval().set_attn_implementation("sdpa")  # without trees
    engine = load_policy(path / "epoch-2", revision=None, dtype=dtype, adapter_path=None)  # as `TorchEngine` does
    for pair in PAIRS:
        trained, sampled = (
            straight_logps(model, pair.prompt_ids, pair.chosen_ids, [0, 0]) for model in (trainer.model, engine)
        )
        assert trained == sampled


@pytest.mark.parametrize("reference", ["previous", "seed"])
def test_reference_of_a_second_iteration(tiny_model: Path, trained: Path, tmp_path: Path, reference: str) -> None:
    policy = policy_of(trained / "epoch-2", seed=tiny_model)
    settings = dataclasses.replace(FULL, reference=reference)
    trainer = make_trainer(tmp_path, PAIRS, policy, settings, seed=0)
    expected = {
        name: reference_of(load_model(path, revision=None, dtype="float32"))
        for name, path in (("seed", tiny_model), ("previous", trained / "epoch-2"))
    }
    assert min(abs(expected["seed"][key] - expected["previous"][key]) for key in expected["seed"]) > 1e-2
    found = reference_columns(trainer)
    assert found == {key: pytest.approx(value, abs=1e-3) for key, value in expected[reference].items()}


def test_second_iteration_goes_on_from_the_first(tiny_model: Path, trained: Path, tmp_path: Path) -> None:
    policy = policy_of(trained / "epoch-2", seed=tiny_model)
    path = run_train(tmp_path / "a", policy, learning_rate=0.0, num_epochs=1)
    assert read_history(path)[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    before, after = weights(trained / "epoch-2"), weights(path / "epoch-1")
    assert all(torch.equal(before[name], after[name]) for name in before), "a rate of 0 leaves it as it was"


class Killed(BaseException):
    """Stands in for SIGKILL."""


def test_resumed_equals_uninterrupted(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(tiny_model, dtype="bfloat16")
    undisturbed = run_train(tmp_path / "a", policy, num_epochs=3)

    def kill_in_third_epoch(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 5:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MarkComplete, "on_step_end", kill_in_third_epoch, raising=False)
        with pytest.raises(Killed):
            run_train(tmp_path / "b", policy, num_epochs=3)
    work = tmp_path / "b" / "checkpoints"
    kept = {path.name: {file.name for file in path.iterdir()} for path in work.glob("checkpoint-*")}
    assert "optimizer.pt" in kept["checkpoint-4"]
    assert "optimizer.pt" not in kept["checkpoint-2"], "six times the weights, and of no more use"
    train_on_pairs(tmp_path / "b", PAIRS, policy, dataclasses.replace(FULL, num_epochs=3), seed=3)
    for epoch in (1, 2, 3):
        first, second = (weights(path / f"epoch-{epoch}") for path in (undisturbed, tmp_path / "b"))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert read_history(undisturbed) == read_history(tmp_path / "b")


@pytest.fixture(scope="module")
def ran(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two iterations of one epoch."""
    root = tmp_path_factory.mktemp("ran")
    changes = ("num_iterations=2", "train=full_dpo", "train.num_epochs=1")
    return run_here(root, tiny_overrides(tiny_model, root, *changes))


def test_run_samples_what_it_trained(tiny_model: Path, ran: Finished) -> None:
    artifacts_dir = ran.root / "artifacts"
    first = artifacts_dir / ran.summary["iterations"][1]["adapter"]
    assert (first / "model.safetensors").is_file()
    requests = [json.loads(path.read_text()) for path in artifacts_dir.glob("sample-*/request.json")]
    second = next(request for request in requests if request["config"]["split"] == "train-2")
    assert second["inputs"]["adapter"] == first.parent.name
    artifacts = {role: artifacts_dir / name for role, name in second["inputs"].items()}
    opened = {role: open_artifact(path) for role, path in artifacts.items()}
    policy = open_policy(second["config"], opened)
    assert (policy.model_path, policy.adapter_path, policy.seed_path) == (str(first), None, str(tiny_model))


def test_whole_model_is_evaluated_against_the_seed_model(ran: Finished, tmp_path: Path) -> None:
    _, evaluated = evaluate(ran)
    entry = ran.summary["iterations"][2]
    # The baseline is not the trained model's own direct answers.
    assert evaluated["baseline"] == f"{ran.config.model.name}, direct"
    assert evaluated["win_rate"] == entry["win_rate"]
    assert evaluated["artifacts"] == {name: entry["artifacts"][name] for name in ("answers", "comparison")}
    epoch = ran.root / "artifacts" / entry["adapter"]
    by_directory = run_evaluation(compose_evaluation(ran, f"policy={epoch}"))
    assert json.loads((by_directory / "summary.json").read_text())["artifacts"] == evaluated["artifacts"]
    with pytest.raises(PolicyError, match=f"set artifacts_dir={ran.root}/artifacts"):
        run_evaluation(compose_evaluation(ran, f"policy={ran.path}", f"artifacts_dir={tmp_path}"))
