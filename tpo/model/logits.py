"""A model's own logits at chosen positions of many sequences, for judges that read them.

Only states that are asked about reach the head, and prefixes are shared (`tpo.model.states`). What lies between a
decoder's states and the logits, a head, a cap, a scale, is the family's own code: it runs here with the decoder's
result given. All of it is tested against the model's forward pass, and given up where it is not the same.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tpo.model.probe import agrees, probe_ids
from tpo.model.states import Reading, StateReader
from tpo.store.errors import why

log = logging.getLogger(__name__)

T = TypeVar("T")


class LogitReader:
    """Computes the logits that a causal language model's own forward pass gives."""

    def __init__(self, load: Callable[[], Any], *, batch_tokens: int, tokens: Sequence[int] | None = None) -> None:
        """Load the model, replace its attention and layers, and test that its logits stay the same.

        Args:
            load: Returns the model, in eval mode.
            batch_tokens: Of a forward pass.
            tokens: The ids whose logits are wanted, computed from the states in float32, where 16 bits would leave few
                different values; None for the whole vocabulary, as the model computes it.
        """
        self.model = load()
        self.decoder: Any = None
        self.reader: StateReader | None = None
        self.tokens = tokens
        ids = probe_ids(self.model, 64)
        probe = [Reading(ids[:9], (5, 8)), Reading(ids[:5] + ids[9:14], (4, 9))]
        columns = None if tokens is None else ids
        expected = torch.cat(list(self._whole(probe, columns)))
        try:
            self._prepare(ids, columns, batch_tokens=batch_tokens)
            (found,) = self.read([probe], lambda _, logits: logits)
            said = None if agrees(torch.cat(found), expected, dtype=self.model.dtype) else "its logits differ"
        except Exception as error:  # whatever a family's own code says to what it does not expect
            said = why(error)
        if said is not None:
            log.warning(
                "%s: the model is run as a whole on each sequence, since what its head makes of its decoder's states "
                "is not what it computes by itself (%s)",
                self.model.config.model_type,
                said,
            )
            self.model = self.decoder = self.reader = None  # before there is a second one in memory
            self.model = load()
        elif tokens is not None:
            self.model.set_output_embeddings(_Rows(self._own_head, tokens))

    @torch.inference_mode()
    def _prepare(self, ids: list[int], columns: list[int] | None, *, batch_tokens: int) -> None:
        self.decoder, self._own_head = self.model.get_decoder(), self.model.get_output_embeddings()
        # The class of what the decoder returns, whose other fields the family's code may ask for.
        given = torch.tensor([ids], device=self.model.device)
        self._output = type(self.decoder(input_ids=given, use_cache=False))
        if columns is not None:
            self.model.set_output_embeddings(_Rows(self._own_head, columns))
        self.reader = StateReader(self.decoder, batch_tokens=batch_tokens)

    @torch.inference_mode()
    def read(self, groups: Sequence[Sequence[Reading]], reduce: Callable[[Reading, Tensor], T]) -> list[list[T]]:
        """Return what `reduce` makes of every reading and its logits, (positions, tokens) in float32, in order.

        Args:
            groups: Sequences that share a prefix are in one group.
            reduce: Of one reading at a time: the logits of all would be too many.
        """
        if self.reader is None:
            return [
                [
                    reduce(reading, logits)
                    for reading, logits in zip(group, self._whole(group, self.tokens), strict=True)
                ]
                for group in groups
            ]
        return [
            [reduce(reading, self._head(at)) for reading, at in zip(group, states, strict=True)]
            for group, states in zip(groups, self.reader.read(groups), strict=True)
        ]

    @torch.inference_mode()
    def _whole(self, readings: Sequence[Reading], tokens: Sequence[int] | None) -> Iterator[Tensor]:
        """Yield logits of the model's own forward pass on one sequence at a time."""
        for reading in readings:
            ids = torch.tensor([reading.ids], device=self.model.device)
            logits = self.model(input_ids=ids, use_cache=False).logits[0, list(reading.positions)].float()
            yield logits if tokens is None else logits[:, list(tokens)]

    def _head(self, states: Tensor) -> Tensor:
        """Return the logits that the model computes of its decoder's states, (positions, tokens)."""
        with _returning(self.decoder, self._output(last_hidden_state=states[None])):
            logits: Tensor = self.model(inputs_embeds=states[None], use_cache=False).logits[0].float()
        return logits


class _Rows(nn.Module):
    """Some rows of a head, in float32."""

    def __init__(self, head: Any, tokens: Sequence[int]) -> None:
        super().__init__()
        self.weight = head.weight[tokens].float()
        bias = getattr(head, "bias", None)
        self.bias = None if bias is None else bias[tokens].float()

    def forward(self, states: Tensor) -> Tensor:
        """Return (..., tokens) of (..., hidden)."""
        return nn.functional.linear(states.float(), self.weight, self.bias)


@contextmanager
def _returning(module: nn.Module, output: Any) -> Iterator[None]:
    """Let a module return `output` whatever it is called with."""
    own = vars(module).get("forward")
    module.forward = lambda *_, **__: output
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
