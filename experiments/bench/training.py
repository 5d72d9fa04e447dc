"""Training: ten epochs of DPO on a LoRA adapter, in seconds, the reference's pass included.

The same pairs, pairs per step, learning rate and adapter for all. A few epochs are measured and ten extrapolated:
what an epoch takes, and what is done once (the data, a reference that is computed in advance, saving). Loading the
model is start-up. The stock trainer gets text, as its users give it, and keeps what its defaults say.

The check: losses of the first ten steps in float32. Every step takes all its pairs, so whatever order a trainer
prefers, and however it batches, step for step both compute the loss of the same pairs.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.bench.floors import training_load
from experiments.bench.parts import Part, Timed
from experiments.bench.process import Request, serve, start_clock
from experiments.bench.sampling import policy
from experiments.bench.workload import ALPHA, BATCH_SIZE, LEARNING_RATE, MICRO_BATCH_SIZE, RANK, Work
from tpo.model.architecture import Architecture

PART = Part(
    name="training",
    title="training, 10 epochs (s)",
    is_rate=False,
    contenders={
        "stock": "trl DPOTrainer, default settings",
        "stock_precomputed": "trl, reference precomputed",
        "stock_stored": "trl, precomputed, no gradient checkpointing",
        "ours": "ours",
    },
    comparisons=(("ours", "stock"), ("ours", "stock_precomputed"), ("ours", "stock_stored")),
    checks={"loss of the first 10 steps, float32": ("losses_stock", "losses_ours")},
)
NUM_EPOCHS = 10  # of the value
BETA = 0.1
CHECK_STEPS, CHECK_PAIRS, CHECK_MICRO = 10, 4, 2  # float32 takes its time


def measure(request: Request) -> Timed:
    """Train with the contender, or return the losses of a check."""
    work = Work.of(request.work)
    match request.contender:
        case "losses_stock":
            return stock_losses(work, request.folder)
        case "losses_ours":
            return our_losses(work, request.folder)
        case "ours":
            began, seconds, epochs = train_ours(work, request)
        case name:
            changes = {"stock": {}, "stock_precomputed": {"precompute_ref_log_probs": True}}.get(
                name, {"precompute_ref_log_probs": True, "gradient_checkpointing": False}
            )
            began, seconds, epochs = train_stock(work, request.folder, seed=request.seed, **changes)
    epoch_s = sum(epochs) / len(epochs)
    fixed_s = seconds - sum(epochs)
    pairs = [(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) for pair in work.pairs()]
    num_tokens = sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in pairs)
    details = {
        "epoch_s": epoch_s,
        "fixed_s": fixed_s,
        "epochs_s": epochs,
        "num_pairs": len(pairs),
        "mean_sequence_tokens": num_tokens / (2 * len(pairs)),
        **training_load(Architecture.of_model(work.model_path), pairs, num_epochs=NUM_EPOCHS, rank=RANK)._asdict(),
    }
    return Timed(fixed_s + NUM_EPOCHS * epoch_s, seconds, began, details)


def epoch_clock() -> Any:
    """Return a callback of transformers' trainer with `epochs`, the seconds of each."""
    from transformers import TrainerCallback

    class EpochClock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.epochs: list[float] = []
            self._started = 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self._started = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.epochs.append(time.perf_counter() - self._started)

    return EpochClock()


def text_rows(rows: list[dict[str, Any]]) -> Any:
    """Return a data set of texts as trl wants them."""
    from datasets import Dataset

    return Dataset.from_list(rows)


