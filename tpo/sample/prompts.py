"""Stage "prompts": what identifies instructions, and which iteration may see which.

They come from a source (`tpo.sample.sources`) and are dealt to disjoint splits "train-1" ... "train-T", "validation",
"test".
"""

import hashlib
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from msgspec.structs import replace

from tpo.config.groups import Instructions, PromptsConfig
from tpo.config.kinds import load_settings
from tpo.store.errors import TpoError
from tpo.store.job import Job, Metrics
from tpo.store.records import Check, Prompt, write_records
from tpo.store.seeds import derive_seed

T = TypeVar("T")
UNCATEGORIZED = "uncategorized"
RECATEGORIZED = "repeated_in_another_category"  # a reason of `kept_apart`
ENDS = " .,;:!?…\"'`´“”„‘’‚«»‹›*_#~"  # what may stand around the same instruction; no sign of arithmetic, no bracket


class PromptError(TpoError):
    """Instructions that cannot be used; the message names the source and what to do."""


class SplitSizes(Protocol):
    """How many instructions each use takes, such as the settings of a source."""

    num_train: int  # per iteration
    num_validation: int
    num_test: int


def work(job: Job) -> Metrics:
    """Read or filter the instructions of the group `prompts` and split them."""
    settings = load_settings(PromptsConfig, job.config["settings"])
    candidates = list(job.inputs["candidates"].rows(Prompt)) if settings.are_generated else ()
    rows, found = deal(settings, candidates, seed=job.seed)
    write_records(job.path / "rows.jsonl", rows)
    num_train = sum(row.split.startswith("train-") for row in rows)
    return {
        "num_prompts": len(rows),
        "num_found": len(found.prompts),
        "num_iterations": num_train // settings.num_train,
        "drops": found.drops,
        "origins": found.origins,
    }


@runtime_checkable
class DealsItself(Protocol):
    """A source that puts its instructions into splits in a way of its own."""

    def deal(self, *, seed: int) -> tuple[list[Prompt], Instructions]:
        """Return the instructions in their splits, and all that it found."""
        ...


def deal(settings: PromptsConfig, candidates: Sequence[Prompt] = (), *, seed: int) -> tuple[list[Prompt], Instructions]:
    """Return the instructions of a run in their splits, and all that the source found.

    Args:
        settings: The source.
        candidates: What a model generated, where the source filters that.
        seed: Of their order.

    Raises:
        TpoError: If there are not enough of them.
    """
    if isinstance(settings, DealsItself):
        return settings.deal(seed=seed)
    found = settings.load(candidates)
    rows = split_prompts(found.prompts, sizes=settings, seed=seed)
    return rows, found._replace(drops=found.drops | kept_apart(found.prompts, rows))


def in_turn(items: Iterable[T], generator: random.Random) -> Iterator[T]:
    """Yield all items in random order, again and again; there has to be one."""
    left = list(items)
    while True:
        generator.shuffle(left)
        yield from left


def by_weight(weights: Mapping[str, int]) -> list[str]:
    """Return each name as often as its weight says."""
    return [name for name, weight in weights.items() for _ in range(weight)]


def prompt_id(text: str) -> str:
    """Return the identity of an instruction: the first 16 hex digits of the sha256 of its text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def same_text(text: str) -> str:
    """Return what instructions that count as the same have in common.

    Letter case, forms of a character (Unicode's NFKC), white space, and punctuation, quotation and emphasis marks at
    the ends make no difference; a text of nothing else is left as it is. Within the text every mark counts.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip(ENDS) or plain


def make_prompt(
    text: Any,
    *,
    category: Any,
    source: str,
    split: str,
    where: str,
    checks: Sequence[Check] = (),
    base_id: str | None = None,
) -> Prompt:
    """Return a `Prompt`, white space at the ends of text and category removed.

    Args:
        text: The instruction as it was read.
        category: None where there is none.
        source: Which instruction set it comes from.
        split: "train", "validation" or "test" where the source fixes it, else "".
        where: File and line, or data set and row, for messages.
        checks: What a program checks of responses to it.
        base_id: Of the instruction that it was made from, if it was made from another.

    Raises:
        PromptError: Naming `where` if the text is not a string or is empty.
    """
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f"{where}: the instruction is {text!r}; expected text that is not empty")
    if category is not None and not isinstance(category, str):
        raise PromptError(f"{where}: the category is {category!r}; expected text")
    text = text.strip()
    try:
        f"{text}{category or ''}".encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"{where}: holds half of a surrogate pair, which is no text ({error.reason})") from error
    identity = prompt_id(text)
    kind = (category or "").strip() or UNCATEGORIZED
    return Prompt(identity, text, kind, source, split, tuple(checks), base_id or identity)


