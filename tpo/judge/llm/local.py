"""A chat model on vLLM, in this process or in several child processes, kept for later steps."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from functools import cached_property, partial
from itertools import chain, islice
from typing import Any, NamedTuple

from tpo.config.tags import last_thought
from tpo.judge.llm.question import NOT_RENDERED, NUM_ALTERNATIVES, TOO_LONG, Answer, Question, find_watched
from tpo.judge.llm.settings import LLMConfig
from tpo.model.chat import ChatError, load_tokenizer
from tpo.model.conventions import Conventions
from tpo.model.load import fingerprint
from tpo.model.policy import Policy
from tpo.model.rendering import Turn, render_turns
from tpo.model.template_probe import read_rendering
from tpo.store.errors import TpoError
from tpo.store.processes.in_flight import InFlight
from tpo.store.processes.kept import kept_engine
from tpo.store.processes.vllm import start_vllm
from tpo.store.processes.workers import Workers, share_devices


class Rendered(NamedTuple):
    """A question as the model reads it.

    `opening` is what the template has written of the answer: the tag of a thought, where it opens one.
    """

    key: str
    ids: list[int]
    opening: str
    question: Question


StreamAnswers = Callable[[Iterable[Rendered]], Iterator[tuple[str, Answer]]]


def vllm_stream(settings: Mapping[str, Any], *, seed: int) -> StreamAnswers:
    """Return a function that answers with vLLM in this process; the model is loaded, or the kept one used.

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
                    skip_special_tokens=False,  # some models' tags of a thought are special tokens
                )
            if not len(in_flight):
                return
            for item, output in in_flight.step():
                yield item.key, _read(output, item)


class LocalBackend:
    """Answers with vLLM; the model is loaded at the first question that nobody has answered yet."""

    def __init__(self, settings: LLMConfig, policy: Policy | None) -> None:
        """Choose the model.

        Args:
            settings: `name`, `revision` and `template_arguments`, and how to run vLLM in `vllm`.
            policy: The seed model, which answers where `name` is None.

        Raises:
            TpoError: If there is neither.
        """
        self.settings, self.template_arguments = settings.vllm, settings.template_arguments
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
            "template_arguments": self.template_arguments,
        }

    def stream(self, questions: Iterable[tuple[str, Question]]) -> Iterator[tuple[str, Answer]]:
        """Yield answers as they come; the model is loaded at the first question that fits its context.

        Raises:
            TpoError: If there are not enough GPUs, or one of several processes fails.
        """
        refused: deque[tuple[str, Answer]] = deque()

        def fitting() -> Iterator[Rendered]:
            for key, question in questions:
                item = self.render(key, question)
                if item is None:
                    refused.append((key, NOT_RENDERED))
                elif len(item.ids) + question.max_tokens > self.settings.max_model_len:  # as vLLM's server decides
                    refused.append((key, TOO_LONG))
                else:
                    yield item

        asked = fitting()
        for first in islice(asked, 1):
            for found in self._answers(chain([first], asked)):
                yield found
                while refused:
                    yield refused.popleft()
        yield from refused

    def render(self, key: str, question: Question) -> Rendered | None:
        """Return the chat as the model's own template renders it, with one BOS, if it has any.

        Control tokens in the texts are broken up, so that no text can end its turn and speak as someone else.

        Returns:
            None where the template changes what the question says.

        Raises:
            TpoError: If the template cannot render the chat, or drops the system turn.
        """
        texts = [("system", question.system), ("user", question.user)]
        turns = [Turn(role, text) for role, text in texts if text is not None]
        advice = "If it knows no system turn, set judge.system to null and put that text at the start of judge.prompt"
        try:
            rendering = render_turns(self._tokenizer, turns, conventions=self._conventions, opens_answer=True)
        except ChatError as error:
            raise TpoError(f"{self.model}: the judge's prompt cannot be rendered ({error}). {advice}") from error
        if rendering.lost == "system":
            raise TpoError(f"{self.model}: the chat template leaves out or changes the judge's system turn. {advice}")
        if rendering.lost is not None:
            return None
        thought_at = last_thought(rendering.tail).open_at
        opening = "" if thought_at is None else rendering.tail[thought_at:]
        return Rendered(key, rendering.ids(self._tokenizer), opening, question)

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.tokenizer_path, revision=self.revision)

    @cached_property
    def _conventions(self) -> Conventions:
        return read_rendering(self._tokenizer, self.template_arguments, at="judge.template_arguments")

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
        workers = kept_engine((shares, self._arguments), lambda: Workers(shares))
        # With one seed they would draw the same numbers for different questions, where the temperature is above 0.
        workers.make(vllm_stream, [{"settings": self._arguments, "seed": number} for number in range(count)])
        return workers


def _read(request: Any, item: Rendered) -> Answer:
    """Return the answer; it starts with what the template has written of it."""
    (sample,) = request.outputs
    steps = zip(sample.token_ids, sample.logprobs or [], strict=False)
    tokens = (
        (step[token].decoded_token or "", {entry.decoded_token or "": entry.logprob for entry in step.values()})
        for token, step in steps
    )
    found = find_watched(tokens, sample.text, item.question.watch)
    return Answer(
        text=item.opening + sample.text,
        finish_reason=sample.finish_reason,
        num_tokens=len(request.prompt_token_ids) + len(sample.token_ids),
        watched=tuple(entry._replace(position=len(item.opening) + entry.position) for entry in found),
        has_logprobs=bool(sample.logprobs),
    )
