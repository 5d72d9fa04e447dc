"""What pages have in common: one file each, nothing fetched, and the browser of samples in it.

Instructions and responses are untrusted: they travel as escaped JSON and reach the page as text nodes only, and the
page's policy (Content-Security-Policy) lets nothing but its own script run and nothing be fetched.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from tpo.results.text_table import TextTable, plain_cells
from tpo.store.text import one_line, printable

HERE = Path(__file__).parent
SCRIPTS = ("parts.js", "sides.js", "script.js")
NO_SAMPLES: dict[str, Any] = {"instructions": {}, "entries": [], "groups": [], "sides": [], "versus": {}}


def page(title: str, body: str, *, samples: Mapping[str, Any] | None) -> str:
    """Return a page.

    Args:
        title: As text.
        body: As markup, with a `browser` in it.
        samples: What that browser shows, None where there are none.
    """
    style, script = _read("style.css"), "\n".join(map(_read, SCRIPTS))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return fill(
        "shell.html",
        policy=html.escape(policy),
        title=html.escape(one_line(title)),
        style=style,
        body=body,
        samples=escape_json(samples or NO_SAMPLES),
        script=script,
    )


def browser(views: Mapping[str, str], *, is_hidden: bool = False) -> str:
    """Return the browser of samples, with these views by their ids, of which the first is what is seen at first."""
    options = "".join(f'<option value="{value}">{text}</option>' for value, text in views.items())
    hidden, hidden_view = (" hidden" if is_true else "" for is_true in (is_hidden, len(views) == 1))
    return fill("browser.html", views=options, hidden=hidden, hidden_view=hidden_view)


def fill(name: str, /, **parts: Any) -> str:
    """Return one of this package's templates with markup in the places of its names."""
    return Template(_read(name)).substitute(parts)


def escape_json(value: Any) -> str:
    """Return JSON that can stand in a script element: no character that HTML or UTF-8 could trip over.

    `<`, `>` and `&` end or change how a script element is read (`</script>`, `<!--`); a lone surrogate, which a
    response may hold, has no UTF-8. JSON holds all of these in strings only, where they can be escaped.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def html_command(text: str) -> str:
    """Return a command line for a terminal."""
    return f'<pre class="command" tabindex="0"><code>{html.escape(printable(text))}</code></pre>'


def html_table(found: TextTable | None) -> str:
    """Return a table, its title as its caption and its notes below; nothing of None."""
    if found is None:
        return ""
    head = "".join(f'<th scope="col">{html.escape(one_line(name))}</th>' for name in found.names)
    rows = []
    for first, *rest in found.rows:
        cells = "".join(f"<td>{unbroken(html.escape(one_line(cell)))}</td>" for cell in rest)
        is_part = ' class="part"' if first.startswith(" ") else ""
        rows.append(f'<tr><th scope="row"{is_part}>{html.escape(plain_cells([first])[0])}</th>{cells}</tr>\n')
    notes = "".join(f'<p class="quiet">{html.escape(one_line(note))}</p>\n' for note in found.notes)
    return (
        f'<div><div class="scroll" tabindex="0" role="region" aria-label="{html.escape(one_line(found.title))}">\n'
        f"<table><caption>{html.escape(one_line(found.title))}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{''.join(rows)}</tbody></table>\n</div>\n{notes}</div>\n"
    )


def unbroken(text: str) -> str:
    """Return "50.0 % [37.7, 62.3]" such that a narrow column breaks it before the bracket only."""
    return text.replace(" %", "&nbsp;%").replace(", ", ",&nbsp;")


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
