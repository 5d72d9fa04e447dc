"""Rows that grow: any order of arrival, any cut, any kill; the file at the end is always the same."""

import contextlib
import errno
import gc
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tpo.store.files
import tpo.store.rows
from tpo.store.layout import PARTIAL
from tpo.store.progress import PROGRESS
from tpo.store.records import Key, Prompt, read_records
from tpo.store.rows import grow_rows

KEYS: list[Key] = [(f"prompt-{number}",) for number in range(7)]


def row_of(key: Key) -> Prompt:
    return Prompt(str(key[0]), f"☕ {key[0]} 🙂\u2028é\n" * (1 + hash_of(key) % 3), "c", "s", "t", (), str(key[0]))


def hash_of(key: Key) -> int:
    return sum(map(ord, str(key[0])))


class Killed(BaseException):
    """Stands for the end of the process."""


class Compute:
    """Yields rows in an order that `seed` gives, records what it was asked for, and dies after `num_rows`."""

    def __init__(self, seed: int = 0, num_rows: int | None = None) -> None:
        self.seed, self.num_rows = seed, num_rows
        self.asked: list[list[Key]] = []

    def __call__(self, keys: Sequence[Key]) -> Iterator[Prompt]:
        self.asked.append(list(keys))
        for count, key in enumerate(random.Random(self.seed).sample(list(keys), len(keys))):
            if count == self.num_rows:
                raise Killed
            yield row_of(key)


def grow(path: Path, compute: Callable[[Sequence[Key]], Iterable[Prompt]], keys: Sequence[Key] = KEYS) -> bytes:
    path.mkdir(exist_ok=True)
    grow_rows(path, Prompt, keys=keys, compute=compute, unit="prompt")
    assert {file.name for file in path.iterdir()} <= {"rows.jsonl", PARTIAL, PROGRESS}
    return (path / "rows.jsonl").read_bytes()


def saved(lines: Iterable[bytes]) -> bytes:
    """Rows as the partial file holds them."""
    return b"".join(hashlib.blake2b(line, digest_size=8).hexdigest().encode() + b" " + line for line in lines)


def undisturbed() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return grow(Path(folder), Compute())


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of interrupted runs need not reach the platter."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_in_the_order_of_the_keys_however_they_come(seed: int, tmp_path: Path) -> None:
    compute = Compute(seed)
    grow(tmp_path, compute)
    assert list(read_records(tmp_path / "rows.jsonl", Prompt)) == [row_of(key) for key in KEYS]
    assert compute.asked == [KEYS]


def test_no_keys_give_an_empty_file_and_nothing_is_computed(tmp_path: Path) -> None:
    compute = Compute()
    assert grow(tmp_path, compute, keys=[]) == b"" and compute.asked == []


def test_a_row_is_with_the_operating_system_before_the_next_is_asked_for(tmp_path: Path) -> None:
    def compute(keys: Sequence[Key]) -> Iterator[Prompt]:
        for count, key in enumerate(reversed(keys)):
            assert (tmp_path / PARTIAL).read_bytes().count(b"\n") == count
            yield row_of(key)

    grow(tmp_path, compute)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(lambda rows: [*rows, rows[3]], "'prompt-3',.* twice", id="twice"),
        pytest.param(lambda rows: [row_of(("other",)), *rows], "'other',.* not asked for", id="unknown"),
        pytest.param(lambda rows: rows[1:-1], "2 of the 7 rows did not come.*'prompt-0'", id="left_out"),
        pytest.param(lambda rows: [], "7 of the 7", id="nothing"),
    ],
)
def test_rows_that_were_not_asked_for_or_do_not_come_are_errors(
    change: Callable[[list[Prompt]], list[Prompt]], named: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=named):
        grow(tmp_path, lambda keys: change([row_of(key) for key in keys]))
    assert not (tmp_path / "rows.jsonl").exists()
    assert grow(tmp_path, Compute()) == undisturbed(), "the rows that came are kept, and the rest can be computed"


def test_keys_that_repeat_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 of the 8 keys repeat"):
        grow(tmp_path, Compute(), keys=[*KEYS, KEYS[0]])


