import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tpo.config.thought import ThoughtFormat
from tpo.evaluate.benchmarks import gsm8k
from tpo.evaluate.benchmarks.verifiable import BenchmarkError, accuracy, count_no_response
from tpo.results.rate import Rate
from tpo.sample.prompts import prompt_id
from tpo.store.records import CheckResult, Response


def harness(response: str | None, answer: str) -> dict[str, bool]:
    """What lm-evaluation-harness's own task file, filters and metric say."""
    import jinja2
    import lm_eval.filters.selection
    import yaml
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.filters.extraction import RegexFilter

    path = Path(lm_eval.filters.selection.__file__).parents[1] / "tasks" / "gsm8k" / "gsm8k-cot-llama.yaml"
    task = yaml.safe_load(path.read_text())
    target = jinja2.Template(task["doc_to_target"]).render(answer=answer)
    (metric,) = task["metric_list"]
    options = {name: metric[name] for name in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")}
    found = {}
    for entry in task["filter_list"]:
        regex, first = entry["filter"]
        assert (regex.pop("function"), first) == ("regex", {"function": "take_first"})
        filtered = RegexFilter(**regex).apply([[response]], [{}])  # type: ignore[list-item]
        (prediction,) = lm_eval.filters.selection.TakeFirstFilter().apply(filtered, [{}])
        is_match = exact_match_fn(predictions=[prediction], references=[target], **options)["exact_match"] == 1
        found[entry["name"].split("-")[0]] = is_match
    return found


ROWS = [  # response, the data set's answer, strict, flexible: decided by hand
    pytest.param("The final answer is 42", "#### 42", True, True, id="as_asked"),
    pytest.param("The final answer is 42.", "#### 42", True, True, id="full_stop"),
    pytest.param("The final answer is 5.", "#### 5", True, True, id="one_figure_full_stop"),
    pytest.param("The final answer is 5", "#### 5", True, True, id="one_figure"),
    pytest.param("3 + 4 = 7. The final answer is 7 apples.", "#### 7", True, True, id="unit"),
    pytest.param("The final answer is 7 apples, not 9.", "#### 7", True, False, id="a_number_after_the_sentence"),
    pytest.param("The final answer is 1,234", "#### 1234", True, True, id="comma_in_response"),
    pytest.param("The final answer is 1234", "#### 1,234", True, True, id="comma_in_gold"),
    pytest.param("The final answer is $1,234.50.", "#### 1234.50", True, True, id="dollars_and_cents"),
    pytest.param("The final answer is $18", "#### 18", True, True, id="dollar"),
    pytest.param("The final answer is 18$", "#### 18", True, True, id="dollar_after"),
    pytest.param("The final answer is -5", "#### -5", True, True, id="negative_one_figure"),
    pytest.param("The final answer is -15.", "#### -15", True, True, id="negative"),
    pytest.param("The final answer is -$15.", "#### -15", True, True, id="negative_dollar"),
    pytest.param("The final answer is $-15.", "#### -15", False, True, id="dollar_negative"),
    pytest.param("The final answer is 5", "#### -5", False, False, id="sign_missing"),
    pytest.param("The final answer is 42.0", "#### 42", False, False, id="decimal_form_of_an_integer"),
    pytest.param("The final answer is 0.5", "#### 0.5", True, True, id="decimal"),
    pytest.param("The final answer is .5", "#### 0.5", False, False, id="decimal_without_zero"),
    pytest.param("The final answer is 50%.", "#### 50", True, True, id="percent"),
    pytest.param("So we get #### 42", "#### 42", False, True, id="gsm8k_format"),
    pytest.param("The final answer is #### 42", "#### 42", False, True, id="gsm8k_format_in_the_sentence"),
    pytest.param("The final answer is **42**", "#### 42", False, True, id="bold"),
    pytest.param("The final answer is \\boxed{42}", "#### 42", False, True, id="boxed"),
    pytest.param("The final answer is: 42", "#### 42", False, True, id="colon"),
    pytest.param("the final answer is 42", "#### 42", False, True, id="lower_case_sentence"),
    pytest.param("The final answer is 41. No: The final answer is 42.", "#### 42", True, True, id="last_counts"),
    pytest.param("The final answer is 42. No: The final answer is 41.", "#### 42", False, False, id="first_does_not"),
    pytest.param("First 42, then 43", "#### 42", False, False, id="several_numbers"),
    pytest.param("First 43, then 42", "#### 42", False, True, id="several_numbers_last_right"),
    pytest.param("It is 42 on 3.5 days...", "#### 42", False, False, id="dots_are_the_last_number"),
    pytest.param("42, as I said, a lot.", "#### 42", False, True, id="comma_alone_is_no_number"),
    pytest.param("The final answer is forty-two", "#### 42", False, False, id="words"),
    pytest.param("I do not know", "#### 42", False, False, id="no_number"),
    pytest.param("", "#### 42", False, False, id="empty"),
    pytest.param(None, "#### 42", False, False, id="no_response"),
    pytest.param("The final answer is\n42", "#### 42", False, True, id="line_break_in_the_sentence"),
    pytest.param("The final answer is ٤٢", "#### 42", False, False, id="arabic_figures"),
]


def gold(answer: str, tmp_path: Path) -> str:
    (key,) = gsm8k.load(write(tmp_path, [{"question": "q", "answer": answer}])).keys.values()
    return str(key["answer"])


def write(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.parametrize(("response", "answer", "strict", "flexible"), ROWS)
def test_answers_are_read_as_by_hand_and_as_by_the_harness(
    response: str | None, answer: str, strict: bool, flexible: bool, tmp_path: Path
) -> None:
    expected = {"strict": strict, "flexible": flexible}
    assert gsm8k.is_correct(response, gold(answer, tmp_path)) == expected
    assert harness(response, f"Some steps.\n{answer}") == expected


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([*"0123456789.,$-# \n", "The final answer is ", "#### ", "42"]), max_size=12).map("".join)
)
def test_any_text_is_read_as_by_the_harness(response: str) -> None:
    assert gsm8k.is_correct(response, "42") == harness(response, "#### 42")


