"""One vLLM server that samples from a policy.

Prompts are sent and completions are returned as token ids: training uses the ids that were sampled, and no text is
tokenized again. Of the OpenAI-compatible servers only vLLM's is known to return ids (`return_token_ids`); one that does
not is refused. The server must have been started with the policy's own weights, for a quantized policy those with the
quantized values; adapters are loaded to it at run time.
"""

import asyncio
import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tpo.model.connection import AWAY, CONNECT_TIMEOUT_S, Connection
from tpo.model.load import fingerprint
from tpo.model.policy import Policy
from tpo.model.unusable import SMALL_BODY, UnusableError, reading
from tpo.sample.decoding import Decoding
from tpo.sample.engines.vllm import adapter_rank
from tpo.store.errors import TpoError
from tpo.store.files import file_digest

log = logging.getLogger(__name__)

# Without these the server would take values from the model's generation config.
NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
TOKEN_BYTES = 2**10  # of JSON, at most: a token's text and its number


class Sampled(NamedTuple):
    """One completion as the server returned it."""

    token_ids: list[int]
    reason: str  # "stop", "length" or "delimiter"


class VllmServer:
    """One vLLM server that samples from the policy."""

    def __init__(self, connection: Connection, policy: Policy, *, max_tokens: int, end_ids: frozenset[int]) -> None:
        """Store what the server must serve; nothing is sent yet.

        Args:
            connection: To the server.
            policy: Seed model and adapter.
            max_tokens: The longest prompt plus completion that will be asked for.
            end_ids: Token ids that end a completion.
        """
        self.connection, self._policy = connection, policy
        self._max_tokens, self._end_ids = max_tokens, end_ids
        log.info("%s has to serve %s (see conf/engine/server.yaml)", self.connection.url, policy.model_path)
        self._model: str | None = None  # what the server calls the seed model
        self._adapter = None if policy.adapter_path is None else adapter_name(policy.adapter_path)
        self.has_loaded = False  # whether this engine loaded the adapter
        self._loading = asyncio.Lock()

    async def prepare(self, client: Any) -> None:
        """Check that the server serves the policy's model, and load the adapter unless it is loaded.

        Called at the start of every stream, since a server may have been restarted.

        Raises:
            TpoError: If it serves another model, with too short a context, or refuses the adapter.
        """
        self._loading = asyncio.Lock()  # belongs to this event loop
        cards = await self._cards(client)
        self._model = self._find_model(cards)
        if self._adapter is not None and self._adapter not in cards:
            await self._load(client)

    async def complete(
        self,
        client: Any,
        prompt: list[int],
        *,
        count: int,
        max_tokens: int,
        decoding: Decoding,
        stop: str | None = None,
    ) -> list[Sampled]:
        """Return `count` completions of a prompt, each at most `max_tokens` long and ended by the string `stop`.

        Raises:
            TpoError: If the server fails permanently, or its answer is not what was requested.
        """
        send = partial(
            client.completions.create,
            model=self._adapter or self._model,
            prompt=prompt,
            n=count,
            max_tokens=max_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            stop=[stop] if stop else None,
            extra_body={
                **NEUTRAL,
                "include_stop_str_in_output": True,
                "stop_token_ids": sorted(self._end_ids),
                "skip_special_tokens": False,
                "return_token_ids": True,
            },
        )

        async def attempt() -> list[Sampled]:
            from openai import NotFoundError

            try:
                return await read()
            except NotFoundError:
                if self._adapter is None:
                    raise
            # The server was restarted, or another run has unloaded the adapter.
            await self._load(client)
            return await read()

        async def read() -> list[Sampled]:
            with reading(max_bytes=SMALL_BODY + TOKEN_BYTES * count * (len(prompt) + max_tokens)):
                completion = await send()
                choices = getattr(completion, "choices", None) or []
                if len(choices) != count:
                    raise UnusableError(f"it holds {len(choices)} completions instead of {count}")
                self.connection.spend(completion.usage)
                return [self._read(choice, prompt, max_tokens=max_tokens, stop=stop) for choice in choices]

        return await self.connection.patiently(attempt)

    async def unload(self, client: Any) -> None:
        """Unload the adapter; where the server cannot be reached, warn that it stays loaded."""
        from openai import APIError

        self.has_loaded = False
        try:
            await client.post(
                "/unload_lora_adapter",
                cast_to=str,
                body={"lora_name": self._adapter},
                options={"timeout": CONNECT_TIMEOUT_S, "max_retries": 0},
            )
        except APIError as error:
            reason = self.connection.reason(error)
            log.warning("%s: the adapter %s stays loaded (%s)", self.connection.url, self._adapter, reason)

    def _read(self, choice: Any, prompt: list[int], *, max_tokens: int, stop: str | None) -> Sampled:
        """Return a completion after checking that a training may use it."""
        extra = choice.model_extra or {}
        token_ids = extra.get("token_ids")
        if not isinstance(token_ids, list):
            raise self._error(
                "the server returns no token ids, and a text may be tokenized in several ways: only the tokens that "
                "were sampled can be trained on. vLLM's server returns them (return_token_ids); use one, or engine=vllm"
            )
        if extra.get("prompt_token_ids") not in (None, prompt):
            raise self._error("the server put other tokens before the completion than were sent")
        reason = choice.finish_reason
        if reason not in ("stop", "length") or not all(type(token) is int for token in token_ids):
            raise UnusableError(f"it ended with finish_reason={reason}, or its token ids are no numbers")
        if reason == "length" and len(token_ids) == max_tokens:
            return Sampled(token_ids, "length")
        if reason == "stop" and stop is not None and extra.get("stop_reason") == stop:
            return Sampled(token_ids, "delimiter")
        if reason == "stop" and token_ids and token_ids[-1] in self._end_ids:
            return Sampled(token_ids, "stop")
        last = token_ids[-1] if token_ids else None
        raise self._error(
            f"a completion ended after {len(token_ids)} of {max_tokens} tokens (finish_reason={reason}, last token "
            f"{last}), and neither the budget nor an end token of the policy is why: start the server with the "
            "policy's tokenizer and --generation-config vllm"
        )

    async def _cards(self, client: Any) -> dict[str, dict[str, Any]]:
        """Return the models that the server serves, the seed model and adapters, by name."""

        async def read() -> dict[str, dict[str, Any]]:
            with reading():
                page = await client.models.list()
                if not isinstance(getattr(page, "data", None), list):
                    shown = self.connection.shown(str(page))
                    raise self._error(f"the answer is no list of models: {shown}. Does engine.base_urls end with /v1?")
                return {card.id: card.model_extra or {} for card in page.data}

        return await self.connection.patiently(read)

    def _find_model(self, cards: dict[str, dict[str, Any]]) -> str:
        """Return the server's name for the seed model, after checking its weights and its context length."""
        policy, wanted = self._policy, self._policy.model_path
        roots = {name: str(card.get("root")) for name, card in cards.items() if card.get("parent") is None}
        found = [name for name, root in roots.items() if _is_same(root, wanted)]
        if not found:
            served = ", ".join(f"{root} as {name}" for name, root in roots.items()) or "no model"
            values = ", which hold the quantized values that are trained" if policy.unquantized_path else ""
            raise self._error(
                f"the server serves {served}, and the policy's weights are {wanted}{values}. Start it as "
                f"conf/engine/server.yaml says, with vllm serve {wanted} --tokenizer {policy.tokenizer_path} --dtype "
                f"{policy.dtype} --max-model-len {policy.max_model_len}"
            )
        longest = cards[found[0]].get("max_model_len")
        if longest is not None and longest < self._max_tokens:
            raise self._error(
                f"a prompt with its completion may take {self._max_tokens} tokens, and the server was started with "
                f"--max-model-len {longest}: start it with {policy.max_model_len}"
            )
        return found[0]

    async def _load(self, client: Any) -> None:
        """Load the adapter, once, however many concurrent completions find it missing."""
        async with self._loading:
            if self._adapter not in await self._cards(client):
                await self.connection.patiently(partial(self._send_adapter, client))

    async def _send_adapter(self, client: Any) -> None:
        from openai import APIStatusError

        path = self._policy.adapter_path
        assert path is not None
        try:
            await client.post(
                "/load_lora_adapter",
                cast_to=str,
                body={"lora_name": self._adapter, "lora_path": str(path.resolve())},
                options={"max_retries": 0},  # an adapter that is refused is an error of the server too
            )
            self.has_loaded = True
            return
        except APIStatusError as error:
            if error.status_code in AWAY:
                raise
            reason = self.connection.reason(error)
        if self._adapter in await self._cards(client):  # another run has loaded it meanwhile
            return
        raise self._error(
            f"the server does not take the adapter {path.resolve()}: {reason}. It must see this very directory, and be "
            "started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment, --enable-lora and --max-lora-rank "
            f"{adapter_rank(path)} or above"
        )

    def _error(self, text: str) -> TpoError:
        return TpoError(f"{self.connection.url}: {text}")


def adapter_name(path: Path) -> str:
    """Return a server's name for an adapter: artifact, epoch and a hash of its weights.

    The hash distinguishes the adapter from an earlier one of the same artifact, whose keys and values may still be in
    the server's prefix cache.
    """
    digest = hashlib.sha256("".join(file_digest(file) for file in sorted(path.glob("adapter_*"))).encode())
    return f"{path.parent.name}-{path.name}-{digest.hexdigest()[:12]}"


def _is_same(root: str, wanted: str) -> bool:
    """Return whether two names or directories hold the same model, as far as can be seen from here."""
    return root == wanted or (Path(root).is_dir() and fingerprint(root) == fingerprint(wanted))
