"""How text of others is shown: no two names come out the same, and nothing of them is unseen."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tpo.store.text import labels, one_line, printable, shortened

ODD = "\n\t\x1b\x9b\x7f\u00a0\u200b\u200d\u202e\ufeff\ud800é\u0301\u212b\U000e0001"
SIGNS = st.text(st.sampled_from("ab \\xu0120" + ODD), max_size=12)


@settings(deadline=None)  # other work on the machine slows single examples
@given(one=SIGNS | st.text(), other=SIGNS | st.text())
@example(one="\x1b", other="\\x1b")
@example(one="\\\x1b", other="\\\\x1b")
@example(one="\\ ", other="\\\\x20")
@example(one="\u00e9", other="e\u0301")
@example(one="\uac00", other="\u1100\u1161")
@example(one="\u212b", other="\u00c5")
@example(one="a b", other="a\u00a0b")
@example(one="x ", other="x")
@example(one="a  b", other="a b")
def test_different_names_are_shown_differently(one: str, other: str) -> None:
    looks = [unicodedata.normalize("NFC", one_line(text)) for text in (one, other)]
    assert (looks[0] == looks[1]) == (one == other)
    for look in looks:
        assert look.isprintable() and look == look.strip() and "  " not in look
        look.encode()


@settings(deadline=None)
@given(st.text())
def test_running_text_keeps_its_lines_and_steers_nothing(text: str) -> None:
    shown = printable(text)
    assert shown.count("\n") == text.count("\n")
    assert not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in shown if sign not in "\n\t")
    assert not any("\u202a" <= sign <= "\u202e" or "\u2066" <= sign <= "\u2069" for sign in shown)


@settings(deadline=None)
@given(st.lists(SIGNS | st.text("a_ ", max_size=40), max_size=6, unique=True), st.booleans())
def test_names_that_stand_together_have_labels_of_their_own(names: list[str], is_spaced: bool) -> None:
    found = labels(names, longest=24, is_spaced=is_spaced)
    assert list(found) == names and len(set(found.values())) == len(names)
    assert all(len(label) <= 24 for label in found.values())


@settings(deadline=None)
@given(name=st.text("a_ ", min_size=25, max_size=60), times=st.integers(1, 3), is_reversed=st.booleans())
def test_a_name_that_another_is_cut_to_keeps_its_label(name: str, times: int, is_reversed: bool) -> None:
    names = [name]
    for _ in range(times):  # what the names so far are called are names as well
        names = list(dict.fromkeys([*names, *labels(names, longest=24).values()]))
    found = labels(reversed(names) if is_reversed else names, longest=24)
    assert len(set(found.values())) == len(names) and all(len(label) <= 24 for label in found.values())
    assert all(label == text for text, label in found.items() if len(text) <= 24)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["maths [hard]", "maths [easy]"], ["maths [hard]", "maths [easy]"]),
        (["creative_writing", "rewriting_and_editing"], ["creative writing", "rewriting and editing"]),
        (["a_b", "a b", "c_d"], ["a_b", "a b", "c d"]),
    ],
)
def test_underscores_are_spaces_where_no_two_names_are_then_the_same(names: list[str], shown: list[str]) -> None:
    assert list(labels(names, longest=40, is_spaced=True).values()) == shown


def test_names_with_one_long_beginning_end_with_a_hash() -> None:
    one, other = labels(["x" * 100 + "1", "x" * 100 + "2"], longest=20).values()
    assert one[:12] == other[:12] == "x" * 11 + "~" and one != other
    assert shortened("x" * 20, 20) == "x" * 20 and len(shortened("x" * 1_000_000, 20)) == 20
