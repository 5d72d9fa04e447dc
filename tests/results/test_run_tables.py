"""What a run prints: its headline first, within 100 columns, with everything that a run may have."""

import os
import shlex
from types import SimpleNamespace
from typing import Any

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tpo.config.compose import compose_config
from tpo.config.schema import Config
from tpo.config.streams import WIDTH
from tpo.results.headline import CHECKED, RESPONSE_TOKENS, SCORE, UNSEEN, WIN_RATE, changes, collapses
from tpo.results.next import repeating
from tpo.results.rate import Rate, format_rate
from tpo.results.run_tables import (
    categories_table,
    counts_table,
    headline_table,
    large_categories,
    pairs_table,
    rates_table,
    run_tables,
    second_judge_table,
    types_table,
)
from tpo.results.text_table import GAP, TextTable, print_tables, split_columns
from tpo.results.tracking.labels import Launch, command, read_launch
from tpo.results.tracking.metrics import iteration_metrics

PLAIN = made_up.summary(made_up.entry(0, 0.3), made_up.entry(1, 0.4))
UNTRAINED = made_up.summary(made_up.entry(0, 0.3))


# --- headline ---------------------------------------------------------------------------------------------------


def test_the_checked_rate_is_told_first_then_the_win_rate_then_the_score() -> None:
    assert [change.sentence() for change in changes(made_up.full_summary())] == [
        "checked rate: 27.8 -> 40.9 %, change +13.1 points [+8.1, +18.1] (n = 320)",
        "win rate: 46.0 -> 55.0 %, change +9.0 points [+4.0, +14.0] (n = 12)",
        "score: -0.540 -> -0.450, change +0.177 [+0.127, +0.227] (n = 12)",
    ]
    assert [change.quantity for change in changes(PLAIN)] == [WIN_RATE, SCORE]
    assert [change.sentence() for change in changes(UNTRAINED)] == [
        "win rate: 30.0 % [10.0, 50.0], untrained (n = 24)",
        "score: -0.700, untrained",
    ]


def test_what_was_not_measured_or_scored_is_left_out_or_said() -> None:
    by_verdicts = {"mean_score": None, "win_rate": made_up.UNSCORED}
    entries = [made_up.entry(0, 0.3, **by_verdicts), made_up.entry(1, 0.4, **by_verdicts, change=made_up.change(None))]
    [change] = changes(made_up.summary(*entries))
    assert change.sentence() == "win rate: unscored -> unscored, change unscored"
    assert (
        change.change == Rate(None, None, 0, 3) and UNSEEN.of(entries[1]) is None and CHECKED.change(entries[1]) is None
    )


def test_scores_far_from_zero_have_fewer_decimals() -> None:
    entries = [made_up.entry(0, 0.3, mean_score=1500.0), made_up.entry(1, 0.3, mean_score=1512.5)]
    [_, score] = changes(made_up.summary(*entries))
    assert score.sentence() == "score: 1500.0 -> 1512.5, change +0.1 [+0.1, +0.1] (n = 12)" and score.digits == 1
    [tokens] = changes(PLAIN, RESPONSE_TOKENS)
    assert tokens.sentence() == "response tokens: 80.0 -> 79.0, change -3.0 [-5.0, -1.0] (n = 12)"


def test_a_collapse_is_said_once_for_each_iteration() -> None:
    first = made_up.entry(1, 0.4, collapse="all answers are empty")
    summary = made_up.summary(made_up.entry(0, 0.3), first, collapse="all answers are empty")
    assert collapses(summary) == ["iteration 1: all answers are empty"] and collapses(PLAIN) == []
    assert collapses(PLAIN | {"collapse": "it stopped"}) == ["it stopped"]
    assert headline_table(summary).notes == ["The policy COLLAPSED. iteration 1: all answers are empty"]


# --- tables -----------------------------------------------------------------------------------------------------


