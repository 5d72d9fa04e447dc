"""Sweeps of tiny jobs whose processes are killed at random for a given time: does anything stay behind, or grow?

    make soak SOAK="--minutes 60"

Beside others who use shared memory, start it in a mount namespace with a /dev/shm of its own (`unshare -m`).

A round is a sweep over seeds under one launcher, the launchers in turn, each job the whole loop on the tests' model.
While it runs, a random one of its processes is killed (SIGKILL) from time to time: the command itself, a worker of its
launcher, a job. A command that failed is repeated, in the same folder and with more kills, until it ends well. At the
end of a round nothing of it may be left: a process, a lock, a temporary file, shared memory; each job has its summary.
At the end of all, the same jobs are executed undisturbed, and each summary must equal theirs. Prints a row a round,
where growth is the memory of the longest-lived process in the last third of its life over that in the middle third.
Exit status 1 where something was left, lost or different.
"""

import argparse
import json
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import make_model
from test_run import REPOSITORY, tiny_overrides, without_stages

MARK = "TPO_SOAK"  # in the environment of every process of a round
JOBS = {"processes": 10, "local_array": 4}  # of a sweep; an array starts all of its jobs at once


@dataclass
class Process:
    """What was seen of one process of a round: resident MiB and open descriptors, in order of time."""

    memory: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Memory in the last third of its life over that in the middle third, by the highest of each."""
        third = len(self.memory) // 3
        return max(self.memory[2 * third :]) / max(self.memory[third : 2 * third]) if third else 1.0


@dataclass
class Round:
    """What came of a sweep and its repetitions."""

    launcher: str
    seeds: list[int]
    num_kills: int = 0
    num_starts: int = 0
    seconds: float = 0.0
    peak_mib: float = 0.0  # of all processes together
    processes: dict[int, Process] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def oldest(self) -> Process:
        """The process that was seen most often: the command itself, or a worker that has executed several jobs."""
        return max(self.processes.values(), key=lambda process: len(process.memory), default=Process([0.0], [0]))

    def row(self) -> str:
        old = self.oldest
        cells = [self.launcher, len(self.seeds), self.num_kills, self.num_starts, f"{self.seconds:.0f}"]
        cells += [f"{self.peak_mib:.0f}", f"{old.growth:.2f}", max(old.descriptors), "; ".join(self.wrong) or "nothing"]
        return f"| {' | '.join(map(str, cells))} |"


HEAD = ["launcher", "jobs", "kills", "starts", "s", "peak MiB", "growth", "descriptors", "left or lost"]


class Fire(threading.Thread):
    """Watches the processes of a round and kills one of them now and then."""

    def __init__(self, mark: str, seen: Round, *, every_s: float, generator: random.Random) -> None:
        super().__init__(daemon=True)
        self.mark, self.seen, self.every_s, self.generator = mark, seen, every_s, generator
        self.is_over = threading.Event()
        self.may_kill = every_s > 0

    def run(self) -> None:
        next_kill = time.monotonic() + self._pause()
        while not self.is_over.wait(1.0):
            pids = list(marked(self.mark))
            self._watch(pids)
            if self.may_kill and pids and time.monotonic() >= next_kill:
                victim = self.generator.choice(pids)
                # Python's resource tracker is what removes semaphores of killed processes: without it they stay.
                with suppress(OSError):
                    if b"resource_tracker" not in Path(f"/proc/{victim}/cmdline").read_bytes():
                        os.kill(victim, signal.SIGKILL)
                        self.seen.num_kills += 1
                next_kill = time.monotonic() + self._pause()

    def _pause(self) -> float:
        return self.generator.expovariate(1 / self.every_s) if self.every_s else float("inf")

    def _watch(self, pids: list[int]) -> None:
        total = 0.0
        for pid in pids:
            with suppress(OSError, ValueError):
                status = Path(f"/proc/{pid}/status").read_text()
                found = re.search(r"VmRSS:\s+(\d+)", status)
                if found:
                    process = self.seen.processes.setdefault(pid, Process())
                    process.memory.append(int(found[1]) / 1024)
                    process.descriptors.append(len(os.listdir(f"/proc/{pid}/fd")))
                    total += process.memory[-1]
        self.seen.peak_mib = max(self.seen.peak_mib, total)


def marked(mark: str) -> Iterator[int]:
    """Yield the processes with a mark in their environment, whoever their parent is now."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                yield int(path.parent.name)


def left_behind(root: Path, *, before: set[str]) -> Iterator[str]:
    """Yield in words what a round has left: temporary files, locks, shared memory."""
    for path in root.rglob("*"):
        if re.search(r"\.tmp$|-journal$|^ends-", path.name):
            yield path.relative_to(root).as_posix()
    inodes = {path.stat().st_ino for path in root.rglob(".lock")}
    for line in Path("/proc/locks").read_text().splitlines():
        if int(line.split()[-3].rpartition(":")[2]) in inodes:
            yield f"a lock: {line}"
    for path in sorted((root / "tmp").glob("*")):
        # W&B makes two folders when it is imported, by trl, and a killed process leaves them, empty.
        if not (re.search(r"wandb-(media|artifacts)$", path.name) and not any(path.iterdir())):
            yield path.as_posix()
    yield from sorted(shared_names() - before)


def files_of(root: Path) -> set[str]:
    """The files of artifacts and runs, without logs."""
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    return {name for name in found if re.match("artifacts/|runs/(?!hydra/)", name)}