def test_a_number_in_the_thought_does_not_count() -> None:
    form = ThoughtFormat("{instruction}", "<T>", "<R>", "none")
    parts = form.split("<T>The final answer is 42<R>The final answer is 41", is_prefilled=False, finish_reason="stop")
    assert gsm8k.is_correct(parts.response, "42") == {"strict": False, "flexible": False}
    cut = form.split("<T>The final answer is 42", is_prefilled=False, finish_reason="length")
    (strict, flexible) = gsm8k.checks(Response("p", 0, cut.response, cut.error), {"answer": "42"})
    assert strict == CheckResult("p", 0, 0, "answer", "strict", False, "thought_truncated")
    assert (flexible.rule, flexible.is_passed) == ("flexible", False)


# --- loading ----------------------------------------------------------------------------------------------------


def questions(count: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {n} + {{n}}?", "answer": f"It is <<{n}>>.\n#### {n:,}"} for n in range(count)]


def test_questions_keep_their_order_and_their_text(tmp_path: Path) -> None:
    found = gsm8k.load(write(tmp_path, questions(2000)[1998:]))
    assert list(found.keys.values()) == [
        {"question": "What is 1998 + {n}?", "answer": "1998"},
        {"question": "What is 1999 + {n}?", "answer": "1999"},
    ]
    assert found.baseline == [] and [prompt.split for prompt in found.prompts] == ["test"] * 2
    assert all(prompt.prompt_id == prompt_id(prompt.text) for prompt in found.prompts)
    assert all(found.keys[prompt.prompt_id]["question"] in prompt.text for prompt in found.prompts)
    assert "The final answer is" in found.prompts[0].text  # what the strict rule reads


def test_a_gzipped_file_is_read_alike(tmp_path: Path) -> None:
    plain = write(tmp_path, questions(3))
    packed = tmp_path / "gsm8k.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert gsm8k.load(packed) == gsm8k.load(plain)


def test_some_questions_are_a_seeded_choice_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, questions(50))
    whole = [prompt.prompt_id for prompt in gsm8k.load(path).prompts]
    some = gsm8k.load(path, num_prompts=10, seed=1)
    assert [prompt.prompt_id for prompt in some.prompts] == list(some.keys)
    assert list(some.keys) == [name for name in whole if name in some.keys] and len(some.keys) == 10
    assert some == gsm8k.load(path, num_prompts=10, seed=1) != gsm8k.load(path, num_prompts=10, seed=2)
    assert gsm8k.load(path, num_prompts=50).prompts == gsm8k.load(path).prompts


def test_a_question_twice_is_one_question(tmp_path: Path) -> None:
    assert gsm8k.load(write(tmp_path, questions(3) + questions(2))) == gsm8k.load(write(tmp_path, questions(3)))


@pytest.mark.parametrize(
    ("row", "named"),
    [
        pytest.param({"question": "q"}, "'answer'", id="no_answer"),
        pytest.param({"question": "q", "answer": "42"}, "####", id="no_mark"),
        pytest.param({"question": "q", "answer": "#### x"}, "'x'", id="no_number"),
        pytest.param({"question": "q", "answer": 42}, "42", id="answer_is_a_number"),
        pytest.param({"question": " ", "answer": "#### 1"}, "question", id="blank_question"),
        pytest.param({"question": None, "answer": "#### 1"}, "None", id="null_question"),
        pytest.param({"question": "What is 0 + {n}?", "answer": "#### 1"}, "line 1 again", id="two_answers"),
    ],
)
def test_a_bad_row_is_named(row: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = write(tmp_path, [*questions(1), row])
    with pytest.raises(BenchmarkError) as caught:
        gsm8k.load(path)
    assert f"{path}, line 2" in str(caught.value) and named in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for content in (b"", b"[1]\n", b"\xff\n", None):
        path = tmp_path / ("absent.jsonl" if content is None else "rows.jsonl")
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BenchmarkError, match=str(path)):
            gsm8k.load(path)
    (tmp_path / "bad.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(BenchmarkError, match="bad.jsonl.gz"):
        gsm8k.load(tmp_path / "bad.jsonl.gz")


@pytest.mark.parametrize("num_prompts", [0, 4])
def test_too_many_questions_are_refused(num_prompts: int, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="3 different questions"):
        gsm8k.load(write(tmp_path, questions(3)), num_prompts=num_prompts)


def test_without_the_hub_a_local_file_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)  # conftest sets HF_HUB_OFFLINE
    with pytest.raises(BenchmarkError, match="openai/gsm8k cannot be fetched.*local copy"):
        gsm8k.load(None)


