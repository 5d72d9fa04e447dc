"""Stage "train": pairs and the policy so far -> the next policy after each epoch: a LoRA adapter, or a whole model.

DPO through trl's `DPOTrainer` on the token ids that were sampled: nothing is rendered or tokenized again, truncated, or
given another EOS. One adapter is carried through the iterations and never merged. The base may be quantized to NF4
(QLoRA); sampling then uses the same quantized values. Without an adapter all weights are trained, and the next policy
is another model.

Several processes compute the same micro-batches in the same steps with the same weights as one process would, so that
only the rounding of sums differs.
"""

import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from accelerate.utils import gather, parse_flag_from_env
from datasets import Dataset
from peft import get_peft_model
from transformers import PrinterCallback
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from trl import DPOConfig, DPOTrainer

from tpo.config.fields import restore
from tpo.model.chat import load_tokenizer
from tpo.model.load import load_adapter, load_model
from tpo.model.lora import fuse_adapter
from tpo.model.policy import Policy, open_policy
from tpo.model.prepare import other_values
from tpo.model.targets import check_targets, has_towers, without_adapter
from tpo.store.digests import unlike, vouch
from tpo.store.job import Job, Metrics
from tpo.store.layout import CHECKPOINTS
from tpo.store.progress import Progress
from tpo.store.records import Pair
from tpo.train.callbacks import EndsDiverged, FirstGradients, FirstStep, TellsSteps, diverged
from tpo.train.checkpoints import (
    TRAINED,
    MarkComplete,
    ResumesInPlace,
    complete_checkpoints,
    copy_adapter,
    files_below,
    last_complete,
    link_model,
    read_metrics,
    write_metrics,
)
from tpo.train.dpo import nll_loss
from tpo.train.micro_batches import PairCollator, micro_batches
from tpo.train.optimizer import MasterWeightAdamW
from tpo.train.pair_trees import add_pair_head
from tpo.train.reference import ReferenceCache, no_reference_model, reference_columns
from tpo.train.rehearsal import rehearse
from tpo.train.settings import TrainingError, TrainSettings

log = logging.getLogger(__name__)


SLOW_PATH = "slow_path.txt"  # of the artifact: what was given up of the fast path, where something was


class SampledIdsTrainer(ResumesInPlace, DPOTrainer):  # type: ignore[misc]
    """trl's trainer on data that is tokenized already and has the reference's log-probabilities as columns.

    The loss of a step is the mean over its pairs, however they are divided into micro-batches and processes.
    transformers takes the mean over micro-batches and processes, so each micro-batch has a weight, which is 1 where all
    are of one size.

    With several processes, accelerate gives each a micro-batch in turn. Where the number of an epoch's micro-batches is
    no multiple of the number of processes, it repeats the epoch's first ones, which would be trained on twice. Here the
    repeated ones get weight 0.
    """

    def __init__(self, *args: Any, nll_weight: float, **more: Any) -> None:
        """Initialize trl's trainer, with the same arguments, and replace its gathering of metrics.

        Args:
            *args: trl's.
            nll_weight: Of the chosen completion's NLL (`tpo.train.dpo.nll_loss`).
            **more: trl's.
        """
        super().__init__(*args, **more)
        self._nll_weight = nll_weight
        self._weight = 1.0
        self.slow_path: str | None = None  # what of the fastest computation was given up
        self.is_sharded = False  # whether the model is cut into shards when training begins
        # trl gathers one value per pair, but micro-batches differ in their number of pairs.
        self.accelerator.gather = self.accelerator.gather_for_metrics = self._gather

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset  # trl would render and tokenize it again

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """Return this process's micro-batches of a step, each with its weight, and None."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        num_processes = self.accelerator.num_processes
        sizes = [len(batch["input_ids"]) // 2 for batch in batches]
        num_fillers = -len(self.train_dataset) % num_processes
        is_last = self.accelerator.gradient_state.end_of_dataloader
        if is_last and self.accelerator.process_index >= num_processes - num_fillers:
            sizes[-1] = 0
        num_pairs = int(gather(torch.tensor([sum(sizes)], device=self.accelerator.device)).sum())
        for batch, size in zip(batches, sizes, strict=True):
            batch["weight"] = size * len(batches) * num_processes / num_pairs
        return batches, num_items

    def _prepare_input(self, data: Any) -> Any:
        # With DeepSpeed, transformers would round the reference's log-probabilities to 16 bits.
        return data.to(self.args.device) if isinstance(data, torch.Tensor) else super()._prepare_input(data)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **more: Any) -> Any:
        """Return the weighted loss of a micro-batch: trl's DPO loss, and the NLL term."""
        self._weight = inputs.pop("weight", 1.0)
        outputs: list[Any] = []

        def keeping(**given: Any) -> Any:  # trl computes with the model, and does not return what it computes
            outputs.append(model(**given))
            return outputs[-1]

        loss = super().compute_loss(keeping, inputs, *args, **more)
        if self._nll_weight:
            mask, _ = inputs["completion_mask"][:, 1:].chunk(2)
            logps, _ = outputs[0].log_probs[:, -mask.shape[1] :].chunk(2)
            nll = nll_loss((logps * mask).sum(dim=1), mask.sum(dim=1)).mean()
            self._metrics["train"]["nll_loss"].append(self._gather(nll.detach()).mean().item())
            loss = loss + self._nll_weight * nll
        return self._weight * loss

    def _gather(self, values: torch.Tensor) -> torch.Tensor:
        """Return each process's weighted mean of its values; trl averages these, or divides their sums."""
        means: torch.Tensor = gather(self._weight * values.float().mean())
        return means


