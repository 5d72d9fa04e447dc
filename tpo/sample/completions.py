"""Stage "sample": a policy and instructions -> K completions each.

Reads `Prompt` rows of one split; writes `Completion` rows, exactly K per instruction, with the sampled token ids, which
training reads: no completion is tokenized again.
"""

import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from tpo.config.kinds import load_settings
from tpo.config.thought import ThoughtFormat
from tpo.model.asked import Asked, ask
from tpo.model.chat import Chat, Tokenizer, load_chat
from tpo.model.policy import Policy, open_policy
from tpo.sample.decoding import Decoding, EngineSettings, Generation, Request, longest
from tpo.sample.thought import num_tokens_within, response_start
from tpo.store.job import Job, Metrics
from tpo.store.records import Completion, Prompt, read_records
from tpo.store.rows import grow_rows
from tpo.store.seeds import derive_seed

Key = tuple[str, int]  # prompt_id, sample_index


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
    chat = load_chat(policy)
    asked = ask(form, policy.conventions, chat.tokenizer)
    decoding = plan_decoding(chat.tokenizer, asked, settings)
    # An array takes a tenth of a list's memory, and all contexts are held until the last one is sampled from.
    contexts = {prompt.prompt_id: array("I", asked.context(chat.tokenizer, prompt.text)) for prompt in prompts}
    num_tokens, started = 0, time.monotonic()

    def seed_of(prompt_id: str, index: int) -> int:
        return derive_seed(seed, "sample", prompt_id, index)

    def requests(keys: Sequence[Key]) -> Iterator[Request]:
        for prompt_id, group in groupby(keys, key=itemgetter(0)):
            yield Request(prompt_id, contexts[prompt_id], {index: seed_of(prompt_id, index) for _, index in group})

    max_len = longest(contexts.values(), decoding)
    with closing(engine_settings.make(policy, chat=chat, max_len=max_len, seed=seed)) as engine:

        def compute(keys: Sequence[Key]) -> Iterator[Completion]:
            nonlocal num_tokens
            for prompt_id, index, generation in engine.stream(requests(keys), decoding=decoding):
                num_tokens += len(generation.token_ids)
                yield make_completion(
                    chat,
                    asked,
                    prompt_id=prompt_id,
                    sample_index=index,
                    prompt_ids=contexts[prompt_id].tolist(),
                    generation=generation,
                    seed=seed_of(prompt_id, index) if engine.uses_seeds else -1,
                )

        grow_rows(
            path,
            Completion,
            keys=[(prompt_id, index) for prompt_id in contexts for index in range(settings["num_samples"])],
            compute=compute,
            unit="completion",
            count_tokens=lambda row: len(row.completion_ids),
        )
        slow_path = getattr(engine, "slow_path", None)  # of the torch engine in this process
    found = {**summarize(read_records(path / "rows.jsonl", Completion)), "slow_path": slow_path}
    return {**found, "tokens_per_second": num_tokens / (time.monotonic() - started)}


def plan_decoding(tokenizer: Tokenizer, asked: Asked, settings: dict[str, Any]) -> Decoding:
    """Return how to decode completions of a format within the token budgets.

    A direct answer has the response budget. With the forced switch, thought and response have a budget each; without
    it they share the sum, since sampling does not stop where the thought ends.
    """
    thought, response = settings["max_thought_tokens"], settings["max_response_tokens"]
    shared = {"temperature": settings["temperature"], "top_p": settings["top_p"]}
    if not asked.form.has_thought:
        return Decoding(max_tokens=response, **shared)
    if asked.switch is None:
        return Decoding(max_tokens=thought + response, **shared)
    return Decoding(
        max_tokens=thought,
        max_response_tokens=response,
        response_delimiter=asked.response_delimiter,
        switch_ids=tuple(tokenizer.encode(asked.switch, add_special_tokens=False)),
        **shared,
    )


def make_completion(
    chat: Chat,
    asked: Asked,
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
    parts = asked.split(text, finish_reason=generation.finish_reason)
    has_parts = parts.error is None
    return Completion(
        prompt_id=prompt_id,
        sample_index=sample_index,
        prompt_ids=prompt_ids,
        completion_ids=generation.token_ids,
        forced_start=generation.forced_start,
        forced_stop=generation.forced_stop,
        response_start=(
            max(response_start(content, text, parts, decode=chat.decode), generation.forced_stop) if has_parts else 0
        ),
        is_prefilled=asked.is_open,
        completion=text,
        thought=parts.thought,
        response=parts.response,
        split_error=parts.error,
        finish_reason=generation.finish_reason,
        num_thought_tokens=num_tokens_within(content, parts.thought_span, decode=chat.decode) if has_parts else 0,
        num_response_tokens=num_tokens_within(content, parts.response_span, decode=chat.decode) if has_parts else 0,
        seed=seed,
    )


def summarize(rows: Iterable[Completion]) -> dict[str, Any]:
    """Return counts and means over completions, which are read once.

    `format_rate` is the fraction that could be split into thought and response and has no forced delimiter: the model
    wrote every delimiter that was not prefilled. `parse_rate` is the fraction that could be split at all.
    `cut_thought_rate` is the fraction whose thought did not end by itself: the switch was forced, or the tokens ran
    out. `empty_thought_rate`, of those that could be split, counts the thoughts without a word, which models that think
    by themselves may choose. Means are over the completions that could be split.
    """
    counts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for row in rows:
        counts["rows"] += 1
        counts["tokens"] += len(row.completion_ids)
        counts["prefilled"] += row.is_prefilled
        counts["truncated"] += row.finish_reason == "length"
        if row.split_error is not None:
            errors[row.split_error] += 1
            counts["cut"] += row.split_error == "thought_truncated" or row.forced_start < row.forced_stop
            continue
        counts["parsed"] += 1
        counts["cut"] += row.forced_start < row.forced_stop
        counts["empty"] += row.thought == ""
        counts["unforced"] += row.forced_start == row.forced_stop
        counts["thought_tokens"] += row.num_thought_tokens
        counts["response_tokens"] += row.num_response_tokens
    return {
        "num_completions": counts["rows"],
        "num_tokens": counts["tokens"],
        "format_rate": counts["unforced"] / counts["rows"],
        "parse_rate": counts["parsed"] / counts["rows"],
        "prefill_rate": counts["prefilled"] / counts["rows"],
        "truncated_rate": counts["truncated"] / counts["rows"],
        "cut_thought_rate": counts["cut"] / counts["rows"],
        "empty_thought_rate": counts["empty"] / max(counts["parsed"], 1),
        "split_errors": dict(sorted(errors.items())),
        "mean_thought_tokens": counts["thought_tokens"] / max(counts["parsed"], 1),
        "mean_response_tokens": counts["response_tokens"] / max(counts["parsed"], 1),
    }
