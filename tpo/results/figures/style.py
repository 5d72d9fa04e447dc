"""How every figure looks, and how it is saved: sizes, colours, intervals, labels.

Colours are those of Okabe & Ito's palette (2008), which readers with any common colour blindness tell apart; series
differ by marker too. Sizes are inches at which type of 7 to 8 points is printed in a two-column paper.
"""

import base64
import functools
import io
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from tpo.results.rate import Rate
from tpo.store.files import replacing
from tpo.store.text import escape, labels, one_line, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.4, 6.8  # inches: the width of a column and of a page of two columns
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA5C8D"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, "#C98A00", "#3A9BD0", "#000000")
MARKERS = ("o", "s", "^", "D", "v")
GREY, REFERENCE, ROW = "#8A949E", "#444444", "#E3E7EB"
FORMATS = ("png", "svg")
LONG_LABEL = 24  # characters
LINE = 1.2 * 7 / 72  # inches: of a series' name
LONGEST_CAPTION = 600  # characters
LONGEST_NAME = 48  # characters, of what stands at a row or a line
STYLE: Any = {  # Any: matplotlib types its keys one by one
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "figure.titlesize": 7,
    "font.size": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "savefig.dpi": 150,
    "svg.fonttype": "none",  # text stays text: it can be searched, and edited for a paper
    "svg.hashsalt": "tpo",  # the same figure is the same file
    "text.parse_math": False,  # names are a user's text, in which a dollar is a dollar
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
}

P = ParamSpec("P")


def styled(draw: Callable[P, "Figure"]) -> Callable[P, "Figure"]:
    """Make a drawing function use `STYLE`, and leave matplotlib's own settings as they were."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float, *, caption: str) -> "Figure":
    """Return an empty figure of so many inches under its caption, which is wrapped to the width."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    told = one_line(shortened(caption, LONGEST_CAPTION))
    figure.suptitle(textwrap.fill(told, round(18 * width)), x=0.01, ha="left", color=REFERENCE)
    return figure


def save(figure: "Figure", directory: Path, name: str, *, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write `<name>.<format>` into `directory`, made where missing, and return the paths.

    Two SVG files of the same figure are equal byte for byte under one version of matplotlib; they hold no date. Text of
    an SVG file is drawn in the reader's fonts; in the others, characters that the figure's font has not are escaped.
    """
    import matplotlib

    directory.mkdir(parents=True, exist_ok=True)
    paths = {kind: directory / f"{name}.{kind}" for kind in formats}
    with matplotlib.rc_context(STYLE), _without_warnings_of_fonts():
        for kind in sorted(paths, key=lambda kind: kind != "svg"):
            if kind != "svg":
                _escape_undrawable(figure)
            with replacing(paths[kind]) as temporary:
                figure.savefig(temporary, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return list(paths.values())


@contextmanager
def _without_warnings_of_fonts() -> Iterator[None]:
    """Let an SVG file have characters that the figure's font has not: its reader's may."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _escape_undrawable(figure: "Figure") -> None:
    """Escape characters that would all be drawn as the same empty box."""
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.text import Text

    known = get_font(findfont("DejaVu Sans")).get_charmap()

    def drawable(text: str) -> str:
        return "".join(sign if sign == "\n" or ord(sign) in known else escape(sign) for sign in text)

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):  # whose labels are written anew whenever they are drawn
            told = [label.get_text() for label in axis.get_ticklabels()]
            if any(drawable(text) != text for text in told):
                axis.set_ticks(axis.get_ticklocs(), [drawable(text) for text in told])
    for text in figure.findobj(Text):
        text.set_text(drawable(text.get_text()))


def svg_text(figure: "Figure") -> str:
    """Return a figure as an SVG document on no background, the same text for the same figure."""
    import matplotlib

    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(STYLE), _without_warnings_of_fonts():
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return buffer.getvalue()


def show(figure: "Figure") -> None:
    """Display a figure in a notebook, as it would be saved, with its numbers as text beside the picture."""
    from IPython.display import display
    from PIL import Image

    drawn, picture = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=1.25 * STYLE["savefig.dpi"])
    # Notebooks are committed with their pictures: a palette takes a third of the space of 24 bits a pixel. By maximum
    # coverage, as other methods drop the colour of a single marker.
    pixels = Image.open(drawn).convert("RGB")
    pixels.quantize(64, method=Image.Quantize.MAXCOVERAGE).save(picture, "png", optimize=True)
    shown = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": numbers_text(figure)}
    width = round(figure.get_figwidth() * STYLE["savefig.dpi"])
    display(shown, raw=True, metadata={"image/png": {"width": width}})  # type: ignore[no-untyped-call]