def shared_names() -> set[str]:
    """What lies in shared memory and no process has mapped: others of this machine use it as well."""
    found = {path.as_posix() for path in Path("/dev/shm").glob("*")}
    for path in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            found -= set(re.findall(r"/dev/shm/\S+", path.read_text()))
    return found


def read_summaries(root: Path) -> dict[int, Any]:
    found = [json.loads(path.read_text()) for path in root.glob("runs/*/summary.json")]
    return {summary["seed"]: without_stages(summary) for summary in found}


class Soak:
    """Rounds in one folder."""

    def __init__(self, out: Path, *, every_s: float, seed: int) -> None:
        self.out, self.every_s, self.generator = out.resolve(), every_s, random.Random(seed)
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        self.model = make_model(self.out / "model")

    def sweep(self, launcher: str, seeds: list[int], *, name: str, every_s: float, patience_s: float) -> Round:
        """Execute a sweep, and repeat it until it ends well."""
        seen, root, mark = Round(launcher, seeds), self.out / name, secrets.token_hex(8)
        root.mkdir()
        (root / "tmp").mkdir()
        sizes = ("num_iterations=1", "on_collapse=continue", "prompts.num_train=3", "prompts.num_validation=1")
        more = ("prompts.num_test=2", "sample.num_samples=2", "eval.baseline_samples=1", f"hydra/launcher={launcher}")
        overrides = tiny_overrides(self.model, root, *sizes, *more, f"seed={','.join(map(str, seeds))}")
        environment = {**os.environ, MARK: mark, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(root / "tmp")}
        before, started = {path.as_posix() for path in Path("/dev/shm").glob("*")}, time.monotonic()
        fire = Fire(mark, seen, every_s=every_s, generator=self.generator)
        fire.start()
        status: int | None = None
        while status != 0 and seen.num_starts < 200:
            with (root / "said.txt").open("ab") as said:
                command = [sys.executable, "-m", "tpo.run", "-m", *overrides]
                started_process = subprocess.Popen(
                    command, cwd=REPOSITORY, env=environment, stdout=said, stderr=said, start_new_session=True
                )
                seen.num_starts += 1
                status = started_process.wait()
        fire.may_kill = False
        end = time.monotonic() + patience_s
        while list(marked(mark)) and time.monotonic() < end:
            time.sleep(0.5)
        fire.is_over.set()
        fire.join()
        seen.seconds = time.monotonic() - started
        for pid in marked(mark):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
            seen.wrong.append(f"a process: {words}")
            os.kill(pid, signal.SIGKILL)
        if status != 0:
            seen.wrong.append(f"it did not end well in {seen.num_starts} starts")
        seen.wrong += left_behind(root, before=before)
        if missing := set(seeds) - read_summaries(root).keys():
            seen.wrong.append(f"no summary of seeds {sorted(missing)}")
        return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="no round is begun after that")
    parser.add_argument("--jobs", type=int, default=40, help="seeds, which the rounds go through again and again")
    parser.add_argument(
        "--per-sweep", type=int, help="jobs of a sweep; by default 10 with processes, 4 with local_array"
    )
    parser.add_argument("--launchers", default=",".join(JOBS), help="presets of conf/hydra/launcher")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two kills, on average")
    parser.add_argument(
        "--patience", type=float, default=120.0, help="seconds in which processes may end by themselves"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder, emptied first")
    options = parser.parse_args()
    soak = Soak(options.out, every_s=options.every, seed=options.seed)
    end, rounds, next_seed = time.monotonic() + 60 * options.minutes, [], 0
    print(f"| {' | '.join(HEAD)} |\n{'| --- ' * len(HEAD)}|", flush=True)
    launchers = options.launchers.split(",")
    while time.monotonic() < end:
        launcher = launchers[len(rounds) % len(launchers)]
        count = options.per_sweep or JOBS[launcher]
        seeds = [(next_seed + number) % options.jobs for number in range(count)]
        next_seed += count
        name = f"round-{len(rounds)}"
        rounds.append(soak.sweep(launcher, seeds, name=name, every_s=options.every, patience_s=options.patience))
        print(rounds[-1].row(), flush=True)
    used = sorted({seed for done in rounds for seed in done.seeds})
    calm = soak.sweep(launchers[0], used, name="undisturbed", every_s=0.0, patience_s=options.patience)
    expected, wrong = read_summaries(soak.out / "undisturbed"), [words for done in rounds for words in done.wrong]
    files = files_of(soak.out / "undisturbed")
    for number, done in enumerate(rounds):
        found = read_summaries(soak.out / f"round-{number}")
        wrong += [f"round {number}: {name}" for name in sorted(files_of(soak.out / f"round-{number}") - files)]
        wrong += [
            f"round {number}, seed {seed}: another summary" for seed in done.seeds if found.get(seed) != expected[seed]
        ]
    kills, jobs = sum(done.num_kills for done in rounds), sum(len(done.seeds) for done in rounds)
    print(f"\n{len(rounds)} rounds, {jobs} jobs, {kills} kills, {sum(done.seconds for done in rounds) / 60:.0f} min;")
    print(f"undisturbed: {len(used)} jobs, {'; '.join(calm.wrong) or 'nothing left'}")
    print("\n".join(wrong) or "all summaries are those of undisturbed jobs; nothing was left")
    sys.exit(bool(wrong or calm.wrong))


if __name__ == "__main__":
    main()
