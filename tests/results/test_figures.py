"""Every figure is drawn from made-up numbers and read back from what is on its axes."""

import math
import random
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import made_up
import matplotlib.image
import matplotlib.pyplot as plt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import UNSCORED, rate, summary
from matplotlib.figure import Figure

from tpo.results.figures import (
    draw_categories,
    draw_category_gains,
    draw_changes,
    draw_iterations,
    draw_lengths,
    draw_run,
    draw_run_lengths,
    draw_thought_budget,
    draw_thought_value,
    draw_training,
    draw_types,
    save,
    svg_figures,
    write_figures,
)
from tpo.results.figures.evaluation import log_positions
from tpo.results.figures.style import SERIES, spread
from tpo.results.read import FinishedRun
from tpo.results.run_tables import headline_table, types_table


def entry(iteration: int, value: float, **changes: Any) -> dict[str, Any]:
    categories = {"maths": rate(value), "code": rate(0.9 - value), "poetry": rate(value, 9)}
    return made_up.entry(iteration, value, **{"categories": categories, **changes})


NOTHING = {"win_rate": UNSCORED, "win_rate_length_controlled": UNSCORED}
SUMMARIES = {
    "two_iterations": summary(entry(0, 0.3), entry(1, 0.4), entry(2, 0.5)),
    "no_training": summary(entry(0, 0.3)),
    "unscored_iteration": summary(entry(0, 0.3), entry(1, 0.0, **NOTHING)),
    "nothing_scored": summary(
        entry(0, 0.0, **NOTHING, categories={"maths": UNSCORED}, mean_thought_tokens=0.0, mean_response_tokens=0.0)
    ),
    "category_scored_only_at_the_end": summary(
        entry(0, 0.3, categories={"maths": UNSCORED, "code": rate(0.5)}),
        entry(1, 0.3, categories={"maths": rate(1.0), "code": rate(0.5)}),
    ),
    "everything": made_up.full_summary(),
}


def run(summary: dict[str, Any]) -> FinishedRun:
    return FinishedRun(Path("nowhere"), summary, made_up.config())


@pytest.mark.parametrize("name", SUMMARIES)
def test_pictures_are_written(name: str, tmp_path: Path) -> None:
    paths = write_figures(run(SUMMARIES[name]), tmp_path / "figures")
    expected = ["iterations.png", "categories.png", "lengths.png"]
    if name == "nothing_scored":
        expected.remove("categories.png")
    if name == "everything":
        expected.insert(1, "types.png")
    assert [path.name for path in paths] == expected
    for path in paths:
        picture = matplotlib.image.imread(path)
        assert min(picture.shape[:2]) > 100 and picture[..., :3].std() > 0.01, "an empty picture"
    assert plt.get_fignums() == []


def test_categories_of_few_instructions_are_not_drawn() -> None:
    few = {"maths": rate(0.5, 3), "code": rate(0.5, 3)}
    one = {"maths": rate(0.5, 40), "code": rate(0.5, 9)}
    types = {"title": rate(0.5, 40), "no_comma": rate(0.5, 40)}
    for categories in (few, one):
        assert "categories" not in svg_figures(run(summary(entry(0, 0.3, categories=categories))))
    checks = made_up.checked(0.5, types={"title": 0.5, "no_comma": 0.5})
    assert "categories" not in svg_figures(run(summary(entry(0, 0.3, categories=types, checked=checks))))
    assert "categories" in svg_figures(run(summary(entry(0, 0.3, categories=types))))


@pytest.mark.parametrize("name", SUMMARIES)
def test_svg_is_the_same_every_time_and_keeps_text_as_text(name: str) -> None:
    hostile = run({**SUMMARIES[name], "experiment": "<script>&amp;"})
    texts = svg_figures(hostile)
    assert texts == svg_figures(hostile)
    titles = ["".join(node.itertext()) for node in xml.etree.ElementTree.fromstring(texts["iterations"]).iter()]
    assert any("<script>&amp;" in title for title in titles)
    assert plt.get_fignums() == []


