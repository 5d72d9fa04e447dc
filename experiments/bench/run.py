"""The benchmark: `python -m experiments.bench.run [sampling] [training] [scoring] [iteration] [options]`.

Runs every contender of every part in turn, round after round, each in a process of its own (see the package's text).
Writes the results of the machine after each round, so that a part of a run is not lost; parts that were not asked for
keep what the file has of them.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.bench.figure import write_figure
from experiments.bench.floors import Load, floor
from experiments.bench.machine import file_name, limits
from experiments.bench.parts import CONDITIONS, NAMES, Options, Part
from experiments.bench.process import REPOSITORY, Request, environment, run_contenders
from experiments.bench.report import part_text, reaches_text
from experiments.bench.results import compare_values, kept_speed, summarize_condition
from tpo.store.environment import environment as provenance
from tpo.store.files import content_hash, write_json

PARTS: dict[str, Part] = {name: import_module(f"experiments.bench.{name}").PART for name in NAMES}
Runs = dict[str, dict[str, list[dict[str, Any]]]]  # condition to contender to its runs


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for, print it and write the files."""
    told = read_arguments(arguments)
    options = Options(**{field.name: getattr(told, field.name) for field in fields(Options)})
    folder = (told.work / content_hash(asdict(options))).resolve()
    work = prepare(options, folder, artifacts_dir=told.artifacts_dir.resolve())
    command = [sys.executable, "-m", "experiments.bench.machine", work["model_path"]]
    probed = json.loads(
        subprocess.run(command, cwd=REPOSITORY, env=environment(), check=True, stdout=subprocess.PIPE).stdout
    )
    told.out.mkdir(parents=True, exist_ok=True)
    path = told.out / f"{told.name or file_name(probed['machine'])}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    result |= probed
    print(reaches_text(result), flush=True)
    for name in told.parts or PARTS:
        part = chosen(PARTS[name], told.contenders)
        runs = empty_runs(part, told.conditions)
        values: dict[str, list[float]] = {}
        for number in range(told.rounds):
            run_round(part, runs, values, work, folder=folder / name, number=number, limit_s=told.limit_s)
            result["parts"][name] = summarize(part, runs, {}, told=told, options=options, reaches=probed["reaches"])
            write_json(path, result)
        checks = {} if told.skip_checks else run_checks(part, values, work, folder=folder / name)
        result["parts"][name] = summarize(part, runs, checks, told=told, options=options, reaches=probed["reaches"])
        write_json(path, result)
        print(part_text(result["parts"][name]), flush=True)
    print(*[path, *write_figure(result, path)], sep="\n")


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says, the names of `Options` among it."""
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.run", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="part", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", help="only these, with commas between them")
    parser.add_argument(
        "--conditions",
        type=read_conditions,
        default=("quiet", "busy"),
        metavar="NAMES",
        help="with commas between them (quiet,busy): "
        + "; ".join(f"{name}, {text}" for name, text in CONDITIONS.items()),
    )
    parser.add_argument("--limit-s", type=float, default=float("inf"), metavar="S", help="end a contender's run then")
    parser.add_argument("--skip-checks", action="store_true", help="do not compare scores and losses")
    for flag, name, text in (
        ("--instructions", "num_instructions", "of sampling, scoring and the iteration"),
        ("--samples", "num_samples", "K"),
        ("--max-tokens", "max_tokens", "budget of a completion"),
        ("--pairs", "num_pairs", "to train on"),
        ("--epochs", "num_epochs", "of training that are measured; ten are extrapolated"),
        ("--iteration-epochs", "iteration_epochs", "of training in the iteration"),
        ("--rows", "rows", "sequences that decode together, ours and vLLM's"),
        ("--generate-rows", "generate_rows", "sequences in a batch of generate"),
    ):
        value = getattr(default, name)
        parser.add_argument(flag, dest=name, type=int, default=value, metavar="N", help=f"{text} ({value})")
    parser.add_argument("--temperature", type=float, default=default.temperature)
    parser.add_argument("--top-p", type=float, default=default.top_p)
    parser.add_argument("--model", help="local directory of a model; else the embedded one")
    parser.add_argument("--artifacts-dir", type=Path, default=Path("artifacts"), help="store that the work is kept in")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="folder of requests and logs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the results")
    parser.add_argument("--name", help="of the machine, for the files' names")
    return parser.parse_args(arguments)


def prepare(options: Options, folder: Path, *, artifacts_dir: Path) -> dict[str, Any]:
    """Return `workload.Work` as a dictionary, made in a process of its own where it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "work.json"
    if made.exists() and Path(json.loads(made.read_text())["tokenizer_path"]).exists():
        return dict(json.loads(made.read_text()))
    told = folder / "options.json"
    told.write_text(json.dumps({"options": asdict(options), "artifacts_dir": str(artifacts_dir)}))
    command = [sys.executable, "-m", "experiments.bench.workload", str(told), str(folder)]
    if subprocess.run(command, cwd=REPOSITORY, env=environment()).returncode != 0:
        sys.exit("error: the work could not be prepared")
    return dict(json.loads(made.read_text()))


def chosen(part: Part, names: str | None) -> Part:
    """Return the part with only the contenders that were asked for; all where nothing was."""
    if names is None:
        return part
    wanted = names.split(",")
    return part._replace(
        contenders={name: text for name, text in part.contenders.items() if name in wanted},
        checks={
            name: pair for name, pair in part.checks.items() if all(one.split("_float32")[0] in wanted for one in pair)
        },
    )


