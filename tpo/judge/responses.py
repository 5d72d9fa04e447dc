"""What a judge may see of a step's inputs, one instruction at a time.

The rows of completions hold token ids and thoughts. They are read one by one, and of each only the response is kept, as
long as its instruction's turn lasts.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from msgspec.structs import replace

from tpo.store.artifacts import Artifact
from tpo.store.errors import TpoError
from tpo.store.records import Check, Completion, Prompt, Response, Score, by_prompt

Pair = tuple[int, int]  # sample indices

END: tuple[str, list[Response]] = ("", [])  # behind the last prompt of a set


class Group(NamedTuple):
    """The responses to one instruction."""

    prompt_id: str
    instruction: str
    responses: list[Response]
    checks: tuple[Check, ...] = ()


class JudgedResponses:
    """The responses of labelled pairs, or of sets of completions and a benchmark's references; iterated from the files.

    Samples are numbered on from one set to the next: with K samples in the first set, the second set's start at K. The
    references come last.
    """

    def __init__(self, inputs: Mapping[str, Artifact]) -> None:
        """Read nothing yet.

        Args:
            inputs: `labelled`, or `prompts` with `completions_0`, `completions_1`, ... and perhaps `references`.
        """
        self._inputs = inputs

    def __iter__(self) -> Iterator[Group]:
        """Yield the responses to one instruction after the other.

        Raises:
            TpoError: If the rows of a set are not in the order of the instructions.
        """
        if "labelled" in self._inputs:
            yield from self._labelled()
            return
        sets = [by_prompt(rows) for rows in self._sets()]
        heads = [next(groups, END) for groups in sets]
        for prompt in self._inputs["prompts"].rows(Prompt):
            found: list[Response] = []
            for number, (prompt_id, rows) in enumerate(heads):
                if prompt_id == prompt.prompt_id:
                    found += rows
                    heads[number] = next(sets[number], END)
            if found:
                yield Group(prompt.prompt_id, prompt.text, found, prompt.checks)
        for prompt_id, rows in heads:
            if rows:
                raise TpoError(f"the responses to {prompt_id} do not stand in the order of the instructions")

    def _labelled(self) -> Iterator[Group]:
        """Labelled pairs may come back to an instruction: they are held as a whole."""
        labelled = self._inputs["labelled"]
        groups: dict[str, list[Response]] = {}
        for row in labelled.rows(Response, "responses.jsonl"):
            groups.setdefault(row.prompt_id, []).append(row)
        texts = {prompt.prompt_id: prompt.text for prompt in labelled.rows(Prompt, "prompts.jsonl")}
        for prompt_id, rows in groups.items():
            yield Group(prompt_id, texts[prompt_id], rows)

    def _sets(self) -> list[Iterator[Response]]:
        sets = [
            visible(artifact.rows(Completion), offset=start)
            for artifact, start in zip(self._completions, self.starts, strict=False)
        ]
        if "references" in self._inputs:
            references = self._inputs["references"].rows(Response, "references.jsonl")
            number = self.starts[-1]
            sets.append(Response(row.prompt_id, number, row.text, row.error) for row in references)
        return sets

    @cached_property
    def _completions(self) -> list[Artifact]:
        count = sum(role.startswith("completions_") for role in self._inputs)
        return [self._inputs[f"completions_{position}"] for position in range(count)]

    @cached_property
    def starts(self) -> list[int]:
        """The number of the first sample of each set of completions, and of what follows them."""
        return starts(self._completions)


def starts(sets: Sequence[Artifact]) -> list[int]:
    """Return where the samples of each set of completions begin when they are numbered on, and where the last ends.

    The only place that knows: whoever reads scores or verdicts on several sets, or makes them, asks here.
    """
    found = [0]
    for artifact in sets:
        found.append(found[-1] + 1 + max((row.sample_index for row in artifact.rows(Completion)), default=-1))
    return found


def take_apart(scores: Iterable[Score], sets: Sequence[Artifact]) -> list[list[Score]]:
    """Return the scores of sets of completions that were judged together by set, each with its own sample indices."""
    edges = starts(sets)
    found: list[list[Score]] = [[] for _ in sets]
    for row in scores:
        position = bisect_right(edges, row.sample_index) - 1
        found[position].append(replace(row, sample_index=row.sample_index - edges[position]))
    return found


def matched_pairs(num_first: int, num_second: int) -> list[Pair]:
    """Return which samples of two sets play each other where each game is paid for: sample i, and i mod `num_second`.

    Indices count from 0 in each set.
    """
    return [(index, index % num_second) for index in range(num_first)]


def all_pairs(num_first: int, num_second: int) -> list[Pair]:
    """Return each sample of the first set with each of the second; indices count from 0 in each set."""
    return [(first, second) for first in range(num_first) for second in range(num_second)]


def visible(completions: Iterable[Completion], *, offset: int = 0) -> Iterator[Response]:
    """Yield what judges may see of completions.

    Args:
        completions: Rows.
        offset: Added to the sample indices.
    """
    for row in completions:
        yield Response(row.prompt_id, offset + row.sample_index, row.response, row.split_error)
