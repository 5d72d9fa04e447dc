"""One answer while it is sampled: token ids in; out what becomes certain of thought and response, at last all of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from tpo.model.asked import Asked
from tpo.model.chat import Chat
from tpo.model.decoder import REPLACEMENT
from tpo.sample.completions import make_completion
from tpo.sample.decoding import Decoding, Generation, Progress, Request
from tpo.use.split_stream import Delta, SplitStream


@dataclass(frozen=True)
class Reply:
    """A finished answer.

    Attributes:
        thought: None where the format has none. Where there is no response, whatever was written.
        response: None where the completion could not be split; it may then hold a thought.
        finish_reason: "stop" or "length": whether it ended by itself or a budget ended it.
        split_error: Why there is no response, or no whole one (`tpo.config.thought`); None where there is.
        num_prompt_tokens: Of the prompt, thought prompt and earlier turns included.
        num_tokens: Of the completion, delimiters and the end token included.
        num_thought_tokens: 0 where the completion could not be split.
        num_response_tokens: 0 where the completion could not be split.
    """

    thought: str | None
    response: str | None
    finish_reason: str
    split_error: str | None
    num_prompt_tokens: int
    num_tokens: int
    num_thought_tokens: int
    num_response_tokens: int


class Answer:
    """An answer under way.

    Attributes:
        request: What the engine is asked.
        decoding: How.
        reply: None until it has ended.
    """

    def __init__(
        self, chat: Chat, asked: Asked, request: Request, decoding: Decoding, *, stop: Sequence[str] = ()
    ) -> None:
        """Start without tokens.

        Args:
            chat: The policy's.
            asked: How it was asked.
            request: With one seed.
            decoding: How it is decoded.
            stop: Strings that end a response.
        """
        self.request, self.decoding = request, decoding
        self._chat, self._asked = chat, asked
        self._parts = SplitStream(asked, stop=stop)
        self._token_ids: list[int] = []
        self._text, self._num_read, self._num_before = "", 0, 0
        self.reply: Reply | None = None

    @property
    def num_tokens(self) -> int:
        """How many there are so far."""
        return len(self._token_ids)

    def feed(self, progress: Progress) -> Delta:
        """Take new tokens; return what they make certain. With the last ones, or once it is over, there is `reply`."""
        self._token_ids += progress.token_ids
        if progress.generation is not None:
            return self._finish(progress.generation)
        delta = self._parts.feed(self._decoded())
        return delta if not self._parts.is_over else self._stopped(delta)

    def stop(self) -> Delta:
        """End it here, as its reader wishes; return what becomes certain by that."""
        return self._finish(Generation(self._token_ids, "stop"))

    def _stopped(self, delta: Delta) -> Delta:
        rest = self.stop()
        return Delta(delta.thought + rest.thought, delta.response + rest.response)

    def _decoded(self) -> str:
        """Return the text so far; a few tokens are decoded, with those before them that may decide about a space."""
        new = self._chat.decode(self._token_ids[self._num_before :])
        if not new.endswith(REPLACEMENT):  # else a character is unfinished
            old = self._chat.decode(self._token_ids[self._num_before : self._num_read])
            self._text += new[len(old) :]
            self._num_before, self._num_read = self._num_read, len(self._token_ids)
        return self._text

    def _finish(self, generation: Generation) -> Delta:
        row = make_completion(
            self._chat,
            self._asked,
            prompt_id=self.request.key,
            sample_index=0,
            prompt_ids=list(self.request.prompt_ids),
            generation=generation,
            seed=-1,
        )
        split = self._asked.split(row.completion, finish_reason=row.finish_reason)
        delta, parts = self._parts.finish(row.completion, split), self._parts
        has_response = split.response is not None and not parts.is_ambiguous
        self.reply = Reply(
            thought=parts.thought or split.thought,
            response=parts.response if has_response else None,
            finish_reason=row.finish_reason,
            split_error="repeated_delimiter" if parts.is_ambiguous else split.error,
            num_prompt_tokens=len(self.request.prompt_ids),
            num_tokens=len(generation.token_ids),
            num_thought_tokens=row.num_thought_tokens,
            num_response_tokens=row.num_response_tokens,
        )
        return delta
