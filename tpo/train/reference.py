"""The reference's log-probabilities of the pairs: computed before training, cached for trainings on the same pairs.

They are columns of the training data, so no second model is in memory while the policy trains. Trainings that differ in
beta or learning rate share the cache, `artifacts/reference/<key>.json`; its key covers all that affects the last bits,
the content of the inputs among it, and the file has a digest of its own. One that is damaged or was edited is computed
again.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from trl import DPOTrainer
from trl.trainer import dpo_trainer
from trl.trainer.utils import add_fused_lm_head

from tpo.model.load import load_model
from tpo.model.policy import Policy
from tpo.store.artifacts import Artifact
from tpo.store.environment import environment
from tpo.store.files import SealError, content_hash, read_sealed, write_sealed
from tpo.store.layout import REFERENCE
from tpo.train.pair_trees import add_pair_head

if TYPE_CHECKING:
    from tpo.train.settings import TrainSettings

log = logging.getLogger(__name__)

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")  # trl's names
VERSION = 4  # of the kernels in tpo/ that compute them: raised when these round differently
# Of the training, on which they depend.
SETTINGS = ("quantization", "reference", "loss_on", "mask_forced_tokens", "micro_batch_size", "lora_targets")


@dataclass(frozen=True)
class ReferenceCache:
    """The file of the reference's log-probabilities of some trainings.

    Attributes:
        path: The file.
        inputs: Ids of what they are computed from, by role.
        training: The folder of the training that asks, which no other process writes to: the file is written there and
            then moved, so that the next attempt at a training that was killed deletes what it left.
    """

    path: Path
    inputs: dict[str, str]
    training: Path

    @classmethod
    def of(cls, training: Path, config: Mapping[str, Any], inputs: Mapping[str, Artifact]) -> "ReferenceCache":
        """Return that of a training.

        Args:
            training: The folder of its artifact.
            config: Of the step "train".
            inputs: Of the step "train".
        """
        names = {role: artifact.artifact_id for role, artifact in inputs.items()}
        return cls(training.parent / REFERENCE / f"{_key(config, inputs)}.json", names, training)

    def read(self) -> dict[str, Any] | None:
        """Return the columns; None where there are none, or the file is damaged or another's."""
        try:
            found = read_sealed(self.path)
        except FileNotFoundError:
            return None
        except SealError as error:
            log.warning("%s: the reference's log-probabilities are computed again", error)
            return None
        if found["key"] != self.path.stem:
            log.warning("%s is the file of another reference: it is computed again", self.path)
            return None
        columns: dict[str, Any] = found["columns"]
        return columns

    def write(self, columns: dict[str, Any]) -> None:
        """Write the columns."""
        self.path.parent.mkdir(exist_ok=True)
        written = self.training / f"{REFERENCE}.tmp"
        try:
            write_sealed(written, {"key": self.path.stem, "inputs": self.inputs, "columns": columns})
            written.replace(self.path)
        finally:
            written.unlink(missing_ok=True)


def _key(config: Mapping[str, Any], inputs: Mapping[str, Artifact]) -> str:
    """Return a hash of everything that the reference's log-probabilities depend on, to their last bits."""
    settings = {name: config["settings"][name] for name in SETTINGS}
    computed = environment()
    return content_hash(
        {
            "version": VERSION,
            "inputs": {role: [artifact.artifact_id, artifact.content] for role, artifact in inputs.items()},
            "settings": settings | {"is_full": config["settings"]["lora_rank"] == 0},
            "policy": {name: value for name, value in config.items() if name != "settings"},
            "device": [computed["device"], torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
            "packages": computed["packages"],
        }
    )


@contextmanager
def no_reference_model() -> Iterator[None]:
    """Prevent trl from loading a reference model: the reference's log-probabilities are computed by this module."""
    load, dpo_trainer.create_model_from_path = dpo_trainer.create_model_from_path, lambda *_, **__: None
    try:
        yield
    finally:
        dpo_trainer.create_model_from_path = load


def reference_columns(
    trainer: DPOTrainer, policy: Policy, settings: "TrainSettings", *, cache: ReferenceCache | None
) -> dict[str, Any]:
    """Return the columns of `reference_logps`, in every process of a training, from the cache where they are in it.

    Args:
        trainer: Its model is still the policy that training starts from.
        policy: That policy.
        settings: Of the training.
        cache: Where they are kept; None for nowhere.
    """
    is_main = trainer.accelerator.is_main_process
    (columns,) = broadcast_object_list([cache.read() if is_main and cache is not None else None])
    if columns is None:
        columns = reference_logps(
            trainer,
            disable_adapter=settings.reference == "seed" and not settings.is_full,
            model=load_seed(policy) if settings.reference == "seed" and policy.seed_path is not None else None,
        )
        if is_main and cache is not None:
            cache.write(columns)
    found: dict[str, Any] = columns
    return found


def load_seed(policy: Policy) -> Any:
    """Return the seed model of a policy whose weights were all trained, prepared as trl prepares the policy."""
    assert policy.seed_path is not None
    model = load_model(policy.seed_path, revision=policy.revision, dtype=policy.dtype)  # in eval mode
    add_fused_lm_head(model)
    add_pair_head(model, reorders=False)
    return model


def reference_logps(
    trainer: DPOTrainer, *, disable_adapter: bool, model: Any = None, with_gradients: bool = False
) -> dict[str, Any]:
    """Return the reference's columns of the training data: log-probabilities, one list per micro-batch.

    Each process computes its share of the micro-batches with the whole model, which is not sharded yet.

    Args:
        trainer: Its model is still the policy that training starts from.
        disable_adapter: True where the seed model, without adapter, is the reference; False where the policy is.
        model: The reference where it is neither of these.
        with_gradients: Whether to compute as for a backward pass, with the kernels of training.
    """
    model, data = model or trainer.model, trainer.train_dataset
    num_processes = trainer.accelerator.num_processes
    share = range(trainer.accelerator.process_index, len(data), num_processes)
    found: list[tuple[int, list[list[float]]]] = []  # row, and for each side a value per pair
    for index in share:
        batch = trainer.data_collator([data[index]])
        with torch.set_grad_enabled(with_gradients), model.disable_adapter() if disable_adapter else nullcontext():
            logps = log_probs(model, batch).detach()
        found.append((index, [half.tolist() for half in logps.chunk(2)]))
    values = dict(gather_object(found))
    return {name: [values[index][side] for index in range(len(data))] for side, name in enumerate(COLUMNS)}


def log_probs(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Return the log-probability of each completion of a micro-batch, chosen ones first, in nats, (2 x pairs,)."""
    batch = {key: value.to(model.device) for key, value in batch.items()}
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    given = {name: batch[name] for name in ("input_ids", "attention_mask", "pair_row") if name in batch}
    found: Tensor = model(**given, labels=labels, fused_lm_head=True, use_cache=False).log_probs.sum(dim=1)
    return found
