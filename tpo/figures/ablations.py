"""The ablation table: one line for each run, the settings in which runs differ, and what came out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tpo.figures.results import Run, swept_settings

if TYPE_CHECKING:
    from pandas import DataFrame

RATES = {"win_rate": "win rate", "win_rate_length_controlled": "length-controlled"}
LENGTHS = {"mean_thought_tokens": "thought tokens", "mean_response_tokens": "response tokens"}
MISSING = "-"


def ablation_table(runs: Sequence[Run], *, iteration: int | None = None) -> "DataFrame":
    """Return a table of runs after an iteration, by default each run's last, in the order of the settings.

    Args:
        runs: At least one.
        iteration: Runs that did not reach it are left out.

    Returns:
        A row for each run, by its folder's name. Columns: the settings that differ (see `swept_settings`; None where
        a run has no such setting); "iteration"; for "win_rate" and "win_rate_length_controlled" the rate and its
        interval as "_low" and "_high", fractions or NaN; "num_prompts", "num_unscored"; mean tokens; "judge" and
        "baseline" where they differ between runs.
    """
    import pandas as pd

    rows = []
    for run, settings in zip(runs, swept_settings([run.config for run in runs]), strict=True):
        entries = [entry for entry in run.summary["iterations"] if iteration in (None, entry["iteration"])]
        if not entries:
            continue
        entry = entries[-1]
        row: dict[str, Any] = {"run": run.path.name, **settings, "iteration": entry["iteration"]}
        for key in RATES:
            low, high = entry[key]["interval"] or (None, None)
            row |= {key: entry[key]["rate"], f"{key}_low": low, f"{key}_high": high}
        row |= {key: entry["win_rate"][key] for key in ("num_prompts", "num_unscored")}
        row |= {key: entry[key] for key in LENGTHS}
        for key in ("judge", "baseline"):
            if len({other.summary[key] for other in runs}) > 1 and key not in row:
                row[key] = run.summary[key]
        rows.append(row)
    rows.sort(key=lambda row: [str(value) for key, value in row.items() if key != "run"])
    table = pd.DataFrame(rows, dtype=object).set_index("run") if rows else pd.DataFrame()
    rates = [f"{key}{edge}" for key in RATES for edge in ("", "_low", "_high")]
    return table.astype(dict.fromkeys(rates, float)) if rows else table


def readable(table: "DataFrame") -> "DataFrame":
    """Return the table as text: rates in percent with their intervals, unscored instructions beside those counted."""
    import pandas as pd

    lines = []
    for name, row in table.iterrows():
        line: dict[str, str] = {"run": str(name)}
        for key, value in row.items():
            key = str(key)
            if key in RATES:
                line[f"{RATES[key]} (%)"] = _rate(value, row[f"{key}_low"], row[f"{key}_high"])
            elif key == "num_prompts":
                line["n"] = f"{value:,}" + (f" (+{row['num_unscored']:,} unscored)" if row["num_unscored"] else "")
            elif key in LENGTHS:
                line[LENGTHS[key]] = f"{value:.0f}"
            elif not key.endswith(("_low", "_high")) and key != "num_unscored":
                line[key] = _setting(value)
        lines.append(line)
    return pd.DataFrame(lines, dtype=str)


def to_markdown(table: "DataFrame") -> str:
    """Return the readable table in Markdown."""
    text = readable(table)
    rows = [list(text.columns), ["---"] * len(text.columns), *text.to_numpy().tolist()]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def to_latex(table: "DataFrame") -> str:
    """Return the readable table in LaTeX, for the package booktabs, with what LaTeX reads as commands escaped."""
    from pandas.io.formats.style import Styler

    text = readable(table)
    latex: str = (
        Styler(text)
        .hide(axis="index")
        .format(escape="latex")
        .format_index(escape="latex", axis=1)
        .to_latex(hrules=True, column_format="l" * len(text.columns))
    )
    return latex


def _rate(rate: float, low: float, high: float) -> str:
    if rate != rate:  # NaN
        return MISSING
    interval = "" if low != low else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * rate:.1f}{interval}"


def _setting(value: Any) -> str:
    if value is None or value != value:
        return MISSING
    text = str(value).replace("\n", " ")
    return text if len(text) <= 40 else text[:37] + "..."