def work(job: Job) -> Metrics:
    """Train on the pairs, from the policy that they were sampled from.

    Raises:
        TrainingError: If there are none, with what became of the instructions.
    """
    config = job.config
    pairs = list(job.inputs["pairs"].rows(Pair))
    if not pairs:
        drops = job.inputs["pairs"].metrics["drops"]
        said = ", ".join(f"{count} {reason}" for reason, count in drops.items() if count)
        way = "more samples per instruction (sample.num_samples), or thought.enforce=switch where thoughts do not end,"
        if drops.get("truncated", 0) > sum(drops.values()) / 2:
            way = "a larger sample.max_response_tokens"
        raise TrainingError(f"there is no pair to train on; instructions were dropped as {said}. Usually {way} helps")
    num_processes = config.get("accelerate", {"num_processes": 1})["num_processes"]
    return train_on_pairs(
        job.path,
        pairs,
        open_policy(config, job.inputs),
        restore(TrainSettings, config["settings"], {"num_processes": num_processes}),
        seed=job.seed,
        cache=ReferenceCache.of(job.path, config, job.inputs),
    )


def train_on_pairs(
    path: Path,
    pairs: Sequence[Pair],
    policy: Policy,
    settings: TrainSettings,
    *,
    seed: int,
    cache: ReferenceCache | None = None,
) -> dict[str, Any]:
    """Write the policy after each epoch to `path` (`epoch-1`, ...) and `metrics.jsonl`; return the last metrics.

    A killed training continues after its last complete epoch, as long as its checkpoints are whole. Every process of a
    training calls this; rank 0 writes, and only rank 0 returns the metrics.

    Args:
        path: The artifact's directory.
        pairs: Preference pairs; at least one.
        policy: The policy that the pairs were sampled from, and that training starts from.
        settings: Of the training.
        seed: Of adapter initialization and data order.
        cache: Of the reference's log-probabilities; None for none.

    Raises:
        TrainingError: If the first step shows a wrong reference.
    """
    work = path / CHECKPOINTS
    if unlike(work / TRAINED, path) != set():
        trainer = make_trainer(work, pairs, policy, settings, seed=seed, cache=cache)
        if not trainer.is_sharded:
            is_own = starts_at_its_reference(policy, settings)
            said = rehearse(trainer, starts_at_reference=is_own, cache=cache)
            trainer.slow_path = "; ".join(text for text in (trainer.slow_path, said) if text) or None
        with trainer.accelerator.main_process_first():  # rank 0 deletes incomplete checkpoints
            last = last_complete(work)
        with ExitStack() as stack:
            if trainer.accelerator.is_main_process:
                progress = stack.enter_context(Progress(path, total=0, unit="step"))
                trainer.add_callback(TellsSteps(progress, num_epochs=settings.num_epochs))
            try:
                trainer.train(resume_from_checkpoint=last)
            except RuntimeError as error:  # of torch's optimizer
                if "without overflow" not in str(error):
                    raise
                logs = {"learning_rate": settings.learning_rate}
                raise diverged("the size of the step overflows", trainer.state, logs) from error
        if not trainer.accelerator.is_main_process:
            return {}
        for epoch, checkpoint in enumerate(complete_checkpoints(work), start=1):
            target = path / f"epoch-{epoch}"
            shutil.rmtree(target, ignore_errors=True)  # of an attempt that was killed, or damaged since
            if settings.is_full:
                link_model(checkpoint, target, policy=policy)
            else:
                copy_adapter(checkpoint, target, policy=policy)
        if trainer.slow_path is not None:
            (path / SLOW_PATH).write_text(trainer.slow_path + "\n")
        write_metrics(path / "metrics.jsonl", trainer.state.log_history)
        results = ("epoch-", "metrics.jsonl", SLOW_PATH)
        written = [name for name in files_below(path) if name.startswith(results)]
        vouch(work / TRAINED, path, written)
    entries = read_metrics(path / "metrics.jsonl")
    slow_path = (path / SLOW_PATH).read_text().strip() if (path / SLOW_PATH).exists() else None
    return {
        "num_pairs": len(pairs),
        "num_steps": len(entries),
        "first_loss": entries[0]["loss"],
        "last": entries[-1],
        "slow_path": slow_path,
    }


