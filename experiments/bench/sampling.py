"""Sampling: K completions of each instruction, in generated tokens per second.

All contenders get the same token ids and the same distribution (temperature, top-p, no top-k) and return token ids. A
token counts up to and including the end token; padding does not. Rounds draw with different seeds.

Contenders named `answers_` sample one completion of each of as many different instructions as there are completions
otherwise, as evaluations do: no two share a prompt's cache.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

from experiments.bench.floors import sampling_load
from experiments.bench.parts import Options, Part, Timed
from experiments.bench.process import Request, serve, start_clock
from experiments.bench.workload import Work
from tpo.model.architecture import Architecture

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
        "answers_generate": "generate, left-padded batches, one sample each",
        "answers_vllm": "vLLM, one sample each",
        "answers_ours": "ours, one sample each",
    },
    comparisons=(
        ("ours", "generate"),
        ("ours", "generate_one"),
        ("ours", "vllm"),
        ("ours_adapter", "generate"),
        ("ours_adapter", "vllm"),
        ("answers_ours", "answers_generate"),
        ("answers_ours", "answers_vllm"),
        ("answers_ours", "ours"),
    ),
)
ANSWERS = "answers_"
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
    contender = request.contender.removeprefix(ANSWERS)
    prompts, sizes = work.prompts(), work.sizes
    if request.contender.startswith(ANSWERS):
        prompts, sizes = work.answer_prompts(), replace(sizes, num_samples=1)
    contexts = work.contexts(chat.tokenizer, prompts)
    longest = max(map(len, contexts))
    with ExitStack() as stack:
        match contender:
            case "generate":
                sampler = with_generate(work, chat, sizes, seed=request.seed, num_rows=sizes.generate_rows)
            case "generate_one":
                sampler = with_generate(work, chat, sizes, seed=request.seed, num_rows=sizes.num_samples)
            case "vllm":
                sampler = with_vllm(work, chat, sizes, seed=request.seed, longest=longest)
            case _:
                keep_freed_memory()
                start = policy(work, adapter=contender == "ours_adapter")
                sampler = stack.enter_context(with_ours(work, chat, sizes, start, seed=request.seed, longest=longest))
        unrelated = chat.tokenizer.encode("Say something else.", add_special_tokens=False)
        sampler([unrelated] * (os.cpu_count() or 1), WARM_UP_TOKENS)  # one for each worker process that there may be
        clock = start_clock(request)
        found = sampler(contexts, sizes.max_tokens)
        seconds = clock.seconds
    lengths = [[len(ids) for ids in group] for group in found]
    num_tokens = sum(map(sum, lengths))
    load = sampling_load(Architecture.of_model(work.model_path), contexts, lengths, num_rows=sizes.rows)
    details = {
        "num_tokens": num_tokens,
        "num_prompts": len(contexts),
        "num_completions": sum(map(len, lengths)),
        "num_stopped": sum(ids[-1] in chat.end_ids for group in found for ids in group),
        "num_prompt_tokens": sum(map(len, contexts)),
        **load._asdict(),
    }
    return Timed(num_tokens / seconds, seconds, clock.began, details)


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


def with_generate(work: Work, chat: Any, sizes: Options, *, seed: int, num_rows: int) -> Sampler:
    """Return a sampler of `generate` on batches of so many rows in the given order, K rows a prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    from tpo.model.load import default_device

    tokenizer = chat.tokenizer
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


def with_vllm(work: Work, chat: Any, sizes: Options, *, seed: int, longest: int) -> Sampler:
    """Return a sampler of vLLM, which samples K completions a prompt with the prompt's cache shared."""
    from vllm import SamplingParams

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


@contextmanager
def with_ours(work: Work, chat: Any, sizes: Options, start: Any, *, seed: int, longest: int) -> Iterator[Sampler]:
    """Yield a sampler of the engine that conf/ selects, with its settings, as a run has it; close the engine then.

    Args:
        work: Names the model.
        chat: Of the model.
        sizes: Of the work.
        start: `tpo.model.policy.Policy`.
        seed: Of the samples.
        longest: Tokens of the longest prompt.
    """
    from tpo.sample.decoding import Decoding
    from tpo.sample.decoding import Request as Prompted
    from tpo.store.seeds import derive_seed

    decoding = Decoding(temperature=sizes.temperature, top_p=sizes.top_p, max_tokens=sizes.max_tokens)
    engine = work.config().engine.make(start, chat=chat, max_len=longest + sizes.max_tokens, seed=seed)

    def sample(prompts: Sequence[Ids], max_tokens: int) -> list[list[Ids]]:
        requests = (
            Prompted(
                str(position),
                prompt,
                {index: derive_seed(seed, "bench", position, index) for index in range(sizes.num_samples)},
            )
            for position, prompt in enumerate(prompts)
        )
        found: dict[str, dict[int, Ids]] = defaultdict(dict)
        for sample in engine.stream(requests, decoding=replace(decoding, max_tokens=max_tokens)):
            found[sample.key][sample.sample_index] = sample.generation.token_ids
        return [[found[str(position)][index] for index in range(sizes.num_samples)] for position in range(len(prompts))]

    with closing(engine):
        yield sample


if __name__ == "__main__":
    serve(measure)
