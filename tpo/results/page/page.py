"""A run's folder -> `report.html`: one file, nothing fetched, the same bytes for the same run.

Instructions and responses are untrusted: they travel as escaped JSON and reach the page as text nodes only, and the
page's policy (Content-Security-Policy) lets nothing but its own script run and nothing be fetched.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from string import Template
from typing import Any

from tpo.results.page.samples import MAX_INSTRUCTIONS, load_samples
from tpo.results.rate import Rate, format_rate
from tpo.results.read import FinishedRun
from tpo.results.run_tables import categories_table, iterations_table, pairs_table
from tpo.results.text_table import TextTable
from tpo.store.errors import TpoError
from tpo.store.files import replacing

PAGE = "report.html"
HERE = Path(__file__).parent


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
        samples = load_samples(run.summary, run.artifacts_dir, max_instructions=max_instructions)
    except TpoError as error:
        problem = str(error)
    text = render_page(run.summary, run.config, name=run.path.resolve().name, samples=samples, problem=problem)
    with replacing(run.path / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return run.path / PAGE


def render_page(
    summary: dict[str, Any],
    config: dict[str, Any],
    *,
    name: str,
    samples: dict[str, Any] | None,
    problem: str = "",
) -> str:
    """Return the page.

    Args:
        summary: `summary.json`.
        config: `config.json`.
        name: Of the run.
        samples: Of `tpo.results.page.samples.load_samples`, or None for a page without them.
        problem: Why there are none.
    """
    style, script = ((HERE / file).read_text(encoding="utf-8") for file in ("style.css", "script.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    last, figures = summary["iterations"][-1], _figures(summary)
    return Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        policy=html.escape(policy),
        style=style,
        script=script,
        experiment=html.escape(summary["experiment"]),
        name=html.escape(name),
        facts=_facts(summary, config),
        confidence=f"{100 * summary['confidence']:g} %",
        baseline=html.escape(summary["baseline"]),
        num_held_out=last["win_rate"]["num_prompts"] + last["win_rate"]["num_unscored"],
        iterations=_table(iterations_table(summary)),
        figures=figures["win_rate"] + figures["lengths"],
        category_figure=figures["categories"],
        categories=_table(categories_table(summary)),
        first=summary["iterations"][0]["iteration"],
        last=last["iteration"],
        pairs=_table(pairs_table(summary)) if last["iteration"] else "<p>This run has no training.</p>",
        coverage=html.escape(_coverage(samples) if samples else f"This page has no samples: {problem}"),
        hidden="" if samples else " hidden",
        samples=escape_json(samples or {"instructions": {}, "baseline": {}, "entries": [], "groups": []}),
    )


def escape_json(value: Any) -> str:
    """Return JSON that can stand in a script element: no character that HTML or UTF-8 could trip over.

    `<`, `>` and `&` end or change how a script element is read (`</script>`, `<!--`); a lone surrogate, which a
    response may hold, has no UTF-8. JSON holds all of these in strings only, where they can be escaped.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _facts(summary: dict[str, Any], config: dict[str, Any]) -> str:
    facts = {
        "policy": config["model"]["name"],
        "baseline": summary["baseline"],
        "judge": summary["judge"],
        "thought format": summary["thought"],
        "length penalty": f"{config['pairs']['length_penalty']:g}",
        "seed": str(summary["seed"]),
    }
    items = (f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts.items())
    return "\n".join(items)


def _table(table: TextTable) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.names)
    rows = []
    for first, *rest in table.rows:
        cells = "".join(f"<td>{_unbroken(html.escape(cell))}</td>" for cell in rest)
        rows.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>\n')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(table.title)}">\n'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table>\n</div>"
    )


def _unbroken(text: str) -> str:
    """Return "50.0 % [37.7, 62.3]" such that a narrow column breaks it before the bracket only."""
    return text.replace(" %", "&nbsp;%").replace(", ", ",&nbsp;")


def _figures(summary: dict[str, Any]) -> dict[str, str]:
    """Return image elements by the figures' names."""
    from tpo.results.figures import svg_figures

    entries = summary["iterations"]
    texts = {
        "win_rate": "Win rate by iteration: "
        + "; ".join(f"{entry['iteration']}: {format_rate(Rate.from_dict(entry['win_rate']))}" for entry in entries),
        "lengths": "Mean tokens of thought and response by iteration: "
        + "; ".join(
            f"{entry['iteration']}: {entry['mean_thought_tokens']:.0f} and {entry['mean_response_tokens']:.0f}"
            for entry in entries
        ),
        "categories": "Win rate by category, before and after; the numbers are in the table of categories",
    }
    drawn = svg_figures(summary)
    return {
        name: f'<img class="{name}" alt="{html.escape(text)}" '
        f'src="data:image/svg+xml;base64,{base64.b64encode(drawn[name].encode()).decode()}">\n'
        for name, text in texts.items()
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
