"""Every call by which a tiny run changes a file, opens one or talks to a server, and what happens when it fails."""

import errno
import random
import re
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

from fault_harness import Armed, Harness, Point, what_is_wrong_with

T = TypeVar("T")

KINDS = ["write", "create", "open", "rename", "fsync", "mkdir", "unlink", "truncate", "connect", "send", "receive"]
FAIL, KILL, TEAR, FILL = 1, 2, 3, 4  # of shim.c


def bits(*kinds: str) -> int:
    return sum(1 << KINDS.index(kind) for kind in kinds)


CHANGES = bits("write", "create", "rename", "mkdir", "unlink", "truncate")


class Fault(NamedTuple):
    """What goes wrong at a point: the call fails, once or from then on, or the process is killed."""

    name: str
    kinds: tuple[str, ...]
    action: int = FAIL
    error: int = 0
    later: int = 0  # kinds of calls that fail as well from the point on, bits


FAULTS = [
    Fault("killed", tuple(KINDS), KILL),
    Fault("killed after half", ("write", "send"), TEAR),
    Fault("disk full from here", ("write",), FILL, errno.ENOSPC, bits("write", "create", "mkdir")),
    Fault("ENOSPC", ("write", "create", "fsync", "mkdir", "rename"), FAIL, errno.ENOSPC),
    Fault("EIO", ("write", "open", "fsync", "rename", "truncate"), FAIL, errno.EIO),
    Fault("read-only from here", ("create", "rename", "mkdir", "unlink", "truncate"), FAIL, errno.EROFS, CHANGES),
    Fault("EACCES", ("create", "open", "rename", "mkdir", "unlink"), FAIL, errno.EACCES),
    Fault("EMFILE", ("create", "open", "connect"), FAIL, errno.EMFILE),
    Fault("refused", ("connect",), FAIL, errno.ECONNREFUSED),
    Fault("reset", ("send", "receive"), FAIL, errno.ECONNRESET),
    Fault("timed out", ("connect", "receive"), FAIL, errno.ETIMEDOUT),
    Fault("hung up", ("receive",), FAIL, errno.ENODATA),  # shim.c: the end of what was sent
]


def attempt(harness: Harness, point: Point, fault: Fault) -> tuple[str, list[str]]:
    """Run with a fault, then without; return how the first ended, and what is wrong with either.

    The first ends well, with the undisturbed run's result, or is killed, or ends with status 1 and a last line on
    standard error that is a sentence. The second ends well, with the result of the undisturbed run, and nothing is left
    behind.
    """
    root = harness.new("attempt")
    first = harness.run(root, Armed(*point, fault.action, fault.error, fault.later))
    wrong = []
    if first.status is None:
        outcome = "hung"
        wrong.append(f"no end within {harness.seconds:.0f} s")
    elif not first.is_reached:
        outcome = "not reached"
    elif first.is_killed:
        outcome = "killed"
    elif first.code == 0:
        outcome = "survived"
        wrong += [f"it ended well, but {words}" for words in harness.differences(root, is_over=False)]
    else:
        outcome = "a sentence"
        wrong += what_is_wrong_with(first)
    return outcome, wrong + harness.repeat(root)


def every(points: Sequence[Point]) -> list[tuple[Point, Fault]]:
    """Return all points with all that can go wrong there; of reports of progress and log lines, the first of each.

    How many of those there are depends on the clock.
    """
    return [
        (point, fault)
        for point in points
        if not (point.nth and re.search(r"progress\.tmp|\.log$", point.name))
        for fault in FAULTS
        if point.kind in fault.kinds
    ]


def take_turns(items: Sequence[T], group: Callable[[T], Hashable], count: int, *, seed: int) -> list[T]:
    """Return a random sample that takes turns among groups, so that rare ones are in it."""
    generator = random.Random(seed)
    groups: dict[Hashable, list[T]] = {}
    for item in generator.sample(list(items), len(items)):
        groups.setdefault(group(item), []).append(item)
    queues = generator.sample(list(groups.values()), len(groups))
    drawn: list[T] = []
    while len(drawn) < min(count, len(items)):
        drawn += [queue.pop() for queue in queues if queue]
    return drawn[:count]
