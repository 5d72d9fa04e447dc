"""What needs no reasoning-gym: which text is an answer, how tasks are dealt, and what is said where it is missing."""

import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tpo.checks import CheckError, check_type, passes, require_checks, share_passed
from tpo.checks.families import reasoning_gym as family
from tpo.checks.families.reasoning_gym import PACKAGE_VERSION, TASKS, answers, make_check
from tpo.config.check import check
from tpo.config.compose import compose_config
from tpo.config.fields import ConfigError, check_fields
from tpo.config.schema import Config
from tpo.sample.prompts import PromptError, deal, prompt_id
from tpo.sample.sources import reasoning_gym as source
from tpo.sample.sources.checked import CheckedPrompts
from tpo.sample.sources.reasoning_gym import ReasoningGymPrompts
from tpo.store.records import Check, Prompt

REPOSITORY = Path(__file__).parents[2]
SETTINGS = ReasoningGymPrompts(
    num_train=6,
    num_validation=4,
    num_test=6,
    num_each_unseen=2,
    tasks={"gcd": 2, "lcm": 1, "dice": 0},
    unseen_tasks=["products"],
    request="Say it.",
    max_iterations=3,
)


@dataclass
class Row:
    """How a task of the stand-in is set."""

    seed: int | None = None
    size: int = 500
    different: int = 2**40


class Package:
    """Stands in for reasoning-gym: row i of seed s asks for s + i, its scorer is the base class's."""

    factory = SimpleNamespace(DATASETS=dict.fromkeys(TASKS, (None, Row)))

    def __init__(self) -> None:
        self.seeds: list[tuple[str, int]] = []

    def create_dataset(self, task: str, **settings: Any) -> "Rows":
        if settings.get("different", 1) < 1:
            raise AssertionError("different must be positive")
        return Rows(task, Row(**settings), self.seeds)

    def get_score_answer_fn(self, task: str) -> Callable[[str, dict[str, Any]], float]:
        return score


@dataclass
class Rows:
    task: str
    config: Row
    seeds: list[tuple[str, int]]

    def __getitem__(self, index: int) -> dict[str, Any]:
        assert self.config.seed is not None
        seed = self.config.seed + index
        self.seeds.append((self.task, seed))
        number = seed % self.config.different
        return {"question": f"{self.task} of {number}?\n", "answer": str(number), "metadata": {"difficulty": {}}}


def score(answer: str, entry: dict[str, Any]) -> float:
    if answer == "raise":
        raise OverflowError
    right: str = entry["answer"]
    return len(right) / len(answer) if right in answer else 0.01


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    found = Package()
    for module in (family, source):
        monkeypatch.setattr(module, "load_package", lambda: found)
    family._scorer.cache_clear()
    yield found
    family._scorer.cache_clear()


def dealt(**changes: Any) -> list[Prompt]:
    return deal(replace(SETTINGS, **changes), seed=4)[0]


# --- what an answer is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "right", "strict", "loose"),
    [
        ("12", "12", True, True),
        (" 12.\n", "12", True, True),
        ("Ten and two.\nThe final answer is 12.", "12", True, True),
        ("The final answer is: 12", "12", True, True),
        ("The final answer is 11. No. The final answer is 12", "12", True, True),
        ("The final answer is 12. The final answer is 13", "12", False, False),
        ("The final answer is 12, I think.", "12", False, True),
        ("The final answer is **12**.", "12", False, True),
        ("the sum is 12.", "12", False, True),
        ("10 + 2 = 12", "12", False, True),
        ("That makes 1,012.", "1012", False, True),
        ("It fell from 2 to -12.5.", "-12.5", False, True),
        ("12 or 13", "12", False, False),
        ("It is \\boxed{12}, as one sees.", "12", False, True),
        ("Cannot say", "12", False, False),
        ("The final answer is", "12", False, False),
        ("a, b, c", "a, b, c", True, True),
        ("Sorted: a, b, c.", "a, b, c", False, True),
        ("Of 3 words:\n`a, b, c`", "a, b, c", False, True),
        ("The final answer is a, b, c\nThat is all.", "a, b, c", False, True),
        ("The last letter of b, c", "c", False, False),  # numbers alone are looked for within a line
        ("1 2\n3 4", "1 2\n3 4", True, True),
        ("The final answer is\n1 2\n3 4", "1 2\n3 4", True, True),
        ("Rotated:\n1 2\n3 4\n", "1 2\n3 4", False, True),
    ],
)
def test_the_answer_is_found_as_by_hand(package: Package, response: str, right: str, strict: bool, loose: bool) -> None:
    check = Check("reasoning_gym:gcd", {"entry": {"answer": right, "metadata": {}}})
    assert (passes(response, check), passes(response, check, rule="loose")) == (strict, loose)
    assert share_passed(response, [check]) == float(strict)
    tried = [list(answers(response, right, rule=rule)) for rule in ("strict", "loose")]
    assert tried[1][: len(tried[0])] == tried[0]


