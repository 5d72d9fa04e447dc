"""What the benchmark found on several processors, side by side, as a table in Markdown; pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench.machine import processor_text
from experiments.bench.parts import NAMES
from experiments.bench.report import number_text, range_text, share_text

Part = Mapping[str, Any]  # a part's entry in a file
TITLES = {"quiet": "{}", "busy": "the same, one process spinning beside", "two": "the same, each of two at once"}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a row for each contender of each part, and for each processor a column for each condition.

    A cell has the median, and beside it how many times as fast ours is, or what is left of the speed with nothing
    beside it. Files of one processor share its columns; where two have the same work, the later one counts.
    """
    sections: dict[str, dict[str, Part]] = {}  # title -> processor -> part
    by_part = sorted(_parts(results), key=lambda item: (NAMES.index(item[1]["name"]), title(item[1]), item[1]["date"]))
    for processor, part in by_part:
        sections.setdefault(title(part), {})[processor] = part
    processors = list(dict.fromkeys(processor_text(result["machine"]) for result in results))
    columns = [
        (processor, condition)
        for processor in processors
        for condition in TITLES
        if any(condition in part["conditions"] for owner, part in _parts(results) if owner == processor)
    ]
    heads = [TITLES[condition].format(processor) for processor, condition in columns]
    rows = [["", *heads], ["---"] * (1 + len(heads))]
    for name, by_processor in sections.items():
        rows.append([f"**{name}**", *(measured(by_processor.get(owner), when) for owner, when in columns)])
        descriptions: dict[str, str] = {}
        for part in reversed(by_processor.values()):  # the latest has the last word on names and their order
            for contender, text in part["descriptions"].items():
                if has_value(part, contender):
                    descriptions.setdefault(contender, text)
        rows += [
            [text, *(cell(by_processor.get(owner), when, contender) for owner, when in columns)]
            for contender, text in descriptions.items()
        ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def title(part: Part) -> str:
    """Return a part's title, that of the iteration with the epochs of its training."""
    if part["name"] != "iteration":
        return str(part["title"])
    count = part["options"]["iteration_epochs"]
    return f"{part['title']}, {count} epoch{'s' if count > 1 else ''} of training"


def measured(part: Part | None, condition: str) -> str:
    """Return when a part was measured under a condition, on which commit, and how often."""
    if part is None or condition not in part["conditions"]:
        return ""
    return f"{part['date'][:10]}, {part['environment']['git_commit'][:7]}, n = {part['num_rounds']}"


def has_value(part: Part, contender: str) -> bool:
    """Return whether a contender ran under some condition."""
    return any(entries["contenders"].get(contender, {}).get("value") for entries in part["conditions"].values())


def cell(part: Part | None, condition: str, contender: str, *, has_ranges: bool = True) -> str:
    """Return a contender's median with its ratio or share; an empty text where it was not measured."""
    entries = part["conditions"].get(condition) if part is not None else None
    entry = entries["contenders"].get(contender) if entries else None
    if part is None or not entries or not entry:
        return ""
    if not entry["value"]:
        return str(entry["status"])
    found = notes(part, condition, contender)
    texts = [text if has_ranges else re.sub(r" \[[^]]*\]", "", text) for text in found]
    return "; ".join([number_text(entry["value"]["median"], 3), *texts])


def notes(part: Part, condition: str, contender: str) -> list[str]:
    """Return how many times as fast ours is, or, of ours, what it reaches of another of ours; and the share kept."""
    speedups = part["conditions"][condition]["speedups"]
    ours, found = ours_of(part), []
    if contender not in ours:
        found += [f"ours {range_text(ratio, 3)} times" for ratio in speedups if ratio["other"] == contender][:1]
    else:
        found += [
            f"{share_text(ratio)} of {part['descriptions'][ratio['other']]}"
            for ratio in speedups
            if ratio["ours"] == contender and ratio["other"] in ours
        ]
    kept = part["kept"].get(condition, {}).get(contender)
    return found + ([f"keeps {share_text(kept)}"] if kept else [])


def ours_of(part: Part) -> set[str]:
    """Return which contenders are ours: those whose ratio to others was taken under some condition."""
    return {"ours"} | {found["ours"] for entries in part["conditions"].values() for found in entries["speedups"]}


def _parts(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, Part]]:
    return [(processor_text(result["machine"]), part) for result in results for part in result["parts"].values()]