@settings(deadline=None, max_examples=200)
@given(st.randoms(use_true_random=False), st.integers(0, 7), st.integers(min_value=0), st.integers(0, 10**6))
def test_cut_at_any_byte_after_any_rows_gives_the_same_file(
    order: random.Random, num_rows: int, cut: int, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, whole = Path(folder), undisturbed()
        with contextlib.suppress(Killed):
            grow(path, Compute(order.randrange(10**6), num_rows))
        partial = path / PARTIAL
        os.truncate(partial, cut % (partial.stat().st_size + 1))
        lines = partial.read_bytes().splitlines(keepends=True)
        num_saved = sum(line.endswith(b"\n") for line in lines)
        compute = Compute(seed)
        assert grow(path, compute) == whole
        computed = {key for asked in compute.asked for key in asked}
        assert len(computed) == len(KEYS) - num_saved, "what was saved is not computed again"


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(bytes(64), id="zeros"),
        pytest.param(b"\0\0\0\n", id="line_of_zeros"),
        pytest.param(b"\xff\xfe\n", id="no_text"),
        pytest.param(b'{"prompt_id":"prompt-0"}\n', id="fields_missing"),
        pytest.param(b"\n", id="empty_line"),
        pytest.param(b'{"prompt_id":"x","text":"x","category":"c","source":"s","split":"t"}\n', id="another_key"),
        pytest.param(
            b'{"prompt_id":"prompt-6","text":"x","category":"c","source":"s","split":"t"}', id="no_line_break"
        ),
        pytest.param(None, id="a_row_again"),
    ],
)
@pytest.mark.parametrize("is_followed", [False, True], ids=["at_the_end", "followed_by_a_row"])
@pytest.mark.parametrize("is_bare", [False, True], ids=["with_checksum", "without_checksum"])
def test_from_the_first_damaged_line_on_the_file_is_computed_again(
    garbage: bytes | None, is_followed: bool, is_bare: bool, tmp_path: Path
) -> None:
    whole = undisturbed()
    lines = whole.splitlines(keepends=True)
    path = tmp_path
    rest = lines[3:4] if is_followed else []
    damaged = saved([lines[1]]) if garbage is None else garbage if is_bare else saved([garbage])
    (path / PARTIAL).write_bytes(saved(lines[:3]) + damaged + saved(rest))
    compute = Compute()
    assert grow(path, compute) == whole
    assert compute.asked == [KEYS[3:]]


def test_killed_after_the_last_rename_computes_nothing(tmp_path: Path) -> None:
    whole = grow(tmp_path, Compute())
    compute = Compute()
    assert grow(tmp_path, compute) == whole and compute.asked == []


