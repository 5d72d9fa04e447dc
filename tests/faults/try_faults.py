"""Try what can go wrong in a tiny run, all of it or a sample, and print what became of it.

    make faults FAULTS="--sample 40 --seed 0 --what calls,artifacts --match REGEX"

`calls`: each call that changes a file, opens one or talks to the judge's server fails, or the process is killed in it
(`fault_points`). The others: each file that a run leaves is damaged (`fault_damage`). Then the same command is executed
without a fault, and must end with the undisturbed run's result. Prints a line a failure and a table; exit status 1
where anything failed. All of it takes hours: plain `make faults`.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fault_damage import Corpus, Damaged
from fault_harness import Harness, Point
from fault_points import Fault, attempt, every, take_turns

WHAT = ("calls", "artifacts", "checkpoints", "answers", "runs")
Case = Damaged | tuple[Point, Fault]


class Trials:
    """Cases, one after the other, and a count of how they ended."""

    def __init__(self, harness: Harness) -> None:
        self.harness, self.corpus = harness, Corpus(harness)
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.failed: Counter[str] = Counter()

    def cases(self, what: set[str], match: str = "") -> list[Case]:
        """All that can be tried of these kinds."""
        found: list[Case] = list(every(self.harness.points)) if "calls" in what else []
        if what - {"calls"}:
            found += [case for case in self.corpus.cases() if case.kind in what]
        return [case for case in found if re.search(match, described(case))]

    def draw(self, cases: list[Case], count: int, *, seed: int) -> list[Case]:
        """A sample of cases in which every kind has its turn."""
        return take_turns(cases, kind, count, seed=seed)

    def try_one(self, case: Case) -> list[str]:
        """Try a case and return what is wrong."""
        outcome, wrong = self.corpus.attempt(case) if isinstance(case, Damaged) else attempt(self.harness, *case)
        self.outcomes[kind(case), outcome] += 1
        self.failed[kind(case)] += bool(wrong)
        return [f"{described(case)}: {outcome}: {words}" for words in wrong]

    def table(self) -> str:
        """A Markdown table: a row per kind of fault, how attempts ended, and how many broke a promise."""
        ends = sorted({end for _, end in self.outcomes})
        lines = [f"| fault | tried | {' | '.join(ends)} | failed |", "| --- " * (len(ends) + 3) + "|"]
        for name in sorted({name for name, _ in self.outcomes}):
            counts = [self.outcomes[name, end] for end in ends]
            lines.append(f"| {name} | {sum(counts)} | {' | '.join(map(str, counts))} | {self.failed[name]} |")
        total = [sum(count for (_, found), count in self.outcomes.items() if found == end) for end in ends]
        return "\n".join([*lines, f"| all | {sum(total)} | {' | '.join(map(str, total))} | {self.failed.total()} |"])


def kind(case: Case) -> str:
    if isinstance(case, Damaged):
        return (
            f"{case.kind}: {case.damage.partition(' with ')[0] if case.damage.startswith('swapped') else case.damage}"
        )
    point, fault = case
    return f"{point.kind}: {fault.name}"


def described(case: Case) -> str:
    if isinstance(case, Damaged):
        return f"{case.path} {case.damage}"
    point, fault = case
    return f"{fault.name} at {point.name} (after {point.nth} of them)"


@contextmanager
def folder(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
        return
    memory = Path("/dev/shm")  # faster than a disk, and as good for this
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for attempts; by default a temporary one, in memory")
    parser.add_argument("--sample", type=int, help="how many to try; by default all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--what", default=",".join(WHAT), help="kinds of faults")
    parser.add_argument("--match", default="", help="a regular expression for what is tried")
    options = parser.parse_args()
    with folder(options.out) as out, Harness(out) as harness:
        trials = Trials(harness)
        cases = trials.cases(set(options.what.split(",")), options.match)
        chosen = cases if options.sample is None else trials.draw(cases, options.sample, seed=options.seed)
        print(f"{len(harness.points)} points, {len(cases)} cases, {len(chosen)} to be tried", flush=True)
        started = time.monotonic()
        with suppress(KeyboardInterrupt):  # which shows what was found so far
            for number, case in enumerate(chosen, 1):
                for words in trials.try_one(case):
                    print(f"FAILED {words}", flush=True)
                if number % 100 == 0:
                    print(f"{number} of {len(chosen)}, {time.monotonic() - started:.0f} s", flush=True)
        print(f"{time.monotonic() - started:.0f} s\n\n{trials.table()}", flush=True)
    sys.exit(bool(trials.failed.total()))


if __name__ == "__main__":
    main()
