"""Does a sweep end with the same summaries under every launcher?

python experiments/launchers.py [--launchers processes,local_array,ray_local] [--out runs/launchers] [OVERRIDE ...]

Runs one sweep through Hydra's own launcher (`one_gpu`) and through each of the others, by default the quickstart with
and without thoughts (`experiment=quickstart thought=generic,none tracking=none`). Each launcher has artifacts and runs
of its own below `--out`, so that it computes everything itself; its jobs share them. Prints for each the wall time, how
often its jobs computed each distinct stage, and for each run whether the summary equals the basic launcher's or the
first value that differs. Exits with status 1 where one does. Needs `make setup-launchers`; run it in the repository.
Some launchers give a job a share of the cores, and on some processors another number of threads rounds sums otherwise:
`OMP_NUM_THREADS=1` before the command gives all the same.

Repeated, it continues what was killed and reuses what is there: delete the folder to compute anew.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

BASIC = "one_gpu"
OTHERS = ("processes", "local_array", "ray_local")
#: What a summary tells about its making, not about its result; its own digest covers that too.
NOT_RESULT = ("seconds", "is_reused", "digest")
QUICKSTART = ("experiment=quickstart", "thought=generic,none", "tracking=none")


class Swept(NamedTuple):
    """A sweep that went to its end."""

    launcher: str
    summaries: dict[str, dict[str, Any]]  # by the name of the run's folder
    seconds: float

    def times_computed(self) -> Counter[str]:
        """Return how many of the jobs computed each distinct stage, by its artifact's name."""
        counts: Counter[str] = Counter()
        for summary in self.summaries.values():
            for stage in summary["stages"]:
                counts[stage["artifact_id"]] += not stage["is_reused"]
        return counts


def sweep(launcher: str, overrides: Sequence[str], *, out: Path, **process: Any) -> Swept:
    """Run a sweep below `out/<launcher>` and return what it ended with.

    Args:
        launcher: A preset of conf/hydra/launcher/.
        overrides: What is swept, and what is not.
        out: The folder of all launchers.
        process: Of `subprocess.run`.

    Raises:
        subprocess.CalledProcessError: If a job failed; the sweep's own report has said which.
    """
    started = time.monotonic()
    folders = [f"artifacts_dir={out / launcher / 'artifacts'}", f"runs_dir={out / launcher / 'runs'}"]
    command = [sys.executable, "-m", "tpo.run", "-m", f"hydra/launcher={launcher}", *overrides, *folders]
    subprocess.run(command, check=True, **process)
    seconds = time.monotonic() - started
    found = sorted((Path(process.get("cwd", "")) / out / launcher / "runs").glob("*/summary.json"))
    return Swept(launcher, {path.parent.name: json.loads(path.read_text()) for path in found}, seconds)


def first_difference(first: dict[str, Any], second: dict[str, Any]) -> str | None:
    """Return where the summaries of a run and of its repetition differ, or None where they agree to the last digit.

    How long stages took and whether they were reused does not count; all else must not depend on when a run is
    started, by which launcher, or beside which others.

    Returns:
        The first value that differs and both of its values, for example `iterations/1/win_rate/rate: 0.5 and 0.75`.
    """
    one, other = dict(_leaves(first)), dict(_leaves(second))
    for path in {**one, **other}:
        values = one.get(path, "absent"), other.get(path, "absent")
        if values[0] != values[1]:
            return f"{path}: {values[0]} and {values[1]}"
    return None


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values within dictionaries and lists, with their paths; an empty one is a value."""
    if not isinstance(value, (dict, list)) or not value:
        yield path, value
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if key not in NOT_RESULT:
            yield from _leaves(item, f"{path}/{key}" if path else str(key))


def differences(swept: Swept, basic: Swept) -> dict[str, str | None]:
    """Return for each run of either sweep where its summary differs from the basic launcher's; None is nowhere."""
    return {
        name: first_difference(basic.summaries.get(name, {}), swept.summaries.get(name, {}))
        for name in {**basic.summaries, **swept.summaries}
    }


def main() -> None:
    """Run the sweeps and print how they compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launchers", default=",".join(OTHERS), help="presets of conf/hydra/launcher/, with commas")
    parser.add_argument("--out", type=Path, default=Path("runs/launchers"))
    parser.add_argument("overrides", nargs="*", default=QUICKSTART, metavar="OVERRIDE")
    options = parser.parse_args()
    basic = sweep(BASIC, options.overrides, out=options.out)
    others = [sweep(name, options.overrides, out=options.out) for name in options.launchers.split(",")]
    has_differed = False
    for swept in (basic, *others):
        computed = Counter(swept.times_computed().values())
        times = ", ".join(f"{number} computed {count} times" for count, number in sorted(computed.items()))
        print(f"{swept.launcher}: {len(swept.summaries)} runs, {swept.seconds:.0f} s, stages: {times}")
        for name, difference in differences(swept, basic).items() if swept is not basic else ():
            print(f"  {name}: {difference or 'equal'}")
            has_differed |= difference is not None
    sys.exit(int(has_differed))


if __name__ == "__main__":
    main()
