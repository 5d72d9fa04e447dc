"""Stage "contrast": preferences that need no label, since one response is worse by the way it was made.

In the spirit of the Self-Taught Evaluator (Wang et al. 2024, arXiv 2408.02666), whose losing responses answer a changed
instruction; a small model needs plainer faults, and each kind here is one. Of each kind as many pairs have the longer
response chosen as the shorter, so that length alone wins half of them. Pure.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tpo.evaluate.agreement.labelled import LabelError, load_preferences
from tpo.evaluate.winrate import outcome
from tpo.sample.prompts import prompt_id
from tpo.store.records import Completion, Preference, Prompt
from tpo.store.seeds import derive_seed

VERSION = 1
MIN_WORDS = 20  # of a response that loses by its form: in less there is little to see
WINDOW = 5  # words that change places when a response is scrambled


class Material(NamedTuple):
    """What the pairs of one instruction are made from."""

    prompt: Prompt
    plain: tuple[Completion, ...]  # as the policy samples
    greedy: Completion
    hot: Completion


class Fault(NamedTuple):
    """An instruction, a response to it, and one that is worse."""

    instruction: str
    chosen: str
    rejected: str


Maker = Callable[[Material, Completion, Sequence[Material], random.Random], Fault | None]


def make_preferences(
    materials: Sequence[Material],
    *,
    pairs_per_kind: Mapping[str, int],
    max_length_ratio: float,
    seed: int,
) -> list[Preference]:
    """Return the preferences of all kinds; `group` is the kind.

    Args:
        materials: Responses per instruction.
        pairs_per_kind: Kind to the largest number of pairs; fewer where the responses yield fewer.
        max_length_ratio: Pairs whose lengths in characters differ by a larger factor are left out.
        seed: Of every choice.

    Raises:
        LabelError: If a kind is unknown.
    """
    unknown = sorted(set(pairs_per_kind) - set(MAKERS))
    if unknown:
        raise LabelError(f"contrast.pairs_per_kind: unknown kinds {unknown}; there are {sorted(MAKERS)}")
    rows = []
    for kind, limit in sorted(pairs_per_kind.items()):
        found = list(_faults(kind, materials, seed=seed))
        rows += [_preference(fault, kind) for fault in _balance(found, limit, max_length_ratio=max_length_ratio)]
    return rows


def _faults(kind: str, materials: Sequence[Material], *, seed: int) -> Iterator[Fault]:
    samples = [(material, sample) for material in materials for sample in material.plain if sample.response]
    random.Random(derive_seed(seed, kind)).shuffle(samples)
    for material, sample in samples:
        rng = random.Random(derive_seed(seed, kind, material.prompt.prompt_id, sample.sample_index))
        fault = MAKERS[kind](material, sample, materials, rng)
        if fault is not None and fault.chosen.strip() and fault.rejected.strip() and fault.chosen != fault.rejected:
            yield fault


def _balance(faults: Sequence[Fault], limit: int, *, max_length_ratio: float) -> list[Fault]:
    """Return at most `limit` faults, the longer response chosen as often as the shorter."""
    sides: tuple[list[Fault], list[Fault]] = ([], [])
    for fault in faults:
        long, short = (edge(len(fault.chosen), len(fault.rejected)) for edge in (max, min))
        if long <= max_length_ratio * short:
            sides[len(fault.chosen) > len(fault.rejected)].append(fault)
    count = min(limit // 2, *map(len, sides))
    return [fault for pair in zip(sides[0][:count], sides[1][:count], strict=True) for fault in pair]


def _preference(fault: Fault, kind: str) -> Preference:
    # Which side is called a carries no information, so that nothing can be learnt from it.
    is_first = int(prompt_id(fault.instruction + fault.chosen), 16) % 2 == 0
    first, second = (fault.chosen, fault.rejected) if is_first else (fault.rejected, fault.chosen)
    return Preference(fault.instruction, first, second, float(is_first), kind)


def _greedy(material: Material, sample: Completion, _: Sequence[Material], rng: random.Random) -> Fault | None:
    """The most probable response: bland, and caught in repetitions (Holtzman et al. 2020). Both cut to one length."""
    words, greedy = (_words(row.response or "") for row in (sample, material.greedy))
    shorter = min(len(words), len(greedy))
    if shorter < MIN_WORDS or sample.response == material.greedy.response:
        return None
    count = rng.randint(max(MIN_WORDS, shorter // 2), shorter)
    return Fault(material.prompt.text, "".join(words[:count]).rstrip(), "".join(greedy[:count]).rstrip())


def _hot(material: Material, sample: Completion, _: Sequence[Material], __: random.Random) -> Fault | None:
    return Fault(material.prompt.text, sample.response or "", material.hot.response or "")


def _other(material: Material, sample: Completion, materials: Sequence[Material], rng: random.Random) -> Fault | None:
    """Another instruction's response, of the same category where there is one: about nearly the right thing."""
    others = [
        row.response
        for other in materials
        if other.prompt.category == material.prompt.category and other.prompt.prompt_id != material.prompt.prompt_id
        for row in other.plain
        if row.response
    ]
    if not others:
        return None
    size = len(sample.response or "") * rng.uniform(0.8, 1.25)
    return Fault(material.prompt.text, sample.response or "", min(others, key=lambda text: abs(len(text) - size)))


