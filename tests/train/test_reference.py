"""The key under which the reference's log-probabilities are kept: it tells apart what their bits depend on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import PAIRS, SETTINGS, policy_of, reference_columns
from test_trainer import settings as changed_settings

import tpo.train.reference
from tpo.store.artifacts import Artifact
from tpo.store.environment import environment
from tpo.train.reference import reference_path
from tpo.train.trainer import make_trainer

MOVES_NOTHING: dict[str, Any] = {
    "beta": 0.3,
    "nll_weight": 1.0,
    "learning_rate": 5e-7,
    "lr_scheduler": "cosine",
    "warmup_ratio": 0.1,
    "num_epochs": 7,
    "batch_size": 6,
    "max_grad_norm": 0.5,
    "gradient_checkpointing": True,
    "lora_rank": 8,
    "lora_alpha": 32,
}
MOVES_BITS: dict[str, Any] = {
    "quantization": "nf4",
    "reference": "seed",
    "loss_on": "thought",
    "mask_forced_tokens": False,
    "micro_batch_size": 4,
    "lora_targets": "q_proj,v_proj",
}


def path_of(*, inputs: dict[str, str] | None = None, policy: dict[str, Any] | None = None, **settings: Any) -> Path:
    """Where a training keeps them, by what differs from an ordinary one."""
    given = SETTINGS.identity()
    assert settings.keys() <= given.keys()
    names = {"model": "model-a", "pairs": "pairs-a", "adapter": "train-a"} | (inputs or {})
    config = {"settings": given | settings, "dtype": "bfloat16", "max_model_len": 512, "epoch": 2} | (policy or {})
    artifacts = {role: Artifact(name, Path("artifacts") / name, {}, False) for role, name in names.items()}
    return reference_path(Path("artifacts"), config, artifacts)


def test_every_setting_is_known_to_move_them_or_not() -> None:
    assert {*MOVES_NOTHING, *MOVES_BITS} == set(SETTINGS.identity())
    assert not MOVES_NOTHING.keys() & MOVES_BITS.keys()


@pytest.mark.parametrize("name", MOVES_NOTHING)
def test_settings_that_move_nothing_share_a_key(name: str) -> None:
    assert path_of(**{name: MOVES_NOTHING[name]}) == path_of()


def test_what_shares_a_key_is_the_same_to_the_last_bit(tiny_model: Path, tmp_path: Path) -> None:
    policy = policy_of(tiny_model)
    base = make_trainer(tmp_path / "a", PAIRS, policy, SETTINGS, seed=0)
    other = make_trainer(tmp_path / "b", PAIRS, policy, changed_settings(**MOVES_NOTHING), seed=1)
    assert reference_columns(other) == reference_columns(base)


@pytest.mark.parametrize(
    "change",
    [
        *({name: value} for name, value in MOVES_BITS.items()),
        {"lora_rank": 0},  # all weights
        {"inputs": {"pairs": "pairs-b"}},
        {"inputs": {"model": "model-b"}},
        {"inputs": {"adapter": "train-b"}},
        {"policy": {"epoch": 1}},
        {"policy": {"dtype": "float32"}},
        {"policy": {"accelerate": {"num_processes": 2}}},
    ],
    ids=str,
)
def test_what_moves_them_has_a_key_of_its_own(change: dict[str, Any]) -> None:
    assert path_of(**change) != path_of()


@pytest.mark.parametrize("what", ["our kernels", "torch's kernels", "threads", "package", "device"])
def test_other_kernels_have_a_key_of_their_own(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    before, known = path_of(), environment()
    match what:
        case "our kernels":
            monkeypatch.setattr(tpo.train.reference, "VERSION", tpo.train.reference.VERSION + 1)
        case "torch's kernels":
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
        case "threads":
            monkeypatch.setattr(torch, "get_num_threads", lambda: 1000)
        case "package":
            packages = known["packages"] | {"torch": "0.0"}
            monkeypatch.setattr(tpo.train.reference, "environment", lambda: known | {"packages": packages})
        case "device":
            monkeypatch.setattr(tpo.train.reference, "environment", lambda: known | {"device": "another"})
    assert path_of() != before


def test_another_commit_that_rounds_alike_shares_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before, known = path_of(), environment()
    monkeypatch.setattr(tpo.train.reference, "environment", lambda: known | {"git_commit": "0" * 40, "git_dirty": True})
    assert path_of() == before
