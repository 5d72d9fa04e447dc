"""Thoughts that are put into a policy's mouth: which, where, and what is sampled after them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpo.config.thought import ThoughtFormat
from tpo.evaluate.interventions import alter, write_interventions
from tpo.model.asked import ask
from tpo.model.conventions import Conventions
from tpo.model.policy import Policy
from tpo.sample.engines.torch import TorchEngineConfig
from tpo.store.records import Completion, Prompt, read_records

FORM = ThoughtFormat("Think: {instruction}", "Thought:", "Response:", "switch")
SETTINGS = {"temperature": 0.8, "top_p": 0.95, "max_response_tokens": 6}
ENGINE = TorchEngineConfig(max_sequences=8)


def completion(name: str, index: int, thought: str | None) -> Completion:
    return Completion(name, index, [], [], 0, 0, 0, True, "", thought, "yes", None, "stop", 1, 1, 0)


THOUGHTS = st.dictionaries(
    st.tuples(st.sampled_from("abcdef"), st.integers(0, 2)),
    st.one_of(st.none(), st.text("ab ", max_size=6)),
    max_size=18,
)


@given(THOUGHTS, st.integers(0, 5))
def test_others_thoughts_are_each_used_once_and_never_ones_own(
    thoughts: dict[tuple[str, int], str | None], seed: int
) -> None:
    # A text that names its owner, so that equal texts of different owners stay apart.
    owned = {key: None if text is None else f"{key} {text}" for key, text in thoughts.items()}
    rows = [completion(name, index, text) for (name, index), text in owned.items()]
    found = alter(rows, kind="other", seed=seed)
    assert set(found) == set(owned)
    for index in range(3):
        given_ones = [text for key, text in owned.items() if key[1] == index and text is not None]
        received = [text for key, text in found.items() if key[1] == index and text is not None]
        assert Counter(received) == Counter(given_ones if len(given_ones) > 1 else [])
    assert all(text is None or text != owned[key] for key, text in found.items())
    assert alter(rows[::-1], kind="other", seed=seed) == found  # in whatever order the rows come


@pytest.mark.parametrize(
    ("kind", "fraction", "expected"),
    [
        ("given", 1.0, {("p", 0): "one two three four", ("p", 1): None}),
        ("none", 1.0, {("p", 0): "", ("p", 1): ""}),
        ("cut", 0.0, {("p", 0): "", ("p", 1): None}),
        ("cut", 0.5, {("p", 0): "one two", ("p", 1): None}),
        ("cut", 1.0, {("p", 0): "one two three four", ("p", 1): None}),
    ],
)
def test_alter(kind: str, fraction: float, expected: dict[tuple[str, int], str | None]) -> None:
    rows = [completion("p", 0, "one two three four"), completion("p", 1, None)]
    assert alter(rows, kind=kind, fraction=fraction) == expected


def test_unknown_intervention() -> None:
    with pytest.raises(ValueError, match="expected given, none, cut or other"):
        alter([], kind="better")


def test_opening_puts_the_thought_between_its_delimiters() -> None:
    assert ask(FORM, Conventions()).opening(" hm ") == "Thought:\nhm\n\nResponse:\n"
    assert ask(FORM, Conventions()).opening("") == "Thought:\n\n\nResponse:\n"
    form = ThoughtFormat("{instruction}", None, "<R>", "switch")
    assert ask(form, Conventions()).opening("hm") == "hm\n\n<R>\n"


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Policy:
    return Policy(str(tiny_model), None, str(tiny_model), "float32", 1024, None)


def respond(
    path: Path, policy: Policy, thoughts: dict[tuple[str, int], str | None], **changes: Any
) -> list[Completion]:
    path.mkdir()
    prompts = [
        Prompt(name, f"Say {name}.", "x", "test", "test", (), name) for name in sorted({name for name, _ in thoughts})
    ]
    write_interventions(
        path, prompts, thoughts, policy, FORM, settings=SETTINGS | changes, engine_settings=ENGINE, seed=3
    )
    return list(read_records(path / "rows.jsonl", Completion))


def test_context_holds_the_thought_and_only_the_response_is_sampled(
    tmp_path: Path, policy: Policy, tokenizer: Any
) -> None:
    thoughts: dict[tuple[str, int], str | None] = {("p", 0): "to be", ("p", 1): None, ("q", 0): "", ("q", 1): "not"}
    rows = {(row.prompt_id, row.sample_index): row for row in respond(tmp_path / "a", policy, thoughts)}
    assert set(rows) == set(thoughts)
    for key, row in rows.items():
        if thoughts[key] is None:
            assert (row.response, row.split_error, row.prompt_ids, row.completion_ids) == (None, "no_thought", [], [])
            continue
        context = tokenizer.decode(row.prompt_ids)
        assert context.endswith(f"<|assistant|>\nThought:\n{thoughts[key]}\n\nResponse:\n")
        assert context.count("<bos>") == 1 and f"Think: Say {key[0]}." in context
        assert row.thought == thoughts[key] and row.forced_start == row.forced_stop
        assert row.num_thought_tokens == len(tokenizer.encode(thoughts[key], add_special_tokens=False))
        assert 0 < len(row.completion_ids) <= SETTINGS["max_response_tokens"]
        if row.response is not None:
            assert row.response == row.completion.strip()
            assert row.num_response_tokens == len(row.completion_ids) - (row.finish_reason == "stop")


def test_a_sample_has_the_same_random_numbers_under_every_intervention(tmp_path: Path, policy: Policy) -> None:
    keys = [(name, index) for name in "pq" for index in (0, 1)]
    same = respond(tmp_path / "a", policy, dict.fromkeys(keys, "hm"))
    again = respond(tmp_path / "b", policy, dict.fromkeys(keys, "hm"))
    other = respond(tmp_path / "c", policy, dict.fromkeys(keys, "well"))
    assert same == again
    assert [row.seed for row in same] == [row.seed for row in other] and len({row.seed for row in same}) == 4
    assert [row.completion_ids for row in same] != [row.completion_ids for row in other]


def test_a_response_that_goes_on_thinking_is_none(tmp_path: Path, policy: Policy, monkeypatch: Any) -> None:
    from tpo.sample.decoding import Generation, Sample
    from tpo.sample.engines.torch.engine import TorchEngine

    def says(text: str) -> None:
        def stream(self: Any, requests: Any, **_: Any) -> Any:
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            for request in requests:
                yield Sample(request.key, 0, Generation(ids, "length"))

        monkeypatch.setattr(TorchEngine, "stream", stream)

    expected = {
        "Yes. Thought: no": "repeated_delimiter",
        "Response: x": "repeated_delimiter",
        "Yes.\n**thought:** no": "repeated_delimiter",
        " \n": "empty_response",
    }
    for number, (text, error) in enumerate(expected.items()):
        says(text)
        [row] = respond(tmp_path / str(number), policy, {("p", 0): "hm"})
        assert (row.response, row.split_error, row.num_response_tokens) == (None, error, 0)
