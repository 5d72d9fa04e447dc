"""Self-made preferences: which response must win, that length cannot, and where they come from."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from tpo.evaluate.agreement.labelled import LabelError
from tpo.judge.contrast import MAKERS, Material, gather, length_accuracy, make_preferences, split_preferences
from tpo.sample.prompts import make_prompt
from tpo.store.records import Completion, Preference

WORDS = ["river", "stone", "cloud", "lamp", "garden", "winter", "letter", "market", "silver", "engine", "window"]


def completion(prompt_id: str, index: int, text: str | None, *, finish_reason: str = "stop") -> Completion:
    return Completion(prompt_id, index, [1], [2], 0, 0, False, text or "", None, text, None, finish_reason, 0, 5, 0)


def prose(rng: random.Random, sentences: int) -> str:
    return " ".join(
        " ".join(rng.choices(WORDS, k=rng.randint(5, 12))).capitalize() + rng.choice([".", ", and so on.", "!"])
        for _ in range(sentences)
    )


def make_materials(count: int = 60) -> list[Material]:
    materials = []
    for number in range(count):
        rng = random.Random(number)
        prompt = make_prompt(f"Question {number}?", category=f"c{number % 4}", source="t", split="train", where="t")
        plain = tuple(completion(prompt.prompt_id, index, prose(rng, rng.randint(4, 14))) for index in range(2))
        greedy = completion(prompt.prompt_id, 0, prose(rng, 2) * 5, finish_reason="length")
        hot = completion(prompt.prompt_id, 0, prose(rng, rng.randint(4, 14)).swapcase())
        materials.append(Material(prompt, plain, greedy, hot))
    return materials


MATERIALS = make_materials()
ALL = dict.fromkeys(MAKERS, 40)


def chosen_and_rejected(row: Preference) -> tuple[str, str]:
    assert row.preference in (0.0, 1.0)
    return (row.response_a, row.response_b) if row.preference == 1.0 else (row.response_b, row.response_a)


def made(kind: str) -> list[tuple[str, str, str]]:
    rows = make_preferences(MATERIALS, pairs_per_kind={kind: 40}, max_length_ratio=1.5, seed=0)
    assert len(rows) >= 10, "too few to say anything"
    return [(row.instruction, *chosen_and_rejected(row)) for row in rows]


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_length_alone_wins_half_of_each_kind(kind: str) -> None:
    rows = make_preferences(MATERIALS, pairs_per_kind={kind: 40}, max_length_ratio=1.5, seed=0)
    longer = shorter = 0
    for row in rows:
        chosen, rejected = chosen_and_rejected(row)
        assert max(len(chosen), len(rejected)) <= 1.5 * min(len(chosen), len(rejected))
        longer += len(chosen) > len(rejected)
        shorter += len(chosen) < len(rejected)
    assert longer == len(rows) / 2
    assert shorter <= longer  # the rest are of equal length
    assert 0.5 <= (length_accuracy(rows) or 0) <= 0.5 + (len(rows) - longer - shorter) / len(rows)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_position_says_nothing(kind: str) -> None:
    rows = make_preferences(MATERIALS, pairs_per_kind={kind: 40}, max_length_ratio=1.5, seed=0)
    assert 0.2 <= sum(row.preference for row in rows) / len(rows) <= 0.8


def test_chosen_responses_are_the_policys_own() -> None:
    plain = {row.response for material in MATERIALS for row in material.plain}
    for kind in set(MAKERS) - {"constraint", "greedy"}:
        assert all(chosen in plain and rejected not in ("", chosen) for _, chosen, rejected in made(kind))


def test_greedy_and_its_better_are_cut_to_one_number_of_words() -> None:
    for _, chosen, rejected in made("greedy"):
        assert len(chosen.split()) == len(rejected.split())
        assert any(row.response and row.response.startswith(chosen) for item in MATERIALS for row in item.plain)
        assert any((item.greedy.response or "").startswith(rejected) for item in MATERIALS)


def test_other_instruction_is_of_the_same_category() -> None:
    where = {row.response: item.prompt for item in MATERIALS for row in item.plain}
    for instruction, chosen, rejected in made("other_instruction"):
        assert where[chosen].text == instruction != where[rejected].text
        assert where[chosen].category == where[rejected].category


def test_repetitive_holds_fewer_sentences_more_often() -> None:
    for _, chosen, rejected in made("repetitive"):
        unlike = [set(re.split(r"(?<=[.!]) ", text)) for text in (chosen, rejected)]
        assert unlike[1] < unlike[0], "nothing new, and not everything"


def test_scrambled_holds_the_same_words_but_one() -> None:
    for _, chosen, rejected in made("scrambled"):
        difference = Counter(chosen.split())
        difference.subtract(Counter(rejected.split()))
        assert sorted(count for count in difference.values() if count) in ([1], [-1])


def test_cut_short_ends_in_the_middle_of_a_sentence() -> None:
    for _, chosen, rejected in made("cut_short"):
        assert chosen[-1] in ".!"
        assert rejected[-1] not in ".!?"


def test_responses_that_were_cut_off_never_stand_for_complete_ones() -> None:
    cut = [
        item._replace(plain=tuple(completion(row.prompt_id, row.sample_index, row.response, finish_reason="length")
                                  for row in item.plain))
        for item in MATERIALS
    ]  # fmt: skip
    assert make_preferences(cut, pairs_per_kind={"cut_short": 40}, max_length_ratio=1.5, seed=0) == []


def obeys(constraint: str, text: str) -> bool:
    sentences = [part for part in text.replace("!", ".").split(".") if part.strip()]
    match constraint.split():
        case ["Write", _, "in", "lowercase", *_]:
            return text == text.lower()
        case ["Write", _, "in", "capital", *_]:
            return text == text.upper()
        case ["Do", "not", "use", "any", *_]:
            return "," not in text
        case ["Begin", *_, word]:
            return text.startswith(word.rstrip("."))
        case ["End", *_]:
            return text.endswith(constraint.split('"')[1])
        case ["Answer", "with", *_]:
            return text.startswith("* ")
        case ["Do", "not", "use", "a", *_]:
            return "* " not in text
        case ["Answer", "in", number, *_]:
            return len(sentences) == {"two": 2, "three": 3}[number]
    raise AssertionError(f"unknown constraint {constraint!r}")


def test_constraints_are_kept_by_the_chosen_and_broken_by_the_rejected() -> None:
    kinds = set()
    for instruction, chosen, rejected in made("constraint"):
        constraint = instruction.split("\n\n")[1]
        kinds.add(" ".join(constraint.split()[:4]))
        assert obeys(constraint, chosen)
        assert not obeys(constraint, rejected)
    assert len(kinds) >= 6


def test_same_seed_same_pairs_and_another_seed_others() -> None:
    first = make_preferences(MATERIALS, pairs_per_kind=ALL, max_length_ratio=1.5, seed=1)
    assert first == make_preferences(MATERIALS, pairs_per_kind=ALL, max_length_ratio=1.5, seed=1)
    assert first != make_preferences(MATERIALS, pairs_per_kind=ALL, max_length_ratio=1.5, seed=2)
    assert Counter(row.group for row in first).keys() == MAKERS.keys()


def test_zero_leaves_a_kind_out_and_an_unknown_one_is_refused() -> None:
    rows = make_preferences(MATERIALS, pairs_per_kind={"hot": 0, "scrambled": 6}, max_length_ratio=1.5, seed=0)
    assert Counter(row.group for row in rows) == {"scrambled": 6}
    with pytest.raises(LabelError, match=r"unknown kinds \['funny'\]"):
        make_preferences(MATERIALS, pairs_per_kind={"funny": 3}, max_length_ratio=1.5, seed=0)


def test_instructions_without_responses_make_no_pairs() -> None:
    silent = [
        item._replace(plain=tuple(completion(row.prompt_id, row.sample_index, None) for row in item.plain))
        for item in MATERIALS
    ]
    assert make_preferences(silent, pairs_per_kind=ALL, max_length_ratio=1.5, seed=0) == []
    assert length_accuracy([]) is None


def test_gather_joins_by_instruction_not_by_position() -> None:
    prompts = [item.prompt for item in MATERIALS[:3]]
    plain = [row for item in reversed(MATERIALS[:2]) for row in item.plain]
    greedy, hot = ([getattr(item, name) for item in reversed(MATERIALS[:3])] for name in ("greedy", "hot"))
    assert gather(prompts, plain, greedy, hot) == MATERIALS[:2], "an instruction without responses is left out"


def write_rows(path: Path, count: int) -> Path:
    rows = [
        {"instruction": f"I{number // 2}", "response_a": "a", "response_b": "b", "preference": 1.0}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_split_keeps_an_instruction_on_one_side(tmp_path: Path) -> None:
    train, held_out = split_preferences(write_rows(tmp_path / "p.jsonl", 400), held_out_fraction=0.25, seed=0)
    sides = [{row.instruction for row in side} for side in (train, held_out)]
    assert not sides[0] & sides[1]
    assert len(train) + len(held_out) == 400
    assert 60 <= len(held_out) <= 140


def test_split_with_an_empty_side_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="0 held out"):
        split_preferences(write_rows(tmp_path / "p.jsonl", 4), held_out_fraction=0.0, seed=0)
