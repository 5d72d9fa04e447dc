"""Means over runs: against scipy, by hand, and against what a record says of the same runs."""

from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pytest
from scipy.stats import ttest_1samp

from tpo.results.figures import draw_changes, draw_iterations, draw_lengths, draw_run, draw_types
from tpo.results.figures.style import bars_text, numbers_text
from tpo.results.read import FinishedRun, ResultError, read_folders
from tpo.results.table import average_runs, results_table, summaries_by_label

REPOSITORY = Path(__file__).parents[2]
RECORD = REPOSITORY / "experiments" / "paper_claims" / "kept"


def runs(rates: dict[tuple[float, int], float], **changes: Any) -> list[FinishedRun]:
    """A run for each (penalty, seed) with its last win rate; the change is 0.3 less, lengths are 100 times it."""
    found = []
    for (penalty, seed), rate in rates.items():
        config = made_up.config() | {"seed": seed}
        config["pairs"] = config["pairs"] | {"length_penalty": penalty}
        entries = [made_up.entry(0, 0.5), made_up.entry(1, rate, mean_response_tokens=100 * rate, **changes)]
        summary = made_up.summary(*entries, seed=seed, judge="checked")
        found.append(FinishedRun(Path(f"runs/{penalty}-{seed}"), summary, config))
    return found


RATES = {(0.0, 0): 0.5, (0.0, 1): 0.6, (0.0, 2): 0.75, (0.4, 0): 0.4}


def test_means_and_intervals_are_scipys() -> None:
    averaged = average_runs(runs(RATES), over="seed")
    assert list(averaged) == ["length_penalty=0.0", "length_penalty=0.4"]
    several, single = averaged.values()
    assert (several["averaged"], single["averaged"]) == (
        {"over": "seed", "num_runs": 3},
        {"over": "seed", "num_runs": 1},
    )
    last, values = several["iterations"][-1], np.array([0.5, 0.6, 0.75])
    expected = list(ttest_1samp(values, 0).confidence_interval(0.95))
    assert expected[1] < 1, "not clipped"
    assert last["win_rate"]["rate"] == pytest.approx(values.mean())
    assert last["win_rate"]["interval"] == pytest.approx(expected)
    assert last["win_rate"]["num_prompts"] == 3 * 24
    assert last["change"]["win_rate"]["rate"] == pytest.approx(values.mean() - 0.3)
    assert last["change"]["win_rate"]["interval"] == pytest.approx([edge - 0.3 for edge in expected])
    assert last["mean_response_tokens"] == pytest.approx(100 * values.mean())
    assert last["length_intervals"]["response"] == pytest.approx([100 * edge for edge in expected])
    assert single["iterations"][-1]["win_rate"] == made_up.rate(0.4, 24) | {"interval": None}
    assert single["iterations"][-1]["length_intervals"] == {}
    assert (several["judge"], several["seed"], several["iterations"][0]["change"]) == ("checked", 1, None)


def test_the_table_has_the_same_means() -> None:
    averaged = average_runs(runs(RATES), over="seed")
    for line, summary in zip(results_table(runs(RATES), over="seed").lines, averaged.values(), strict=True):
        last = summary["iterations"][-1]
        assert line["win_rate"].to_dict() == last["win_rate"]
        assert line["change_win_rate"].to_dict() == last["change"]["win_rate"]


def test_a_fraction_stays_within_its_bounds_and_a_change_does_not() -> None:
    found = average_runs(runs({(0.0, 0): 0.98, (0.0, 1): 0.5}), over="seed")
    last = found["quickstart"]["iterations"][-1]
    assert last["win_rate"]["interval"] == [0.0, 1.0]
    assert last["change"]["win_rate"]["interval"][0] < 0 and last["change"]["win_rate"]["interval"][1] > 1


def test_what_only_some_runs_have_is_the_mean_of_these() -> None:
    first, second = runs({(0.0, 0): 0.5, (0.0, 1): 0.6})
    second.summary["iterations"][-1]["win_rate"] = dict(made_up.UNSCORED)
    first.summary["iterations"].append(made_up.entry(2, 0.7))
    [summary] = average_runs([first, second], over="seed").values()
    assert [entry["iteration"] for entry in summary["iterations"]] == [0, 1, 2]
    assert summary["iterations"][1]["win_rate"] == {
        "rate": 0.5,
        "interval": None,
        "num_prompts": 24,
        "num_unscored": 3,
    }
    assert summary["iterations"][2]["win_rate"]["rate"] == 0.7


def test_without_a_setting_to_average_over_every_run_is_itself() -> None:
    found = summaries_by_label(runs(RATES), over=None)
    assert [summary["iterations"][-1]["win_rate"]["rate"] for summary in found.values()] == [0.5, 0.6, 0.75, 0.4]
    with pytest.raises(ResultError, match="--over nothing"):
        average_runs(runs(RATES), over="nothing")


def test_a_caption_says_what_the_means_and_the_bars_are() -> None:
    several, single = average_runs(runs(RATES), over="seed").values()
    assert bars_text([several]) == "means over 3 runs that differ in seed; bars: 95 % intervals over runs"
    assert bars_text([several, single]).startswith("means over 1 to 3 runs that differ in seed; ")
    assert bars_text([{"confidence": 0.9}]) == "bars: 90 % intervals"
    assert bars_text([{"confidence": 0.9}, {"confidence": 0.95}]) == "bars: intervals"


def test_figures_of_the_record_show_what_its_page_says() -> None:
    """The means and intervals of experiments/paper_claims/README.md, which were computed by other code."""
    found = average_runs(read_folders([f"{RECORD}/*"]).runs, over="seed")
    names = [f"thought={name}" for name in ("none", "prefilled", "prefilled", "prefilled")]
    assert [label.split()[0] for label in found] == names
    direct, thoughts = (
        next(
            summary for label, summary in found.items() if label == f"thought={name} length_penalty=0.0 nll_weight=1.0"
        )
        for name in ("none", "prefilled")
    )

    def points(value: dict[str, Any]) -> list[float]:
        return [round(100 * number, 1) for number in (value["rate"], *value["interval"])]

    last = thoughts["iterations"][-1]
    assert points(last["change"]["checked"]) == [19.7, 15.6, 23.8]
    assert points(last["change"]["checked_unseen"]) == [1.5, -9.1, 12.1]
    assert points(direct["iterations"][-1]["change"]["checked"]) == [22.8, 14.2, 31.3]
    assert points(last["change"]["checked_types"]["postscript"]) == [40.4, 29.3, 51.5]
    assert points(last["change"]["checked_types"]["forbidden_word"]) == [-6.0, -25.3, 13.3]
    assert [round(entry["mean_response_tokens"]) for entry in thoughts["iterations"]] == [64, 62, 63]
    for figure in (draw_changes(found), draw_iterations(found), draw_lengths(found)):
        assert "means over 3 to 5 runs that differ in seed" in numbers_text(figure)
    for figure in (draw_types(thoughts), draw_run(thoughts)):
        assert "means over 5 runs that differ in seed" in numbers_text(figure)


def test_long_names_of_runs_have_a_line_for_each_word_where_there_is_room() -> None:
    found = average_runs(read_folders([f"{RECORD}/*"]).runs, over="seed")
    *_, axes = draw_iterations(found).axes
    assert {text.get_text() for text in axes.texts} == {label.replace(" ", "\n") for label in found}
    crowded = {f"{label} {number}": summary for label, summary in found.items() for number in range(4)}
    *_, axes = draw_iterations(crowded).axes
    assert {text.get_text() for text in axes.texts} == set(crowded)
