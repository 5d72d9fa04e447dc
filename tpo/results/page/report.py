"""A run's folder -> `report.html`: one file, nothing fetched, the same bytes for the same run.

Of places it shows `artifacts_dir` and `runs_dir` only, and those only in commands, which would not work without.

What all pages have in common, that untrusted text stays text above all, is in `shell.py`.
"""

import base64
import html
import json
from pathlib import Path
from typing import Any

from tpo.config.kinds import load_settings
from tpo.config.schema import flatten
from tpo.config.thought import ThoughtFormat
from tpo.results.folder import NOT_IDENTITY
from tpo.results.headline import changes, collapses
from tpo.results.next import following, repeating
from tpo.results.page.samples import MAX_INSTRUCTIONS, load_samples
from tpo.results.page.shell import browser, fill, html_command, html_table, page, unbroken
from tpo.results.rate import Rate, format_rate
from tpo.results.read import FinishedRun
from tpo.results.run_tables import (
    categories_table,
    counts_table,
    headline_table,
    pairs_table,
    rates_table,
    second_judge_table,
    types_table,
)
from tpo.results.text_table import TextTable
from tpo.store.errors import TpoError
from tpo.store.files import replacing
from tpo.store.text import one_line, printable

PAGE = "report.html"
VIEWS = {"": "entries", "across": "side by side"}
#: Parts of the page that every run has, by their place in its address.
PARTS = {
    "changes": "What changed",
    "iterations": "Iterations",
    "training": "Training",
    "settings": "Settings",
    "next": "Next",
    "samples": "Samples",
    "view=across": "Side by side",
}


def write_page(run: FinishedRun, *, max_instructions: int = MAX_INSTRUCTIONS) -> Path:
    """Write `report.html` into a finished run's folder and return its path.

    Where an artifact is missing or of another version, for example because the folder was copied from elsewhere, the
    page has no samples and says why.

    Args:
        run: The run, with at least one iteration.
        max_instructions: To show per iteration, of training and of held-out ones each; see `samples.choose`.
    """
    samples, problem = None, ""
    try:
        samples = load_samples(run, max_instructions=max_instructions)
    except TpoError as error:
        problem = str(error)
    text = render_page(run, samples=samples, problem=problem)
    with replacing(run.path / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return run.path / PAGE


def render_page(run: FinishedRun, *, samples: dict[str, Any] | None, problem: str = "") -> str:
    """Return the page.

    Args:
        run: Whose numbers and figures it shows.
        samples: Of `tpo.results.page.samples.load_samples`, or None for a page without them.
        problem: Why there are none.
    """
    summary = run.summary
    last, figures = summary["iterations"][-1], _figures(run)
    has_thought = load_settings(ThoughtFormat, run.config["thought"]).has_thought
    place = str(Path(run.config["runs_dir"]) / run.path.resolve().name)  # for a command where the run was started
    body = fill(
        "report.html",
        experiment=_text(summary["experiment"]),
        name=_text(run.path.resolve().name),
        parts=" &middot; ".join(f'<a href="#{place}">{title}</a>' for place, title in PARTS.items()),
        headline=_headline(summary),
        facts=_facts(summary, run.config),
        confidence=f"{100 * summary['confidence']:g} %",
        baseline=_text(summary["baseline"]),
        num_held_out=last["win_rate"]["num_prompts"] + last["win_rate"]["num_unscored"],
        changes=html_table(headline_table(summary)),
        iterations=html_table(rates_table(summary)) + html_table(counts_table(summary)),
        second_judge=html_table(second_judge_table(summary)),
        figures=figures.get("iterations", "") + figures["lengths"],
        types=_section("types", "Checks", _types_text(summary), types_table(summary), figures.get("types", "")),
        categories=_section(
            "categories",
            "Categories",
            "Win rate before training and after the last iteration; n is of the latter.",
            categories_table(summary),
            figures.get("categories", ""),
        ),
        training=figures.get("training", ""),
        pairs=html_table(pairs_table(summary)) if last["iteration"] else "<p>This run has no training.</p>",
        command=html_command(repeating(summary["command"], run.config)),
        config=_config(run.config),
        coverage=_text(_coverage(samples) if samples else f"This page has no samples: {problem}"),
        next=html_command("\n".join(following(place, has_thought=has_thought))),
        browser=browser(VIEWS, is_hidden=samples is None),
    )
    return page(f"{summary['experiment']}: TPO report", body, samples=samples)


def _text(text: str) -> str:
    """Return a text as HTML, in one line and with nothing unseen in it."""
    return html.escape(one_line(text))


def _headline(summary: dict[str, Any]) -> str:
    """Return what changed in sentences, and that a policy collapsed where one did."""
    sentences = [unbroken(_text(change.sentence())) for change in changes(summary)]
    lines = [f"<li>{sentence.replace('-&gt;', '&rarr;')}</li>" for sentence in sentences]
    problems = [f'<p class="problem">The policy collapsed. {_text(line)}</p>' for line in collapses(summary)]
    return "\n".join([*problems, '<ul class="headline">', *lines, "</ul>"])


def _facts(summary: dict[str, Any], config: dict[str, Any]) -> str:
    facts = {
        "policy": config["model"]["name"],
        "baseline": summary["baseline"],
        "judge": summary["judge"],
        "thought format": summary["thought"],
        "length penalty": f"{config['pairs']['length_penalty']:g}",
        "seed": str(summary["seed"]),
    }
    if (second := summary["iterations"][-1]["second_judge"]) is not None:
        facts["second judge"] = second["judge"]
    items = (f"<div><dt>{name}</dt><dd>{_text(value)}</dd></div>" for name, value in facts.items())
    return "\n".join(items)


def _section(name: str, title: str, text: str, table: TextTable | None, figure: str) -> str:
    """Return a section with a table and a figure beside it; nothing where there is no table."""
    if table is None:
        return ""
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n<p class="quiet">{html.escape(text)}</p>\n'
        f'<div class="beside">\n{html_table(table)}\n<div class="scroll" tabindex="0" role="region" '
        f'aria-label="Figure: {title}">{figure}</div>\n</div>\n</section>'
    )