def read_conditions(text: str) -> tuple[str, ...]:
    """Return the conditions that a text names.

    Raises:
        argparse.ArgumentTypeError: If there is no such condition.
    """
    names = tuple(text.split(","))
    if unknown := sorted(set(names) - set(CONDITIONS)):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(CONDITIONS)}")
    return names


def empty_runs(part: Part, conditions: Sequence[str]) -> Runs:
    """Return no runs of each contender under each condition; ours alone run two at once."""
    return {
        condition: {name: [] for name in part.contenders if condition != "two" or name in part.ours}
        for condition in conditions
    }


def run_round(
    part: Part,
    runs: Runs,
    values: dict[str, list[float]],
    work: dict[str, Any],
    *,
    folder: Path,
    number: int,
    limit_s: float,
) -> None:
    """Add a run of every contender under every condition; what could not run is not tried again."""
    for contender in part.contenders:
        for condition, so_far in runs.items():
            if contender not in so_far or any(run["status"] != "ok" for run in so_far[contender]):
                continue
            place = folder / f"{contender}-{condition}-{number}"
            for found in start(part, contender, work, condition, folder=place, seed=number, limit_s=limit_s):
                values.setdefault(contender, found.pop("values", []))
                so_far[contender].append({"round": number, **found})
                shown = (
                    f"{found['value']:.4g}, {found['seconds']:.1f} s" if found["status"] == "ok" else found["status"]
                )
                if shown.startswith("failed"):
                    shown += f" ({place})"
                print(f"{part.title}, round {number + 1}, {contender}, {condition}: {shown}", flush=True)


def start(
    part: Part,
    contender: str,
    work: dict[str, Any],
    condition: str,
    *,
    folder: Path,
    seed: int,
    limit_s: float = float("inf"),
) -> list[dict[str, Any]]:
    """Run one contender in empty folders; twice at the same time with different seeds under the condition "two"."""
    if folder.exists():
        folder.rename(unused(folder))
    requests = [Request(contender, work, seed, folder)]
    if condition == "two":
        requests = [Request(contender, work, 2 * seed + twin, folder / str(twin)) for twin in range(2)]
    module = f"experiments.bench.{part.name}"
    return run_contenders(module, requests, is_busy=condition == "busy", limit_s=limit_s)


def unused(folder: Path) -> Path:
    """Return a name beside an earlier run's folder that nothing has yet."""
    return next(
        path for number in range(1, 10**6) if not (path := folder.with_name(f"{folder.name}.{number}")).exists()
    )


def run_checks(
    part: Part, values: Mapping[str, list[float]], work: dict[str, Any], *, folder: Path
) -> dict[str, dict[str, Any]]:
    """Return for each check how far apart its two contenders' values are, or why that is not known."""
    known = dict(values)
    checks: dict[str, dict[str, Any]] = {}
    for name, pair in part.checks.items():
        faults = []
        for contender in pair:
            if contender not in known:
                (found,) = start(part, contender, work, "quiet", folder=folder / contender, seed=0)
                known[contender] = found.get("values", [])
                if found["status"] != "ok":
                    faults.append(found["status"])
        first, second = (known[contender] for contender in pair)
        if faults or not first or len(first) != len(second):
            checks[name] = {"status": "; ".join(faults) or f"{len(first)} and {len(second)} values"}
        else:
            checks[name] = {"status": "ok", **compare_values(first, second)}
        print(f"{part.title}, {name}: {checks[name]}", flush=True)
    return checks


def summarize(
    part: Part,
    runs: Runs,
    checks: dict[str, dict[str, Any]],
    *,
    told: argparse.Namespace,
    options: Options,
    reaches: dict[str, float],
) -> dict[str, Any]:
    """Return the part's entry in the file."""
    return {
        "name": part.name,
        "title": part.title,
        "is_rate": part.is_rate,
        "descriptions": dict(part.contenders),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "num_rounds": told.rounds,
        "options": asdict(options) | {"model": options.model and Path(options.model).name},
        "environment": {key: value for key, value in provenance().items() if key != "device"},
        "thread_settings": {
            name: os.environ[name] for name in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME") if name in os.environ
        },
        "reaches": reaches,
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "conditions": {
            condition: summarize_condition(found, part.comparisons, is_rate=part.is_rate)
            for condition, found in runs.items()
        },
        "kept": {
            condition: kept_speed(runs["quiet"], found, is_rate=part.is_rate)
            for condition, found in runs.items()
            if condition != "quiet" and "quiet" in runs
        },
        "floors": floors_of(part, runs, reaches),
        "checks": checks,
    }


def floors_of(part: Part, runs: Runs, reaches: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return for each of our contenders the floor of its first run, in seconds and in the part's unit."""
    found = {}
    for name in part.ours:
        tried = [run for so_far in runs.values() for run in so_far.get(name, [])]
        done = [run for run in tried if run["status"] == "ok" and "operations" in run["details"]]
        if not done:
            continue
        details = done[0]["details"]
        load = Load(details["operations"], details["bytes_read"])
        limit = floor(load, **limits(reaches))
        amount = done[0]["value"] * done[0]["seconds"]
        value = amount / limit.seconds if part.is_rate else limit.seconds
        found[name] = {**load._asdict(), **limit._asdict(), "value": value}
    return found


if __name__ == "__main__":
    main()
