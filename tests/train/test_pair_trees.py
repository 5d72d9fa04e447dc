"""Pairs as trees against trl's padded batches, its trainer, and closed forms."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, TaskType, get_peft_model
from test_trainer import PAIRS, SETTINGS, policy_of
from torch import Tensor
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from experiments.families import make_family
from tpo.model.chat import load_tokenizer
from tpo.model.load import load_model
from tpo.model.lora import fuse_adapter
from tpo.train.pair_trees import CHUNK, add_pair_head, completion_statistics, lay_out
from tpo.train.trainer import make_trainer

FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")
token_ids = st.lists(st.integers(5, 500), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def heads(tiny_model: Path) -> tuple[Any, Any]:
    """A model with trl's head, and one that takes pairs as trees beside it."""
    models = [load_model(tiny_model, revision=None, dtype="float32").train() for _ in range(2)]
    for model in models:
        model.get_output_embeddings().weight.requires_grad_(False)
        add_fused_lm_head(model, outputs=FIELDS)
    assert add_pair_head(models[1], reorders=True) is None
    return models[0], models[1]


def padded(pairs: list[tuple[list[int], list[int], list[int]]], **forced: Any) -> dict[str, Tensor]:
    examples = [{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in pairs]
    batch: dict[str, Tensor] = DataCollatorForPreference(pad_token_id=0).torch_call(examples)
    return batch


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(st.tuples(token_ids, token_ids, token_ids), min_size=1, max_size=3),
    shared=token_ids,
    masked=st.integers(0, 40),
    is_dense=st.booleans(),
)
def test_a_row_of_trees_equals_trls_padded_batch(
    heads: tuple[Any, Any],
    pairs: list[tuple[list[int], list[int], list[int]]],
    shared: list[int],
    masked: int,
    is_dense: bool,
) -> None:
    prompt, chosen, rejected = pairs[0]
    batch = padded([(prompt, shared + chosen, shared + rejected), *pairs[1:]])  # completions that begin alike
    columns = batch["completion_mask"].shape[1]
    batch["completion_mask"][0, masked % columns :] = 0
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    plain, trees = heads
    expected = plain(**given, fused_lm_head=True)
    found = trees(**given, fused_lm_head=True, pair_row=lay_out(batch, is_dense=is_dense))
    for field in FIELDS:
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), atol=3e-5, rtol=3e-5, msg=field)
    weights = torch.linspace(-1, 1, columns - 1)
    for model, outputs in ((plain, expected), (trees, found)):
        model.zero_grad()
        (outputs.log_probs * weights).sum().backward()
    for (name, one), other in zip(trees.named_parameters(), plain.parameters(), strict=True):
        if one.requires_grad and other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=2e-4, rtol=2e-4, msg=name)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("is_trained", [False, True], ids=["frozen", "trained"])
