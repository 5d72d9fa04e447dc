"""What a part of the benchmark is, and what its contenders are told and give back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

NAMES = ("sampling", "training", "scoring", "iteration")  # of the parts and their modules
# What a contender runs beside. On "two", the value of a round is the slower one's.
CONDITIONS = {
    "quiet": "nothing beside it",
    "busy": "one spinning process beside it",
    "two": "two of it at once",
}


class Part(NamedTuple):
    """A part of the benchmark.

    Attributes:
        name: Also of its module.
        title: What is measured, with its unit, for tables and figures.
        is_rate: Whether a larger value is faster; else values are seconds.
        contenders: Name to what it is.
        comparisons: (ours, other) contenders whose ratio is wanted.
        checks: What must be equal, and the two contenders whose `Timed.values` are compared. Those that are not among
            `contenders` run once, after the rounds.
    """

    name: str
    title: str
    is_rate: bool
    contenders: Mapping[str, str]
    comparisons: tuple[tuple[str, str], ...]
    checks: Mapping[str, tuple[str, str]] = {}

    @property
    def ours(self) -> tuple[str, ...]:
        """The contenders that are compared with others."""
        return tuple(dict.fromkeys(ours for ours, _ in self.comparisons))


@dataclass(frozen=True)
class Options:
    """The size of the work, from the command line.

    Attributes:
        model: Local directory of a model; None takes the embedded one.
        num_instructions: To sample completions of, to score responses to, and of the iteration.
        num_samples: K.
        max_tokens: Budget of a completion; the iteration gives half to the thought, half to the response.
        num_pairs: To train on.
        num_epochs: That are measured; the value is extrapolated to ten.
        iteration_epochs: Of training in the iteration.
        rows: Sequences that decode together: ours, vLLM.
        generate_rows: A batch of `generate`.
    """

    model: str | None = None
    num_instructions: int = 32
    num_samples: int = 8
    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 256
    num_pairs: int = 32
    num_epochs: int = 2
    iteration_epochs: int = 1
    rows: int = 256
    generate_rows: int = 64


@dataclass(frozen=True)
class Timed:
    """What a contender measured.

    Attributes:
        value: In the part's unit.
        seconds: Of the timed work.
        began: `time.time()` when it began; what was before is start-up.
        details: Plain JSON, kept in the file. "operations" and "bytes_read" are what the work needs (`floors`).
        values: Results for the part's checks; not kept.
    """

    value: float
    seconds: float
    began: float
    details: dict[str, Any] = field(default_factory=dict)
    values: list[float] = field(default_factory=list)
