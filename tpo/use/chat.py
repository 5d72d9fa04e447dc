"""A talk with one policy, or with two at once: what was said, and what each of them is told of it."""

import json
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tpo.model.rendering import Turn
from tpo.store.errors import TpoError
from tpo.store.seeds import derive_seed
from tpo.use.answer import Answer, Reply
from tpo.use.loaded import LoadedPolicy, Options, answer_to_end
from tpo.use.split_stream import Delta


class ChatError(TpoError):
    """What was typed and cannot be done; says why."""


@dataclass
class Exchange:
    """What the user said, and what was answered by each policy's name; without those that gave no response."""

    user: str
    replies: dict[str, Reply] = field(default_factory=dict)


@dataclass
class Speaker:
    """A policy that takes part, by the name that is shown."""

    name: str
    policy: LoadedPolicy


class Talk:
    """A conversation.

    Attributes:
        speakers: Those who answer, the first one the policy that the talk is with.
        exchanges: So far.
        is_direct: Whether they are asked without a thought.
        max_thought_tokens: Their budget for it; None is each policy's own.
    """

    def __init__(self, speaker: Speaker, *, seed: int) -> None:
        """Begin with nothing said."""
        self.speakers, self._seed = [speaker], seed
        self.exchanges: list[Exchange] = []
        self.is_direct = False
        self.max_thought_tokens: int | None = None

    def begin(self, speaker: Speaker, exchange: Exchange) -> Answer:
        """Return a speaker's answer to the last exchange, without tokens yet.

        Raises:
            TpoError: If it cannot be asked so, or the conversation has grown too long.
        """
        number = len(self.exchanges)
        return speaker.policy.begin(
            self._turns(speaker, exchange),
            key=f"{number}",
            seed=derive_seed(self._seed, "chat", number),
            options=Options(max_thought_tokens=self.max_thought_tokens, is_direct=self.is_direct),
        )

    def answer(self, speaker: Speaker, answer: Answer, exchange: Exchange) -> Generator[Delta, None, None]:
        """Sample an answer that has begun; yield what becomes certain. It is kept in the exchange at the end."""
        yield from answer_to_end(speaker.policy.engine, answer)
        assert answer.reply is not None
        exchange.replies[speaker.name] = answer.reply

    def keep(self, exchange: Exchange) -> None:
        """Take an exchange into the history, unless nobody gave a response."""
        if any(reply.response is not None for reply in exchange.replies.values()):
            self.exchanges.append(exchange)

    def save(self, path: Path) -> None:
        """Write what was said, thoughts and numbers included, as JSON.

        Raises:
            ChatError: If the file is there, or cannot be written.
        """
        told: dict[str, Any] = {
            "policies": [speaker.name for speaker in self.speakers],
            "exchanges": [asdict(exchange) for exchange in self.exchanges],
        }
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(told, file, ensure_ascii=False, indent=1)
                file.write("\n")
        except FileExistsError:
            raise ChatError(f"{path} is there already: give another name") from None
        except OSError as error:
            raise ChatError(f"{path} cannot be written ({error.strerror})") from None

    def _turns(self, speaker: Speaker, exchange: Exchange) -> list[Turn]:
        """Return what a speaker is told: its own answers, where it has not answered those of the others."""
        turns = []
        for earlier in self.exchanges:
            own = earlier.replies.get(speaker.name)
            replies = [reply for reply in (own, *earlier.replies.values()) if reply and reply.response is not None]
            turns += [Turn("user", earlier.user), Turn("assistant", replies[0].response or "")]
        return [*turns, Turn("user", exchange.user)]
