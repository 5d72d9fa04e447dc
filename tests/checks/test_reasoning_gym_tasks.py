"""The tasks of reasoning-gym that may be used, verified on the package itself: rows, scorers, answers by oracles."""

import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tpo.checks import passes, require_checks
from tpo.checks.families.reasoning_gym import TASKS, load_package, make_check
from tpo.sample.prompts import deal
from tpo.sample.sources.reasoning_gym import ReasoningGymPrompts
from tpo.store.records import Check, Prompt, read_records, write_records

pytestmark = pytest.mark.reasoning_gym
pytest.importorskip("reasoning_gym", reason="make setup-reasoning-gym")

REPOSITORY = Path(__file__).parent.parent.parent
NUM_ROWS = 200
EASY = {"chain_sum": {"max_terms": 3, "max_digits": 1}, "products": {"max_digits": 1}}


@cache
def rows(task: str, **settings: Any) -> list[dict[str, Any]]:
    data = load_package().create_dataset(task, seed=5, size=2**28, **settings)
    return [data[index] for index in range(NUM_ROWS)]


def stored(check: Check) -> Check:
    """The check as it is read back from an artifact."""
    return Check(check.name, json.loads(json.dumps(check.arguments)))


# --- the answers ------------------------------------------------------------------------------------------------


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", text)]


def grid(text: str) -> list[list[str]]:
    """The rows of a text that consist of single characters with spaces between them."""
    return [line.split() for line in text.splitlines() if re.fullmatch(r"\S( \S)+", line.strip())]


def value(expression: str) -> Fraction:
    exact = re.sub(r"\d+(?:\.\d+)?", lambda match: f"Fraction('{match[0]}')", expression)
    result = eval(exact, {"Fraction": Fraction})
    assert isinstance(result, Fraction)
    return result


def between(text: str, start: str, end: str) -> str:
    return text.split(start)[1].rsplit(end, 1)[0]


def same_value(expression: Callable[[str], str]) -> Callable[[str, str], bool]:
    return lambda question, answer: Fraction(answer) == value(expression(question))


def in_base(digits: str, base: int) -> int:
    return int(digits, base)


def base_conversion(question: str, answer: str) -> bool:
    names = {"binary": 2, "hexadecimal": 16}
    source, number, target = re.findall(r"convert the (\S+) number (\w+) to (\S+)", question)[0]
    first, second = (names.get(name) or int(name.removeprefix("base-")) for name in (source, target))
    return int(number, first) == int(answer, second) and answer == answer.lower()


def odds(question: str, answer: str) -> bool:
    sides, target = numbers(question.split("What")[0].replace("1d", "")), numbers(question.split("rolling ")[1])[0]
    ways = Counter({0: 1})
    for side in sides:
        ways = Counter(
            {total: sum(ways[total - face] for face in range(1, side + 1)) for total in range(1, max(ways) + side + 1)}
        )
    wanted = Fraction(sum(count for total, count in ways.items() if total >= target), math.prod(sides))
    return answer in {str(wanted), f"{wanted.numerator}/{wanted.denominator}"}


LEGS = {
    "ant": 6, "bee": 6, "beetle": 6, "bird": 2, "butterfly": 6, "cat": 4, "chicken": 2, "cockroach": 6, "cow": 4,
    "crab": 10, "cricket": 6, "deer": 4, "dog": 4, "duck": 2, "elephant": 4, "firefly": 6, "flatworm": 0, "giraffe": 4,
    "grasshopper": 6, "horse": 4, "human": 2, "insect": 6, "jellyfish": 0, "leech": 0, "lion": 4, "lobster": 10,
    "praying mantis": 6, "scorpion": 8, "sea slug": 0, "sheep": 4, "shrimp": 10, "snake": 0, "spider": 8, "starfish": 5,
    "tiger": 4, "wasp": 6, "woodlouse": 14,
}  # fmt: skip


def legs(question: str, answer: str) -> bool:
    listed = between(question.replace("\n", " "), "if you have ", "?").split(", ")
    pairs = [item.split(" ", 1) for item in listed]
    return int(answer) == sum(
        int(count) * LEGS[name if name in LEGS else name.removesuffix("s")] for count, name in pairs
    )


