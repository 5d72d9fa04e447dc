"""Public benchmarks, a file each: where their instructions and reference answers come from, and how they are scored.

Every loader returns a `Benchmark`; what it reads is the benchmark's own format, from the Hub or from a local file.
"""

from typing import Any, NamedTuple

from tpo.store.records import Prompt, Response


class Benchmark(NamedTuple):
    """The instructions of a benchmark, in its order, and what it compares or checks responses with."""

    prompts: list[Prompt]  # split "test"
    baseline: list[Response]  # sample_index 0, as many as prompts; empty where the benchmark brings no answers
    keys: dict[str, dict[str, Any]]  # prompt_id -> what scoring needs to know, plain JSON types