def lines(axes: Any) -> dict[str, list[list[float]]]:
    """What is drawn under a name of its own: series of points."""
    return {
        container.get_label(): container[0].get_xydata().tolist()
        for container in axes.containers
        if not container.get_label().startswith("_")
    }


def bars(container: Any) -> list[list[float]]:
    """The lower and upper ends of a series' bars."""
    return [[segment[0][1], segment[1][1]] for segment in container[2][0].get_segments()]


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def caption(figure: Figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


def marked(axes: Any, marker: str) -> list[tuple[float, float, bool]]:
    """Horizontal and vertical position of markers, and whether they are filled."""
    return [
        (x, y, line.get_markerfacecolor() != "white")
        for line in axes.lines
        if line.get_marker() == marker
        for x, y in line.get_xydata().tolist()
    ]


def segments(axes: Any, linewidth: float) -> list[list[float]]:
    """The horizontal bars of one width, from left to right ends."""
    found = [
        line.get_xdata() for line in axes.lines if line.get_linewidth() == linewidth and len(line.get_xdata()) == 2
    ]
    return [list(ends) for ends in found]


def test_win_rates_are_drawn_in_percent_with_their_intervals() -> None:
    figure = draw_run(SUMMARIES["unscored_iteration"])
    [axes] = figure.axes
    found = lines(axes)
    assert list(found) == ["win rate", "equal length"]
    assert [y for _, y in found["win rate"]] == pytest.approx([30.0])  # the unscored iteration has no point
    assert [y for _, y in found["equal length"]] == pytest.approx([25.0])
    assert bars(axes.containers[0]) == [pytest.approx([10.0, 50.0])]
    for part in ("quickstart", "self_rating", "seed model", "n = 0 to 24", "up to 3 unscored", "95 % intervals"):
        assert part in caption(figure)
    assert sorted(texts(axes)) == sorted(found)  # direct labels
    low, high = axes.get_ylim()
    assert low + high == pytest.approx(100) and low <= 5 and high - low >= 50, "one half is in the middle"


def levels(axes: Any) -> list[float]:
    return [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]


def test_checked_rates_are_drawn_beside_win_rates_with_baseline_and_control() -> None:
    checked, win_rates = draw_run(made_up.full_summary()).axes
    found = lines(checked)
    assert [y for _, y in found["trained types"]] == pytest.approx([27.8, 27.8, 40.9])
    assert [y for _, y in found["unseen types"]] == pytest.approx([20, 18, 16])
    assert levels(checked) == [pytest.approx(35.9)] and levels(win_rates) == [pytest.approx(50.4)]
    assert sorted(texts(checked)) == ["direct baseline", "trained types", "unseen types"]
    assert sorted(texts(win_rates)) == ["equal length", "null control", "second judge", "win rate"]
    assert [y for _, y in lines(win_rates)["second judge"]] == pytest.approx([47, 49, 53])
    assert checked.get_ylim()[0] == 0


def test_changes_by_type_are_sorted_and_unseen_ones_marked() -> None:
    figure = draw_types(made_up.full_summary())
    [axes] = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [
        *("trained types", "unseen types"),
        *("title", "more words", "no comma", "postscript"),
    ]
    assert [(x, y) for x, y, _ in marked(axes, "D")] == [pytest.approx((13.1, 0)), (-4, 1)]
    assert [(x, y) for x, y, _ in marked(axes, "^")] == [pytest.approx(at) for at in [(87.5, 2), (27.5, 3), (0, 4)]]
    assert [(x, y) for x, y, _ in marked(axes, "s")] == [pytest.approx((-5, 5))]
    assert segments(axes, 3)[2] == pytest.approx([77.5, 97.5])
    assert texts(axes)[0] == "28 \N{RIGHTWARDS ARROW} 41 %, n = 320" and texts(axes)[-1].endswith("15 %, n = 40")
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first row is at the top"


def test_changes_of_runs_have_a_panel_for_each_quantity() -> None:
    runs = {"checked": made_up.full_summary(), "plain": summary(entry(0, 0.3), entry(1, 0.4))}
    figure = draw_changes({**runs, "untrained": summary(entry(0, 0.3))})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["checked rate", "win rate", "score"]
    checked, win_rates, scores = figure.axes
    assert [(x, y) for x, y, _ in marked(checked, "o")] == [pytest.approx((13.1, 0))] and marked(checked, "s") == []
    assert [(x, y) for x, y, _ in marked(win_rates, "s")] == [pytest.approx((10, 1))]
    assert [(x, y) for x, y, _ in marked(scores, "o")] == [pytest.approx((0.177, 0))], "in the judge's unit"
    assert segments(scores, 3)[0] == pytest.approx([0.127, 0.227])
    assert [label.get_text() for label in checked.get_yticklabels()] == ["checked", "plain", "untrained"]
    assert "n = 12 to 320" in caption(figure)
    assert draw_changes({"untrained": summary(entry(0, 0.3))}).axes, "nothing was trained: an empty panel"


def test_training_is_drawn_step_by_step() -> None:
    steps = [{"loss": 0.69, "rewards/accuracies": 0.0, "rewards/margins": 0.0}, {"loss": 0.5, "rewards/margins": 1.0}]
    figure = draw_training({1: steps, 2: steps[:1]}, experiment="made up")
    loss, accuracy, margin = figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in loss.lines if line.get_label()[0] != "_"}
    assert drawn == {"iteration 1": [[1, 0.69], [2, 0.5]], "iteration 2": [[3, 0.69]]}
    assert [line.get_xydata().tolist() for line in accuracy.lines if line.get_label() == "iteration 1"] == [[[1, 0.0]]]
    assert [line.get_ydata().tolist() for line in margin.lines if line.get_label() == "iteration 2"] == [[0.0]]
    assert texts(loss) == ["1", "2"] and "n = 1 to 2 steps" in caption(figure)
    assert math.log(2) in [line.get_ydata()[0] for line in loss.lines]


