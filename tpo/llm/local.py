"""A chat model in this process, on vLLM. It takes the device's memory and keeps it until the process ends."""

import logging
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from tpo.chat import load_tokenizer, strip_special_tokens
from tpo.engines import Policy
from tpo.errors import TpoError
from tpo.llm import NUM_ALTERNATIVES, TOO_LONG, Answer, Question, find_watched
from tpo.models import fingerprint

log = logging.getLogger(__name__)


class LocalBackend:
    """Answers with vLLM; the model is loaded at the first question that nobody has answered yet."""

    def __init__(self, config: dict[str, Any], policy: Policy | None) -> None:
        """Choose the model.

        Args:
            config: The `judge` group: `name` and `revision`, and how to run vLLM in `vllm`.
            policy: The seed model, which answers where `name` is None.

        Raises:
            TpoError: If there is neither.
        """
        self.settings = config["vllm"]
        self.model, self.revision = config["name"], config["revision"]
        self.tokenizer_path = config["name"]
        if config["name"] is None:
            if policy is None:
                raise TpoError("judge.name is null and there is no seed model to judge with: set judge.name")
            self.model, self.revision = policy.unquantized_path or policy.model_path, policy.revision
            self.tokenizer_path = policy.tokenizer_path

    def identity(self) -> dict[str, Any]:
        """Return the model's name, or for a local directory what tells its contents from another's."""
        return {
            "model": fingerprint(self.model) or self.model,
            "tokenizer": fingerprint(self.tokenizer_path) or self.tokenizer_path,
            "revision": self.revision,
            "dtype": self.settings["dtype"],
        }

    def answer(self, questions: Mapping[str, Question], keep: Callable[[str, Answer], None]) -> None:
        """Answer all questions, each kept as soon as it is answered."""
        from vllm import SamplingParams, TokensPrompt

        engine = self._llm.llm_engine
        for key, question in questions.items():
            ids = self.render(question)
            if len(ids) + question.max_tokens > self.settings["max_model_len"]:  # as vLLM's server decides
                keep(key, TOO_LONG)
                continue
            decoding = SamplingParams(
                temperature=question.temperature,
                max_tokens=question.max_tokens,
                logprobs=NUM_ALTERNATIVES if question.watch else None,
            )
            engine.add_request(key, TokensPrompt(prompt_token_ids=ids), decoding)
        # LLM.generate returns everything at the end; a kill would lose it all.
        while engine.has_unfinished_requests():
            for request in engine.step():
                if request.finished:
                    keep(request.request_id, _read(request, questions[request.request_id]))

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

    @cached_property
    def _llm(self) -> Any:
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, range(os.cpu_count() or 1))))
        from vllm import LLM

        log.info("loading %s into vLLM", self.model)
        return LLM(
            model=self.model,
            revision=self.revision,
            tokenizer=self.tokenizer_path,
            tokenizer_revision=self.revision,
            max_logprobs=NUM_ALTERNATIVES,
            **self.settings,
        )


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