def test_the_hub_is_asked_for_the_fixed_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(*args: Any, **options: Any) -> list[dict[str, Any]]:
        asked.append((args, options))
        return questions(2)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(gsm8k.load(None).prompts) == 2
    assert asked == [(("openai/gsm8k", "main"), {"revision": gsm8k.HUB.revision, "split": "test"})]
    assert len(gsm8k.HUB.revision) == 40


# --- accuracies -------------------------------------------------------------------------------------------------


def rows_of(passed: list[list[bool]], *, rule: str = "strict", error: str | None = None) -> list[CheckResult]:
    """Checks, a list per prompt."""
    return [
        CheckResult(f"p{number}", 0, index, "answer", rule, is_passed, error)
        for number, group in enumerate(passed)
        for index, is_passed in enumerate(group)
    ]


def test_summary_by_rule() -> None:
    responses = [Response(f"p{n}", 0, f"The final answer is {n}", None) for n in range(3)]
    responses += [Response("p3", 0, "3", None), Response("p4", 0, None, "empty_response")]
    rows = [row for n, response in enumerate(responses) for row in gsm8k.checks(response, {"answer": str(min(n, 3))})]
    found = gsm8k.summarize(rows)
    strict, flexible = (binomtest(count, 5).proportion_ci(method="wilson") for count in (3, 4))
    assert found == {
        "strict": Rate(0.6, pytest.approx((strict.low, strict.high)), 5, 0, 5),
        "flexible": Rate(0.8, pytest.approx((flexible.low, flexible.high)), 5, 0, 5),
    }
    assert count_no_response(rows) == 1
    assert gsm8k.summarize([])["strict"] == Rate(None, None, 0, 0, 0)


@pytest.mark.parametrize("passed", [[True] * 7, [False] * 4, [True], [True, False, False, True, False]])
def test_one_check_a_prompt_gives_wilsons_interval(passed: list[bool]) -> None:
    expected = binomtest(sum(passed), len(passed)).proportion_ci(0.9, method="wilson")
    found = accuracy(rows_of([[value] for value in passed]), confidence=0.9)
    assert found.interval == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("passed", [[True, False, False, True, True, False], [True] * 3, [False] * 2])
def test_repeating_each_check_adds_nothing(passed: list[bool]) -> None:
    once, thrice = (accuracy(rows_of([[value] * count for value in passed])) for count in (1, 3))
    assert thrice.rate == once.rate and thrice.interval == pytest.approx(once.interval, abs=1e-12)
    assert (thrice.num_rows, thrice.num_prompts) == (3 * len(passed), len(passed))


def test_checks_that_even_out_within_prompts_are_worth_more_than_their_number() -> None:
    # tpo.results.stats.mean_interval by hand: sum m^2 = 20, a = 2, d = 2 / (5 + 2), n_eff = 10^2 / 20 / d = 17.5.
    z = 1.959963984540054
    margin = z * (0.25 / 17.5 + z**2 / (4 * 17.5**2)) ** 0.5 / (1 + z**2 / 17.5)
    found = accuracy(rows_of([[True, False]] * 5)).interval
    assert found == pytest.approx((0.5 - margin, 0.5 + margin), abs=1e-12)


def test_the_clustered_interval_covers() -> None:
    generator = np.random.default_rng(0)
    num_covered, num_naive = 0, 0
    for _ in range(1000):  # 100 prompts with 1 to 3 checks that share most of their luck; the true rate is 0.6
        sizes = generator.integers(1, 4, size=100)
        shared = generator.random(100) < 0.6
        passed = [
            [bool(luck if generator.random() < 0.8 else generator.random() < 0.6) for _ in range(size)]
            for luck, size in zip(shared, sizes, strict=True)
        ]
        low, high = accuracy(rows_of(passed)).interval or (1.0, 0.0)
        num_covered += low <= 0.6 <= high
        low, high = accuracy(rows_of([[value] for group in passed for value in group])).interval or (1.0, 0.0)
        num_naive += low <= 0.6 <= high
    assert 930 <= num_covered <= 970 and num_naive < 900
