"""OpenAI's chat completions, as far as they are served: requests checked, answers and errors in its form.

A field that would change the answer and is not served is refused rather than ignored. `max_thought_tokens` is ours; so
are `split_error`, which says why there is no answer, and `reasoning_effort="none"` as the way to ask for no thought.
The thought is `reasoning_content`, as several servers have it; a client that sends it back is not asked for less.
"""

import time
from typing import Annotated, Any, Literal, NoReturn

import msgspec
from msgspec import Meta, Struct

from tpo.model.rendering import Turn
from tpo.use.answer import Reply
from tpo.use.loaded import Options

MAX_CHOICES = 8


class ApiError(Exception):
    """An error that a client is told.

    Attributes:
        status: Of HTTP.
        body: In OpenAI's form.
    """

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        """Make the body."""
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Part(Struct):
    """A part of a message; only text is served."""

    type: str
    text: str | None = None


class Message(Struct):
    """A turn. Further fields, such as the thought of an earlier answer, are not read."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(Struct):
    """Of a streamed answer."""

    include_usage: bool = False


class ChatRequest(Struct, forbid_unknown_fields=True):
    """The body of a request for an answer; None is as the policy's settings have it."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_thought_tokens: Annotated[int, Meta(ge=1)] | None = None
    reasoning_effort: Literal["none"] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    # Neutral values only.
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    # Of the client's own book-keeping.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def check(self) -> None:
        """Check what the fields' types do not say.

        Raises:
            ApiError: If something is asked for that is not served.
        """
        unserved: dict[str, bool] = {
            "presence_penalty": bool(self.presence_penalty),
            "frequency_penalty": bool(self.frequency_penalty),
            "logprobs": bool(self.logprobs),
            "response_format": self.response_format not in (None, {"type": "text"}),
            "tools": bool(self.tools),
            "tool_choice": self.tool_choice not in (None, "none", "auto"),
        }
        for name in (name for name, is_asked in unserved.items() if is_asked):
            raise ApiError(400, f"{name} is not served here", param=name)
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ApiError(400, "max_tokens and max_completion_tokens differ: give one", param="max_tokens")

    @property
    def turns(self) -> list[Turn]:
        """The conversation.

        Raises:
            ApiError: If a message holds something else than text.
        """
        return [
            Turn("system" if message.role == "developer" else message.role, _text_of(message))
            for message in self.messages
        ]

    @property
    def options(self) -> Options:
        """How the policy is asked."""
        return Options(
            temperature=self.temperature,
            top_p=self.top_p,
            max_thought_tokens=self.max_thought_tokens,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            is_direct=self.reasoning_effort == "none",
        )


def _text_of(message: Message) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    for part in content or ():
        if part.type != "text" or part.text is None:
            raise ApiError(400, f"a message holds a part of type {part.type}: only text is served", param="messages")
    return "".join(part.text or "" for part in content or ())


def read_request(body: bytes) -> ChatRequest:
    """Return the request that a body holds.

    Raises:
        ApiError: If it is none, or asks for something that is not served.
    """
    try:
        request = msgspec.json.decode(body, type=ChatRequest)
    except msgspec.ValidationError as error:
        raise ApiError(400, str(error)) from None
    except msgspec.DecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    request.check()
    return request


def refuse_model(asked: str, served: str) -> NoReturn:
    """Raise the error of a model that is not served."""
    raise ApiError(404, f"there is no model {asked!r} here, but {served!r}", code="model_not_found", param="model")


def usage_of(replies: list[Reply]) -> dict[str, Any]:
    """Return the tokens of all answers to one prompt."""
    prompt, completion = replies[0].num_prompt_tokens, sum(reply.num_tokens for reply in replies)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"reasoning_tokens": sum(reply.num_thought_tokens for reply in replies)},
    }


class Envelope:
    """What all messages of one answer have in common."""

    def __init__(self, identity: str, model: str) -> None:
        """Take the answer's id and the model's name."""
        self._common = {"id": identity, "created": int(time.time()), "model": model}

    def completion(self, replies: list[Reply]) -> bytes:
        """Return the whole answer."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": reply.response, "reasoning_content": reply.thought},
                **_end_of(reply),
            }
            for index, reply in enumerate(replies)
        ]
        told = {**self._common, "object": "chat.completion", "choices": choices, "usage": usage_of(replies)}
        return msgspec.json.encode(told)

    def chunk(self, index: int, delta: dict[str, str], reply: Reply | None = None) -> bytes:
        """Return an event with what is new of a choice; `reply` where it has ended."""
        choice = {"index": index, "delta": delta, **({"finish_reason": None} if reply is None else _end_of(reply))}
        return event({**self._common, "object": "chat.completion.chunk", "choices": [choice]})

    def usage(self, replies: list[Reply]) -> bytes:
        """Return the event with the number of tokens."""
        told = {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(replies)}
        return event(told)


def _end_of(reply: Reply) -> dict[str, Any]:
    return {"finish_reason": reply.finish_reason, "split_error": reply.split_error}


def event(told: Any) -> bytes:
    """Return a server-sent event."""
    return b"data: " + msgspec.json.encode(told) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def model_card(name: str, created: int) -> dict[str, Any]:
    """Return what clients are told of the model."""
    return {"id": name, "object": "model", "created": created, "owned_by": "tpo"}
