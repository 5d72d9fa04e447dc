from typing import Any

import pytest

from tpo.evaluate.checked import check_responses
from tpo.results.checked import by_group, by_type, pass_rates, summarize
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
    assert by_group(results(), trained=["no_comma"]) == {"trained": {"a": 0.5}, "unseen": {"b": 0.5, "c": 0.0}}


def test_loose_passes_what_strict_passes_and_more() -> None:
    [row] = [prompt("a", Check("keywords:forbidden_words", {"forbidden_words": ["sure"]}), base="a")]
    found = list(check_responses([row], [completion("a", 0, "Sure!\nIt rises in an hour")]))
    assert (pass_rates(found), pass_rates(found, rule="loose")) == ({"a": 0.0}, {"a": 1.0})


def test_rates_are_over_instructions_and_clustered_by_base() -> None:
    found = summarize(results(), bases={"a": "x", "b": "x", "c": "y"}, trained=["no_comma"], confidence=0.95)
    interval = mean_interval([0.5, 0.5, 0.0], confidence=0.95, clusters=["x", "x", "y"])
    assert Rate.from_dict(found["strict"]) == Rate(pytest.approx(1 / 3), interval, 3, 0)
    assert found["trained"]["rate"] == 0.5 and found["unseen"]["rate"] == 0.25
    assert list(found["types"]) == ["no_comma", "title"] and found["unseen_types"] == ["title"]
    assert found["types"]["title"]["rate"] == 0.5 and found["types"]["title"]["num_prompts"] == 2
    assert found["num_no_response"] == 1


def test_where_every_type_was_trained_on_there_is_no_unseen_rate() -> None:
    found = summarize(results(), bases=dict.fromkeys("abc", "x"), trained=["no_comma", "title"], confidence=0.95)
    assert found["unseen"] is None and found["trained"] == found["strict"]


def test_completions_of_other_instructions_are_refused() -> None:
    with pytest.raises(ValueError, match="completions of b stand where those of a should"):
        list(check_responses(PROMPTS, COMPLETIONS[2:] + COMPLETIONS[:2]))
