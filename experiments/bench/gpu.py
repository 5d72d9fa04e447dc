"""What the project does on a GPU, in ten minutes: which kernels run, its memory, its speed, and the loop.

    python -m experiments.bench.gpu [sdpa] [train8b] [judge8b] [sample] [loop] [--tiny] [--out FILE]

Needs torch, transformers, trl, peft and bitsandbytes as they are there; no hub, no vLLM. Weights are random. Each part
prints what it measures and checks; the JSON has all of it with the card's name. Exits with 1 where a check fails.
`--tiny`, which a machine without a GPU implies, does the same at sizes of seconds: kernels, times and the device's
memory are then not checked. The process is prepared as one of a step's is (`tpo.store.gpus.prepare`).

    sdpa      cuDNN's attention on and off: milliseconds for a new length and for one that was seen
    train8b   an 8B model with NF4: first step against the reference, time and memory by micro-batch, kernels, stock trl
    judge8b   responses a second of a reward model of that size, trees and one at a time
    sample    tokens a second of engine=torch, with an adapter and without
    loop      experiment=smoke twice, as commands: the second finds all stages done
"""

import argparse
import gc
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.bench.gpu_models import random_model, random_pairs, save_model
from experiments.bench.machine import describe, file_name
from tpo.model.architecture import LLAMA_8B, Architecture
from tpo.plan.memory import Pair, training_bytes
from tpo.store.environment import REPOSITORY
from tpo.store.gpus import prepare

TINY = Architecture(hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocabulary=300)
SMALL = Architecture(  # SmolLM2-135M's
    hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocabulary=49152, is_tied=True
)
TOLERANCE = 0.15  # of peaks against the memory model
NUM_TIMED = 6  # micro-batches of a shape and setting, the first half of them warm-up
FIRST_STEP = 1e-3  # as tpo.train.trainer has it
SLOW_KERNELS = ("cudnn", "attention_math")  # cuDNN's attention; the plain one, which writes all scores


@dataclass
class Report:
    """What a part found: numbers, and checks that held or not.

    Attributes:
        is_tiny: Whether times, kernels and the device's memory mean nothing.
    """

    device: str
    is_tiny: bool
    folder: Path
    numbers: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)

    def number(self, name: str, value: Any) -> None:
        """Keep and print a number."""
        self.numbers[name] = value
        print(f"  {name}: {value}", flush=True)

    def check(self, what: str, holds: bool, found: Any) -> None:
        """Keep and print whether something holds."""
        self.checks.append({"what": what, "holds": bool(holds), "found": found})
        print(f"  {'ok    ' if holds else 'FAILED'} {what}: {found}", flush=True)


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any]) -> float:
    """Return how long something takes, the GPU's work included."""
    synchronize()
    started = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - started


def free() -> None:
    """Give back what is no longer referenced, and begin to count the device's peak anew."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def cudnn(enabled: bool) -> Iterator[None]:
    """Allow or forbid cuDNN's attention."""
    import torch

    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(enabled)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def kernel_names(work: Callable[[], Any]) -> list[str]:
    """Return the names of torch's operations and, where there is a GPU, of the kernels that ran on it."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with profile(activities=[ProfilerActivity.CPU, *on_gpu]) as profiled:
        work()
        synchronize()
    return sorted({event.name for event in profiled.events() or ()})


def slow_kernels(names: Sequence[str]) -> list[str]:
    """Return those of operations and kernels that must not run on a GPU: cuDNN's attention and the plain one."""
    return [name for name in names if any(slow in name.lower() for slow in SLOW_KERNELS)]


# --- the parts --------------------------------------------------------------------------------------------------


