from typing import Any

import pytest

from tpo.evaluate.checked import check_responses
from tpo.results.checked import by_type, checked_change, pass_rates, split_unseen, summarize
from tpo.results.rate import Rate
from tpo.results.stats import mean_interval
from tpo.store.records import Check, CheckResult, Completion, Prompt

FLOOR = Check("floor:different_words", {"count": 3})
NO_COMMA = Check("punctuation:no_comma", {})
TITLE = Check("detectable_format:title", {})


def prompt(name: str, *checks: Check, base: str) -> Prompt:
    return Prompt(name, f"Say {name}.", "any", "here", "test", (*checks, FLOOR), base)


def completion(name: str, index: int, response: str | None) -> Completion:
    values: dict[str, Any] = dict.fromkeys(Completion.__struct_fields__, 0)
    error = None if response is not None else "empty_response"
    return Completion(
        **{**values, "prompt_id": name, "sample_index": index, "response": response, "split_error": error}
    )


PROMPTS = [prompt("a", NO_COMMA, base="x"), prompt("b", TITLE, base="x"), prompt("c", NO_COMMA, TITLE, base="y")]
COMPLETIONS = [
    completion("a", 0, "It rises slowly."),  # passes
    completion("a", 1, "It, rises, slowly."),
    completion("b", 0, "*<<Bread>>* it rises"),  # passes
    completion("b", 1, "Bread: it rises"),
    completion("c", 0, "<<Bread>> it, rises"),  # the title only
    completion("c", 1, None),
]


def results() -> list[CheckResult]:
    return list(check_responses(PROMPTS, COMPLETIONS))


def test_every_check_of_every_response_has_a_row_by_every_rule() -> None:
    rows = results()
    assert len(rows) == 2 * (2 + 2 + 4)  # rules x checks of all responses, floors left out
    assert {(row.prompt_id, row.check_index, row.name) for row in rows} == {
        ("a", 0, "no_comma"), ("b", 0, "title"), ("c", 0, "no_comma"), ("c", 1, "title"),
    }  # fmt: skip
    assert [row.is_passed for row in rows if row.prompt_id == "c" and row.rule == "strict"] == [False, True] + 2 * [
        False
    ]
    assert {row.error for row in rows if row.sample_index == 1 and row.prompt_id == "c"} == {"empty_response"}


def test_a_response_passes_where_all_of_its_checks_do() -> None:
    assert pass_rates(results()) == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert by_type(results()) == {"no_comma": {"a": 0.5, "c": 0.0}, "title": {"b": 0.5, "c": 0.5}}


def test_an_instruction_with_one_unseen_check_is_apart() -> None:
    inside, outside = split_unseen(results(), unseen=["title"])
    assert (pass_rates(inside), pass_rates(outside)) == ({"a": 0.5}, {"b": 0.5, "c": 0.0})
    assert [row for row in results() if row in inside] == inside and len(inside) + len(outside) == len(results())


def test_loose_passes_what_strict_passes_and_more() -> None:
    [row] = [prompt("a", Check("keywords:forbidden_words", {"forbidden_words": ["sure"]}), base="a")]
    found = list(check_responses([row], [completion("a", 0, "Sure!\nIt rises in an hour")]))
    assert (pass_rates(found), pass_rates(found, rule="loose")) == ({"a": 0.0}, {"a": 1.0})


def test_rates_are_over_instructions_and_clustered_by_base() -> None:
    bases = {"a": "x", "b": "x", "c": "y"}
    found = summarize(results(), bases=bases, trained=["no_comma", "title"], confidence=0.95)
    interval = mean_interval([0.5, 0.5, 0.0], confidence=0.95, clusters=["x", "x", "y"])
    assert Rate.from_dict(found["strict"]) == Rate(pytest.approx(1 / 3), interval, 3, 0)
    assert list(found["types"]) == ["no_comma", "title"]
    assert found["types"]["title"]["rate"] == 0.5 and found["types"]["title"]["num_prompts"] == 2
    assert found["num_no_response"] == 1


@pytest.mark.parametrize(
    ("trained", "strict", "unseen"),
    [
        (["no_comma"], 0.5, 0.25),
        (["title"], 0.5, 0.25),
        (["no_comma", "title"], 1 / 3, None),
        (["bullets"], None, 1 / 3),
        ([], 1 / 3, None),  # training has no checks at all
    ],
)
def test_the_checked_rate_is_of_types_that_training_has(
    trained: list[str], strict: float | None, unseen: float | None
) -> None:
    bases = dict.fromkeys("abc", "x")
    found = summarize(results(), bases=bases, trained=trained, confidence=0.95)
    rates = [None if found[key] is None else found[key]["rate"] for key in ("strict", "unseen")]
    assert rates == [strict and pytest.approx(strict), unseen and pytest.approx(unseen)]
    change = checked_change(results(), results(), bases=bases, unseen=found["unseen_types"], confidence=0.95, seed=0)
    changes = [change[key] and change[key]["rate"] for key in ("checked", "checked_unseen")]
    assert changes == [rate and 0.0 for rate in rates]


def test_completions_of_other_instructions_are_refused() -> None:
    with pytest.raises(ValueError, match="completions of b stand where those of a should"):
        list(check_responses(PROMPTS, COMPLETIONS[2:] + COMPLETIONS[:2]))
