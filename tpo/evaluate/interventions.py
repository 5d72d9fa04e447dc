"""Stage "intervene": a policy's responses after a given thought; only the response is sampled.

What is a thought worth? If responses after the policy's own thought are no better than after another instruction's, the
content of the thought does not matter. All interventions, the unchanged thought included, are computed in the same way
and differ in the thought only: its text is tokenized again between the delimiters, and a sample has the same random
numbers under every intervention.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tpo.config.kinds import load_settings
from tpo.config.thought import Split, ThoughtFormat
from tpo.model.asked import Asked, ask
from tpo.model.chat import Chat, load_chat
from tpo.model.policy import Policy, open_policy
from tpo.sample.completions import Key, summarize
from tpo.sample.decoding import Decoding, EngineSettings, Generation, Request, longest
from tpo.store.job import Job, Metrics
from tpo.store.records import Completion, Prompt, read_records
from tpo.store.rows import grow_rows
from tpo.store.seeds import derive_seed

NO_THOUGHT = "no_thought"  # why a completion has no response: there was no thought to put before it


def work(job: Job) -> Metrics:
    """Sample responses after given thoughts."""
    config = job.config
    return write_interventions(
        job.path,
        [prompt for prompt in job.inputs["prompts"].rows(Prompt) if prompt.split == "test"],
        alter(job.inputs["thoughts"].rows(Completion), seed=job.seed, **config["intervention"]),
        open_policy(config, job.inputs),
        load_settings(ThoughtFormat, config["thought"]),
        settings=config["settings"],
        engine_settings=load_settings(EngineSettings, config["engine"], job.how["engine"]),
        seed=job.seed,
    )


def alter(
    completions: Iterable[Completion], *, kind: str, fraction: float = 1.0, seed: int = 0
) -> dict[Key, str | None]:
    """Return the thought that each response is to follow; None where the completion has no thought to alter.

    Args:
        completions: With the thoughts of the policy or the seed model.
        kind: "given": the thought unchanged. "none": an empty one. "cut": the first `fraction` of its words. "other":
            another instruction's, each used once; with a single instruction there is none.
        fraction: Of the words, in [0, 1].
        seed: Of the assignment of other instructions' thoughts.

    Raises:
        ValueError: If `kind` is unknown.
    """
    thoughts = {(row.prompt_id, row.sample_index): row.thought for row in completions}
    match kind:
        case "given":
            return thoughts
        case "none":
            return dict.fromkeys(thoughts, "")
        case "cut":
            return {key: None if text is None else _first_words(text, fraction) for key, text in thoughts.items()}
        case "other":
            return _rotated(thoughts, seed=seed)
        case _:
            raise ValueError(f"intervention {kind!r}: expected given, none, cut or other")


def _first_words(text: str, fraction: float) -> str:
    words = text.split(" ")
    return " ".join(words[: round(fraction * len(words))])


def _rotated(thoughts: Mapping[Key, str | None], *, seed: int) -> dict[Key, str | None]:
    """Return the thoughts such that, per sample index, each instruction has the next one's of a random cycle."""
    rotated: dict[Key, str | None] = dict.fromkeys(thoughts)
    for index in sorted({index for _, index in thoughts}):
        circle = sorted(name for name, number in thoughts if number == index and thoughts[name, number] is not None)
        random.Random(derive_seed(seed, "rotate", index)).shuffle(circle)
        if len(circle) > 1:
            for name, neighbour in zip(circle, circle[1:] + circle[:1], strict=True):
                rotated[name, index] = thoughts[neighbour, index]
    return rotated


def write_interventions(
    path: Path,
    prompts: Sequence[Prompt],
    thoughts: Mapping[Key, str | None],
    policy: Policy,
    form: ThoughtFormat,
    *,
    settings: dict[str, Any],
    engine_settings: EngineSettings,
    seed: int,
) -> dict[str, Any]:
    """Write a completion for every thought to `path` and return the stage's metrics.

    Args:
        path: The artifact's directory.
        prompts: Instructions.
        thoughts: What `alter` gives, the same sample indices for every instruction.
        policy: What to sample from.
        form: A thought format with thoughts.
        settings: `temperature`, `top_p`, `max_response_tokens`.
        engine_settings: What samples.
        seed: Of the stage.
    """
    chat = load_chat(policy)
    asked = ask(form, policy.conventions, chat.tokenizer)
    decoding = Decoding(
        temperature=settings["temperature"], top_p=settings["top_p"], max_tokens=settings["max_response_tokens"]
    )
    texts = {prompt.prompt_id: prompt.text for prompt in prompts}

    def context(key: Key) -> list[int]:
        thought = thoughts[key]
        return [] if thought is None else asked.context_after(chat.tokenizer, texts[key[0]], thought)

    def seed_of(key: Key) -> int:
        return derive_seed(seed, "intervene", *key)

    max_len = longest(map(context, thoughts), decoding)
    with closing(engine_settings.make(policy, chat=chat, max_len=max_len, seed=seed)) as engine:

        def compute(keys: Sequence[Key]) -> Iterator[Completion]:
            for key in keys:
                if thoughts[key] is None:
                    yield _completion(chat, asked, key, thought=None, prompt_ids=[], generation=None, seed=-1)
            open_keys = (key for key in keys if thoughts[key] is not None)
            requests = (Request(key[0], context(key), {key[1]: seed_of(key)}) for key in open_keys)
            for prompt_id, index, generation in engine.stream(requests, decoding=decoding):
                key = (prompt_id, index)
                yield _completion(
                    chat,
                    asked,
                    key,
                    thought=thoughts[key],
                    prompt_ids=context(key),
                    generation=generation,
                    seed=seed_of(key) if engine.uses_seeds else -1,
                )

        order = {prompt.prompt_id: position for position, prompt in enumerate(prompts)}
        grow_rows(
            path,
            Completion,
            keys=sorted(thoughts, key=lambda key: order[key[0]]),
            compute=compute,
            unit="completion",
            count_tokens=lambda row: len(row.completion_ids),
        )
    return summarize(read_records(path / "rows.jsonl", Completion))


def _completion(
    chat: Chat,
    asked: Asked,
    key: Key,
    *,
    thought: str | None,
    prompt_ids: list[int],
    generation: Generation | None,
    seed: int,
) -> Completion:
    token_ids = [] if generation is None else generation.token_ids
    content = chat.content(token_ids)
    text = chat.decode(content)
    parts = Split(None, None, NO_THOUGHT) if generation is None else asked.split_response(text)
    return Completion(
        prompt_id=key[0],
        sample_index=key[1],
        prompt_ids=prompt_ids,
        completion_ids=token_ids,
        forced_start=0,
        forced_stop=0,
        response_start=0,  # the thought stands in the context
        is_prefilled=True,
        completion=text,
        thought=thought,
        response=parts.response,
        split_error=parts.error,
        finish_reason="stop" if generation is None else generation.finish_reason,
        num_thought_tokens=len(chat.tokenizer.encode(thought, add_special_tokens=False)) if thought else 0,
        num_response_tokens=0 if parts.response is None else len(content),
        seed=seed,
    )
