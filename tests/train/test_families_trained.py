"""What families bring with them that is no part of DPO: dropout, jitter, routers' losses, other modalities' towers."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tpo.train.trainer
from experiments.families import EQUAL, SETTINGS, make_family, make_pairs, training
from tpo.model.chat import load_chat
from tpo.model.load import load_model
from tpo.model.targets import without_adapter
from tpo.train.settings import TrainingError
from tpo.train.trainer import make_trainer, train_on_pairs


@pytest.mark.parametrize("checkpoints", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("llama", {"attention_dropout": 0.3}, "attention_dropout=0.3"),
        # Of its layer itself, which has to be in training mode where it is checkpointed.
        ("opt", {"dropout": 0.2, "layerdrop": 0.5}, "dropout=0.2, layerdrop=0.5"),
        (
            "gpt2",
            {"attn_pdrop": 0.3, "resid_pdrop": 0.2},
            "attn_pdrop=0.3, embd_pdrop=0.1, resid_pdrop=0.2, summary_first_dropout=0.1",
        ),
        ("mixtral", {"output_router_logits": True, "router_jitter_noise": 0.3}, None),
        ("phimoe", {"input_jitter_noise": 0.2}, None),  # and in training mode its router draws the experts
    ],
    ids=["attention", "layers", "gpt2", "jitter", "drawn"],
)
def test_nothing_random_and_no_other_loss_is_in_training(
    family: str,
    changes: dict[str, Any],
    said: str | None,
    checkpoints: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(
        "experiments.families.SETTINGS", dataclasses.replace(SETTINGS, gradient_checkpointing=checkpoints)
    )
    policy = make_family(family, tmp_path / "model", **changes)
    work = tmp_path / "work"
    work.mkdir()
    with caplog.at_level(logging.WARNING, logger="tpo"):
        assert training(policy, work) == EQUAL
    first = json.loads((work / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] - SETTINGS.nll_weight * first["nll_loss"] == pytest.approx(0.693147, abs=1e-5)
    found = [record.getMessage() for record in caplog.records if "dropout is off" in record.getMessage()]
    assert [text.partition("configuration has ")[2] for text in found] == ([] if said is None else [said])


def test_what_is_given_up_is_said_once_and_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    policy = make_family("granite", tmp_path / "model")
    work = tmp_path / "work"
    work.mkdir()
    with caplog.at_level(logging.WARNING, logger="tpo"):
        metrics = train_on_pairs(work, make_pairs(), policy, SETTINGS, seed=3)
    assert metrics["slow_path"] == "pairs are padded"
    said = [record.getMessage() for record in caplog.records if record.name.startswith("tpo.")]
    assert said == ["granite: pairs are padded, which takes longer"]
    again = train_on_pairs(work, make_pairs(), policy, SETTINGS, seed=3)  # killed before its manifest was written
    assert again == metrics


def test_adapters_are_below_the_text_decoder_only(tmp_path: Path) -> None:
    policy = make_family("gemma3", tmp_path / "model")
    for targets in ("all-linear", "q_proj,v_proj"):  # the tower has layers of these names too
        trainer = make_trainer(
            tmp_path / "work", make_pairs(), policy, dataclasses.replace(SETTINGS, lora_targets=targets), seed=0
        )
        names = [name for name, part in trainer.model.named_parameters() if part.requires_grad]
        assert names
        assert all(".model.language_model.layers." in name for name in names)


def test_a_weight_that_the_loss_does_not_reach_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_family("gemma3", tmp_path / "model")
    monkeypatch.setattr(tpo.train.trainer, "without_adapter", lambda model: None)
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(
        TrainingError, match=r"18 weights that are to be trained got no gradient .*vision_tower.*, \.\.\.\): "
    ):
        train_on_pairs(work, make_pairs(), policy, SETTINGS, seed=0)


def test_all_weights_of_a_model_with_a_tower_are_those_of_its_text(tmp_path: Path) -> None:
    policy = make_family("gemma3", tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").unlink()  # which not every model has
    work = tmp_path / "work"
    work.mkdir()
    train_on_pairs(work, make_pairs(), policy, dataclasses.replace(SETTINGS, lora_rank=0), seed=0)
    before, after = load_file(tmp_path / "model/model.safetensors"), load_file(work / "epoch-2/model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("vision" in name or "projector" in name for name in changed)
    assert load_chat(dataclasses.replace(policy, model_path=str(work / "epoch-2"))).end_ids == {
        1,
        5,
    }  # <eos>, and <|end|> of the template


@pytest.mark.parametrize(
    ("family", "left_out"),
    [
        ("llama", None),
        ("gemma3", r"(?!model\.language_model\.).*"),
        ("falcon_h1", r"model\.layers\.\d+\.mamba\.out_proj"),
        ("jamba", r"model\.layers\.\d+\.mamba\.dt_proj|model\.layers\.\d+\.mamba\.out_proj"),
        ("qwen3_next", None),  # its state's projections are called as layers
        ("phimoe", r"model\.layers\.\d+\.mlp\.router"),
    ],
)
def test_layers_that_get_no_adapter(family: str, left_out: str | None, tmp_path: Path) -> None:
    policy = make_family(family, tmp_path)
    assert without_adapter(load_model(policy.model_path, revision=None, dtype="float32")) == left_out
