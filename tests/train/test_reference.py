"""The key under which the reference's log-probabilities are kept: it tells apart what their bits depend on."""

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import PAIRS, SETTINGS, policy_of, reference_columns
from test_trainer import settings as changed_settings

import tpo.train.reference
from tpo.store.artifacts import Artifact
from tpo.store.environment import environment
from tpo.train.reference import ReferenceCache
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


def path_of(
    *,
    inputs: dict[str, str] | None = None,
    manifests: dict[str, Any] | None = None,
    policy: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Where a training keeps them, by what differs from an ordinary one."""
    given = SETTINGS.identity()
    assert settings.keys() <= given.keys()
    names = {"model": "model-a", "pairs": "pairs-a", "adapter": "train-a"} | (inputs or {})
    config = {"settings": given | settings, "dtype": "bfloat16", "max_model_len": 512, "epoch": 2} | (policy or {})
    holds = {role: {"files": {"file": role}, "metrics": {}} for role in names} | (manifests or {})
    artifacts = {
        role: Artifact(name, Path("artifacts") / name, holds[role], is_reused=False) for role, name in names.items()
    }
    return ReferenceCache.of(Path("artifacts") / "train-b", config, artifacts).path


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
        {"manifests": {"adapter": {"files": {"file": "computed anew"}, "metrics": {}}}},  # under the same id
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


# --- the file ---------------------------------------------------------------------------------------------------------

COLUMNS = {"ref_chosen_logps": [[-1.5, -2.25], [-3.0]], "ref_rejected_logps": [[-4.5, -5.0], [-6.0]]}


@pytest.fixture
def cache(tmp_path: Path) -> ReferenceCache:
    kept = ReferenceCache(tmp_path / "reference" / "0123456789ab.json", {"pairs": "pairs-a"}, tmp_path)
    kept.write(COLUMNS)
    return kept


def add_20_nats(path: Path) -> None:
    value = json.loads(path.read_text())
    value["columns"]["ref_chosen_logps"][0][0] += 20
    path.write_text(json.dumps(value))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def take_that_of_another(path: Path) -> None:
    ReferenceCache(path.with_name("ba9876543210.json"), {"pairs": "pairs-b"}, path.parent).write(COLUMNS)
    path.with_name("ba9876543210.json").replace(path)


def drop_the_digest(path: Path) -> None:
    path.write_text(json.dumps(COLUMNS))


def test_what_was_kept_is_read(cache: ReferenceCache) -> None:
    assert cache.read() == COLUMNS
    assert replace(cache, path=cache.path.with_name("other.json")).read() is None


def test_an_attempt_that_ends_while_it_writes_leaves_nothing_where_nobody_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt at a training deletes what lies in its folder; no attempt deletes what lies beside the file."""
    cache = ReferenceCache(tmp_path / "reference" / "0123456789ab.json", {}, tmp_path / "train-a")
    cache.training.mkdir()

    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(OSError, match="Read-only"):
        cache.write(COLUMNS)
    assert list(cache.path.parent.iterdir()) == []
    assert [path.suffix for path in cache.training.iterdir()] == [".tmp"]


@pytest.mark.parametrize("damage", [add_20_nats, truncate, take_that_of_another, drop_the_digest])
def test_damaged_file_is_said_and_computed_again(
    damage: Callable[[Path], None], cache: ReferenceCache, caplog: pytest.LogCaptureFixture
) -> None:
    damage(cache.path)
    assert cache.read() is None
    assert str(cache.path) in caplog.text and "computed again" in caplog.text
    cache.write(COLUMNS)
    assert cache.read() == COLUMNS
