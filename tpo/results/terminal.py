"""What a run says while it works: a header, a line a stage, one live bar with the time left, and how it ended.

On standard error, plain lines where that is no terminal; standard output has the results. Names of artifacts, and what
libraries write, are in the log.
"""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from tpo.config.streams import console, is_terminal, say, warn
from tpo.results.text_table import format_duration
from tpo.store.progress import Listener, State, counted
from tpo.store.stage import Step
from tpo.store.text import one_line

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

ESTIMATE_S = 30.0  # of work, or a tenth of it, before the time that is left is estimated from it
QUIET_S = 60.0  # between two lines on the stage that runs, where nothing is drawn


class Terminal(Listener):
    """Tells of the stages of one run or evaluation; a context, at whose end nothing is left drawn.

    Attributes:
        part: What is being done, the first words of a line: "iteration 1/2".
    """

    def __init__(self, *, is_short: bool = False) -> None:
        """Say nothing yet.

        Args:
            is_short: Whether only warnings and the end are told, as of a job of a sweep.
        """
        self.is_short, self.part = is_short, ""
        self._told: set[str] = set()  # ids of artifacts
        self._reused: Counter[str] = Counter()  # stages that were there, not told yet
        self._running: Running | None = None
        self._lock = threading.Lock()  # progress comes from another thread

    def __enter__(self) -> Self:
        """Return the terminal."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take away what is drawn, and tell what was not told yet."""
        self._stop()
        self._tell_reused()

    def rows(self, rows: Mapping[str, str | None]) -> None:
        """Print lines of a header: a name and what it is; those that are None are left out."""
        if not self.is_short:
            for name, text in rows.items():
                if text is not None:
                    say(f"{name:<11} {one_line(text)}")

    def enter(self, part: str) -> None:
        """Go on to another part of the work."""
        self._tell_reused()
        self.part = part

    def line(self, text: str, *, style: str | None = None) -> None:
        """Print a line on the part."""
        if not self.is_short:
            self._tell_reused()
            say(" - ".join(filter(None, [self.part, one_line(text)])), style=style)

    def begin(self, step: Step) -> None:
        """Draw the bar of a stage that is computed now."""
        self._tell_reused()
        with self._lock:
            self._running = Running(" - ".join(filter(None, [self.part, stage_text(step)])), is_quiet=self.is_short)

    def progressed(self, step: Step, state: State) -> None:
        """Move the bar."""
        with self._lock:
            if self._running is not None:
                self._running.show(state)

    def warned(self, step: Step, text: str) -> None:
        """Print what a child process warns of."""
        warn(text)

    def end(self, step: Step, manifest: dict[str, Any], *, is_reused: bool) -> None:
        """Print the line of a stage that was computed, and count those that were there."""
        was_running = self._stop()
        if step.artifact_id in self._told:
            return
        self._told.add(step.artifact_id)
        if not was_running:
            self._reused[step.stage] += 1
            return
        by = ["by another process"] if is_reused else []
        self.line(
            " - ".join([stage_text(step), format_duration(manifest["seconds"]), *outcome(step.stage, manifest), *by])
        )

    def _stop(self) -> bool:
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.close()
        return running is not None

    def _tell_reused(self) -> None:
        found, self._reused = self._reused, Counter()
        if found and not self.is_short:
            stages = ", ".join(name if count == 1 else f"{count} x {name}" for name, count in found.items())
            say(" - ".join(filter(None, [self.part, f"reused: {stages}"])), style="dim")


class Running:
    """The stage that runs: a bar where it can be drawn, else a line now and then."""

    def __init__(self, text: str, *, is_quiet: bool) -> None:
        """Draw the bar.

        Args:
            text: Part and stage.
            is_quiet: Whether nothing is said where nothing can be drawn.
        """
        self._text, self._is_quiet = one_line(text), is_quiet
        self._told_at = time.monotonic()
        self._first: tuple[float, int] | None = None  # when the first state came, and what was done by then
        self._bars: Bars | None = None
        if is_terminal("stderr"):
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[info]}", markup=False),
                TimeElapsedColumn(),
                console=console("stderr"),
                redirect_stdout=False,  # what libraries print belongs in the log
                redirect_stderr=False,
                transient=True,
                refresh_per_second=4,
            )
            self._task = self._bars.add_task(self._text, total=None, info="")
            self._bars.start()

    def show(self, state: State) -> None:
        """Show how much is done."""
        now = time.monotonic()
        self._first = self._first or (now, state.done)
        info = ", ".join([f"{state.done:,} of {counted(state.total, state.unit)}", *self._speed(now, state)])
        if self._bars is not None:
            self._bars.update(self._task, total=state.total, completed=state.done, info=info)
        elif not self._is_quiet and now - self._told_at >= QUIET_S:
            self._told_at = now
            say(f"{self._text} - {info}")

    def _speed(self, now: float, state: State) -> list[str]:
        assert self._first is not None
        started, first = self._first
        found = [] if state.tokens_per_second is None else [f"{state.tokens_per_second:,.0f} tokens/s"]
        done, open_ = state.done - first, state.total - state.done
        if done > 0 and open_ > 0 and (now - started >= ESTIMATE_S or 10 * done >= done + open_):
            left = (now - started) / done * open_
            found.append(f"{format_duration(left)} left")
        return found

    def close(self) -> None:
        """Take the bar away."""
        if self._bars is not None:
            self._bars.stop()


def stage_text(step: Step) -> str:
    """Return a stage with what it is about: "sample 64 x 8", "sample test 400 x 1 without thoughts", "judge"."""
    words = [step.stage]
    split = step.config.get("split")
    if split is not None and not str(split).startswith("train"):  # the iteration says which training instructions
        words.append(str(split))
    if step.stage == "sample" and step.budget is not None:
        words.append(f"{step.budget.num_prompts:,} x {step.budget.num_samples}")
    if split == "validation":
        words.append(f"epoch={step.config['epoch']}")
    elif split == "test":
        form = step.config.get("thought", {})
        if form.get("response_delimiter") is None and form.get("thinking", "off") == "off":
            words.append("without thoughts")
    return " ".join(words)


def outcome(stage: str, manifest: Mapping[str, Any]) -> list[str]:
    """Return what a stage's metrics say in a few words."""
    metrics, seconds = manifest["metrics"], manifest["seconds"]
    match stage:
        case "sample":
            return [f"{metrics['tokens_per_second']:,.0f} tokens/s"]
        case "judge" | "verdicts":
            unscored = metrics.get("num_unscored", 0)
            speed = [f"{metrics['num_tokens'] / seconds:,.0f} tokens/s"] if metrics.get("num_tokens") else []
            return [*speed, *([f"{unscored:,} unscored"] if unscored else [])]
        case "pairs":
            return [counted(metrics["num_pairs"], "pair")]
        case "train":
            return [counted(metrics["num_steps"], "step"), f"loss {metrics['first_loss']:.3f} -> {_loss(metrics)}"]
    return []


def _loss(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['last']['loss']:.3f}"
