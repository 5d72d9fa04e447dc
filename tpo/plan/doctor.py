"""What a run needs of this machine or of a card, what of it is there, and what the run costs, before it starts.

`python -m tpo.doctor experiment=tpo_llama3_8b` looks at this machine; with `--card` at a card that is given by hand.
Loads no model and computes nothing; its hours follow from stated speeds (`hours.py`), its memory from shapes
(`memory.py`), its tokens from the stages that the run would ask for.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tpo.config import help
from tpo.config.check import check, check_words
from tpo.config.compose import check_choices, compose_config
from tpo.config.schema import Config
from tpo.config.streams import console, tell
from tpo.evaluate.inherit import settings_of_seed
from tpo.evaluate.seeds import find_seed
from tpo.model.architecture import find_architecture
from tpo.model.disk import GIB, disk_parts
from tpo.plan.cards import Card, of_gpu, parse
from tpo.plan.cost import token_budget
from tpo.plan.hours import NOTHING, START_S, Clock, Range
from tpo.plan.machine import Check, machine_checks, num_cards
from tpo.plan.needs import Need, memory_needs
from tpo.plan.stages import PlannedArtifact, PlanStore, plan_job
from tpo.results.text_table import format_number
from tpo.store.artifacts import Artifact
from tpo.store.errors import TpoError
from tpo.store.files import write_json, writing_to
from tpo.store.gpus import visible_gpus

ABOUT = """\
What a run needs, what of it is here, and what it costs. Takes seconds, loads nothing; exits with 1 where something is
missing that the run cannot do without, with 2 where the settings are wrong.