def cells(table: TextTable | None) -> list[list[str]]:
    assert table is not None
    assert {len(row) for row in table.rows} == {len(table.names)}
    return [list(row) for row in table.rows]


def test_headline_table() -> None:
    table = headline_table(made_up.full_summary())
    assert list(table.names) == ["", "iteration 0", "iteration 2", "change", "n"]
    assert cells(table) == [
        ["checked rate (%)", "27.8 [22.8, 32.8]", "40.9 [35.9, 45.9]", "+13.1 [+8.1, +18.1]", "320"],
        ["win rate (%)", "46.0 [41.0, 51.0]", "55.0 [50.0, 60.0]", "+9.0 [+4.0, +14.0]", "12"],
        ["score", "-0.540", "-0.450", "+0.177 [+0.127, +0.227]", "12"],
        ["response tokens", "80.0", "78.0", "+1.0 [-1.0, +3.0]", "12"],
    ]
    assert cells(headline_table(UNTRAINED))[0] == ["win rate (%)", "30.0 [10.0, 50.0]", "24"]


def test_types_are_listed_and_unseen_ones_apart() -> None:
    table = cells(types_table(made_up.full_summary()))
    assert [row[0] for row in table] == [
        *("checked rate", "  by loose rules", "  more_words", "  no_comma", "  title"),
        *("unseen in training", "  postscript"),
    ]
    assert table[1] == ["  by loose rules", "29.8 [24.8, 34.8]", "42.9 [37.9, 47.9]", "-", "320"]
    assert table[4] == ["  title", "10.0 [0.0, 25.0]", "97.5 [82.5, 100.0]", "+87.5 [+77.5, +97.5]", "40"]
    assert types_table(PLAIN) is None
    seen_only = made_up.entry(0, 0.3, checked=made_up.checked(0.5, types={"title": 0.5}))
    assert [row[0] for row in cells(types_table(made_up.summary(seen_only)))] == [
        *("checked rate", "  by loose rules", "  title")
    ]


def test_no_response_and_controls_stand_beside_the_rates() -> None:
    table = rates_table(made_up.full_summary())
    assert table.names[1:] == ("checked (%)", "win rate (%)", "answered (%)", "equal length (%)", "no response")
    rows = cells(table)
    assert rows[0][-1] == "96 of 1,280" and rows[2][3] == "52.0 [47.0, 57.0]"
    assert rows[3] == ["direct", "35.9 [30.9, 40.9]", "-", "-", "-", "-"]
    assert rows[4] == ["control", "-", "50.4 [46.4, 54.4]", "-", "-", "-"]
    assert [note.split(":")[0] for note in table.notes] == ["direct", "control"]
    plain = rates_table(PLAIN | {"null_control": {"win_rate": made_up.rate(0.5), "score": made_up.difference(0.0)}})
    assert cells(plain)[2] == ["control", "50.0 [30.0, 70.0]", "-", "-", "-"] and len(plain.notes) == 1


def test_the_second_judge_has_a_line_on_how_the_two_agree() -> None:
    table = second_judge_table(made_up.full_summary())
    assert cells(table)[2] == ["2", "53.0 [48.0, 58.0]", "+6.0 [+0.0, +12.0]", "61.2 [57.2, 65.2]", "1,280"]
    assert table is not None and table.notes == [
        "likelihood and self_rating prefer the same side in 61.2 % [57.2, 65.2] of the comparisons at iteration 2; "
        "50 % is chance."
    ]
    assert second_judge_table(PLAIN) is None


def test_small_categories_are_left_out_and_named() -> None:
    table = categories_table(made_up.full_summary())
    assert [row[0] for row in cells(table)] == ["maths", "code"]
    assert table is not None and table.notes == ["Left out, with fewer than 10 instructions: poetry."]
    small = {name: made_up.rate(0.5, 3) for name in ("maths", "code")}
    assert categories_table(made_up.summary(made_up.entry(0, 0.5, categories=small))) is None
    one = {"uncategorized": made_up.rate(0.5, 60)}
    assert large_categories(made_up.summary(made_up.entry(0, 0.5, categories=one))) == []