def sdpa(report: Report) -> None:
    """Attention over many lengths, forward and backward, with cuDNN's plans and without."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention as attend

    count, heads, kv_heads, dim = (4, 4, 2, 16) if report.is_tiny else (200, 32, 8, 128)
    dtype = torch.float32 if report.device == "cpu" else torch.bfloat16
    lengths = [(16 + 3 * n, 16 + 5 * n) if report.is_tiny else (257 + 7 * n, 600 + 9 * n) for n in range(count)]

    def once(queries: int, keys: int) -> None:
        query = torch.randn(1, heads, queries, dim, device=report.device, dtype=dtype, requires_grad=True)
        key, value = (
            torch.randn(1, kv_heads, keys, dim, device=report.device, dtype=dtype, requires_grad=True) for _ in "kv"
        )
        mask = torch.ones(queries, keys, dtype=torch.bool, device=report.device).tril(keys - queries)
        repeated = [part.repeat_interleave(heads // kv_heads, dim=1) for part in (key, value)]
        attend(query, *repeated, attn_mask=mask).sum().backward()
        attend(query, key[:, :, :queries], value[:, :, :queries], is_causal=True, enable_gqa=True).sum().backward()

    once(8, 8)
    for enabled in (True, False):
        name = "on" if enabled else "off"
        with cudnn(enabled):
            for visit in ("new", "repeated"):
                taken = seconds_of(lambda: [once(*each) for each in lengths]) / count
                report.number(f"cudnn {name}, ms for a {visit} length", round(1000 * taken, 3))
    repeated_off = report.numbers["cudnn off, ms for a repeated length"]
    if not report.is_tiny:
        report.check("a repeated length without cuDNN takes at most 10 ms", repeated_off <= 10, repeated_off)
        for enabled in (True, False):
            with cudnn(enabled):
                slow = slow_kernels(kernel_names(lambda: once(*lengths[0])))
            report.number(f"cuDNN and plain kernels, cudnn {'on' if enabled else 'off'}", slow)
        report.check("none of them as the stages compute", not slow, slow)
    else:
        report.check("finite times", all(math.isfinite(value) for value in report.numbers.values()), repeated_off)


def train8b(report: Report) -> None:
    """Training with NF4: the first step, memory and time by setting, kernels, and stock trl on the same pairs."""
    sizes = TINY if report.is_tiny else LLAMA_8B
    policy = save_model(report.folder / "policy", sizes, device=report.device)
    shape, micro_batch = ((12, 20), 2) if report.is_tiny else ((300, 850), 2)
    ours = _train_ours(report, policy, sizes)[f"{shape[0]}+2x{shape[1]}, {micro_batch} pairs, checkpointing on"]
    free()
    stock = _stock_seconds(report, policy, shape, micro_batch, sizes)
    report.number("ours as a share of stock trl's time", round(ours / stock, 3))
    if not report.is_tiny:
        report.check("ours takes no longer than stock trl", ours <= stock, [ours, stock])


def _train_ours(report: Report, policy: Any, sizes: Architecture) -> dict[str, float]:
    """Check and measure this project's training; return the seconds of a micro-batch by shape and setting."""
    free()
    trainer = _trainer(report, policy)
    short, long = ((12, 20), (12, 40)) if report.is_tiny else ((300, 850), (300, 2048))
    batches = _rows(trainer, report, short, count=4, micro_batch=2, vocabulary=sizes.vocabulary)
    errors = [abs(_loss(trainer, batch).item() - math.log(2)) for batch in batches]
    report.check("the first step's loss is ln 2, with gradients as without", max(errors) <= FIRST_STEP, max(errors))
    with cudnn(True):
        forced = [abs(_loss(trainer, batch).item() - math.log(2)) for batch in batches]
    report.number("the same where cuDNN's attention may run", max(forced))
    report.number("NF4 values that are those of a CPU's quantizer", quantized_alike(report.device))
    report.check("pairs are trees", trainer.slow_path is None, trainer.slow_path)
    names = kernel_names(lambda: _loss(trainer, batches[0]).backward())
    if not report.is_tiny:
        slow = slow_kernels(names)
        report.check("neither cuDNN's attention nor the plain one runs", not slow, slow)
    report.number("attention kernels", [name for name in names if "fmha" in name.lower() or "flash" in name.lower()])
    report.number("optimizer step, s", round(seconds_of(trainer.optimizer.step), 3))
    trainer.optimizer.zero_grad()
    ours: dict[str, float] = {}
    more = [] if report.is_tiny else [(short, True, 4), (short, True, 8), (short, False, 2)]
    settings = [(short, True, 2), *more, (short, False, 1), (long, True, 2), (long, False, 1)]
    for (prompt, completion), is_checkpointed, micro_batch in settings:
        name = f"{prompt}+2x{completion}, {micro_batch} pairs, checkpointing {'on' if is_checkpointed else 'off'}"
        _set_checkpointing(trainer, is_checkpointed)
        rows = _rows(trainer, report, (prompt, completion), NUM_TIMED, micro_batch, sizes.vocabulary)
        ours[name] = _measure(report, f"ours, {name}", trainer, rows, sizes, (prompt, completion))
        if report.device == "cuda":
            _check_peak(report, name, sizes, [Pair(prompt, completion, completion)] * micro_batch, is_checkpointed)
    return ours