python -m tpo.doctor experiment=tpo_llama3_8b                    on this machine
python -m tpo.doctor experiment=tpo_llama3_8b --card 24gb        on a card that is not here: 24gb, 48gb, 80gb, a name
python -m tpo.doctor experiment=tpo_small_gpu --price 0.5        in dollars too, by the price of a card and hour
"""
OPTIONS = """\
--config-dir DIR   YAML files of your own, in folders named as the groups are
--card CARD        a class (24gb), a name ("RTX 3090"), or memory=GiB,tflops=bf16 TFLOP/s,bandwidth=GB/s
--price DOLLARS    of a card for an hour
--json FILE        write the findings there too
"""


def examine(config: Config, *, card: Card | None = None, price: float | None = None) -> dict[str, Any]:
    """Return the findings in plain JSON types.

    Args:
        config: Of the run, checked but for packages.
        card: One that is not here; without it this machine's are looked at.
        price: Dollars for a card and an hour.

    Raises:
        TpoError: If the run would fail before its first stage that takes time.
    """
    checks: list[Check] = []
    memory: float | None = None
    asked, root = config, Path(config.artifacts_dir)
    # Sizes and files are those of the model that a run or an export, if one is named, goes on from.
    config = replace(config, model=find_seed(config.model, PlanStore(root)).model)
    if card is None:
        gpus = visible_gpus()
        checks = machine_checks(config, gpus)
        card = of_gpu(gpus[0]) if gpus else None
        memory = min(gpu.free_gib for gpu in gpus) if gpus else None
    else:
        memory = card.memory
    needs = memory_needs(config, memory) if memory is not None else None
    stages = plan_job(asked).stages
    costs = _costs(config, stages, card)
    seconds = [cost["seconds"] for cost in costs]
    total = Range(sum(each[0] for each in seconds if each), sum(each[1] for each in seconds if each))
    cards = num_cards(config)
    dollars = None if price is None or card is None else [cards * price * part / 3600 for part in total]
    return {
        "checks": [item._asdict() for item in checks],
        "card": None if card is None else card._asdict(),
        "num_cards": cards,
        "memory": None if needs is None else [_plain(need) for need in needs],
        "stages": costs,
        "hours": None if card is None or card.tflops is None else [part / 3600 for part in total],
        "unknown": [cost["stage"] for cost in costs if cost["seconds"] is None],
        "dollars": dollars,
        "disk": [{"name": part.name, "gib": part.size / GIB} for part in disk_parts(config)],
        "is_ready": all(item.state != "missing" for item in checks) and all(need.fits for need in needs or []),
    }


def _plain(need: Need) -> dict[str, Any]:
    return {**need._asdict(), "total": need.total}


def _costs(config: Config, stages: Sequence[Artifact], card: Card | None) -> list[dict[str, Any]]:
    """Return tokens and seconds of the stages that are not there yet, by kind, with the starts of models last."""
    missing = [artifact for artifact in stages if isinstance(artifact, PlannedArtifact)]
    model = find_architecture(config.model.name, revision=config.model.revision)
    is_known = card is not None and card.tflops is not None and card.bandwidth is not None
    clock = Clock(card, stages, model=model) if is_known and card is not None else None
    rows = []
    for kind in dict.fromkeys(artifact.manifest["stage"] for artifact in missing):
        alike = [artifact for artifact in missing if artifact.manifest["stage"] == kind]
        found = [clock.expect(artifact) if clock else None for artifact in alike]
        known = [each for each in found if each is not None]
        seconds = Range(sum(each.low for each in known), sum(each.high for each in known))
        tokens = sum(token_budget(artifact.manifest) for artifact in alike)
        rows.append(
            {"stage": kind, "count": len(alike), "tokens": tokens, "seconds": list(seconds) if all(found) else None}
        )
    if clock is not None and missing:
        count = clock.starts(missing)
        seconds = Range(count * START_S.low, count * START_S.high) if count else NOTHING
        rows.append({"stage": "starts of models", "count": count, "tokens": 0, "seconds": list(seconds)})
    return rows


def print_findings(found: dict[str, Any]) -> None:
    """Print the findings as tables, with what they rest on below."""
    from rich import box
    from rich.table import Table

    out = console(width=120)

    def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
        for place, name in enumerate(header):
            is_name = place == 1 and not right  # a model's is not to be broken
            table.add_column(name, justify="right" if place in right else "left", overflow="fold", no_wrap=is_name)
        for row in rows:
            table.add_row(*row)
        out.print(table)

    if found["checks"]:
        rows = [[item["state"], item["what"], item["found"], item["how"]] for item in found["checks"]]
        show("this machine", ["", "what", "found", "how to get it"], rows)
    card = found["card"]
    if found["memory"] is not None:
        rows = []
        for need in found["memory"]:
            state = "fits" if need["fits"] else "does not fit: " + need["advice"]
            rows += [[need["stage"], name, f"{size:.2f}", ""] for name, size in need["parts"].items()]
            rows.append(["", "in all", f"{need['total']:.2f}", state])
        show(f"memory of {card['name']}, {card['memory']:.1f} GiB", ["stage", "part", "GiB", ""], rows, right=[2])
    rows = []
    for cost in found["stages"]:
        tokens = format_number(cost["tokens"]) if cost["tokens"] else "-"
        rows.append([cost["stage"], str(cost["count"]), tokens, _span(cost["seconds"])])
    title = "to compute" + (f", on {found['num_cards']} x {card['name']}" if card else "")
    show(title, ["stage", "number", "tokens at most", "time"], rows, right=[1, 2, 3])
    disk = [[part["name"], f"{part['gib']:.2f}"] for part in found["disk"]]
    show("disk", ["part", "GiB"], [*disk, ["in all", f"{sum(part['gib'] for part in found['disk']):.2f}"]], right=[1])
    for line in notes(found):
        out.print(line)


def told_of(overrides: Sequence[str]) -> str:
    """Return in one line which settings the findings are of.

    Args:
        overrides: As on the command line.
    """
    keys = [word.lstrip("+").partition("=")[0] for word in overrides]
    if "experiment" in keys:
        return f"settings: {' '.join(overrides)}"
    given = f", with {' '.join(overrides)}" if overrides else ""
    return f"settings: the defaults of conf/config.yaml{given}; experiment=NAME takes those of an experiment"


def notes(found: dict[str, Any]) -> list[str]:
    """Return what there is to say below the tables."""
    lines = []
    if found["hours"] is not None:
        low, high = found["hours"]
        open_end = f", and what {', '.join(found['unknown'])} takes, which is unknown" if found["unknown"] else ""
        lines.append(f"time: {low:.1f} to {high:.1f} hours{open_end}")
        if found["dollars"] is not None:
            low, high = found["dollars"]
            lines.append(f"price: {low:.3g} to {high:.3g} dollars")
        lines.append(
            "Computed from the card's stated speed and the share of it that such programs reach, not measured: "
            "completions of 0.4 of their budget, prompts of 300 tokens (tpo/plan/hours.py)"
        )
    elif found["card"] is None:
        lines.append("time: unknown without a card; --card says what one would take, tpo.plan what past stages took")
    else:
        lines.append("time: this card's speed is unknown; give --card memory=...,tflops=...,bandwidth=...")
    if found["memory"] is None and found["card"] is not None:
        lines.append("memory: the model's sizes are unknown; download its config.json, or name a directory")
    is_known = found["memory"] is not None or found["card"] is None
    ready = "ready" if found["checks"] else "the run fits this card; this machine was not looked at"
    ready = ready if is_known else "ready, as far as is known"
    lines.append(ready if found["is_ready"] else "not ready: see what is missing or does not fit")
    return lines


def _span(seconds: Sequence[float] | None) -> str:
    """Return a range of seconds for people, both in one unit."""
    if seconds is None:
        return "unknown"
    low, high = seconds
    for unit, size, least in (("h", 3600, 3600), ("min", 60, 60)):
        if high >= least:
            return f"{low / size:.1f} to {high / size:.1f} {unit}"
    return "seconds" if high else "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings; return 0 where the run can start, 1 where it cannot, 2 where the settings are wrong."""
    parser = argparse.ArgumentParser(prog="python -m tpo.doctor", add_help=False)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--config-dir", type=Path, metavar="DIR")
    parser.add_argument("--card", metavar="CARD")
    parser.add_argument("--price", type=float, metavar="DOLLARS")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_intermixed_args(arguments)
    try:
        check_words(given.overrides)
        if given.help:
            print(help.help_text(Config, ABOUT, given.overrides, config_dir=given.config_dir, options=OPTIONS))
            return 0
        check_choices(given.overrides)
        if given.price is not None and not 0 < given.price < math.inf:
            raise TpoError(f"--price {given.price:g}: give dollars above 0")
        config = compose_config(Config, given.overrides, config_dir=given.config_dir, find_under=settings_of_seed)
        check(config, with_packages=False)
        card = None if given.card is None else parse(given.card)
        found = examine(config, card=card, price=given.price)
        if given.json is not None:
            with writing_to(given.json):
                write_json(given.json, found)
    except (TpoError, HydraException, OmegaConfBaseException) as error:
        print(help.refusal(error, Config, given.overrides), file=sys.stderr)
        return 2
    tell(told_of(given.overrides))
    print_findings(found)
    return 0 if found["is_ready"] else 1
