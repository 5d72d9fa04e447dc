"""Where the answer begins that follows a thought, in the tags of every family that the table knows."""

import time

import pytest

from tpo.config.tags import NO_THOUGHT, THOUGHT_TAGS, Tags, last_thought

# Written apart from the table: opening and closing tag as each family's chat template has them.
TEMPLATES = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("Here is my thought process:", "Here is my response:"),
]


@pytest.mark.parametrize(("opening", "closing"), TEMPLATES)
def test_answer_starts_after_the_thought(opening: str, closing: str) -> None:
    for head in ("", "\n", "Let me see. "):
        text = f"{head}{opening}\nA is better\n{closing}\n\nB"
        assert text[last_thought(text).stop :] == "\n\nB"
        assert last_thought(text).open_at is None
        cut = f"{head}{opening}\nA is better"
        assert last_thought(cut) == (0, len(head))
    opened_by_the_template = f"A is better\n{closing}\n\nB"
    assert opened_by_the_template[last_thought(opened_by_the_template).stop :] == "\n\nB"


@pytest.mark.parametrize("tags", THOUGHT_TAGS)
@pytest.mark.parametrize("other", THOUGHT_TAGS)
def test_a_thought_is_closed_by_its_own_tag_alone(tags: Tags, other: Tags) -> None:
    text = f"{tags.opening} x {other.closing} A"
    assert (last_thought(text).open_at is None) == (tags.closing == other.closing)
    whole = f"{tags.opening} x {other.opening} y {tags.closing} A"
    assert whole[last_thought(whole).stop :] == " A"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\n\n</think>\n\nA", "\n\nA"),
        ("<THINK>x</Think>A", "A"),
        ("<think>x</think>A<think>y</think>B", "B"),
        ("<think>x</think>A<think>y", None),
        ("<think>it writes `</think>`, so A", None),  # spoken of
        ('It leaves a "<think>" in its answer. A', 'It leaves a "<think>" in its answer. A'),
        ("<think>x</think>The tag `<think>` is wrong. A", "The tag `<think>` is wrong. A"),
        ("<think>x</think>There is < /think> in it. A", "There is < /think> in it. A"),
        (
            "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>commentary<|message|>y<|end|>"
            "<|start|>assistant<|channel|>final<|message|>A",
            "A",
        ),
        ("<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>commentary<|message|>A", None),
        ("A", "A"),
        ("", ""),
    ],
)
def test_last_thought(text: str, answer: str | None) -> None:
    found = last_thought(text)
    assert (None if found.open_at is not None else text[found.stop :]) == answer


def test_a_text_without_tags_has_no_thought() -> None:
    assert last_thought("I think </b> that [A] is best: here is my answer") == NO_THOUGHT


def test_a_long_hostile_text_takes_no_long_time() -> None:
    for part in ("<", "<think>", "</think>", "<|channel|>", "Here is my "):
        started = time.process_time()
        last_thought(part * (1_000_000 // len(part)))
        assert time.process_time() - started < 10, part