def test_categories_are_sorted_and_unscored_ones_left_out() -> None:
    figure = draw_categories(SUMMARIES["two_iterations"])
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["code (n = 12)", "maths (n = 12)"]
    assert sorted(x for x, _, _ in marked(axes, "o")) == pytest.approx([40.0, 50.0])
    assert sorted(x for x, _, _ in marked(axes, "D")) == pytest.approx([30.0, 60.0])
    assert sorted(map(tuple, segments(axes, 2))) == [
        pytest.approx(ends) for ends in [(10, 50), (20, 60), (30, 70), (40, 80)]
    ]


def test_without_training_categories_are_drawn_once() -> None:
    [axes] = draw_categories(SUMMARIES["no_training"]).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["iteration 0"]


def test_lengths_are_drawn_per_iteration() -> None:
    figure = draw_run_lengths(SUMMARIES["two_iterations"])
    found = lines(figure.axes[0])
    assert [y for _, y in found["thought"]] == [40, 41, 42] and [y for _, y in found["response"]] == [80, 79, 78]
    assert "no intervals" in caption(figure)


# --- several runs -----------------------------------------------------------------------------------------------

RUNS = {
    "TPO": summary(entry(0, 0.3), entry(1, 0.4), entry(2, 0.5)),
    "direct baseline": summary(
        entry(0, 0.45, mean_thought_tokens=0.0), entry(1, 0.46, win_rate=rate(0.46, 20), mean_thought_tokens=0.0)
    ),
}


def test_checked_rates_of_runs_take_the_left_panel() -> None:
    direct = made_up.full_summary() | {"baseline_checked": None}
    checked, win_rates = draw_iterations({"thoughts": made_up.full_summary(), "direct": direct, **RUNS}).axes
    assert [axes.get_title(loc="left") for axes in (checked, win_rates)] == ["checked rate (%)", "win rate (%)"]
    assert set(lines(checked)) == {"thoughts", "direct"} and len(lines(win_rates)) == 4
    assert texts(checked) == [] and len(texts(win_rates)) == 4, "a run is named once"
    dotted = [line for line in checked.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in dotted] == [pytest.approx(35.9)] and dotted[0].get_color() == SERIES[0]