@pytest.mark.parametrize("is_whole", [False, True], ids=["partial", "killed_before_the_manifest"])
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(min_value=0), st.integers(1, 255))
def test_any_byte_edited_in_what_a_killed_process_saved_is_found(is_whole: bool, at: int, change: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, whole = Path(folder), undisturbed()
        with contextlib.suppress(Killed):
            grow(path, Compute(num_rows=None if is_whole else 4))
        text = bytearray((path / PARTIAL).read_bytes())
        text[at % len(text)] ^= change
        (path / PARTIAL).write_bytes(text)
        compute = Compute()
        assert grow(path, compute) == whole
        assert compute.asked, "the edited row was taken"


def test_rows_without_a_manifest_are_made_again(tmp_path: Path) -> None:
    whole = grow(tmp_path, Compute())
    (tmp_path / "rows.jsonl").write_bytes(whole.replace(b"prompt-3", b"prompt-x"))
    compute = Compute()
    assert grow(tmp_path, compute) == whole and compute.asked == []


@pytest.mark.parametrize("num_synced", range(3))
def test_full_disk_at_any_time_loses_nothing_written_before(
    num_synced: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0

    def fsync(handle: int) -> None:
        nonlocal done
        if done == num_synced:
            raise OSError(errno.ENOSPC, "No space left on device")
        done += 1

    monkeypatch.setattr(tpo.store.rows, "SYNC_SECONDS", -1.0)
    compute = Compute()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space"):
            grow(tmp_path, compute)
    assert not (tmp_path / "rows.jsonl").exists()
    assert grow(tmp_path, compute) == undisturbed()
    assert [len(asked) for asked in compute.asked] == [7, 7 - num_synced - 1], "the last row was in the file"


def test_progress_counts_what_is_saved_and_tells_tokens_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        grow(tmp_path, Compute(num_rows=2))
    (tmp_path / PROGRESS).unlink(missing_ok=True)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def compute(keys: Sequence[Key]) -> Iterator[Prompt]:
        for key in keys:
            now[0] += 0.5
            yield row_of(key)

    grow_rows(tmp_path, Prompt, keys=KEYS, compute=compute, unit="prompt", count_tokens=lambda row: 600)
    states = [json.loads(line)["state"] for line in (tmp_path / PROGRESS).read_text().splitlines()]
    assert (states[0]["done"], states[0]["total"], states[0]["unit"]) == (2, 7, "prompt")
    assert (states[-1]["done"], states[-1]["tokens_per_second"]) == (7, 1200.0)


@pytest.mark.slow
def test_memory_holds_no_rows(tmp_path: Path) -> None:
    class Counted(Prompt, frozen=True, weakref=True):
        pass

    alive: list[int] = []

    def compute(keys: Sequence[Key]) -> Iterator[Prompt]:
        rows: weakref.WeakSet[Counted] = weakref.WeakSet()
        for key in keys:
            row = Counted(str(key[0]), "x" * 100, "c", "s", "t", (), str(key[0]))
            rows.add(row)
            yield row
            del row
            gc.collect()
            alive.append(len(rows))

    grow_rows(tmp_path, Counted, keys=KEYS, compute=compute, unit="prompt")
    assert max(alive) <= 1


# --- kills ------------------------------------------------------------------------------------------------------


def in_a_process(work: Callable[[], None]) -> bool:
    """Do something in a child process; return whether it came to its end, and was not killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), "an error, not a kill"
    return status == 0


def grow_until_killed(path: Path, *, at_line: int, seed: int) -> bool:
    """Grow in a process that is killed where it executes its `at_line`-th line of the code that writes."""

    def work() -> None:
        count = 0
        files = {tpo.store.rows.__file__, tpo.store.files.__file__}

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal count
            if frame.f_code.co_filename not in files:
                return None
            if event == "line":
                if count == at_line:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
            return trace

        sys.settrace(trace)
        grow_rows(path, Prompt, keys=KEYS, compute=Compute(seed), unit="prompt")

    return in_a_process(work)


@pytest.mark.slow
def test_killed_at_every_line_of_the_code_that_writes(tmp_path: Path) -> None:
    whole = undisturbed()
    num_kills = 0
    while True:
        path = tmp_path / str(num_kills)
        path.mkdir()
        if grow_until_killed(path, at_line=num_kills, seed=num_kills):
            break
        partial = path / PARTIAL
        num_saved = partial.read_bytes().count(b"\n") if partial.exists() else 0
        compute = Compute(seed=num_kills + 1)
        for leftover in path.glob("*.tmp"):  # as the store does before it computes
            leftover.unlink()
        assert grow(path, compute) == whole
        missing = len(KEYS) - num_saved
        assert [len(asked) for asked in compute.asked] == [missing][: missing > 0], "rows were computed again"
        num_kills += 1
    print(f"{num_kills} kills")
    assert num_kills >= 100


def test_killed_again_and_again_it_comes_to_its_end(tmp_path: Path) -> None:
    whole = undisturbed()
    path = tmp_path
    lines = random.Random(0)
    num_kills = 0
    while not grow_until_killed(path, at_line=lines.randrange(40, 120 + num_kills), seed=num_kills):
        num_kills += 1
        for leftover in path.glob("*.tmp"):
            leftover.unlink()
    assert num_kills > 1 and grow(path, Compute()) == whole


def test_killed_at_any_instant_by_another_process(tmp_path: Path) -> None:
    keys: list[Key] = [(f"prompt-{number}",) for number in range(400)]
    whole = grow(tmp_path / "whole", Compute(), keys)

    def compute(missing: Sequence[Key]) -> Iterator[Prompt]:
        for row in Compute(number)(missing):
            time.sleep(1e-5)  # until the next clock tick of the kernel, so that rows take 20 ms or more
            yield row

    moments = random.Random(0)
    num_kills, number = 0, 0
    while num_kills < 20:
        number += 1
        assert number < 200, "the child is always faster than the kill"
        path = tmp_path / str(number)
        path.mkdir()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):  # whatever happens, this copy of pytest ends here
                grow_rows(path, Prompt, keys=keys, compute=compute, unit="prompt")
            os._exit(0)
        time.sleep(moments.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        num_kills += os.waitpid(child, 0)[1] == signal.SIGKILL
        for leftover in path.glob("*.tmp"):
            leftover.unlink()
        assert grow(path, Compute(number + 1), keys) == whole