def make_trainer(
    work: Path,
    pairs: Sequence[Pair],
    policy: Policy,
    settings: TrainSettings,
    *,
    seed: int,
    cache: ReferenceCache | None = None,
) -> SampledIdsTrainer:
    """Return the trainer; the columns of its data set include the reference's log-probabilities."""
    tokenizer = load_tokenizer(policy.tokenizer_path)
    torch.manual_seed(seed % 2**63)
    is_deepspeed = parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")
    is_sharded = is_deepspeed or parse_flag_from_env("ACCELERATE_USE_FSDP")
    base = load_model(
        policy.unquantized_path or policy.model_path,
        revision=policy.revision,
        dtype=policy.dtype,
        quantization=settings.quantization,
        is_shardable=is_sharded,
        is_trained=True,
    )
    if policy.unquantized_path is not None and base.dtype == torch.bfloat16 and not is_sharded:
        said = other_values(base, Path(policy.model_path))
        if said is not None:
            log.warning(
                "what is trained is not quite what was sampled: %s than in %s, which another device has quantized. To "
                "have it made here, move that artifact away and run the same command again",
                said,
                policy.model_path,
            )
    base.config.use_cache = False
    if settings.is_full:
        model = base
        if has_towers(base):
            train_text_only(base)
    elif policy.adapter_path is None:
        excluded = without_adapter(base)
        check_targets(base, settings.lora_targets, excluded=excluded)
        model = get_peft_model(base, settings.lora(excluded=excluded))
    else:
        model = load_adapter(base, policy.adapter_path, is_trainable=True)
        # Where peft looks for a configuration at every save: the weights here, not the name that the adapter gives.
        model.peft_config["default"].base_model_name_or_path = base.name_or_path
    arguments = settings.arguments(work, seed=seed)
    if is_deepspeed:  # with this it keeps float32 copies of the parameters; it does no autocast
        arguments["bf16"] = policy.dtype == "bfloat16"
    config = DPOConfig(beta=settings.beta, **arguments)
    config._n_gpu = min(config.n_gpu, 1)  # else transformers trains on all that this process sees, which trl refuses
    with no_reference_model():
        trainer = SampledIdsTrainer(
            model=model,
            args=config,
            nll_weight=settings.nll_weight,
            train_dataset=micro_batches(pairs, settings),
            data_collator=PairCollator(pad_token_id=tokenizer.pad_token_id),
            processing_class=tokenizer,
            callbacks=[
                EndsDiverged(
                    vocabulary=len(tokenizer),
                    longest=max(len(pair.chosen_ids) for pair in pairs),
                    beta=settings.beta,
                ),
                # The optimizer's state of a whole model is six times its weights: room for one only.
                MarkComplete(num_states=1 if settings.is_full else 2),
                FirstGradients(),
                FirstStep(
                    starts_at_reference=starts_at_its_reference(policy, settings),
                    nll_weight=settings.nll_weight,
                ),
            ],
        )
    trainer.remove_callback(PrinterCallback)  # `TellsSteps` tells what it would print
    if "ref" in getattr(model, "peft_config", ()):  # trl's frozen copy of the adapter, which the columns replace
        model.delete_adapter("ref")
        model.set_adapter("default")
    # The adapter computes in the base's dtype, as in sampling; its updates accumulate in float32 in the optimizer.
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.data = parameter.data.to(base.dtype)
    model.train()
    compute_as_sampled(base, checkpoints=settings.gradient_checkpointing)
    # What is sharded later must stay the only copy.
    trainer.is_sharded = is_deepspeed or trainer.is_fsdp_enabled
    fuse_adapter(model, reorders=not trainer.is_sharded)
    # Not with DeepSpeed, for which trl gathers a sharded head in its own forward pass.
    trainer.slow_path = add_pair_head(base, allows_trees=not is_deepspeed, reorders=not trainer.is_sharded)
    trainer.data_collator.has_trees = trainer.slow_path is None
    if trainer.slow_path is not None and trainer.accelerator.is_main_process:
        log.warning("%s: %s, which takes longer", base.config.model_type, trainer.slow_path)
    kind = torch.optim.AdamW if is_deepspeed else MasterWeightAdamW
    trainer.optimizer = kind(trainable, lr=settings.learning_rate, weight_decay=0.0)
    # Set here and not in the arguments, where it would start trl's own pass over the reference. That one hashes every
    # weight, and its cache key lacks settings that the values depend on.
    trainer.precompute_ref_logps = True
    if is_deepspeed:  # with its config, trl and transformers would treat the model as sharded, which it is not yet
        unset_hf_deepspeed_config()
    columns = reference_columns(trainer, policy, settings, cache=cache)
    for name, values in columns.items():
        trainer.train_dataset = trainer.train_dataset.add_column(name, values)
    if is_deepspeed:
        set_hf_deepspeed_config(trainer.accelerator.state.deepspeed_plugin.hf_ds_config)
    return trainer


