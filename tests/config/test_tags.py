"""Where the answer begins that follows a thought, in the tags of every family that the table knows."""

import time

import pytest

from tpo.config.tags import NO_THOUGHT, THOUGHT_TAGS, Tags, closing_of, last_thought, name_of, used_tags

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
    for part in (
        "<",
        "<think>",
        "</think>",
        "<|channel|>",
        "Here is my ",
        "`<think>",
        "```\n<think>\n",
        "<  ",
        "< | / ",
    ):
        started = time.process_time()
        text = part * (300_000 // len(part))
        last_thought(text)
        used_tags(text)
        assert time.process_time() - started < 10, part


@pytest.mark.parametrize("tags", [tags for tags in THOUGHT_TAGS if not tags.opening[0].isalpha()])
def test_tags_are_found_in_whichever_way_they_are_written(tags: Tags) -> None:
    assert closing_of(name_of(tags.opening)) == name_of(tags.closing)
    wide = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
    for tag in (tags.opening, tags.closing):
        spaced = f"{tag[0]} {tag[1:]}"
        for written in (tag, tag.upper(), tag.translate(wide), spaced, tag.replace("/", "\\/")):
            text = f"x {written} y"
            (found,) = used_tags(text)
            assert (text[found.start : found.stop], found.name) == (written, name_of(tag))
        assert used_tags(tag, spared={name_of(tag)}) == []
        for spoken in (f"`{tag}`", f'"{tag}"', f"the `a {tag} b`", f"```\nx {tag}\n```", f"~~~\n {tag} y"):
            assert used_tags(spoken) == []
        assert len(used_tags(f"```\nx\n```\n{tag} `y`")) == 1


@pytest.mark.parametrize(
    "text", ["<thinker>", "a < b", "think>", "<answer>", "[a think]", "Here is my response:", "<>"]
)
def test_what_is_no_tag_is_not_found(text: str) -> None:
    assert used_tags(text) == []