def caesar(question: str, answer: str) -> bool:
    cipher = between(question, "text: ", ". Provide")
    shifts = {(ord(a) - ord(b)) % 26 for a, b in zip(cipher, answer, strict=True) if b.isalpha()}
    return len(shifts) == 1 and all(a == b for a, b in zip(cipher, answer, strict=True) if not b.isalpha())


def palindrome(question: str, answer: str) -> bool:
    letters = question.strip().rsplit(": ", 1)[1].split(", ")
    return answer == answer[::-1] and sorted(answer) == sorted(letters)


def rotated(question: str, answer: str) -> bool:
    matrix = np.array(grid(question))
    turns = int(re.findall(r"by (\d+) degrees", question)[0]) // 90
    return bool((np.array(grid(answer)) == np.rot90(matrix, -turns)).all())


def neighbours(cell: tuple[int, int], cells: Any) -> list[tuple[int, int]]:
    row, column = cell
    around = ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1))
    return [other for other in around if other in cells]


def distances(starts: list[tuple[int, int]], cells: Any) -> dict[tuple[int, int], int]:
    found, queue = dict.fromkeys(starts, 0), deque(starts)
    while queue:
        cell = queue.popleft()
        for other in neighbours(cell, cells):
            if other not in found:
                found[other] = found[cell] + 1
                queue.append(other)
    return found


def cells_of(lines: list[list[str]]) -> dict[tuple[int, int], str]:
    return {(row, column): mark for row, line in enumerate(lines) for column, mark in enumerate(line)}


def island(question: str, answer: str) -> bool:
    land = {cell for cell, mark in cells_of(grid(question)).items() if mark == "1"}
    return int(answer) == max((len(distances([cell], land)) for cell in land), default=0)


def oranges(question: str, answer: str) -> bool:
    marks = {cell: mark for cell, mark in cells_of(grid(question)).items() if mark != "0"}
    reached = distances([cell for cell, mark in marks.items() if mark == "2"], marks)
    return int(answer) == (max(reached.values(), default=0) if reached.keys() == marks.keys() else -1)


def shortest(question: str, answer: str) -> bool:
    marks = {cell: mark for cell, mark in cells_of(grid(question)).items() if mark != "X"}
    [start], [end] = ([cell for cell, mark in marks.items() if mark == wanted] for wanted in "*#")
    found = distances([start], marks)
    if answer == "infeasible":
        return end not in found
    steps = {"down": (1, 0), "up": (-1, 0), "right": (0, 1), "left": (0, -1)}
    cell = start
    for step in answer.split():
        cell = (cell[0] + steps[step][0], cell[1] + steps[step][1])
        assert cell in marks
    return cell == end and len(answer.split()) == found[end]


def sudoku_is_valid(board: tuple[tuple[str, ...], ...]) -> bool:
    parts = [
        *board,
        *zip(*board, strict=True),
        *([board[r + i][c + j] for i in (0, 1) for j in (0, 1)] for r in (0, 2) for c in (0, 2)),
    ]
    return all(len(set(part)) == 4 for part in parts)


@cache
def sudokus() -> list[tuple[tuple[str, ...], ...]]:
    lines = list(itertools.permutations("1234"))
    return [board for board in itertools.product(lines, repeat=4) if sudoku_is_valid(board)]


def sudoku(question: str, answer: str) -> bool:
    puzzle = grid(question)
    fitting = [
        board
        for board in sudokus()
        if all(
            mark in ("_", digit)
            for line, digits in zip(puzzle, board, strict=True)
            for mark, digit in zip(line, digits, strict=True)
        )
    ]
    return fitting == [tuple(map(tuple, grid(answer)))]  # there is no other