def test_runs_whose_test_has_unseen_types_alone_have_no_checked_rate() -> None:
    found = made_up.full_summary()
    for checks in (found["baseline_checked"], *(entry["checked"] for entry in found["iterations"])):
        checks["strict"] = checks["loose"] = None
    for entry in found["iterations"][1:]:
        entry["change"]["checked"] = None
    for figure in (draw_iterations({"unseen": found, **RUNS}), draw_run(found)):
        assert "direct baseline" not in texts(figure.axes[0])
    assert types_table(found) is not None and headline_table(found).rows[0][0] == "win rate (%)"


def test_runs_are_overlaid_in_two_panels() -> None:
    figure = draw_iterations(RUNS)
    plain, controlled = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["win rate (%)", "win rate at equal length (%)"]
    assert [y for _, y in lines(plain)["TPO"]] == pytest.approx([30, 40, 50])
    assert [y for _, y in lines(controlled)["direct baseline"]] == pytest.approx([40, 41])
    assert bars(plain.containers[1]) == [pytest.approx([25, 65]), pytest.approx([26, 66])]
    assert texts(plain) == [] and sorted(texts(controlled)) == sorted(RUNS)
    assert "n = 20 to 24" in caption(figure) and "against seed model" in caption(figure)
    colors = {text.get_text(): text.get_color() for text in controlled.texts}
    assert colors == {"TPO": SERIES[0], "direct baseline": SERIES[1]}


def test_a_run_without_length_control_is_named_in_the_other_panel() -> None:
    bare = summary(entry(0, 0.4, win_rate_length_controlled=UNSCORED))
    plain, controlled = draw_iterations({**RUNS, "bare": bare}).axes
    assert texts(plain) == ["bare"] and sorted(texts(controlled)) == sorted(RUNS)


@pytest.mark.parametrize("key", ["judge", "baseline"])
def test_what_does_not_compare_is_said(key: str) -> None:
    other = {**RUNS["TPO"], key: "another"}
    assert f"{key}s differ between runs" in caption(draw_iterations({"one": RUNS["TPO"], "two": other}))


def test_lengths_of_runs_have_intervals_where_these_are_known() -> None:
    known = summary(entry(0, 0.3, length_intervals={"thought": [35.0, 45.0]}), entry(1, 0.4))
    figure = draw_lengths({**RUNS, "known": known})
    thoughts, responses = figure.axes
    assert set(lines(thoughts)) == {"TPO", "known"}, "the direct baseline has no thoughts"
    assert set(lines(responses)) == {*RUNS, "known"} == set(texts(responses))
    assert bars(thoughts.containers[1])[0] == pytest.approx([35.0, 45.0])
    assert "95 % intervals" in caption(figure)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.floats(0.5, 20))
def test_labels_keep_apart_and_stay_around_their_points(wanted: list[float], gap: float) -> None:
    wanted.sort()
    places = spread(wanted, gap=gap)
    assert all(second - first >= gap - 1e-9 for first, second in zip(places, places[1:], strict=False))
    assert sum(places) == pytest.approx(sum(wanted), abs=1e-6)
    if all(second - first >= gap for first, second in zip(wanted, wanted[1:], strict=False)):
        assert places == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("wanted", "places"), [([50, 50], [45, 55]), ([0, 50, 50], [0, 45, 55]), ([0, 8, 10], [-4, 6, 16])]
)
def test_labels_by_hand(wanted: list[float], places: list[float]) -> None:
    assert spread(wanted, gap=10) == pytest.approx(places)


# --- evaluations ------------------------------------------------------------------------------------------------

COMMON = {
    "policy": "made-up policy",
    "baseline": "made-up baseline",
    "judge": "made_up_judge",
    "confidence": 0.9,
    "num_prompts": 100,
}


def gain(value: float | None, *, adjusted: float = 1.0) -> dict[str, Any]:
    """A category's win rate that is so far from one half."""
    if value is None:
        return {**UNSCORED, "num_unscored": 2}
    return {
        "rate": 0.5 + value,
        "interval": [0.45 + value, 0.55 + value],
        "num_prompts": 25,
        "num_unscored": 0,
        "p_value": adjusted / 4,
        "adjusted_p_value": adjusted,
        "simultaneous_interval": [0.4 + value, 0.6 + value],
    }