def test_an_empty_response_a_part_of_a_score_and_an_error_pass_nothing(package: Package) -> None:
    check = Check("reasoning_gym:gcd", {"entry": {"answer": "12", "metadata": {}}})
    for response in (None, "", " \n", "123", "raise", "12 12"):
        assert not passes(response, check)


def test_a_check_holds_what_its_scorer_needs_and_no_more() -> None:
    row = {"question": "?", "answer": "up", "metadata": {"matrix": [["*"]], "solution": ["up"], "difficulty": {}}}
    made = make_check("shortest_path", row)
    assert made == Check("reasoning_gym:shortest_path", {"entry": {"answer": "up", "metadata": {"matrix": [["*"]]}}})
    assert check_type(made) == "shortest_path"
    assert make_check("gcd", row).arguments == {"entry": {"answer": "up", "metadata": {}}}


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            Check("reasoning_gym:game_of_life_halting", {"entry": {"answer": "1", "metadata": {}}}),
            "are base_conversion",
        ),
        (Check("reasoning_gym", {"entry": {"answer": "1", "metadata": {}}}), "whose scorers were verified"),
        (Check("reasoning_gym:gcd", {}), "expected an entry that holds the answer, not"),
        (Check("reasoning_gym:gcd", {"entry": {"answer": 1, "metadata": {}}}), "expected an entry"),
        (Check("reasoning_gym:shortest_path", {"entry": {"answer": "", "metadata": {}}}), "the answer, matrix, not"),
        (
            Check("reasoning_gym:gcd", {"entry": {"answer": "raise", "metadata": {}}}),
            "does not score its answer 'raise'",
        ),
    ],
)
def test_a_check_that_cannot_be_made_is_named(package: Package, check: Check, message: str) -> None:
    with pytest.raises(CheckError, match=message):
        require_checks([check])


# --- where the package is missing -------------------------------------------------------------------------------


def absent(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (absent, f"needs the package reasoning-gym {PACKAGE_VERSION}, which is not installed: run `make setup-reas"),
        (lambda name: "0.1.24", "scorers were verified, but 0.1.24 is installed: run `make setup-reasoning-gym`"),
    ],
)
def test_what_to_install_is_said_in_one_sentence(
    version: Callable[[str], str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "version", version)
    family._scorer.cache_clear()
    held = Check("reasoning_gym:gcd", {"entry": {"answer": "1", "metadata": {}}})
    for make in (lambda: require_checks([held]), lambda: dealt(), lambda: passes("1", held)):
        with pytest.raises(CheckError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)
    config = compose_config(Config, ["experiment=smoke", "prompts=reasoning_gym", "prompts.max_iterations=4"])
    with pytest.raises(ConfigError, match=f"^prompts=reasoning_gym needs the package .*{message[-20:]}"):
        check(config)


def test_the_version_is_the_one_that_is_installed_for_it() -> None:
    pinned = (REPOSITORY / "requirements-reasoning-gym.txt").read_text()
    assert f"\nreasoning-gym=={PACKAGE_VERSION}\n" in pinned


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {"gdc": 1}}, r"prompts\.tasks: gdc is not among the tasks .*; did you mean gcd"),
        ({"tasks": {"prime_factorization": 1}}, "is not among the tasks whose scorers were verified"),
        ({"tasks": {}}, "no task has a weight above 0"),
        ({"tasks": {"gcd": 0}}, "no task has a weight above 0"),
        ({"tasks": {"gcd": -1}}, r"prompts\.tasks\.gcd=-1"),
        ({"unseen_tasks": ["gcd"]}, "so it is seen"),
        ({"unseen_tasks": ["nothing"]}, r"prompts\.unseen_tasks: nothing"),
        ({"settings": {"nothing": {}}}, r"prompts\.settings: nothing"),
        ({"settings": {"gcd": 3}}, r"prompts\.settings\.gcd=3: expected settings by name"),
        ({"settings": {"gcd": {"seed": 3}}}, "without seed and size"),
        ({"max_iterations": 0}, r"prompts\.max_iterations"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "version", lambda name: PACKAGE_VERSION)
    check_fields(SETTINGS, "prompts")
    check_fields(replace(SETTINGS, unseen_tasks=["dice"]), "prompts")  # which has weight 0
    with pytest.raises(ConfigError, match=message):
        check_fields(replace(SETTINGS, **changes), "prompts")


