"""Random seeds as a function of what they are for, so that no counter or clock enters a result."""

import hashlib


def derive_seed(seed: int, *parts: str | int) -> int:
    """Return a 63-bit seed for one purpose, the same on every machine and in every process.

    `hash()` is salted per process and consecutive seeds are correlated in some generators, so the
    parts are hashed with sha256 and joined with a byte that no part contains.

    Args:
        seed: The run's seed.
        *parts: What the seed is for, for example `("sample", prompt_id, sample_index)`.

    Returns:
        An integer in [0, 2**63).
    """
    text = "\x1f".join([str(seed), *(str(part) for part in parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