def test_statistics_are_those_of_log_softmax(has_bias: bool, is_trained: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    count = CHUNK + 7  # more than one chunk
    states, weight = torch.randn(count, 8, generator=generator), torch.randn(50, 8, generator=generator)
    bias = torch.randn(50, generator=generator) if has_bias else None
    targets = torch.randint(0, 50, (count,), generator=generator)
    upstream = torch.randn(count, generator=generator)
    leaves = []
    for _ in range(2):
        leaf = [part.clone() for part in (states, weight, bias) if part is not None]
        for number, part in enumerate(leaf):
            part.requires_grad_(number == 0 or is_trained)
        leaves.append(leaf)
    logits = torch.nn.functional.linear(*leaves[0])
    logps = logits.log_softmax(dim=-1)
    expected = logps.gather(-1, targets[:, None]).squeeze(-1)
    found, entropy, mean, is_top = completion_statistics(*leaves[1], *([] if has_bias else [None]), targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(entropy, -(logps.exp() * logps).sum(dim=-1))
    torch.testing.assert_close(mean, logits.mean(dim=-1))
    assert torch.equal(is_top, logits.argmax(dim=-1) == targets)
    for values in (expected, found):
        (values * upstream).sum().backward()
    for one, other in zip(*leaves, strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, atol=1e-4, rtol=1e-4)


def test_an_improbable_token_has_a_finite_log_probability() -> None:
    weight = torch.tensor([[1000.0], [-1000.0]])
    logps, entropy, _, is_top = completion_statistics(torch.ones(1, 1), weight, None, torch.tensor([1]))
    assert (float(logps), float(entropy), bool(is_top)) == (-2000.0, 0.0, False)


@pytest.mark.parametrize(
    ("family", "slow_path"),
    [
        ("gemma2", "pairs are padded"),  # a cap that trl knows
        ("recurrent_gemma", "pairs are padded and the logits of every position computed"),  # one that it does not
    ],
)
def test_a_head_that_is_more_than_linear_is_computed_as_the_model_does(
    family: str, slow_path: str, tmp_path: Path
) -> None:
    policy = make_family(family, tmp_path)
    model = load_model(policy.model_path, revision=None, dtype="float32")
    own = load_model(policy.model_path, revision=None, dtype="float32")
    add_fused_lm_head(model, outputs=FIELDS)
    assert add_pair_head(model, reorders=True) == slow_path
    batch = padded([([7, 8, 9], [20, 21, 22], [30]), ([40], [50, 51], [60, 61])])
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    found = model(**{name: batch[name] for name in ("input_ids", "attention_mask")}, labels=labels, fused_lm_head=True)
    logits = own(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    logps, is_read = logits.log_softmax(dim=-1), labels[:, 1:] != -100
    targets = labels[:, 1:].clamp(min=0)[..., None]
    expected = {
        "log_probs": logps.gather(-1, targets).squeeze(-1),
        "entropy": -(logps.exp() * logps).sum(dim=-1),
        "mean_logits": logits.mean(dim=-1),
        "is_top1": logits.argmax(dim=-1) == targets.squeeze(-1),
    }
    for name, values in expected.items():
        torch.testing.assert_close(getattr(found, name)[is_read], values[is_read], atol=1e-4, rtol=1e-4, msg=name)
        assert not getattr(found, name)[~is_read].any()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_fused_adapter_computes_what_peft_does(tmp_path: Path, quantization: str) -> None:
    path = make_model(tmp_path)
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, target_modules="all-linear", init_lora_weights=False)
    models = []
    for _ in range(2):
        base = load_model(path, revision=None, dtype="float32", quantization=quantization)
        torch.manual_seed(1)
        models.append(get_peft_model(base, config).train())
    fuse_adapter(models[1], reorders=True)
    ids = torch.arange(5, 25)[None]
    logits = [model(input_ids=ids).logits for model in models]
    torch.testing.assert_close(logits[1], logits[0], atol=1e-5, rtol=1e-5)
    for values in logits:
        values.square().mean().backward()
    grads = [{name: part.grad for name, part in model.named_parameters() if part.grad is not None} for model in models]
    assert grads[0].keys() == grads[1].keys()
    assert len(grads[0]) == 2 * 2 * 7  # layers, A and B, linear layers
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-5, rtol=1e-4, msg=name)
    with models[0].disable_adapter(), models[1].disable_adapter():
        off = [model(input_ids=ids).logits for model in models]
    assert torch.equal(*off)
    assert not torch.allclose(off[0], logits[0])


class StockTrainer(DPOTrainer):  # type: ignore[misc]
    """trl's trainer with nothing changed but that the ids are ready."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def test_losses_equal_the_stock_trainers(tiny_model: Path, tmp_path: Path) -> None:
    ours, stock = losses_of_both(tiny_model, tmp_path)
    assert len(ours) == 10
    assert ours == pytest.approx(stock, abs=1e-4)
    assert max(stock) - min(stock) > 0.05  # the policy moves


def losses_of_both(tiny_model: Path, tmp_path: Path) -> list[list[float]]:
    """Return the losses of the first ten steps: this project's, and trl's own on padded batches."""
    changed = replace(SETTINGS, micro_batch_size=1, batch_size=2, num_epochs=4, mask_forced_tokens=False)
    ours = make_trainer(tmp_path / "ours", PAIRS, policy_of(tiny_model), changed, seed=5)
    assert ours.data_collator.has_trees
    ours.train()
    torch.manual_seed(5)
    base = load_model(tiny_model, revision=None, dtype="float32")
    model = get_peft_model(base, changed.lora())
    # The order of the rows is the trainer's that shuffles them.
    rows = Dataset.from_list(
        [{name: row[name][0] for name in ("prompt_ids", "chosen_ids", "rejected_ids")} for row in ours.train_dataset]
    )
    stock = StockTrainer(
        model=model,
        args=DPOConfig(beta=changed.beta, **changed.arguments(tmp_path / "stock", seed=5)),
        train_dataset=rows,
        processing_class=load_tokenizer(str(tiny_model)),
    )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    stock.optimizer = torch.optim.AdamW(trainable, lr=changed.learning_rate, weight_decay=0.0)
    stock.train()
    return [[entry["loss"] for entry in trainer.state.log_history if "loss" in entry][:10] for trainer in (ours, stock)]