def cube(question: str, answer: str) -> bool:
    sides = {side: color for color, side in re.findall(r"an? (\w+) (\w+) side", question)}
    turns = {  # which side comes up: where each side's new color comes from
        "right": ("top", "right", "bottom", "left"),
        "left": ("top", "left", "bottom", "right"),
        "front": ("top", "front", "bottom", "back"),
        "back": ("top", "back", "bottom", "front"),
    }
    for line in question.split("What is now")[0].splitlines():
        if "rotated" not in line and "turned" not in line:
            continue
        [side] = {word for word in re.findall(r"\w+", line) if word in {*turns, "bottom"}} - {"top"}
        for ring in [turns["front"]] * 2 if side == "bottom" else [turns[side]]:
            sides |= {ring[place]: sides[ring[(place + 1) % 4]] for place in range(4)}
    return answer == sides[re.findall(r"of the (\w+) side", question)[0]]


def reversed_words(question: str, answer: str) -> bool:
    return answer.split(", ") == question.strip().rsplit(": ", 1)[1].split(", ")[::-1]


def sorted_words(question: str, answer: str) -> bool:
    words = question.strip().rsplit(": ", 1)[1].split(", ")
    is_descending = "in descending order" in question
    return answer.split(", ") == sorted(words, reverse=is_descending)


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def primes(question: str, answer: str) -> bool:
    low, high = numbers(question)
    return int(answer) == sum(map(is_prime, range(low, high + 1)))


ORACLES: dict[str, Callable[[str, str], bool]] = {
    "base_conversion": base_conversion,
    "caesar_cipher": caesar,
    "chain_sum": same_value(lambda question: between(question, "problem: ", " =")),
    "color_cube_rotation": cube,
    "count_bits": lambda question, answer: numbers(question)[1].bit_count() == int(answer),
    "count_primes": primes,
    "decimal_chain_sum": same_value(lambda question: between(question, "problem: ", " =")),
    "dice": odds,
    "gcd": lambda question, answer: math.gcd(*numbers(question)) == int(answer),
    "largest_island": island,
    "lcm": lambda question, answer: math.lcm(*numbers(question)) == int(answer),
    "leg_counting": legs,
    "letter_counting": lambda question, answer: (
        between(question, "text: ", "?").lower().count(between(question, 'letter "', '" appear').lower()) == int(answer)
    ),
    "mini_sudoku": sudoku,
    "palindrome_generation": palindrome,
    "products": same_value(lambda question: between(question, "multiplication: ", ". Give")),
    "rotate_matrix": rotated,
    "rotten_oranges": oranges,
    "shortest_path": shortest,
    "spell_backward": lambda question, answer: question.rsplit(": ", 1)[1].strip() == answer[::-1],
    "word_sequence_reversal": reversed_words,
    "word_sorting": sorted_words,
}