def quantized_alike(device: str) -> float:
    """Return the share of a matrix's values that NF4 quantizes on a device as on a CPU."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = 0.02 * torch.randn(512, 1024, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = [
        dequantize_4bit(*quantize_4bit(weight.to(place), compress_statistics=True, quant_type="nf4")).cpu()
        for place in ("cpu", device)
    ]
    return float((found[0] == found[1]).float().mean())


def _trainer(report: Report, policy: Any) -> Any:
    from tpo.train.settings import TrainSettings
    from tpo.train.trainer import make_trainer

    settings = TrainSettings(
        quantization="nf4",
        learning_rate=1e-5,
        num_epochs=1,
        batch_size=4,
        micro_batch_size=2,
        gradient_checkpointing=True,
        lora_rank=16,
        lora_alpha=32,
        beta=0.1,
    )
    vocabulary = TINY.vocabulary if report.is_tiny else LLAMA_8B.vocabulary
    pairs = random_pairs(4, prompt=8, completion=12, vocabulary=vocabulary)
    started = time.perf_counter()
    trainer = make_trainer(report.folder / "work", pairs, policy, settings, seed=0)
    report.number("make_trainer, s", round(time.perf_counter() - started, 2))
    trainer.tpo_settings = settings
    _set_checkpointing(trainer, True)
    return trainer


def _set_checkpointing(trainer: Any, enabled: bool) -> None:
    model = trainer.model
    if enabled:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    else:
        model.gradient_checkpointing_disable()


def _rows(
    trainer: Any, report: Report, shape: tuple[int, int], count: int, micro_batch: int, vocabulary: int
) -> list[dict[str, Any]]:
    """Return micro-batches of equal pairs on the device, with the reference's log-probabilities."""
    from tpo.train.micro_batches import micro_batches
    from tpo.train.reference import reference_logps

    pairs = random_pairs(count * micro_batch, prompt=shape[0], completion=shape[1], vocabulary=vocabulary)
    trainer.train_dataset = micro_batches(pairs, replace(trainer.tpo_settings, micro_batch_size=micro_batch))
    for name, values in reference_logps(trainer, disable_adapter=False).items():
        trainer.train_dataset = trainer.train_dataset.add_column(name, values)
    batches = [trainer.data_collator([trainer.train_dataset[index]]) for index in range(count)]
    return [{name: value.to(report.device) for name, value in batch.items()} for batch in batches]


def _loss(trainer: Any, batch: dict[str, Any]) -> Any:
    return trainer.compute_loss(trainer.model, dict(batch))


def _measure(
    report: Report, name: str, trainer: Any, rows: Sequence[dict[str, Any]], sizes: Architecture, shape: tuple[int, int]
) -> float:
    """Run forward and backward passes, the first half warm-up; return and keep the seconds of one."""
    free()
    half = len(rows) // 2
    for batch in rows[:half]:
        _loss(trainer, batch).backward()
    taken = seconds_of(lambda: [_loss(trainer, batch).backward() for batch in rows[half:]]) / (len(rows) - half)
    trainer.optimizer.zero_grad()
    pairs = len(rows[0]["input_ids"]) // 2
    tokens = pairs * (shape[0] + 2 * shape[1])
    report.number(f"{name}, s a micro-batch", round(taken, 4))
    report.number(f"{name}, tokens/s", round(tokens / taken))
    depths = [*range(1, sum(shape) + 1), *range(shape[0] + 1, sum(shape) + 1)]
    passes = 3 if "checkpointing on" in name else 2  # forward, again, and back to the activations
    forward = sizes.forward_operations(depths, num_logits=2 * shape[1])
    report.number(f"{name}, TFLOP/s", round(pairs * forward * passes / taken / 1e12, 3))
    return taken


def _check_peak(report: Report, name: str, sizes: Architecture, pairs: list[Pair], is_checkpointed: bool) -> None:
    import torch

    peak = torch.cuda.max_memory_allocated()
    expected = training_bytes(sizes, pairs, quantization="nf4", is_checkpointed=is_checkpointed)
    report.number(f"peak GiB, {name}", round(peak / 2**30, 2))
    report.check(f"peak against the memory model, {name}", abs(peak / expected - 1) < TOLERANCE, peak / expected)


