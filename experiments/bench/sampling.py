"""Sampling: K completions of each instruction, in generated tokens per second.

All contenders get the same token ids and the same distribution (temperature, top-p, no top-k) and return token ids. A
token counts up to and including the end token; padding does not. Rounds draw with different seeds.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from experiments.architecture import Architecture
from experiments.bench.floors import sampling_load
from experiments.bench.parts import Part, Timed
from experiments.bench.process import Request, serve
from experiments.bench.workload import Work

PART = Part(
    name="sampling",
    title="sampling (tokens/s)",
    is_rate=True,
    contenders={
        "generate": "transformers generate, left-padded batches",
        "generate_one": "transformers generate, one prompt at a time",
        "vllm": "vLLM, n = K, prefix caching",
        "ours": "ours",
        "ours_adapter": "ours, with a LoRA adapter unmerged",
    },
    comparisons=(
        ("ours", "generate"),
        ("ours", "generate_one"),
        ("ours", "vllm"),
        ("ours_adapter", "generate"),
        ("ours_adapter", "vllm"),
    ),
)
WARM_UP_TOKENS = 8

Ids = list[int]
# Prompts, budget -> for each prompt the ids of its K completions.
Sampler = Callable[[Sequence[Ids], int], list[list[Ids]]]


def measure(request: Request) -> Timed:
    """Sample with the contender."""
    from tpo.model.chat import load_chat
    from tpo.store.execute import keep_freed_memory

    work = Work.of(request.work)
    chat = load_chat(policy(work))
    contexts = work.contexts(chat.tokenizer)
    match request.contender:
        case "generate":
            sampler = with_generate(work, chat, seed=request.seed, num_rows=work.sizes.generate_rows)
        case "generate_one":
            sampler = with_generate(work, chat, seed=request.seed, num_rows=work.sizes.num_samples)
        case "vllm":
            sampler = with_vllm(work, chat, seed=request.seed, longest=max(map(len, contexts)))
        case _:
            keep_freed_memory()
            is_adapted = request.contender == "ours_adapter"
            sampler = with_ours(work, chat, seed=request.seed, longest=max(map(len, contexts)), is_adapted=is_adapted)
    unrelated = chat.tokenizer.encode("Say something else.", add_special_tokens=False)
    sampler([unrelated], WARM_UP_TOKENS)
    began, started = time.time(), time.perf_counter()
    found = sampler(contexts, work.sizes.max_tokens)
    seconds = time.perf_counter() - started
    lengths = [[len(ids) for ids in group] for group in found]
    num_tokens = sum(map(sum, lengths))
    load = sampling_load(Architecture.of_model(work.model_path), contexts, lengths, num_rows=work.sizes.rows)
    details = {
        "num_tokens": num_tokens,
        "num_completions": sum(map(len, lengths)),
        "num_stopped": sum(ids[-1] in chat.end_ids for group in found for ids in group),
        "num_prompt_tokens": sum(map(len, contexts)),
        **load._asdict(),
    }
    return Timed(num_tokens / seconds, seconds, began, details)


def policy(work: Work, *, adapter: bool = False) -> Any:
    """Return what is sampled from (`tpo.model.policy.Policy`)."""
    from tpo.model.policy import Policy

    return Policy(
        model_path=work.model_path,
        revision=None,
        tokenizer_path=work.tokenizer_path,
        dtype="bfloat16",
        max_model_len=2048,
        adapter_path=work.adapter if adapter else None,
    )


def with_generate(work: Work, chat: Any, *, seed: int, num_rows: int) -> Sampler:
    """Return a sampler of `generate` on batches of so many rows in the given order, K rows a prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    from tpo.model.load import default_device

    sizes, tokenizer = work.sizes, chat.tokenizer
    dtype = getattr(torch, policy(work).dtype)
    model = AutoModelForCausalLM.from_pretrained(work.model_path, dtype=dtype).to(default_device()).eval()
    tokenizer.padding_side = "left"
    torch.manual_seed(seed)
    count = max(1, num_rows // sizes.num_samples)

    def sample(prompts: Sequence[Ids], max_tokens: int) -> list[list[Ids]]:
        groups = []
        for start in range(0, len(prompts), count):
            batch = tokenizer.pad({"input_ids": list(prompts[start : start + count])}, return_tensors="pt")
            rows = model.generate(
                **batch.to(model.device),
                do_sample=True,
                temperature=sizes.temperature,
                top_p=sizes.top_p,
                top_k=0,  # the default of 50 would be another distribution
                max_new_tokens=max_tokens,
                num_return_sequences=sizes.num_samples,
                eos_token_id=sorted(chat.end_ids),
                pad_token_id=tokenizer.pad_token_id,
            )[:, batch["input_ids"].shape[1] :].tolist()
            ended = [up_to_end(row, chat.end_ids) for row in rows]
            groups += [ended[first : first + sizes.num_samples] for first in range(0, len(ended), sizes.num_samples)]
        return groups

    return sample


def up_to_end(ids: Ids, end_ids: frozenset[int]) -> Ids:
    """Return the ids up to and including the first that ends a completion."""
    return ids[: next((position for position, token in enumerate(ids, start=1) if token in end_ids), len(ids))]


def with_vllm(work: Work, chat: Any, *, seed: int, longest: int) -> Sampler:
    """Return a sampler of vLLM, which samples K completions a prompt with the prompt's cache shared."""
    from vllm import SamplingParams

    sizes = work.sizes
    llm = start_vllm(work, longest + sizes.max_tokens, seed=seed)

    def sample(prompts: Sequence[Ids], max_tokens: int) -> list[list[Ids]]:
        settings = SamplingParams(
            n=sizes.num_samples,
            temperature=sizes.temperature,
            top_p=sizes.top_p,
            max_tokens=max_tokens,
            stop_token_ids=sorted(chat.end_ids),
            detokenize=False,
        )
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = llm.generate(requests, settings, use_tqdm=False)
        return [[list(sample.token_ids) for sample in output.outputs] for output in outputs]

    return sample


def start_vllm(work: Work, max_len: int, *, seed: int) -> Any:
    """Return a `vllm.LLM` as one would start it here: on a CPU without compiling, which takes longer than it saves."""
    import torch

    from tpo.store.processes.vllm import start_vllm as start

    has_gpu = torch.cuda.is_available()
    return start(
        model=work.model_path,
        tokenizer=work.tokenizer_path,
        dtype="bfloat16",
        max_model_len=-(-max_len // 64) * 64,
        max_num_seqs=work.sizes.rows,
        enable_prefix_caching=True,
        enforce_eager=not has_gpu,
        gpu_memory_utilization=0.85 if has_gpu else 0.3,
        seed=seed,
    )


def with_ours(work: Work, chat: Any, *, seed: int, longest: int, is_adapted: bool) -> Sampler:
    """Return a sampler of `tpo.sample.engines.torch.engine`."""
    from tpo.sample.decoding import Decoding
    from tpo.sample.engines.torch.engine import TorchEngine
    from tpo.store.seeds import derive_seed

    sizes = work.sizes
    engine = TorchEngine(
        policy(work, adapter=is_adapted),
        tokenizer=chat.tokenizer,
        end_ids=chat.end_ids,
        max_sequences=sizes.rows,
        max_len=longest + sizes.max_tokens,
    )

    def sample(prompts: Sequence[Ids], max_tokens: int) -> list[list[Ids]]:
        decoding = Decoding(temperature=sizes.temperature, top_p=sizes.top_p, max_tokens=max_tokens)
        seeds = [
            [derive_seed(seed, "bench", position, index) for index in range(sizes.num_samples)]
            for position in range(len(prompts))
        ]
        groups = engine.generate(prompts, seeds=seeds, decoding=decoding)
        return [[generation.token_ids for generation in group] for group in groups]

    return sample


if __name__ == "__main__":
    serve(measure)