CATEGORIES = {
    "evaluation": "categories",
    **COMMON,
    "overall": rate(0.55, 75),
    "categories": {
        "maths": gain(-0.1, adjusted=0.05),
        "how_to": gain(0.2, adjusted=0.049),
        "law": gain(None),
        "art": gain(None),
        "code": gain(0.1),
    },
}
THOUGHT_VALUE = {
    "evaluation": "thought_value",
    **COMMON,
    "conditions": [
        {
            "name": name,
            "win_rate": win_rate,
            "mean_thought_tokens": 61.2,
            "mean_response_tokens": 100.0,
            "minus_own": difference,
        }
        for name, win_rate, difference in [
            ("own", rate(0.6, 100), None),
            (
                "none",
                rate(0.5, 100),
                {
                    "rate": -0.1,
                    "interval": [-0.15, -0.05],
                    "p_value": 0.0001,
                    "adjusted_p_value": 0.0002,
                    "num_prompts": 98,
                    "num_unscored": 2,
                },
            ),
            (
                "cut-0.5",
                rate(0.58, 100),
                {
                    "rate": -0.02,
                    "interval": [-0.06, 0.02],
                    "p_value": 0.3,
                    "adjusted_p_value": 0.3,
                    "num_prompts": 99,
                    "num_unscored": 1,
                },
            ),
            ("seed", UNSCORED, None),
        ]
    ],
}
BUDGETS = {
    "evaluation": "thought_budget",
    **COMMON,
    "budgets": [
        {
            "max_thought_tokens": limit,
            "mean_thought_tokens": 0.5 * limit,
            "mean_response_tokens": 90.0,
            "win_rate": rate(value, 100),
        }
        for limit, value in [(64, 0.6), (0, 0.4), (32, 0.5), (128, 0.61)]
    ],
}


def test_gains_are_sorted_with_both_intervals_and_filled_where_significant() -> None:
    figure = draw_category_gains(CATEGORIES)
    [axes] = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [
        "art, n = 0 (+2 unscored)",
        "law, n = 0 (+2 unscored)",
        "maths, n = 25",
        "code, n = 25",
        "how to, n = 25",
        "all, n = 75",
    ]
    found = marked(axes, "o")
    assert [(round(x, 9), y) for x, y, _ in found] == [(-10, 2), (10, 3), (20, 4)]
    assert [is_filled for _, _, is_filled in found] == [False, False, True]  # p = 0.05, 1 and 0.049
    assert segments(axes, 3)[:3] == [pytest.approx(ends) for ends in [(-15, -5), (5, 15), (15, 25)]]
    assert segments(axes, 3)[3] == pytest.approx([-15, 25])  # overall: 55 % is 5 points above 50 %
    assert [ends for ends in segments(axes, 0.7) if ends != [0, 0]] == [
        pytest.approx(ends) for ends in [(-20, 0), (0, 20), (10, 30)]
    ]
    assert [text.strip() for text in texts(axes)] == ["nothing scored"] * 2
    assert "90 % intervals" in caption(figure)


def test_interventions_are_drawn_beside_their_difference_to_the_own_thought() -> None:
    rates, differences = draw_thought_value(THOUGHT_VALUE).axes
    assert [label.get_text() for label in rates.get_yticklabels()] == [
        f"{name}\n61 tokens" for name in ("own thought", "no thought", "own, 50 % of it", "the seed model's")
    ]
    assert [(x, y) for x, y, _ in marked(rates, "D")] == [(60, 0)]
    assert [(x, y) for x, y, _ in marked(rates, "o")] == [pytest.approx((50, 1)), pytest.approx((58, 2))]
    assert segments(rates, 3) == [pytest.approx(ends) for ends in [(40, 80), (30, 70), (38, 78)]]
    assert texts(rates)[0] == "60.0 %\nn = 100" and texts(rates)[-1] == "nothing scored"
    assert marked(differences, "o") == [(-10, 1, True), (-2, 2, False)]
    assert segments(differences, 3) == [pytest.approx(ends) for ends in [(-15, -5), (-6, 2)]]
    assert texts(differences)[1:3] == ["−10.0, n = 98\nadj. p < 0.001", "−2.0, n = 99\nadj. p = 0.300"]
    assert [texts(differences)[row] for row in (0, 3)] == ["(compared with this)", "not compared"]