def test_counts_and_pairs() -> None:
    assert cells(counts_table(PLAIN))[1] == ["1", "24", "24", "41", "79", "25 %", "12 %", "30"]
    assert cells(pairs_table(PLAIN)) == [["1", "32", "30", "2", "0"]]


def test_a_baseline_whose_thoughts_are_taken_off_is_named_in_every_table() -> None:
    name = "seed model, direct answers, its own thoughts taken off"
    summary = PLAIN | {"baseline": name}
    assert headline_table(summary).notes[-1] == f"Baseline: {name}."
    assert name in str(rates_table(summary).title)
    assert headline_table(PLAIN).notes == []


def printed(capsys: pytest.CaptureFixture[str], *tables: TextTable) -> str:
    print_tables(*tables)
    return capsys.readouterr().out


WIDEST = made_up.full_summary()
for _entry in WIDEST["iterations"]:  # rates of 100 % take most room
    for _key in ("win_rate", "win_rate_answered", "win_rate_length_controlled"):
        _entry[_key] = {"rate": 1.0, "interval": [1.0, 1.0], "num_prompts": 805, "num_unscored": 12}
    _entry["num_no_response"], _entry["num_answers"] = 12_800, 12_800


@pytest.mark.parametrize(
    "summary", [made_up.full_summary(), WIDEST, PLAIN, UNTRAINED], ids=["full", "widest", "plain", "untrained"]
)
def test_what_a_run_prints_fits_and_begins_with_the_change(
    summary: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(capsys, *run_tables(summary))
    assert max(cell_len(line) for line in out.splitlines()) <= WIDTH == 100
    assert out.splitlines()[0].startswith("quickstart: ")
    for table in run_tables(summary):
        for row in table.rows:
            for cell in row:
                assert cell.strip() in out, "no cell is broken"
    assert ("unseen in training" in out) == (summary["iterations"][-1]["checked"] is not None)


TEXTS = st.text("ab c", min_size=1, max_size=30)


@given(st.integers(1, 8), st.integers(1, 4), st.data())
def test_a_wide_table_is_split_at_its_columns(num_columns: int, num_rows: int, data: st.DataObject) -> None:
    names = [data.draw(TEXTS) for _ in range(num_columns)]
    rows = [[data.draw(TEXTS) for _ in range(num_columns)] for _ in range(num_rows)]
    num_keys = data.draw(st.integers(1, num_columns))
    parts = split_columns(TextTable("title", names, rows, ["note"], num_keys), 60)
    assert [part.title for part in parts] == ["title", *[""] * (len(parts) - 1)]
    assert [list(part.notes) for part in parts] == [*[[]] * (len(parts) - 1), ["note"]]
    for number, part in enumerate(parts):
        lines = [part.names, *part.rows]
        repeated = 0 if number == 0 else num_keys if lines[0][1:num_keys] == names[1:num_keys] else 1
        assert [line[0] for line in lines] == [names[0], *(row[0] for row in rows)], "the key is in every part"
        widths = [max(len(line[place]) for line in lines) for place in range(len(part.names))]
        if number and len(part.names) > repeated + 1:
            assert sum(widths) + GAP * (len(widths) - 1) <= 60
    rest = iter(name for part in parts[1:] for name in part.names)
    assert all(any(name == found for found in rest) for name in names[len(parts[0].names) :]), "in their order"


def test_keys_are_repeated_unless_they_are_wide(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["run", "seed", *[f"column {number}" for number in range(12)]]
    rows = [["a", "0", *["1.0"] * 12], ["a", "1", *["2.0"] * 12]]
    parts = split_columns(TextTable("", names, rows, (), 2), 100)
    assert len(parts) == 2 and all(list(part.names[:2]) == ["run", "seed"] for part in parts)
    assert [column for part in parts for column in part.names[2:]] == names[2:]
    wide = split_columns(TextTable("", ["x" * 40, "y" * 40, *names], [[""] * 16], (), 2), 100)
    assert list(wide[0].names[:2]) == ["x" * 40, "y" * 40] and wide[1].names[:2] == ["x" * 40, *wide[1].names[1:2]]
    out = printed(capsys, TextTable("t", ["name", "n"], [["a", "1"], ["b", "20"]], ["note"]))
    assert out == "t\nname   n\n────────\na      1\nb     20\nnote\n\n"


def test_the_checked_rate_and_its_change_are_tracked() -> None:
    entry = made_up.full_summary()["iterations"][2]
    found = iteration_metrics(entry)
    assert (found["eval/checked"], found["eval/checked_unseen"], found["eval/change_checked"]) == (0.409, 0.16, 0.131)
    assert found["eval/checked_num_prompts"] == 320 and "eval/checked" not in iteration_metrics(PLAIN["iterations"][1])


# --- parts ------------------------------------------------------------------------------------------------------


def test_means_are_shown_in_their_own_unit() -> None:
    rate = Rate(0.177, (0.08765, 0.2643), 60, 0)
    assert format_rate(rate, unit="", sign="+", scale=1, digits=3) == "+0.177 [+0.088, +0.264]"


@pytest.mark.parametrize(
    ("overrides", "experiment", "expected"),
    [
        ((), "quickstart", "python -m tpo.run experiment=quickstart"),
        (("experiment=quickstart", "seed=1"), "quickstart", "python -m tpo.run experiment=quickstart seed=1"),
        (
            ("thought=none", "+a.b='x y'", "runs_dir=/x"),
            "custom",
            """python -m tpo.run thought=none '+a.b='"'"'x y'"'"''""",
        ),
        (("tracking=none", "isolate_stages=true", "tracking.mode=offline"), "a", "python -m tpo.run experiment=a"),
    ],
)
def test_command_repeats_a_run_without_what_does_not_change_it(
    overrides: tuple[str, ...], experiment: str, expected: str
) -> None:
    assert command(Launch(overrides=overrides), experiment=experiment) == expected


def compose_places(words: list[str]) -> dict[str, str]:
    config = compose_config(Config, words)
    return {"artifacts_dir": config.artifacts_dir, "runs_dir": config.runs_dir}


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"artifacts_dir": "artifacts", "runs_dir": "runs"}, []),
        ({"artifacts_dir": "/tmp/x/artifacts", "runs_dir": "runs"}, ["artifacts_dir=/tmp/x/artifacts"]),
        ({"artifacts_dir": "artifacts", "runs_dir": "my runs, {old}"}, ['runs_dir="my runs, {old}"']),
    ],
)
def test_the_command_that_repeats_a_run_finds_what_was_computed(places: dict[str, str], words: list[str]) -> None:
    found = repeating("python -m tpo.run experiment=smoke", places)
    assert shlex.split(found) == ["python", "-m", "tpo.run", "experiment=smoke", *words]
    assert compose_places(words) == places


def test_the_command_that_repeats_a_run_names_the_directory_of_settings() -> None:
    launch = Launch(overrides=("seed=1",), config_dir="my conf")
    assert command(launch, experiment="mine") == "python -m tpo.run --config-dir 'my conf' experiment=mine seed=1"
    sources = [SimpleNamespace(provider=name, path=f"/x/{name}") for name in ("hydra", "main", "command-line")]
    job = SimpleNamespace(name="tpo")
    runtime = SimpleNamespace(choices={}, config_sources=sources, output_dir="/x/out")
    hydra = SimpleNamespace(
        runtime=runtime,
        job=job,
        mode=None,
        overrides=SimpleNamespace(task=[]),
        sweeper=SimpleNamespace(get=lambda _: None),
    )
    assert read_launch(hydra).config_dir == os.path.relpath("/x/command-line")