def test_every_task_has_an_oracle() -> None:
    assert sorted(ORACLES) == list(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_the_answer_is_what_follows_from_the_question(task: str) -> None:
    wrong = [row for row in rows(task) if not ORACLES[task](row["question"], row["answer"])]
    assert not wrong, wrong[0]


@pytest.mark.parametrize("task", EASY)
def test_so_it_is_with_one_digit(task: str) -> None:
    assert all(ORACLES[task](row["question"], row["answer"]) for row in rows(task, **EASY[task]))


# --- the scorers ------------------------------------------------------------------------------------------------

DEGENERATE = [
    " ", "\n", ".", ",", "-", "a", "0", "1", "-1", "True", "Yes", "None", "null", "[]", "{}", "()", "[[]]", "NaN",
    "inf", "1/0", "0/0", "1e999999999", "9" * 5000, "[" * 5000, "(" * 3000, "yes " * 60, "I cannot answer that.", "²",
    "\x00", " ".join(map(str, range(300))), "abcdefghijklmnopqrstuvwxyz", '{"a": 1}', "[1, 2, 3]", "infeasible",
    "__import__('sys').modules.setdefault('RUN', 1)",
]  # fmt: skip


def around(row: dict[str, Any]) -> Iterator[str]:
    """Texts that hold the right answer, or most of it, and something else."""
    right, question = row["answer"], row["question"]
    yield from (
        f"{right} I think",
        f"{right} {right}",
        f"{right} or 7",
        f"It is {right}",
        f"{right}\n{question}",
        question,
    )
    yield from (f"{question}\n{right}", right[: len(right) // 2], right[1:])


def is_the_same(first: str, second: str) -> bool:
    try:
        return Fraction(first) == Fraction(second)
    except (ValueError, ZeroDivisionError):
        return first.strip().casefold() == second.strip().casefold()


@pytest.mark.parametrize("task", TASKS)
def test_the_right_answer_passes_and_nothing_else_does(task: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing else but another right one, such as another shortest path."""
    state, numpy_state = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index, union-attr]
    found = rows(task)[:40]
    for row in found:
        check = stored(make_check(task, row))
        require_checks([check])
        for response in (row["answer"], f"That is it.\nThe final answer is {row['answer']}."):
            assert passes(response, check)
        others = [other["answer"] for other in found]
        for text in (*DEGENERATE, *others, *around(row)):
            if passes(text, check):
                assert is_the_same(text, row["answer"]) or ORACLES[task](row["question"], text), (text, row)
        assert not passes("", check)
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == (state, numpy_state)  # type: ignore[index, union-attr]
    assert "RUN" not in sys.modules
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("task", TASKS)
def test_a_check_holds_all_that_the_scorer_needs(task: str) -> None:
    package = load_package()
    score, other = (package.create_dataset(task, seed=seed).score_answer for seed in (1, 2))
    for row in rows(task)[:20]:
        entry = stored(make_check(task, row)).arguments["entry"]
        for text in (row["answer"], f"{row['answer']} ", rows(task)[30]["answer"], "7", "a, b", "1 2\n3 4"):
            assert score(text, row) == score(text, entry) == other(text, entry)
        assert len(json.dumps(entry)) < len(json.dumps(row))


@pytest.mark.parametrize("task", TASKS)
def test_no_constant_answer_is_right_half_the_time(task: str) -> None:
    [(_, count)] = Counter(row["answer"] for row in rows(task)).most_common(1)
    assert count <= NUM_ROWS / 2
    assert len({row["question"] for row in rows(task)}) > 0.7 * NUM_ROWS


# --- the rows ---------------------------------------------------------------------------------------------------

ROWS = """
import json, random, socket, sys
def refuse(*_, **__): raise OSError("no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
random.seed(int(sys.argv[1]))
import numpy; numpy.random.seed(int(sys.argv[1]))
from tpo.checks.families.reasoning_gym import TASKS
from tpo.sample.prompts import deal
from tpo.sample.sources.reasoning_gym import ReasoningGymPrompts
settings = ReasoningGymPrompts(num_train=100, num_validation=50, num_test=100, tasks=dict.fromkeys(TASKS, 1))
rows, _ = deal(settings, seed=3)
print(json.dumps([[row.text, row.split, row.checks[0].arguments] for row in rows], sort_keys=True))
"""


def test_rows_depend_on_the_seed_alone() -> None:
    written = set()
    for number in ("0", "1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", ROWS, number],
            env={**os.environ, "PYTHONHASHSEED": number, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        )
        written.add(done.stdout)
    assert len(written) == 1 and len(json.loads(written.pop())) == 950


def test_instructions_travel_as_rows_and_share_no_question(tmp_path: Path) -> None:
    settings = ReasoningGymPrompts(
        num_train=30,
        num_validation=20,
        num_test=60,
        tasks={"chain_sum": 2, "products": 1},
        unseen_tasks=["gcd"],
        settings=EASY,
        request="Say it.",
        max_iterations=2,
    )
    dealt, found = deal(settings, seed=1)
    write_records(tmp_path / "rows.jsonl", dealt)
    assert list(read_records(tmp_path / "rows.jsonl", Prompt)) == dealt
    assert len({row.base_id for row in dealt}) == len(dealt) == 160
    assert found.drops["repeated"] > 0, "one-digit products are few"
    assert {row.split for row in dealt if row.category == "gcd"} == {"test"}
    assert all(row.text.endswith("\nSay it.") for row in dealt)