def test_budgets_are_drawn_in_order_over_their_logarithm() -> None:
    upper, lower = draw_thought_budget(BUDGETS).axes
    [container] = upper.containers
    assert container[0].get_xydata().tolist() == [pytest.approx(p) for p in [(4, 40), (5, 50), (6, 60), (7, 61)]]
    assert bars(container)[0] == pytest.approx([20, 60])
    assert [label.get_text() for label in lower.get_xticklabels()] == ["0", "32", "64", "128"]
    used = {line.get_label(): line.get_ydata() for line in lower.lines}
    assert list(used["thought"]) == [0, 16, 32, 64] and sorted(texts(lower)) == ["response", "thought"]


def test_budget_positions() -> None:
    assert (
        log_positions([0]) == [-1] and log_positions([0, 1, 8]) == [-1, 0, 3] and log_positions([5])[0] == math.log2(5)
    )


# --- files ------------------------------------------------------------------------------------------------------

DRAWINGS = {
    "run": lambda: draw_run(SUMMARIES["two_iterations"]),
    "categories": lambda: draw_categories(SUMMARIES["two_iterations"]),
    "checked_run": lambda: draw_run(made_up.full_summary()),
    "types": lambda: draw_types(made_up.full_summary()),
    "changes": lambda: draw_changes({**RUNS, "checked": made_up.full_summary()}),
    "iterations": lambda: draw_iterations(RUNS),
    "checked_iterations": lambda: draw_iterations({**RUNS, "checked": made_up.full_summary()}),
    "training": lambda: draw_training({1: [{"loss": 0.5}] * 3, 2: [{"loss": 0.4}] * 3}, experiment="n = made up"),
    "gains": lambda: draw_category_gains(CATEGORIES),
    "value": lambda: draw_thought_value(THOUGHT_VALUE),
    "budget": lambda: draw_thought_budget(BUDGETS),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_files_are_the_same_each_time_and_hold_text(name: str, tmp_path: Path) -> None:
    random.seed(0)
    png, svg = save(DRAWINGS[name](), tmp_path / "one", name)
    random.seed(1)
    again_png, again_svg = save(DRAWINGS[name](), tmp_path / "two", name)
    assert (png.name, svg.name) == (f"{name}.png", f"{name}.svg")
    assert svg.read_bytes() == again_svg.read_bytes() and png.read_bytes() == again_png.read_bytes()
    text = svg.read_text()
    assert "<dc:date>" not in text and "<text" in text and "n = " in text


@pytest.mark.parametrize("name", DRAWINGS)
def test_nothing_is_cut_off_and_names_do_not_overlap(name: str) -> None:
    figure: Figure = DRAWINGS[name]()
    figure.draw_without_rendering()
    size = figure.bbox
    for axes in figure.axes:
        ticks = []  # those beyond the axes are not drawn
        for labels, limits, place in (
            (axes.get_xticklabels(), axes.get_xlim(), 0),
            (axes.get_yticklabels(), axes.get_ylim(), 1),
        ):
            ticks += [text for text in labels if min(limits) <= text.get_position()[place] <= max(limits)]
        drawn = [*axes.texts, *ticks, axes.xaxis.label, axes.yaxis.label]
        boxes = [text.get_window_extent() for text in drawn if text.get_text()]
        for box in [*boxes, axes.title.get_window_extent()]:
            assert box.x0 >= size.x0 - 1 and box.x1 <= size.x1 + 1 and box.y0 >= size.y0 - 1 and box.y1 <= size.y1 + 1
        beside = [text.get_window_extent() for text in axes.texts]
        for index, box in enumerate(beside):
            assert not any(box.overlaps(other) for other in beside[:index])


def test_drawing_leaves_matplotlibs_settings_alone(tmp_path: Path) -> None:
    before = dict(plt.rcParams)
    write_figures(run(SUMMARIES["everything"]), tmp_path, formats=("png", "svg"))
    assert dict(plt.rcParams) == before
