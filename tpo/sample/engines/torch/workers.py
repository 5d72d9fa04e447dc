"""Several engines in plain torch, each in a process with one thread, that share the model's weights in memory."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from tpo.sample.decoding import Decoding, Request, Sample
from tpo.store.processes.forks import ForkedWorkers
from tpo.store.processes.streams import Stream


class TorchWorkers:
    """Several engines that get the requests in turn, each as it has room.

    Every sample has a seed of its own, so what is sampled does not depend on the number of engines, up to the rounding
    of matrix products.
    """

    uses_seeds = True

    def __init__(self, count: int, *, max_sequences: int, **arguments: Any) -> None:
        """Start nothing yet: engines are started for one way of decoding, with the first request.

        Args:
            count: Number of engines.
            max_sequences: Rows that decode together, of all engines.
            arguments: Further ones of `TorchEngine`.
        """
        self._count = count
        self._arguments = {"max_sequences": -(-max_sequences // count), **arguments}
        self._decoding: Decoding | None = None  # that the engines were started for
        self._workers: ForkedWorkers | None = None

    def stream(self, requests: Iterable[Request], *, decoding: Decoding) -> Iterator[Sample]:
        """Yield samples as they end, of whichever engine.

        Raises:
            TpoError: If the engine cannot sample here, or one fails or is killed.
        """
        if self._workers is None or decoding != self._decoding:
            self.close()
            arguments = {"decoding": decoding, **self._arguments}
            self._workers, self._decoding = ForkedWorkers(make_stream, arguments, count=self._count), decoding
        # Rounding may depend on which prompts share a batch, and the same run should give the same samples twice.
        yield from self._workers.run(requests, in_turn=True)

    def close(self) -> None:
        """End the processes."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None


def make_stream(*, decoding: Decoding, **arguments: Any) -> Stream:
    """Return the stream function of a `TorchEngine` with these arguments."""
    from tpo.sample.engines.torch.engine import TorchEngine

    return partial(TorchEngine(**arguments).stream, decoding=decoding)
