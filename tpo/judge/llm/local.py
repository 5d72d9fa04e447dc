"""A chat model on vLLM, in this process or in several child processes, cached for later steps."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from functools import cached_property, partial
from itertools import chain, islice
from typing import Any, NamedTuple

from tpo.judge.llm.question import NUM_ALTERNATIVES, TOO_LONG, Answer, Question, find_watched
from tpo.judge.llm.settings import LLMConfig
from tpo.model.chat import load_tokenizer, strip_special_tokens
from tpo.model.load import fingerprint
from tpo.model.policy import Policy
from tpo.store.errors import TpoError
from tpo.store.processes.in_flight import InFlight
from tpo.store.processes.vllm import cached_engine, start_vllm
from tpo.store.processes.workers import Workers, share_devices


class Rendered(NamedTuple):
    """A question as the model reads it."""

    key: str
    ids: list[int]
    question: Question


StreamAnswers = Callable[[Iterable[Rendered]], Iterator[tuple[str, Answer]]]


def vllm_stream(settings: Mapping[str, Any], *, seed: int) -> StreamAnswers:
    """Return a function that answers with vLLM in this process; the model is loaded, or the cached one used.

    Args:
        settings: Arguments of `vllm.LLM`.
        seed: Of vLLM's own random stream.
    """
    llm = start_vllm(max_logprobs=NUM_ALTERNATIVES, seed=seed, **settings)
    return partial(_answer, llm, max_in_flight=2 * settings["max_num_seqs"])  # as many wait as decode


def _answer(llm: Any, asked: Iterable[Rendered], *, max_in_flight: int) -> Iterator[tuple[str, Answer]]:
    left = iter(asked)
    with closing(InFlight[Rendered](llm)) as in_flight:
        while True:
            for item in islice(left, max_in_flight - len(in_flight)):
                in_flight.add(
                    item,
                    item.ids,
                    temperature=item.question.temperature,
                    max_tokens=item.question.max_tokens,
                    logprobs=NUM_ALTERNATIVES if item.question.watch else None,
                )
            if not len(in_flight):
                return
            for item, output in in_flight.step():
                yield item.key, _read(output, item.question)


class LocalBackend:
    """Answers with vLLM; the model is loaded at the first question that nobody has answered yet."""

    def __init__(self, settings: LLMConfig, policy: Policy | None) -> None:
        """Choose the model.

        Args:
            settings: `name` and `revision`, and how to run vLLM in `vllm`.
            policy: The seed model, which answers where `name` is None.

        Raises:
            TpoError: If there is neither.
        """
        self.settings = settings.vllm
        if settings.name is not None:
            self.model = self.tokenizer_path = settings.name
            self.revision = settings.revision
        elif policy is not None:
            self.model, self.revision = policy.unquantized_path or policy.model_path, policy.revision
            self.tokenizer_path = policy.tokenizer_path
        else:
            raise TpoError("judge.name is null and there is no seed model to judge with: set judge.name")

    def identity(self) -> dict[str, Any]:
        """Return the model's name, or for a local directory what tells its contents from another's."""
        return {
            "model": fingerprint(self.model) or self.model,
            "tokenizer": fingerprint(self.tokenizer_path) or self.tokenizer_path,
            "revision": self.revision,
            "dtype": self.settings.dtype,
        }

    def stream(self, questions: Iterable[tuple[str, Question]]) -> Iterator[tuple[str, Answer]]:
        """Yield answers as they come; the model is loaded at the first question that fits its context.

        Raises:
            TpoError: If there are not enough GPUs, or one of several processes fails.
        """
        too_long: deque[str] = deque()

        def fitting() -> Iterator[Rendered]:
            for key, question in questions:
                ids = self.render(question)
                if len(ids) + question.max_tokens > self.settings.max_model_len:  # as vLLM's server decides
                    too_long.append(key)
                else:
                    yield Rendered(key, ids, question)

        asked = fitting()
        for first in islice(asked, 1):
            for found in self._answers(chain([first], asked)):
                yield found
                while too_long:
                    yield too_long.popleft(), TOO_LONG
        yield from ((key, TOO_LONG) for key in too_long)

    def render(self, question: Question) -> list[int]:
        """Return the chat's token ids as the model's own template renders it: with one BOS, if it has any.

        Strings of special tokens are taken out, so that no text can end its turn and speak as someone else.

        Raises:
            TpoError: If the template cannot render the chat.
        """
        from jinja2 import TemplateError

        turns = [("system", question.system), ("user", question.user)]
        messages = [
            {"role": role, "content": strip_special_tokens(text, self._tokenizer)}
            for role, text in turns
            if text is not None
        ]
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except TemplateError as error:
            raise TpoError(
                f"{self.model}: the chat template refuses the judge's prompt ({error}). If it knows no system turn, "
                "set judge.system to null and put that text at the start of judge.prompt"
            ) from error
        return ids

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.tokenizer_path, revision=self.revision)

    @property
    def _arguments(self) -> dict[str, Any]:
        settings = {key: value for key, value in asdict(self.settings).items() if key != "data_parallel_size"}
        return {
            "model": self.model,
            "revision": self.revision,
            "tokenizer": self.tokenizer_path,
            "tokenizer_revision": self.revision,
            **settings,
        }

    @cached_property
    def _answers(self) -> StreamAnswers:
        if self.settings.data_parallel_size == 1:
            return vllm_stream(self._arguments, seed=0)
        return self._workers.run

    @cached_property
    def _workers(self) -> Workers:
        count, size = self.settings.data_parallel_size, self.settings.tensor_parallel_size
        shares = share_devices(count, per_worker=size, group="judge.vllm")
        workers = cached_engine((shares, self._arguments), lambda: Workers(shares))
        # With one seed they would draw the same numbers for different questions, where the temperature is above 0.
        workers.make(vllm_stream, [{"settings": self._arguments, "seed": number} for number in range(count)])
        return workers


def _read(request: Any, question: Question) -> Answer:
    (sample,) = request.outputs
    steps = zip(sample.token_ids, sample.logprobs or [], strict=False)
    tokens = (
        (step[token].decoded_token or "", {entry.decoded_token or "": entry.logprob for entry in step.values()})
        for token, step in steps
    )
    return Answer(
        text=sample.text,
        finish_reason=sample.finish_reason,
        num_tokens=len(request.prompt_token_ids) + len(sample.token_ids),
        watched=find_watched(tokens, sample.text, question.watch),
    )
