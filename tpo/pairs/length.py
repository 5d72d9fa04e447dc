"""Length control: a score less rho times the length, both normalized over an instruction's responses."""

import numpy as np
from numpy.typing import NDArray

from tpo.store.records import Completion


def length_controlled(
    scores: NDArray[np.float64], lengths: NDArray[np.float64], *, length_penalty: float
) -> NDArray[np.float64]:
    """Return N(score) - rho N(length), N as in `normalized`: "Thinking LLMs", section 2.3.

    Args:
        scores: (samples,), higher is better.
        lengths: (samples,), in any unit.
        length_penalty: rho >= 0; 0 ignores length, 1 weighs it like the score.

    Returns:
        (samples,) in standard deviations.
    """
    return normalized(scores) - length_penalty * normalized(lengths)


def normalized(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return N(v) = (v - mean v) / std v over the samples of one prompt; std is the population's.

    Values that are all equal have N(v) = 0: they say nothing about which sample is better.
    """
    centered = values - values.mean()
    deviation = values.std()
    # Relative, because equal values can differ by rounding once they are centered.
    if deviation <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return np.zeros_like(values)
    result: NDArray[np.float64] = centered / deviation
    return result


def response_length(completion: Completion, unit: str) -> float:
    """Return the length of a completion's response in tokens, characters or words."""
    response = completion.response or ""
    match unit:
        case "tokens":
            return float(completion.num_response_tokens)
        case "characters":
            return float(len(response))
        case "words":
            return float(len(response.split()))
        case _:
            raise ValueError(f"length unit {unit!r}: expected tokens, characters or words")
