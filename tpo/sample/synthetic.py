"""Stage "synthesize": new instructions by few-shot prompting a model, as the paper's first experiments did.

The paper prompted Llama-2-70B-Chat with 8 samples of Open Assistant (section 3.1); here any model continues a
numbered list of instructions drawn from a given set. Candidates are filtered and de-duplicated against the
shots and each other; writes `Prompt` rows and counts what was dropped and why.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from tpo.model.chat import chat_ids, load_chat
from tpo.model.policy import Policy, open_policy
from tpo.sample.decoding import Decoding
from tpo.sample.engines.load import join_settings, load_engine
from tpo.sample.prompts import load_builtin, load_json_lines, make_prompt
from tpo.store.job import Job, Metrics
from tpo.store.records import Prompt
from tpo.store.rows import grow_rows
from tpo.store.seeds import derive_seed

REQUEST = (
    "Below is a numbered list of instructions that different users gave to an AI assistant. They are varied in topic "
    "and form. Write only the next instruction of the list.\n\n{shots}\n{number}."
)


class Filtered(NamedTuple):
    """Instructions that were kept and, for the others, why not."""

    prompts: list[Prompt]
    drops: dict[str, int]


def work(job: Job) -> Metrics:
    """Sample candidates, from shots of the built-in instructions or a file of the user's."""
    settings = job.config["settings"]
    return write_candidates(
        job.path,
        load_shots(settings["shots_path"]),
        open_policy(job.config, job.inputs),
        settings=settings,
        engine_settings=join_settings(job.config, job.how),
        seed=job.seed,
    )


def load_shots(path: str | None) -> list[Prompt]:
    """Return the instructions that examples are drawn from: the built-in ones for training, or a JSON-lines file's."""
    if path is None:
        return [prompt for prompt in load_builtin() if prompt.split == "train"]
    return load_json_lines(Path(path), text_field="text", category_field="category", split_field="split")


def write_candidates(
    path: Path,
    shots: Sequence[Prompt],
    policy: Policy,
    *,
    settings: dict[str, Any],
    engine_settings: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Write the raw candidates as `Prompt` rows to `path`; `filter_candidates` decides which are used.

    Args:
        path: The artifact's directory.
        shots: Instructions to draw examples from.
        policy: The model that continues the list.
        settings: The `prompts` group of kind synthetic.
        engine_settings: The `engine` group.
        seed: Of the choice of shots and of sampling.
    """
    chat = load_chat(policy)
    decoding = Decoding(settings["temperature"], settings["top_p"], settings["max_tokens"])
    names = [f"candidate-{number}" for number in range(settings["num_candidates"])]
    number = settings["num_shots"] + 1
    contexts: dict[str, list[int]] = {}
    for name in names:
        drawn = random.Random(derive_seed(seed, name)).sample(list(shots), settings["num_shots"])
        listed = "\n".join(f"{position}. {shot.text}" for position, shot in enumerate(drawn, start=1))
        request = REQUEST.replace("{shots}", listed).replace("{number}", str(number))
        contexts[name] = chat_ids(chat.tokenizer, request, assistant=f"{number}.")
    engine = load_engine(engine_settings, policy, chat=chat, contexts=contexts.values(), decoding=decoding, seed=seed)

    def compute(chunk: list[str]) -> list[Prompt]:
        seeds = [[derive_seed(seed, "sample", name)] for name in chunk]
        groups = engine.generate([contexts[name] for name in chunk], seeds=seeds, decoding=decoding)
        texts = [chat.tokenizer.decode(group[0].token_ids, skip_special_tokens=True) for group in groups]
        return [
            Prompt(name, first_item(text), "uncategorized", f"synthetic:{policy.model_path}", group[0].finish_reason)
            for name, text, group in zip(chunk, texts, groups, strict=True)
        ]

    with closing(engine):
        rows = grow_rows(path, Prompt, prompt_ids=names, chunk_size=engine_settings["chunk_prompts"], compute=compute)
    return {"num_candidates": len(rows)}


def first_item(text: str) -> str:
    """Return the first item of a continued numbered list, without the numbers or items that follow."""
    return re.split(r"\n\s*\d+[.)](?:\s|$)", text, maxsplit=1)[0].strip()


def filter_candidates(
    candidates: Iterable[Prompt],
    *,
    against: Sequence[Prompt],
    min_characters: int,
    max_characters: int,
    max_similarity: float,
) -> Filtered:
    """Return the candidates worth using, ids made from their text, and the count of each reason to drop one.

    Args:
        candidates: Raw rows; the split holds the finish reason.
        against: Instructions that candidates must differ from, usually the shots.
        min_characters: Shorter candidates are dropped.
        max_characters: Longer ones too.
        max_similarity: Share of common words (Jaccard index) with any instruction before it from which on
            a candidate is dropped; 1 drops only those with the same words.
    """
    seen = [_words(prompt.text) for prompt in against]
    kept: list[Prompt] = []
    drops: Counter[str] = Counter()
    for candidate in candidates:
        words = _words(candidate.text)
        if candidate.split == "length":
            drops["cut_off"] += 1
        elif not min_characters <= len(candidate.text) <= max_characters:
            drops["length"] += 1
        elif any(similarity(words, other) >= max_similarity for other in seen):
            drops["repetition"] += 1
        else:
            seen.append(words)
            kept.append(
                make_prompt(candidate.text, category=None, source=candidate.source, split="", where=candidate.prompt_id)
            )
    return Filtered(kept, dict(sorted(drops.items())))


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the Jaccard index of two sets of words: 1 for equal sets (two empty ones too), 0 for disjoint."""
    union = len(first | second)
    return len(first & second) / union if union else 1.0
