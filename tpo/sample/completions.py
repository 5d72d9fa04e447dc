"""Stage "sample": a policy and instructions -> K completions each.

Reads `Prompt` rows of one split; writes `Completion` rows, exactly K per instruction, with the sampled token ids, which
training reads: no completion is tokenized again.
"""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tpo.config.kinds import load_settings
from tpo.config.thought import ThoughtFormat
from tpo.model.chat import Chat, Tokenizer, load_chat
from tpo.model.policy import Policy, open_policy
from tpo.sample.decoding import Decoding, EngineSettings, Generation
from tpo.sample.thought import num_tokens_within, render
from tpo.store.job import Job, Metrics
from tpo.store.records import Completion, Prompt
from tpo.store.rows import grow_rows
from tpo.store.seeds import derive_seed


def work(job: Job) -> Metrics:
    """Sample the completions of the instructions of one split."""
    return write_completions(
        job.path,
        [prompt for prompt in job.inputs["prompts"].rows(Prompt) if prompt.split == job.config["split"]],
        open_policy(job.config, job.inputs),
        load_settings(ThoughtFormat, job.config["thought"]),
        settings=job.config["settings"],
        engine_settings=load_settings(EngineSettings, job.config["engine"], job.how["engine"]),
        seed=job.seed,
    )


def write_completions(
    path: Path,
    prompts: Sequence[Prompt],
    policy: Policy,
    form: ThoughtFormat,
    *,
    settings: dict[str, Any],
    engine_settings: EngineSettings,
    seed: int,
) -> dict[str, Any]:
    """Write the completions of `prompts` to `path` and return the stage's metrics.

    Args:
        path: The artifact's directory.
        prompts: Instructions.
        policy: What to sample from.
        form: Thought format.
        settings: `num_samples`, `temperature`, `top_p`, `max_thought_tokens`, `max_response_tokens`.
        engine_settings: What samples.
        seed: Of the stage.

    Returns:
        The metrics of `summarize`, with tokens per second of this attempt.
    """
    from tqdm import tqdm

    chat = load_chat(policy)
    decoding = plan_decoding(chat.tokenizer, form, settings)
    contexts = {prompt.prompt_id: render(chat.tokenizer, prompt.text, form) for prompt in prompts}
    engine = engine_settings.make(policy, chat=chat, contexts=contexts.values(), decoding=decoding, seed=seed)
    num_samples = settings["num_samples"]
    num_tokens, started = 0, time.monotonic()
    with closing(engine), tqdm(total=len(prompts) * num_samples, desc=path.name, unit="completion") as progress:

        def compute(prompt_ids: list[str]) -> list[Completion]:
            nonlocal num_tokens
            seeds = [
                [derive_seed(seed, "sample", prompt_id, index) for index in range(num_samples)]
                for prompt_id in prompt_ids
            ]
            groups = engine.generate([contexts[key] for key in prompt_ids], seeds=seeds, decoding=decoding)
            rows = [
                make_completion(
                    chat,
                    form,
                    prompt_id=prompt_id,
                    sample_index=index,
                    prompt_ids=contexts[prompt_id],
                    generation=generation,
                    seed=seeds[position][index] if engine.uses_seeds else -1,
                )
                for position, prompt_id in enumerate(prompt_ids)
                for index, generation in enumerate(groups[position])
            ]
            num_tokens += sum(len(row.completion_ids) for row in rows)
            progress.update(len(rows))
            return rows

        rows = grow_rows(
            path,
            Completion,
            prompt_ids=[prompt.prompt_id for prompt in prompts],
            chunk_size=engine_settings.chunk_prompts,
            compute=compute,
        )
    return {**summarize(rows), "tokens_per_second": num_tokens / (time.monotonic() - started)}


def plan_decoding(tokenizer: Tokenizer, form: ThoughtFormat, settings: dict[str, Any]) -> Decoding:
    """Return how to decode completions of a format within the token budgets.

    A direct answer has the response budget. With the forced switch, thought and response have a budget each; without
    it they share the sum, since sampling does not stop where the thought ends.
    """
    thought, response = settings["max_thought_tokens"], settings["max_response_tokens"]
    shared = {"temperature": settings["temperature"], "top_p": settings["top_p"]}
    if not form.has_thought:
        return Decoding(max_tokens=response, **shared)
    if form.switch is None:
        return Decoding(max_tokens=thought + response, **shared)
    return Decoding(
        max_tokens=thought,
        max_response_tokens=response,
        response_delimiter=form.response_delimiter,
        switch_ids=tuple(tokenizer.encode(form.switch, add_special_tokens=False)),
        **shared,
    )


def make_completion(
    chat: Chat,
    form: ThoughtFormat,
    *,
    prompt_id: str,
    sample_index: int,
    prompt_ids: list[int],
    generation: Generation,
    seed: int,
) -> Completion:
    """Return the row of one generation, split into thought and response."""
    content = chat.content(generation.token_ids)
    text = chat.decode(content)
    is_prefilled = form.prefill is not None
    parts = form.split(text, is_prefilled=is_prefilled, finish_reason=generation.finish_reason)
    has_parts = parts.error is None
    return Completion(
        prompt_id=prompt_id,
        sample_index=sample_index,
        prompt_ids=prompt_ids,
        completion_ids=generation.token_ids,
        forced_start=generation.forced_start,
        forced_stop=generation.forced_stop,
        is_prefilled=is_prefilled,
        completion=text,
        thought=parts.thought,
        response=parts.response,
        split_error=parts.error,
        finish_reason=generation.finish_reason,
        num_thought_tokens=num_tokens_within(content, parts.thought_span, decode=chat.decode) if has_parts else 0,
        num_response_tokens=num_tokens_within(content, parts.response_span, decode=chat.decode) if has_parts else 0,
        seed=seed,
    )


def summarize(rows: Sequence[Completion]) -> dict[str, Any]:
    """Return counts and means over completions.

    `format_rate` is the fraction that could be split into thought and response and has no forced delimiter: the model
    wrote every delimiter that was not prefilled. `parse_rate` is the fraction that could be split at all. Means are
    over the completions that could be split.
    """
    parsed = [row for row in rows if row.split_error is None]
    unforced = [row for row in parsed if row.forced_start == row.forced_stop]
    mean = max(len(parsed), 1)
    return {
        "num_completions": len(rows),
        "num_tokens": sum(len(row.completion_ids) for row in rows),
        "format_rate": len(unforced) / len(rows),
        "parse_rate": len(parsed) / len(rows),
        "prefill_rate": sum(row.is_prefilled for row in rows) / len(rows),
        "truncated_rate": sum(row.finish_reason == "length" for row in rows) / len(rows),
        "split_errors": dict(sorted(Counter(row.split_error for row in rows if row.split_error).items())),
        "mean_thought_tokens": sum(row.num_thought_tokens for row in parsed) / mean,
        "mean_response_tokens": sum(row.num_response_tokens for row in parsed) / mean,
    }