def split_prompts(prompts: Iterable[Prompt], *, sizes: SplitSizes, seed: int) -> list[Prompt]:
    """Return the instructions of all runs of these sizes, each in at most one split.

    Instructions with the same text (`same_text`) are one instruction, whose category is that of the copy in the test,
    else validation, else training, and of several there the last in the alphabet; where they are checked differently,
    none of them is used. Those whose source fixes a split stay in it; the free ones are dealt to test first, then
    validation, and all that is left to training, so that a longer run trains on more but is measured on the same.
    Nothing that is made from the same instruction (`base_id`) as one of the test is in another split, or in training if
    as one of the validation. Within a split the categories take turns in seeded order, so that each is represented as
    evenly as the numbers allow. Training instructions are cut into "train-1", "train-2", ... of `num_train` each; a
    last, smaller part is left out.

    Raises:
        PromptError: If the source does not hold enough for test, validation and one iteration.
    """
    unique = _unique(prompts)
    taken: set[str] = set()  # bases of the splits that were dealt
    free = _take_turns([prompt for prompt in unique if prompt.split == ""], seed=seed)
    chosen: list[Prompt] = []
    for split, need in (("test", sizes.num_test), ("validation", sizes.num_validation), ("train", sizes.num_train)):
        pool = [prompt for prompt in unique if prompt.split == split and prompt.base_id not in taken]
        pool, free = _take_turns(pool, seed=seed), [prompt for prompt in free if prompt.base_id not in taken]
        num_free = len(free) if split == "train" else max(0, need - len(pool))
        pool, free = pool + free[:num_free], free[num_free:]
        if len(pool) < need:
            raise PromptError(
                f"the {split} split needs {need} different instructions (prompts.num_{split}), but {len(pool)} are "
                f"left of the source's {len(unique)}: use a larger source, or lower prompts.num_train "
                f"({sizes.num_train} an iteration), num_validation ({sizes.num_validation}) or num_test "
                f"({sizes.num_test})"
            )
        if split == "train":
            whole = len(pool) - len(pool) % sizes.num_train
            chosen += [
                replace(prompt, split=f"train-{position // sizes.num_train + 1}")
                for position, prompt in enumerate(pool[:whole])
            ]
        else:
            chosen += [replace(prompt, split=split) for prompt in pool[:need]]
            # Those that the source holds out count even where fewer are needed: a larger test takes them later.
            taken |= {prompt.base_id for prompt in pool if prompt.split == split} | {row.base_id for row in chosen}
    return chosen


def kept_apart(found: Sequence[Prompt], dealt: Iterable[Prompt]) -> dict[str, int]:
    """Return how many instructions `split_prompts` left out so that its splits have nothing in common, by reason.

    Args:
        found: All that the source holds.
        dealt: Those of them that are in a split.

    Returns:
        "repeated" (the text is there again), "repeated_in_another_category" (again, in another category than the copy
        that counts), "contradictory" (and checked differently), "held_out" (made from the same instruction as one of
        the test or the validation); only what there is.
    """
    counts: Counter[str] = Counter()
    chosen = {prompt.prompt_id: prompt for prompt in dealt}
    held_out = {row.base_id for row in chosen.values() if not row.split.startswith("train-")}
    for copies in _copies(found):
        *others, kept = copies
        if not _agree(copies):
            counts["contradictory"] += len(copies)
            continue
        num_moved = sum(row.category != kept.category for row in others)
        counts += Counter({"repeated": len(others) - num_moved, RECATEGORIZED: num_moved})
        counts["held_out"] += kept.prompt_id not in chosen and kept.base_id in held_out
    return dict(sorted((+counts).items()))


def _unique(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Return one instruction of each text, whatever the order given; none where equal texts are checked differently."""
    return [copies[-1] for copies in _copies(prompts) if _agree(copies)]


def _copies(prompts: Iterable[Prompt]) -> list[list[Prompt]]:
    """Return the instructions of each text, the one that counts last.

    That is the one held out for the test, then validation, training, free; of several there, the one whose category
    comes last in the alphabet.
    """
    rank = {"": 0, "train": 1, "validation": 2, "test": 3}
    ordered = sorted(prompts, key=lambda row: (rank[row.split], row.category, row.prompt_id, row.base_id))
    same: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in ordered:
        same[same_text(prompt.text)].append(prompt)
    return list(same.values())


def _agree(copies: Sequence[Prompt]) -> bool:
    return all(row.checks == copies[0].checks for row in copies)


def _take_turns(prompts: Sequence[Prompt], *, seed: int) -> list[Prompt]:
    """Order prompts so that categories alternate; seeded, and independent of the order given."""
    by_category: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in sorted(prompts, key=lambda prompt: prompt.prompt_id):
        by_category[prompt.category].append(prompt)
    generator = random.Random(derive_seed(seed, "prompts"))
    for group in by_category.values():
        generator.shuffle(group)
    turns = [(turn, category) for category, group in by_category.items() for turn in range(len(group))]
    names = sorted(by_category)
    generator.shuffle(names)
    rank = {name: position for position, name in enumerate(names)}
    turns.sort(key=lambda item: (item[0], rank[item[1]]))
    return [by_category[category][turn] for turn, category in turns]


def require_all_fit(prompts: Iterable[Prompt], too_long: Mapping[str, int], *, max_model_len: int) -> None:
    """Raise where an instruction is too long, of a benchmark for example, which is whole or none.

    Args:
        prompts: The instructions.
        too_long: Those that are, with the tokens that they may need.
        max_model_len: Of the model.

    Raises:
        PromptError: Naming the first.
    """
    for prompt in prompts:
        if prompt.prompt_id in too_long:
            raise PromptError(too_long_text(prompt, too_long[prompt.prompt_id], max_model_len=max_model_len))


def too_long_text(prompt: Prompt, needed: int, *, max_model_len: int, more: str = "") -> str:
    """Return what to do about an instruction that may need so many tokens; `more` says which others may."""
    return (
        f"prompt {prompt.prompt_id} ({prompt.source}, {prompt.split}) may need {needed} tokens{more}, but "
        f"model.max_model_len is {max_model_len}: remove or shorten it, or lower sample.max_thought_tokens or "
        f"sample.max_response_tokens. It starts with {prompt.text[:80]!r}"
    )