def _stock_seconds(report: Report, policy: Any, shape: tuple[int, int], micro_batch: int, sizes: Architecture) -> float:
    """Return the seconds of a micro-batch by trl's own trainer, on the same ids, its reference precomputed."""
    from datasets import Dataset
    from peft import LoraConfig, TaskType
    from trl import DPOConfig, DPOTrainer

    from tpo.model.chat import load_tokenizer
    from tpo.model.load import load_model

    class IdsTrainer(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    pairs = random_pairs(NUM_TIMED * micro_batch, prompt=shape[0], completion=shape[1], vocabulary=sizes.vocabulary)
    rows = [
        {
            "prompt_ids": pair.prompt_ids,
            "chosen_ids": pair.chosen_ids,
            "rejected_ids": pair.rejected_ids,
            "ref_chosen_logps": 0.0,
            "ref_rejected_logps": 0.0,
        }
        for pair in pairs
    ]
    trainer = IdsTrainer(
        model=load_model(policy.model_path, revision=None, dtype="bfloat16", quantization="nf4"),
        args=DPOConfig(
            output_dir=str(report.folder / "stock"),
            bf16=False,
            use_cpu=report.device == "cpu",
            report_to=[],
            max_length=None,
            gradient_checkpointing=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(policy.tokenizer_path),
        peft_config=LoraConfig(task_type=TaskType.CAUSAL_LM, r=16, lora_alpha=32, target_modules="all-linear"),
    )
    trainer.precompute_ref_logps = True
    _set_checkpointing(trainer, True)
    trainer.model.train()
    batches = [
        {name: value.to(report.device) for name, value in trainer.data_collator(rows[at : at + micro_batch]).items()}
        for at in range(0, len(rows), micro_batch)
    ]
    trainer.create_optimizer()
    return _measure(report, f"stock trl, {shape[0]}+2x{shape[1]}, checkpointing on", trainer, batches, sizes, shape)


def judge8b(report: Report) -> None:
    """Read chats with a decoder of a reward model's size: an instruction's responses as a tree, and one at a time."""
    import numpy as np

    from tpo.model.states import Reading, StateReader

    sizes, groups, responses, length, prompt = (TINY, 4, 3, 20, 10) if report.is_tiny else (LLAMA_8B, 64, 8, 400, 300)
    generator = np.random.default_rng(0)

    def ids(count: int) -> list[int]:
        return [int(number) for number in generator.integers(5, sizes.vocabulary, size=count)]

    chats = []
    for _ in range(groups):
        instruction = ids(prompt)
        chats.append([Reading(instruction + ids(length), (prompt + length - 1,)) for _ in range(responses)])
    decoder = random_model(sizes, device=report.device, is_decoder=True)
    reader = StateReader(decoder, batch_tokens=256 if report.is_tiny else 16384)
    report.check("a tree computes what single sequences do", reader.is_shared, reader.is_shared)
    for enabled in (True, False):
        with cudnn(enabled):
            free()
            reader.read(chats[:2])
            taken = seconds_of(lambda: reader.read(chats))
            name = f"trees, cudnn {'on' if enabled else 'off'}"
            report.number(f"{name}, responses/s", round(groups * responses / taken, 2))
    if report.device == "cuda":
        import torch

        from tpo.plan.memory import judge_bytes

        peak = torch.cuda.max_memory_allocated()
        ratio = peak / judge_bytes(sizes, 16384)
        report.check("peak against the memory model", abs(ratio - 1) < TOLERANCE, ratio)
    single = [[reading] for group in chats[:8] for reading in group]
    with cudnn(False):
        taken = seconds_of(lambda: [reader.read([one]) for one in single])
    report.number("one at a time, responses/s", round(len(single) / taken, 2))


def sample(report: Report) -> None:
    """Sample with engine=torch, without an adapter and with one."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    from tpo.model.chat import load_tokenizer
    from tpo.model.load import load_model
    from tpo.sample.decoding import Decoding, Request
    from tpo.sample.engines.torch.engine import TorchEngine

    sizes = TINY if report.is_tiny else SMALL
    prompts, samples, tokens = (3, 2, 8) if report.is_tiny else (32, 8, 256)
    policy = save_model(report.folder / "sampled", sizes, device=report.device)
    adapter = report.folder / "adapter"
    model = load_model(policy.model_path, revision=None, dtype=policy.dtype)
    given = LoraConfig(task_type=TaskType.CAUSAL_LM, r=16, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(model, given).save_pretrained(adapter)
    tokenizer = load_tokenizer(policy.tokenizer_path)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(5, 250, (30,), generator=generator).tolist() for _ in range(prompts)]
    for name, path in (("no adapter", None), ("adapter", adapter)):
        engine = TorchEngine(
            replace(policy, adapter_path=path), tokenizer=tokenizer, end_ids=frozenset(), max_sequences=256, max_len=512
        )
        found: list[Any] = []

        def run(engine: TorchEngine = engine, found: list[Any] = found) -> None:
            requests = [
                Request(str(number), ids, {index: 100 * number + index for index in range(samples)})
                for number, ids in enumerate(texts)
            ]
            found[:] = engine.stream(iter(requests), decoding=Decoding(temperature=1.0, top_p=0.95, max_tokens=tokens))

        run()
        taken = seconds_of(run)
        total = sum(len(each.generation.token_ids) for each in found)
        report.check(f"all samples have their tokens, {name}", total == prompts * samples * tokens, total)
        report.number(f"tokens/s, {name}", round(total / taken))
        engine.close()


def loop(report: Report) -> None:
    """Run the smallest experiment twice, a process for each stage, as a user's command."""
    sizes = TINY if report.is_tiny else replace(SMALL, vocabulary=TINY.vocabulary)  # few ids that are no text
    policy = save_model(report.folder / "seed", sizes, device=report.device)
    root = report.folder / "loop"
    words = [
        *("experiment=smoke", "tracking=none", "isolate_stages=true", "model=pretrained", "judge=length"),
        *(f"model.name={policy.model_path}", "model.quantization=none", "model.max_model_len=4096"),
        *(f"artifacts_dir={root}/artifacts", f"runs_dir={root}/runs", "on_collapse=continue"),
    ]
    command = [sys.executable, "-m", "tpo.run", *words]
    made: list[dict[str, float]] = []
    for visit in ("first", "second"):
        started = time.perf_counter()
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        report.number(f"{visit} run, s", round(time.perf_counter() - started, 1))
        report.check(f"{visit} run exits with 0", done.returncode == 0, done.stderr[-1000:] if done.returncode else 0)
        made.append({str(path): path.stat().st_mtime for path in sorted(root.rglob("manifest.json"))})
    report.check("the second run computes no stage again", bool(made[0]) and made[0] == made[1], len(made[1]))
    manifests = [json.loads(path.read_text()) for path in root.glob("artifacts/train-*/manifest.json")]
    losses = [manifest["metrics"]["first_loss"] for manifest in manifests]
    close = bool(losses) and all(abs(loss - math.log(2)) <= FIRST_STEP for loss in losses)
    report.check("the first loss is ln 2", close, losses)
    report.number("peaks, MiB", {path["stage"]: path["peak_memory_mib"] for path in manifests})


PARTS: dict[str, Callable[[Report], None]] = {
    "sdpa": sdpa,
    "train8b": train8b,
    "judge8b": judge8b,
    "sample": sample,
    "loop": loop,
}


def run_parts(names: Sequence[str], *, is_tiny: bool) -> dict[str, Any]:
    """Return what the parts find, in plain JSON types; a part that raises has failed, and the next one runs."""
    prepare()  # before torch is imported
    import torch

    from tpo.store.environment import environment

    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: dict[str, Any] = {"machine": describe(), "packages": environment()["packages"], "parts": {}}
    found["cudnn"] = torch.backends.cudnn.version()
    for name in names:
        print(f"{name} on {found['machine']['gpu'] or 'the CPU'}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            report = Report(device, is_tiny or device == "cpu", Path(folder))
            started = time.perf_counter()
            try:
                PARTS[name](report)
            except Exception as error:
                report.check("the part runs to its end", False, f"{type(error).__name__}: {error}"[:2000])
            seconds = round(time.perf_counter() - started, 1)
        found["parts"][name] = {"seconds": seconds, "numbers": report.numbers, "checks": report.checks}
        free()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, write the JSON, and return 1 where a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--tiny", action="store_true", help="sizes of seconds; always so without a GPU")
    parser.add_argument("--out", type=Path, help="the JSON; by default in cards/ beside this file, named after the GPU")
    given = parser.parse_args(arguments)
    if wrong := [name for name in given.parts if name not in PARTS]:
        parser.error(f"there is no part {', '.join(wrong)}; there are {', '.join(PARTS)}")
    found = run_parts(given.parts or list(PARTS), is_tiny=given.tiny)
    out = given.out
    if out is None and found["machine"]["gpu"] and not given.tiny:
        out = Path(__file__).parent / "cards" / f"{file_name(found['machine'])}.json"
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n")
        print(out)
    return int(not all(check["holds"] for part in found["parts"].values() for check in part["checks"]))


if __name__ == "__main__":
    sys.exit(main())
