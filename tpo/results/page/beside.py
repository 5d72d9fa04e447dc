"""Two policies side by side -> one page: what both answered to the same instructions, and who won."""

import html
from dataclasses import replace
from pathlib import Path

from tpo.results.beside import Beside, checks_table, facts_table, won_table
from tpo.results.page.samples import choose, instruction_data, sides_data
from tpo.results.page.shell import browser, fill, html_table, page
from tpo.store.files import replacing
from tpo.store.text import one_line

#: Instructions that the page shows: two answers each, where a run's page has many.
MAX_SHARED = 1000


def write_beside(beside: Beside, directory: Path, *, max_instructions: int = MAX_SHARED) -> Path:
    """Write the page `<first>-beside-<second>.html` into a directory and return its path.

    Args:
        beside: The two sides.
        directory: Made where it is not there. A page of the same sides is replaced.
        max_instructions: To show; of more, a draw that depends on their ids alone.
    """
    first, second = (side.name.replace("@", "-") for side in beside.sides)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{first}-beside-{second}.html"
    with replacing(path) as temporary:
        text = render_beside(beside, max_instructions=max_instructions)
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def render_beside(beside: Beside, *, max_instructions: int = MAX_SHARED) -> str:
    """Return the page; the numbers are of all shared instructions, also where not all are shown."""
    shown = choose(beside.prompts, seed=0, limit=max_instructions)
    prompts = {prompt_id: prompt for prompt_id, prompt in beside.prompts.items() if prompt_id in shown}
    answers = [{prompt_id: found[prompt_id] for prompt_id in prompts} for found in beside.answers]
    wins = {prompt_id: beside.versus.wins[prompt_id] for prompt_id in prompts}
    titles = titles_of(beside)
    samples = {
        "instructions": {prompt_id: instruction_data(prompt) for prompt_id, prompt in prompts.items()},
        "entries": [],
        **sides_data(titles, beside.sides, answers, {(0, 1): replace(beside.versus, wins=wins)}),
    }
    some = (
        "" if len(prompts) == len(beside.prompts) else f" The page shows {len(prompts):,} of the instructions, drawn."
    )
    tables = "".join(html_table(table) for table in (won_table(beside), checks_table(beside)))
    body = fill(
        "beside.html",
        title=html.escape(" beside ".join(titles)),
        facts=html_table(facts_table(beside)),
        coverage=some,
        tables=tables,
        browser=browser({"across": "side by side"}),
    )
    return page(" beside ".join(titles), body, samples=samples)


def titles_of(beside: Beside) -> list[str]:
    """Return what the sides are called: of one run or evaluation what tells them apart, else by their names."""
    first, second = beside.sides
    is_one = first.place.path.resolve() == second.place.path.resolve()
    return [one_line(side.title if is_one else side.name) for side in beside.sides]