def _types_text(summary: dict[str, Any]) -> str:
    return (
        "The checked rate is the share of held-out instructions whose checks an answer passes, all of them, which a "
        "program tells without a judge; here also by type of check. Types that training has not stand apart, with a "
        "rate of their own. "
        f"Changes are paired by instruction, with {100 * summary['confidence']:g} % intervals."
    )


def _config(config: dict[str, Any]) -> str:
    """Return the settings that the result depends on, a row each."""
    settings = flatten({key: value for key, value in config.items() if key not in NOT_IDENTITY})
    rows = (
        f'<tr><th scope="row">{_text(key)}</th><td>{html.escape(printable(_setting(value)))}</td></tr>'
        for key, value in settings.items()
    )
    return "\n".join(rows)


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _figures(run: FinishedRun) -> dict[str, str]:
    """Return image elements by the figures' names."""
    from tpo.results.figures import svg_figures

    entries = run.summary["iterations"]
    rates = "; ".join(f"{entry['iteration']}: {format_rate(Rate.from_dict(entry['win_rate']))}" for entry in entries)
    lengths = "; ".join(
        f"{entry['iteration']}: {entry['mean_thought_tokens']:.0f} and {entry['mean_response_tokens']:.0f}"
        for entry in entries
    )
    texts = {
        "iterations": f"Win rate by iteration: {rates}",
        "lengths": f"Mean tokens of thought and response by iteration: {lengths}",
        "types": "Change of the checked rate by type of check; the numbers are in the table of checks",
        "categories": "Win rate by category, before and after; the numbers are in the table of categories",
        "training": "Loss, reward accuracy and reward margin of every training step",
    }
    broad = {"training", *(["iterations"] if entries[-1]["checked"] is not None else [])}
    return {
        name: f'<img class="{name}{" broad" * (name in broad)}" alt="{html.escape(texts[name])}" '
        f'src="data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()}">\n'
        for name, drawn in svg_figures(run).items()
    }


def _coverage(samples: dict[str, Any]) -> str:
    """Say which instructions the page shows, and how many there are."""
    parts = []
    for split, what in (("training", "training instructions"), ("held-out", "held-out answers")):
        groups = [group for group in samples["groups"] if group["split"] == split]
        shown, there = (sum(group[key] for group in groups) for key in ("num_entries", "num_instructions"))
        if groups:
            parts.append(f"all {there:,} {what}" if shown == there else f"{shown:,} of {there:,} {what}")
    text = f"This page shows {' and '.join(parts)}."
    if any(group["num_entries"] < group["num_instructions"] for group in samples["groups"]):
        limit = max(group["num_entries"] for group in samples["groups"])
        text += (
            f" At most {limit:,} of each kind are shown per iteration, drawn with the run's seed; counts below are of "
            "what is shown, those in the tables above of the whole run."
        )
    return text