def stock_trainer(work: Work, rows: list[dict[str, Any]], folder: Path, *, seed: int, **changes: Any) -> Any:
    """Return how to make the stock trainer on text, its model loaded; only what all contenders share is set.

    Args:
        work: Names the model.
        rows: "prompt", "chosen", "rejected".
        folder: For what it writes.
        seed: Of the adapter and the order.
        changes: Of its configuration.
    """
    import torch
    from peft import LoraConfig, TaskType
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    from tpo.model.chat import load_tokenizer

    model = AutoModelForCausalLM.from_pretrained(work.model_path, dtype=torch.bfloat16)
    tokenizer = load_tokenizer(work.tokenizer_path)

    def make(*callbacks: Any) -> Any:
        return DPOTrainer(
            model=model,
            args=DPOConfig(
                output_dir=str(folder / "trainer"),
                learning_rate=LEARNING_RATE,
                per_device_train_batch_size=MICRO_BATCH_SIZE,
                gradient_accumulation_steps=BATCH_SIZE // MICRO_BATCH_SIZE,
                beta=BETA,
                use_cpu=not torch.cuda.is_available(),
                save_strategy="no",
                report_to=[],
                seed=seed,
                **changes,
            ),
            train_dataset=text_rows(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(task_type=TaskType.CAUSAL_LM, r=RANK, lora_alpha=ALPHA, target_modules="all-linear"),
            callbacks=list(callbacks),
        )

    return make


def train_stock(work: Work, folder: Path, *, seed: int, **changes: Any) -> tuple[float, float, list[float]]:
    """Train with the stock trainer; return when it began, its seconds, and the seconds of each epoch."""
    from tpo.model.chat import load_tokenizer

    tokenizer = load_tokenizer(work.tokenizer_path)
    rows = [
        {"prompt": tokenizer.decode(pair.prompt_ids), "chosen": pair.chosen, "rejected": pair.rejected}
        for pair in work.pairs()
    ]
    make = stock_trainer(work, rows, folder, seed=seed, num_train_epochs=work.sizes.num_epochs, **changes)
    clock = epoch_clock()
    began, started = time.time(), time.perf_counter()
    make(clock).train()
    return began, time.perf_counter() - started, clock.epochs


def train_settings(work: Work, *overrides: str) -> Any:
    """Return our settings as the pipeline makes them from the composed config (`tpo.train.settings.TrainSettings`)."""
    from tpo.train.settings import TrainSettings

    config = work.config(f"train.beta={BETA}", *overrides)
    return TrainSettings(**asdict(config.train), quantization=config.model.quantization)


@contextmanager
def watched(module: ModuleType, name: str, *, seconds: list[float], after: Any = None) -> Iterator[None]:
    """Time the calls of a module's function while the context lasts.

    Args:
        module: Whose function it is.
        name: Of the function.
        seconds: Gets those of each call.
        after: Called with each result.
    """
    function = getattr(module, name)

    def timed(*args: Any, **more: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **more)
        seconds.append(time.perf_counter() - started)
        if after is not None:
            after(result)
        return result

    setattr(module, name, timed)
    try:
        yield
    finally:
        setattr(module, name, function)


def train_ours(work: Work, request: Request) -> tuple[float, float, list[float]]:
    """Train as the stage does; return when it began, its seconds without loading, and the seconds of each epoch."""
    import tpo.train.trainer
    from tpo.store.execute import keep_freed_memory

    keep_freed_memory()
    settings = train_settings(work, f"train.num_epochs={work.sizes.num_epochs}")
    pairs, epoch_times = work.pairs(), epoch_clock()
    loading: list[float] = []
    clock = start_clock(request)
    with (
        watched(tpo.train.trainer, "load_model", seconds=loading),
        watched(tpo.train.trainer, "make_trainer", seconds=[], after=lambda trainer: trainer.add_callback(epoch_times)),
    ):
        tpo.train.trainer.train_on_pairs(request.folder, pairs, policy(work), settings, seed=request.seed)
    return clock.began + sum(loading), clock.seconds - sum(loading), epoch_times.epochs


def check_pairs(work: Work) -> list[Any]:
    """Return as many pairs as a step of the check takes, the shortest."""
    return sorted(work.pairs(), key=lambda pair: len(pair.chosen_ids) + len(pair.rejected_ids))[:CHECK_PAIRS]


def stock_losses(work: Work, folder: Path) -> Timed:
    """Return trl's losses, step by step, from the prepared adapter, which is its reference too.

    It gets the ids that were sampled: of the text, its tokenizer might make others.
    """
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    from tpo.model.chat import load_tokenizer

    class IdsTrainer(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    base = AutoModelForCausalLM.from_pretrained(work.model_path, dtype=torch.float32)
    trainer = IdsTrainer(
        model=PeftModel.from_pretrained(base, str(work.adapter), is_trainable=True),
        args=DPOConfig(
            output_dir=str(folder / "trainer"),
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="linear",
            per_device_train_batch_size=CHECK_MICRO,
            gradient_accumulation_steps=CHECK_PAIRS // CHECK_MICRO,
            num_train_epochs=CHECK_STEPS,
            beta=BETA,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=not torch.cuda.is_available(),
            logging_steps=1,
            save_strategy="no",
            report_to=[],
        ),
        train_dataset=Dataset.from_list(
            [
                {"prompt_ids": pair.prompt_ids, "chosen_ids": pair.chosen_ids, "rejected_ids": pair.rejected_ids}
                for pair in check_pairs(work)
            ]
        ),
        processing_class=load_tokenizer(work.tokenizer_path),
    )
    began, started = time.time(), time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Timed(seconds, seconds, began, values=losses)


def our_losses(work: Work, folder: Path) -> Timed:
    """Return our losses, step by step, as `stock_losses`; forced tokens count, of which trl knows nothing."""
    from dataclasses import replace

    import tpo.train.trainer

    settings = train_settings(
        work,
        f"train.num_epochs={CHECK_STEPS}",
        f"train.batch_size={CHECK_PAIRS}",
        f"train.micro_batch_size={CHECK_MICRO}",
        "train.mask_forced_tokens=false",
    )
    start = replace(policy(work, adapter=True), dtype="float32")
    began, started = time.time(), time.perf_counter()
    tpo.train.trainer.train_on_pairs(folder, check_pairs(work), start, settings, seed=0)
    seconds = time.perf_counter() - started
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Timed(seconds, seconds, began, values=[entry["loss"] for entry in entries])


if __name__ == "__main__":
    serve(measure)