def starts_at_its_reference(policy: Policy, settings: TrainSettings) -> bool:
    """Return whether the reference is the policy that training starts from."""
    is_seed = policy.adapter_path is None and policy.seed_path is None
    return settings.reference == "previous" or is_seed


def train_text_only(model: Any) -> None:
    """Freeze what a loss on text does not reach: the towers of a model with other modalities."""
    reached = {
        id(part) for module in (model.get_decoder(), model.get_output_embeddings()) for part in module.parameters()
    }
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in reached)


def compute_as_sampled(model: Any, *, checkpoints: bool) -> None:
    """Keep a model's layers in eval mode during training: what is trained is what was sampled.

    In training mode some families draw random numbers, jitter in a router or Phi's sampled experts, with which the
    policy of the first step would not be its own reference. Only those modules are in training mode that need it for a
    backward pass: those that checkpoint, and 4-bit layers, which else are repacked on a CPU, for good, for a kernel
    without one.
    """
    model.eval()
    needing = [
        module
        for module in model.modules()
        if type(module).__module__.startswith("bitsandbytes")
        or (checkpoints and hasattr(module, "gradient_checkpointing"))
    ]

    def train(self: Any, mode: bool = True) -> Any:  # the trainer calls it before each step
        for module in (self, *needing):
            module.training = mode
        return self

    model.train = MethodType(train, model)
    model.train()
