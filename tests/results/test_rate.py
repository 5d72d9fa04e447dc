"""Rates keep what they say on their way through JSON, and are shown in one form."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpo.results.rate import Rate, format_count, format_rate
from tpo.store.records import RecordError

FRACTION = st.none() | st.floats(-1, 1)
INTERVAL = st.none() | st.tuples(st.floats(-1, 1), st.floats(-1, 1))
RATES = st.builds(
    Rate,
    rate=FRACTION,
    interval=INTERVAL,
    num_prompts=st.integers(0),
    num_unscored=st.integers(0),
    num_rows=st.none() | st.integers(0),
    estimator=st.none() | st.text(),
    p_value=FRACTION,
    adjusted_p_value=FRACTION,
    simultaneous_interval=INTERVAL,
)
PLAIN: dict[str, Any] = {"rate": 0.5, "interval": [0.25, 0.75], "num_prompts": 4, "num_unscored": 1}


@given(RATES)
def test_a_rate_survives_json(rate: Rate) -> None:
    assert Rate.from_dict(json.loads(json.dumps(rate.to_dict(), allow_nan=False))) == rate


def test_plain_rates_have_four_keys_and_others_what_they_know_besides() -> None:
    assert Rate(0.5, (0.25, 0.75), 4, 1).to_dict() == PLAIN
    assert Rate(None, None, 0, 2).to_dict() == {"rate": None, "interval": None, "num_prompts": 0, "num_unscored": 2}
    tested = Rate(0.5, None, 4, 0, num_rows=8, p_value=0.0)
    assert {**tested.to_dict(), "interval": None} == {
        **PLAIN,
        "interval": None,
        "num_unscored": 0,
        "num_rows": 8,
        "p_value": 0.0,
    }
    assert (Rate(0.5, None, 4, 0).count, tested.count) == (4, 8)


@pytest.mark.parametrize(
    "plain", [{}, {"rate": 0.5, "interval": None}, {**PLAIN, "gain": 0.1}], ids=["empty", "key_less", "key_more"]
)
def test_what_another_version_wrote_is_refused(plain: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="another version wrote it. Repeat the command"):
        Rate.from_dict(plain)


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (None, "-"),
        (Rate(None, None, 0, 3), "unscored"),
        (Rate(0.6124, (0.5701, 0.653), 9, 0), "61.2 % [57.0, 65.3]"),
        (Rate(0.5, None, 1, 0), "50.0 %"),
        (Rate(0.0, (0.0, 0.25), 1, 0), "0.0 % [0.0, 25.0]"),
    ],
)
def test_format(rate: Rate | None, text: str) -> None:
    assert format_rate(rate) == text


def test_differences_show_their_sign() -> None:
    rate = Rate(0.1, (-0.05, 0.25), 9, 0)
    assert format_rate(rate, unit="", sign="+") == "+10.0 [-5.0, +25.0]"


def test_counts_say_what_they_leave_out() -> None:
    assert [format_count(1805, 0), format_count(57, 3), format_count(3, 1, "unpaired")] == [
        "1,805",
        "57 (+3 unscored)",
        "3 (+1 unpaired)",
    ]


def test_means_that_differ_in_the_last_bit_print_alike() -> None:
    changes = [99, 81, 73, 38, 73]  # of 320; their mean is 22.75 % exactly
    means = sum(change / 320 for change in changes) / 5, sum(changes) / 5 / 320, math.nextafter(0.2275, 0)
    assert {format_rate(Rate(mean, None, 5, 0), sign="+") for mean in means} == {"+22.8 %"}
