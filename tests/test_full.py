"""Training of all weights: the next policy is another model, and the one that is sampled."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_run import compose_config, tiny_overrides
from test_train import PAIRS, SETTINGS, read_history, reference_columns, reference_of, straight_logps
from transformers import AutoModelForCausalLM, AutoTokenizer

import tpo.run
from tpo.checkpoints import MarkComplete
from tpo.engines import Policy
from tpo.models import load_model, load_policy, load_policy_reference
from tpo.policies import resolve
from tpo.train import make_trainer, train

FULL = dataclasses.replace(SETTINGS, lora_rank=0, learning_rate=3e-4)


def policy_of(path: Path, *, seed: Path | None = None, dtype: str = "float32") -> Policy:
    return Policy(str(path), None, str(seed or path), dtype, 1024, None, seed_path=str(seed) if seed else None)


def run_train(path: Path, policy: Policy, **changes: Any) -> Path:
    path.mkdir()
    train(path, PAIRS, policy, dataclasses.replace(FULL, **changes), seed=3)
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
    assert {path.name for path in trained.iterdir()} == {"metrics.jsonl", "epoch-1", "epoch-2"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sampled_policy_is_the_trained_one(tiny_model: Path, tmp_path: Path, dtype: str) -> None:
    policy = policy_of(tiny_model, dtype=dtype)
    trainer = make_trainer(tmp_path / "work", PAIRS, policy, FULL, seed=3)
    assert trainer.ref_model is None, "the model is held once"
    trainer.train()
    path = run_train(tmp_path / "a", policy)
    trainer.model.eval()
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
    train(tmp_path / "b", PAIRS, policy, dataclasses.replace(FULL, num_epochs=3), seed=3)
    for epoch in (1, 2, 3):
        first, second = (weights(path / f"epoch-{epoch}") for path in (undisturbed, tmp_path / "b"))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert read_history(undisturbed) == read_history(tmp_path / "b")


def test_run_samples_what_it_trained(tiny_model: Path, tmp_path: Path) -> None:
    changes = ("num_iterations=2", "train=full_dpo", "train.lora_rank=0", "train.num_epochs=1")
    overrides = tiny_overrides(tiny_model, tmp_path, *changes)
    run = tpo.run.run_tpo(compose_config(overrides), experiment="test")
    summary = json.loads((run / "summary.json").read_text())
    first = tmp_path / "artifacts" / summary["iterations"][1]["adapter"]
    assert (first / "model.safetensors").is_file()
    requests = [json.loads(path.read_text()) for path in (tmp_path / "artifacts").glob("sample-*/request.json")]
    second = next(request for request in requests if request["config"]["split"] == "train-2")
    assert second["inputs"]["adapter"] == first.parent.name
    artifacts = {role: tmp_path / "artifacts" / name for role, name in second["inputs"].items()}
    opened = {role: tpo.artifacts.open_artifact(path) for role, path in artifacts.items()}
    policy = load_policy_reference(second["config"], opened)
    assert (policy.model_path, policy.adapter_path, policy.seed_path) == (str(first), None, str(tiny_model))
    config = compose_config(overrides)
    evaluated = resolve(
        f"{run}@1",
        model=config.model,
        form=tpo.policies.make_format(config.thought),
        sample=config.sample,
        artifacts_dir=tmp_path / "artifacts",
    )
    assert (evaluated.model.source, evaluated.model.name, evaluated.adapter) == ("pretrained", str(first), None)