def numbers_text(figure: "Figure") -> str:
    """Return a figure in words: its caption, and of every panel its titles, rows' names, notes and each line's points.

    The same numbers drawn are the same text, whichever version of matplotlib draws them.
    """
    lines = [" ".join(figure.get_suptitle().split())]
    for axes in figure.axes:
        titles = (axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel())
        lines.append(f"[{'; '.join(title for title in titles if title)}]")
        rows = [label.get_text() for label in axes.get_yticklabels() if not _is_number(label.get_text())]
        notes = [text.get_text() for text in axes.texts]
        lines += [" | ".join(" ".join(text.split()) for text in texts) for texts in (rows, notes) if texts]
        for line in axes.get_lines():
            points = zip(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float), strict=True)
            lines.append(" ".join(f"({x:.4g}, {y:.4g})" for x, y in points))
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    try:
        float(text.replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        return not text
    return True


def names_of_rows(names: Iterable[str]) -> dict[str, str]:
    """Return what stands at the row of each name: with spaces for underscores, and no two the same."""
    return {name: one_line(label) for name, label in labels(names, longest=LONGEST_NAME, is_spaced=True).items()}


def appearance(index: int) -> dict[str, Any]:
    """Return the colour and the marker of the series number `index`."""
    return {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}


def count_text(rates: Sequence[Rate]) -> str:
    """Return "n = 60", "n = 57 to 60" or "n = 57 (+3 unscored)" for the rates that are shown together."""
    counts = [rate.num_prompts for rate in rates]
    spread = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    unscored = max(rate.num_unscored for rate in rates)
    return f"n = {spread}" + (f" (+{'up to ' * (len(counts) > 1)}{unscored:,} unscored)" if unscored else "")


def interval_text(confidence: float | None) -> str:
    """Return what the bars of a figure are."""
    return "bars: intervals" if confidence is None else f"bars: {100 * confidence:g} % intervals"


def bars_text(summaries: Sequence[dict[str, Any]]) -> str:
    """Return what the bars of a figure of runs are; of means over runs also which means (`average_runs`)."""
    levels = {summary["confidence"] for summary in summaries}
    bars = interval_text(levels.pop() if len(levels) == 1 else None)
    averaged = [summary["averaged"] for summary in summaries if "averaged" in summary]
    if not averaged:
        return bars
    counts = [found["num_runs"] for found in averaged]
    spread = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return f"means over {spread} runs that differ in {averaged[0]['over']}; {bars} over runs"


def draw_points(axes: Any, positions: Sequence[float], rates: Sequence[Rate], **style: Any) -> None:
    """Draw rates in percent over as many positions, joined, with their intervals; what is unscored leaves a gap.

    `style` is that of matplotlib's `errorbar`.
    """
    known = [(place, rate) for place, rate in zip(positions, rates, strict=True) if rate.rate is not None]
    values = [100 * (rate.rate or 0.0) for _, rate in known]
    edges = [rate.interval and [100 * edge for edge in rate.interval] for _, rate in known]
    draw_means(axes, [place for place, _ in known], values, edges, **style)


def draw_means(
    axes: Any, positions: Sequence[float], means: Sequence[float], edges: Sequence[Sequence[float] | None], **style: Any
) -> None:
    """Draw means over positions, joined, each with its interval where it has one; nothing where there are no means."""
    if not means:
        return
    if any(edges):
        bounds = [found or (mean, mean) for mean, found in zip(means, edges, strict=True)]
        # An interval of a rate of 0 or 1 may miss it by rounding, and a bar has no negative length.
        below = [max(0.0, mean - low) for mean, (low, _) in zip(means, bounds, strict=True)]
        above = [max(0.0, high - mean) for mean, (_, high) in zip(means, bounds, strict=True)]
        style = {"yerr": [below, above], "capsize": 2, "elinewidth": 0.9, **style}
    axes.errorbar(positions, means, **style)


def draw_interval(axes: Any, row: float, edges: Sequence[float] | None, **style: Any) -> None:
    """Draw a horizontal interval of fractions, in percent, or nothing where there is none."""
    if edges is not None:
        axes.plot([100 * edge for edge in edges], [row, row], **{"solid_capstyle": "butt", **style})


def label_ends(axes: Any, labels: Sequence[tuple[float, str, str]], *, height: float) -> None:
    """Write series' names beside the axes, each as high as its last point, apart from each other.

    Long names have a line for each of their words where there is room for that.

    Args:
        axes: Whose limits are final.
        labels: Vertical position, text and colour of each, in the axes' unit.
        height: Of the axes, in inches, roughly.
    """
    low, high = axes.get_ylim()
    ordered = sorted((place, one_line(text), color) for place, text, color in labels)
    texts = [text.replace(" ", "\n") if len(text) > LONG_LABEL else text for _, text, _ in ordered]
    rows = max((text.count("\n") + 1 for text in texts), default=1)
    if len(texts) * rows * LINE > 1.2 * height:
        texts, rows = [text for _, text, _ in ordered], 1
    gap = (rows + (0.4 if rows > 1 else 0.1)) * LINE / height * (high - low)
    places = spread([wanted for wanted, _, _ in ordered], gap=gap)
    for place, text, (_, _, color) in zip(places, texts, ordered, strict=True):
        axes.annotate(
            text,
            (axes.get_xlim()[1], place),
            xytext=(2, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            linespacing=1.1,
            color=color,
            annotation_clip=False,
        )


def spread(wanted: Sequence[float], *, gap: float) -> list[float]:
    """Return the positions closest to the `wanted` ones, which ascend, that are at least `gap` apart.

    Closest in the sum of squares: positions that would collide form a group around their own mean.
    """
    groups: list[list[float]] = []
    for position in wanted:
        groups.append([position])
        while len(groups) > 1 and _first(groups[-1], gap) < _first(groups[-2], gap) + gap * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    return [_first(group, gap) + gap * number for group in groups for number in range(len(group))]


def _first(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2
