import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import matplotlib.image
import matplotlib.pyplot as plt
import pytest

from tpo.figures import _draw_categories, _draw_lengths, _draw_win_rate, svg_figures, write_figures

UNSCORED = {"rate": None, "interval": None, "num_prompts": 0, "num_unscored": 3}


def rate(value: float, count: int = 12) -> dict[str, Any]:
    interval = [max(0.0, value - 0.2), min(1.0, value + 0.2)]
    return {"rate": value, "interval": interval, "num_prompts": count, "num_unscored": 0}


def entry(iteration: int, value: float, **changes: Any) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "win_rate": rate(value, 24),
        "win_rate_length_controlled": rate(value - 0.05, 24),
        "categories": {"maths": rate(value), "code": rate(0.9 - value), "poetry": UNSCORED},
        "mean_thought_tokens": 40.0 + iteration,
        "mean_response_tokens": 80.0 - iteration,
        **changes,
    }


def summary(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"experiment": "quickstart", "judge": "self_rating", "confidence": 0.95, "iterations": list(entries)}


SUMMARIES = {
    "two_iterations": summary(entry(0, 0.3), entry(1, 0.4), entry(2, 0.5)),
    "no_training": summary(entry(0, 0.3)),
    "unscored_iteration": summary(entry(0, 0.3), entry(1, 0.0, win_rate=UNSCORED, win_rate_length_controlled=UNSCORED)),
    "nothing_scored": summary(
        entry(
            0,
            0.0,
            win_rate=UNSCORED,
            win_rate_length_controlled=UNSCORED,
            categories={"maths": UNSCORED},
            mean_thought_tokens=0.0,
            mean_response_tokens=0.0,
        )
    ),
    "category_scored_only_at_the_end": summary(
        entry(0, 0.3, categories={"maths": UNSCORED}), entry(1, 0.3, categories={"maths": rate(1.0)})
    ),
}


@pytest.mark.parametrize("name", SUMMARIES)
def test_three_pictures_are_written(name: str, tmp_path: Path) -> None:
    paths = write_figures(SUMMARIES[name], tmp_path / "figures")
    assert [path.name for path in paths] == ["win_rate.png", "categories.png", "lengths.png"]
    for path in paths:
        picture = matplotlib.image.imread(path)
        assert min(picture.shape[:2]) > 100 and picture[..., :3].std() > 0.01, "an empty picture"
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", SUMMARIES)
def test_svg_is_the_same_every_time_and_keeps_text_as_text(name: str) -> None:
    hostile = {**SUMMARIES[name], "experiment": "<script>&amp;"}
    texts = svg_figures(hostile)
    assert texts == svg_figures(hostile)
    assert list(texts) == ["win_rate", "categories", "lengths"]
    titles = ["".join(node.itertext()) for node in xml.etree.ElementTree.fromstring(texts["win_rate"]).iter()]
    assert any("<script>&amp;, judge self_rating" in title for title in titles)
    assert plt.get_fignums() == []


def test_win_rates_are_drawn_in_percent_with_their_intervals() -> None:
    figure = _draw_win_rate(SUMMARIES["unscored_iteration"])
    [axes] = figure.axes
    [[line, caps, bars], [controlled, _, _]] = axes.containers
    assert line.get_ydata().tolist() == pytest.approx([30.0])  # the unscored iteration has no point
    assert controlled.get_ydata().tolist() == pytest.approx([25.0])
    assert [cap.get_ydata()[0] for cap in caps] == pytest.approx([10.0, 50.0])
    assert "quickstart" in axes.get_title() and "self_rating" in axes.get_title()
    plt.close(figure)


def test_categories_are_sorted_and_unscored_ones_left_out() -> None:
    figure = _draw_categories(SUMMARIES["two_iterations"])
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["code (n = 12)", "maths (n = 12)"]
    points = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert sorted(point for [point] in points) == pytest.approx([30.0, 40.0, 50.0, 60.0])
    plt.close(figure)


def test_lengths_are_drawn_per_iteration() -> None:
    figure = _draw_lengths(SUMMARIES["two_iterations"])
    drawn = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert drawn == {"thought": [[0, 40], [1, 41], [2, 42]], "response": [[0, 80], [1, 79], [2, 78]]}
    plt.close(figure)
