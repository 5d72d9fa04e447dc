"""Several engines in plain torch, each in a process with one thread, that share the model's weights in memory."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from tpo.sample.decoding import Decoding, Request, Sample
from tpo.store.processes.forks import ForkedWorkers
from tpo.store.processes.streams import Stream


class TorchWorkers:
    """An engine whose requests go to whichever of its engines has room.

    Every sample has a seed of its own, so what is sampled does not depend on the number of engines, up to the rounding
    of matrix products.
    """

    uses_seeds = True

    def __init__(self, count: int, *, decoding: Decoding, max_sequences: int, **arguments: Any) -> None:
        """Load the policy and start the engines.

        Args:
            count: Number of engines.
            decoding: How all requests will be decoded.
            max_sequences: Rows that decode together, of all engines.
            arguments: Further ones of `TorchEngine`.

        Raises:
            TpoError: If the engine cannot sample here.
        """
        self.decoding = decoding
        rows = -(-max_sequences // count)
        self._workers = ForkedWorkers(
            make_stream, {"decoding": decoding, "max_sequences": rows, **arguments}, count=count
        )

    def stream(self, requests: Iterable[Request], *, decoding: Decoding) -> Iterator[Sample]:
        """Yield samples as they end, of whichever engine.

        Raises:
            TpoError: If an engine fails or is killed.
        """
        assert decoding == self.decoding
        yield from self._workers.run(requests)

    def close(self) -> None:
        """End the processes."""
        self._workers.close()


def make_stream(*, decoding: Decoding, **arguments: Any) -> Stream:
    """Return the stream function of a `TorchEngine` with these arguments."""
    from tpo.sample.engines.torch.engine import TorchEngine

    return partial(TorchEngine(**arguments).stream, decoding=decoding)
