"""The terminal of a talk: what is typed, how answers stream, and the one-shot form for scripts.

A thought is folded into a line with its length while it is sampled; `/thought` unfolds it. Ctrl-C ends the answer that
is being sampled, and at the prompt the talk.
"""

import contextlib
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tpo.config import streams
from tpo.config.streams import read_line, tell
from tpo.store.errors import TpoError
from tpo.store.text import printable
from tpo.use.answer import Answer, Reply
from tpo.use.chat import ChatError, Exchange, Speaker, Talk

COMMANDS = {
    "/thought": "the last thought; /thought on shows each as it comes, /thought off folds them away again",
    "/budget N": "at most N tokens a thought; /budget alone: the policy's own",
    "/direct": "answers without a thought, or with one again",
    "/seed [POLICY]": "POLICY answers the same words too; without one the untrained model; /seed off: no longer",
    "/save [FILE]": "what was said, thoughts included, as JSON",
    "/new": "forget what was said",
    "/help": "these lines",
    "/quit": "end; Ctrl-D too",
}
SEED_NAMES = ("", "seed", "model")  # of the policy's own model, untrained


class Terminal:
    """A talk in a terminal."""

    def __init__(self, talk: Talk, find: Callable[[str], Speaker], *, console: Console | None = None) -> None:
        """Put the talk into a terminal.

        Args:
            talk: With nothing said yet.
            find: Loads the policy of a name; an empty one is the untrained model.
            console: Where answers are shown; standard output if none is given.
        """
        self._talk, self._find = talk, find
        self._console = console or streams.console()
        self._shows_thoughts = False
        self._last: Exchange | None = None

    def run(self) -> None:
        """Talk until the user has enough."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # lines that can be edited, and those before
        name = self._talk.speakers[0].name
        self._say(f"{name} is ready. /help lists what else can be typed.", style="dim")
        while True:
            try:
                line = read_line("> ").strip()
            except (EOFError, KeyboardInterrupt):
                self._say("")
                return
            except UnicodeDecodeError:
                self._say("that is not UTF-8: nothing was asked", style="red")
                continue
            if line in ("/quit", "/exit"):
                return
            try:
                if line.startswith("/"):
                    self._command(line)
                elif line:
                    self._ask(line)
            except TpoError as error:
                self._say(f"{error}", style="red")

    def _command(self, line: str) -> None:
        name, *rest = _words(line)
        given = rest[0] if rest else ""
        if len(rest) > 1:
            raise ChatError(f"{line}: one word at most may follow {name}; put it into quotation marks")
        match name:
            case "/thought":
                self._show_thought(given)
            case "/budget":
                self._set_budget(given)
            case "/direct":
                self._switch_direct()
            case "/seed":
                self._set_other(given)
            case "/save":
                path = Path(given or f"chat-{time.strftime('%Y%m%d-%H%M%S')}.json")
                self._talk.save(path)
                self._say(f"saved to {path}", style="dim")
            case "/new":
                self._talk.exchanges.clear()
                self._say("nothing was said yet", style="dim")
            case "/help":
                self._help()
            case _:
                raise ChatError(f"{name}: there is no such command; /help lists them")

    def _ask(self, text: str) -> None:
        exchange = Exchange(text)
        speakers = self._talk.speakers
        # All are asked whether they can before the first one answers.
        answers = [self._talk.begin(speaker, exchange) for speaker in speakers]
        for speaker, answer in zip(speakers, answers, strict=True):
            if len(speakers) > 1:
                self._say(f"{speaker.name}:", style="bold")
            self._stream(speaker, answer, exchange)
        self._last = exchange
        self._talk.keep(exchange)

    def _stream(self, speaker: Speaker, answer: Answer, exchange: Exchange) -> None:
        """Show an answer while it is sampled; Ctrl-C ends it."""
        started, is_thinking, has_response = time.monotonic(), False, False
        folded = self._console.status("thinking", spinner_style="dim")
        with interruptible() as is_interrupted, contextlib.closing(self._talk.answer(speaker, answer, exchange)) as on:
            folded.start()
            for delta in on:
                if self._shows_thoughts and delta.thought:
                    folded.stop()
                    is_thinking = True
                    self._say(delta.thought, style="dim", end="")
                if delta.response:
                    folded.stop()
                    if is_thinking:
                        self._say("\n")
                        is_thinking = False
                    has_response = True
                    self._say(delta.response, end="")
                folded.update(f"thinking, {answer.num_tokens} tokens")
                if is_interrupted() and answer.reply is None:
                    rest = answer.stop()
                    self._say(rest.response, end="")
            folded.stop()
        assert answer.reply is not None
        if is_thinking or has_response:
            self._say("")
        told = _told_of(answer.reply, seconds=time.monotonic() - started, is_stopped=is_interrupted())
        self._say(told, style="dim")

    def _show_thought(self, given: str) -> None:
        if given in ("on", "off"):
            self._shows_thoughts = given == "on"
            self._say(f"thoughts are {'shown as they come' if self._shows_thoughts else 'folded away'}", style="dim")
            return
        if given:
            raise ChatError(f"/thought {given}: on or off, or nothing")
        if self._last is None:
            raise ChatError("nothing was answered yet")
        for name, reply in self._last.replies.items():
            if len(self._last.replies) > 1:
                self._say(f"{name}:", style="bold")
            self._say(reply.thought or "(no thought)", style="dim")

    def _set_budget(self, given: str) -> None:
        if given and not (given.isdecimal() and int(given) > 0):
            raise ChatError(f"/budget {given}: a number of tokens from 1, or nothing")
        self._talk.max_thought_tokens = int(given) if given else None
        self._say(f"a thought has {f'at most {given} tokens' if given else 'the budget of its policy'}", style="dim")
        for speaker in self._talk.speakers:
            if speaker.policy.asked.form.has_thought and speaker.policy.asked.switch is None:
                self._say(
                    f"{speaker.name} has one budget for thought and response together, which this is added to; "
                    "thought.enforce=switch gives the thought its own",
                    style="dim",
                )

    def _switch_direct(self) -> None:
        if not self._talk.is_direct:
            for speaker in self._talk.speakers:
                _ = speaker.policy.asked_directly  # says where that cannot be
        self._talk.is_direct = not self._talk.is_direct
        how = "without a thought" if self._talk.is_direct else "in the policy's own thought format"
        self._say(f"answers come {how}", style="dim")

    def _set_other(self, given: str) -> None:
        if given == "off":
            del self._talk.speakers[1:]
            self._say(f"{self._talk.speakers[0].name} answers alone", style="dim")
            return
        with self._console.status("loading"):
            other = self._find("" if given in SEED_NAMES else given)
        if other.name == self._talk.speakers[0].name:
            raise ChatError(f"{other.name} is who answers already")
        if self._talk.is_direct:
            _ = other.policy.asked_directly
        self._talk.speakers[1:] = [other]
        self._say(f"{' and '.join(one.name for one in self._talk.speakers)} answer the same words", style="dim")

    def _help(self) -> None:
        table = Table.grid(padding=(0, 2))
        for command, meaning in COMMANDS.items():
            table.add_row(command, meaning)
        self._console.print(table)

    def _say(self, text: str, *, style: str | None = None, end: str = "\n") -> None:
        self._console.print(printable(text), style=style, end=end, soft_wrap=True)


def answer_once(talk: Talk) -> None:
    """Answer what standard input holds; write the answer to standard output as one line of JSON.

    Raises:
        TpoError: If it holds nothing, or the policy cannot be asked.
    """
    try:
        text = sys.stdin.read().strip()
        text.encode()
    except UnicodeError:
        raise ChatError("standard input is not UTF-8") from None
    if not text:
        raise ChatError("standard input holds no instruction")
    [speaker] = talk.speakers
    exchange = Exchange(text)
    answer = talk.begin(speaker, exchange)
    for _ in talk.answer(speaker, answer, exchange):
        pass
    told = {"policy": speaker.name, **asdict(exchange.replies[speaker.name])}
    tell(json.dumps(told, ensure_ascii=False))


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed; an exception would leave the engine's state torn."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ChatError(f"{line}: {error}") from None


def _told_of(reply: Reply, *, seconds: float, is_stopped: bool) -> str:
    """Return the line below an answer."""
    told = []
    if reply.thought:
        told.append(f"thought of {reply.num_thought_tokens} tokens (/thought)" if reply.response else "a thought")
    if is_stopped:
        told.append("stopped" if reply.response else "stopped before an answer: nothing is kept of this")
    elif reply.response is None:
        told.append(f"no answer ({reply.split_error}): nothing is kept of this")
    else:
        told.append(f"answer of {reply.num_response_tokens} tokens")
    if reply.finish_reason == "length":
        told.append("ended by its budget")
    return f"[{', '.join(told)}, {seconds:.1f} s]"