def _repetitive(material: Material, sample: Completion, _: Sequence[Material], rng: random.Random) -> Fault | None:
    """The first sentences over and over, to about the length of the response."""
    text = sample.response or ""
    sentences = re.findall(r"[^.!?\n]+[.!?]*\s*", text)
    if len(sentences) < 4:
        return None
    kept = sentences[: max(1, len(sentences) // 3)]
    size = len(text) * rng.uniform(0.8, 1.25)
    repeated = "".join(kept)
    while len(repeated) < size:
        repeated += kept[rng.randrange(len(kept))]
    return Fault(material.prompt.text, text, repeated.rstrip())


def _scrambled(material: Material, sample: Completion, _: Sequence[Material], rng: random.Random) -> Fault | None:
    """Words change places within short windows, white space stays; one is dropped or doubled, so that length varies."""
    words = _words(sample.response or "")
    if len(words) < MIN_WORDS:
        return None
    texts, gaps = [word.rstrip() for word in words], [word[len(word.rstrip()) :] for word in words]
    shuffled: list[str] = []
    for start in range(0, len(texts), WINDOW):
        window = texts[start : start + WINDOW]
        rng.shuffle(window)
        shuffled += window
    parts = [text + gap for text, gap in zip(shuffled, gaps, strict=True)]
    position = rng.randrange(len(parts))
    parts[position] *= rng.choice((0, 2))
    return Fault(material.prompt.text, sample.response or "", "".join(parts).strip())


def _cut_short(material: Material, sample: Completion, _: Sequence[Material], rng: random.Random) -> Fault | None:
    """A response that ended by itself against another one cut in the middle of a sentence."""
    others = [row for row in material.plain if row.sample_index != sample.sample_index]
    if sample.finish_reason != "stop" or not others:
        return None
    words = _words(rng.choice(others).response or "")
    complete = len(_words(sample.response or ""))
    count = round(complete * rng.uniform(0.7, 1.4))
    if count < MIN_WORDS or count >= len(words):
        return None
    cut = "".join(words[:count]).rstrip().rstrip(".!?:;,")
    return Fault(material.prompt.text, sample.response or "", cut)


def _constraint(material: Material, sample: Completion, _: Sequence[Material], rng: random.Random) -> Fault | None:
    """A constraint on the form, kept by one version of a response and not by the other."""
    text = (sample.response or "").strip()
    sentences = _sentences(text)
    if len(sentences) < 3:
        return None
    word, other = rng.sample(["Certainly", "Well", "First", "Briefly", "Indeed", "Honestly"], 2)
    ending, wrong = rng.sample(["That is all.", "I hope this helps.", "Over to you.", "Let me know.", "Good luck!"], 2)
    bullets = "\n".join(f"* {sentence}" for sentence in sentences)
    options = [
        ("Write everything in lowercase letters.", text.lower(), text),
        ("Write everything in capital letters.", text.upper(), text),
        ("Do not use any commas.", text.replace(",", ""), text),
        (f"Begin your answer with the word {word}.", f"{word}, {text}", f"{other}, {text}"),
        (f'End your answer with "{ending}"', f"{text} {ending}", f"{text} {wrong}"),
        ("Answer with a list of bullet points.", bullets, text),
        ("Do not use a list or bullet points.", text, bullets),
        ("Answer in two sentences.", " ".join(sentences[:2]), " ".join(sentences[:3])),
        ("Answer in three sentences.", " ".join(sentences[:3]), " ".join(sentences[:2])),
    ]
    constraint, chosen, rejected = options[rng.randrange(len(options))]
    return Fault(f"{material.prompt.text}\n\n{constraint}", chosen, rejected)


MAKERS: dict[str, Maker] = {
    "constraint": _constraint,
    "cut_short": _cut_short,
    "greedy": _greedy,
    "hot": _hot,
    "other_instruction": _other,
    "repetitive": _repetitive,
    "scrambled": _scrambled,
}


def _words(text: str) -> list[str]:
    """Return the words with the white space after each, so that joining them gives the text."""
    return re.findall(r"\S+\s*", text)


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", text) if part.strip()]


def gather(
    prompts: Sequence[Prompt],
    plain: Sequence[Completion],
    greedy: Sequence[Completion],
    hot: Sequence[Completion],
) -> list[Material]:
    """Return the responses by instruction."""
    by_id: dict[str, list[Completion]] = {}
    for row in plain:
        by_id.setdefault(row.prompt_id, []).append(row)
    greedy_by_id, hot_by_id = ({row.prompt_id: row for row in rows} for rows in (greedy, hot))
    return [
        Material(prompt, tuple(by_id[prompt.prompt_id]), greedy_by_id[prompt.prompt_id], hot_by_id[prompt.prompt_id])
        for prompt in prompts
        if prompt.prompt_id in by_id
    ]


def length_accuracy(preferences: Sequence[Preference]) -> float | None:
    """Return how often the longer response is the preferred one, ties one half; None without preferences."""
    wins = []
    for row in preferences:
        longer = outcome(len(row.response_a), len(row.response_b))
        if row.preference != 0.5:
            wins.append(longer if row.preference > 0.5 else 1 - longer)
    return sum(wins) / len(wins) if wins else None


def split_preferences(path: Path, *, held_out_fraction: float, seed: int) -> tuple[list[Preference], list[Preference]]:
    """Return the labelled preferences of a file, to learn from and held out; an instruction is on one side only.

    Raises:
        LabelError: If the file is not as `tpo.evaluate.agreement.labelled` reads it, or all rows fall on one side.
    """
    train: list[Preference] = []
    held_out: list[Preference] = []
    for row in load_preferences(path):
        is_held_out = derive_seed(seed, row.instruction) % 10_000 < 10_000 * held_out_fraction
        (held_out if is_held_out else train).append(row)
    if not train or not held_out:
        raise LabelError(
            f"{path}: {len(train)} preferences to learn from and {len(held_out)} held out; both must be some: use more "
            "instructions or another held_out_fraction"
        )
    return train, held_out