def test_the_group_file_names_tasks_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "version", lambda name: PACKAGE_VERSION)
    config = compose_config(Config, ["experiment=smoke", "prompts=reasoning_gym", "prompts.tasks.gcd=0"])
    assert isinstance(config.prompts, ReasoningGymPrompts)
    assert config.prompts.tasks["gcd"] == 0 and config.prompts.settings["products"]["max_digits"] == 1
    check(config)


def test_checks_of_a_base_instruction_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "version", lambda name: PACKAGE_VERSION)
    sizes = {"num_train": 6, "num_validation": 4, "num_test": 8}
    with pytest.raises(ConfigError, match="instructions of kind reasoning_gym cannot be a base"):
        check_fields(CheckedPrompts(**sizes, base={"gym": SETTINGS}, types={"no_comma": 1}), "prompts")


# --- dealing ----------------------------------------------------------------------------------------------------


def test_splits_have_their_sizes_and_tasks_their_weights(package: Package) -> None:
    found = dealt()
    assert Counter(row.split for row in found) == {
        "test": 8, "validation": 4, "train-1": 6, "train-2": 6, "train-3": 6,
    }  # fmt: skip
    assert Counter(row.category for row in found if row.split == "test") == {"gcd": 4, "lcm": 2, "products": 2}
    for number in (1, 2, 3):
        assert Counter(row.category for row in found if row.split == f"train-{number}") == {"gcd": 4, "lcm": 2}


def test_an_instruction_is_a_question_and_the_request(package: Package) -> None:
    for row in dealt():
        question, _, request = row.text.rpartition("\n")
        assert request == "Say it." and row.base_id == prompt_id(question)
        assert row.checks == (
            Check(
                f"reasoning_gym:{row.category}", {"entry": {"answer": question.split()[-1].strip("?"), "metadata": {}}}
            ),
        )
    assert all(row.text.endswith("?") and row.prompt_id == row.base_id for row in dealt(request=None))


def test_no_seed_serves_two_splits_and_no_question_comes_twice(package: Package) -> None:
    found = dealt()
    assert len(set(package.seeds)) == len(package.seeds) == len(found)
    assert len({row.base_id for row in found}) == len(found)
    few, loaded = deal(replace(SETTINGS, settings={"gcd": {"different": 40}}), seed=4)
    assert len({row.base_id for row in few}) == len(few) == len(loaded.prompts) == len(found)
    assert loaded.drops["repeated"] == len(package.seeds) - len(found) - len(few)


def test_dealing_depends_on_the_seed_alone_and_a_longer_run_keeps_what_a_shorter_one_has(package: Package) -> None:
    assert dealt() == dealt() != deal(SETTINGS, seed=5)[0]
    assert dealt(max_iterations=5)[:30] == dealt()


def test_a_task_without_enough_questions_is_named(package: Package) -> None:
    with pytest.raises(
        PromptError, match=r"prompts\.tasks\.lcm: .* too few different ones: widen prompts\.settings\.lcm"
    ):
        dealt(settings={"lcm": {"different": 5}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"diferent": 5}, r"prompts\.settings\.gcd: there is no diferent, only different; did you mean different"),
        ({"different": 0}, r"prompts\.settings\.gcd=\{'different': 0\}: .*different must be positive"),
    ],
)
def test_settings_that_a_task_does_not_take_are_named(package: Package, given: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        dealt(settings={"gcd": given})
