"""What a judge may see of a step's inputs, one instruction at a time.

The rows of completions hold token ids and thoughts. They are read one by one, and of each only the response is kept, as
long as its instruction's turn lasts.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from tpo.store.artifacts import Artifact
from tpo.store.errors import TpoError
from tpo.store.records import Check, Completion, Prompt, Response, by_prompt

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
            visible(artifact.rows(Completion), offset=offset)
            for artifact, offset in zip(self._completions, self._offsets, strict=False)
        ]
        if "references" in self._inputs:
            references = self._inputs["references"].rows(Response, "references.jsonl")
            number = self._offsets[-1]
            sets.append(Response(row.prompt_id, number, row.text, row.error) for row in references)
        return sets

    @cached_property
    def _completions(self) -> list[Artifact]:
        count = sum(role.startswith("completions_") for role in self._inputs)
        return [self._inputs[f"completions_{position}"] for position in range(count)]

    @cached_property
    def _offsets(self) -> list[int]:
        """The number of the first sample of each set, and of the references after them."""
        is_followed = len(self._completions) - ("references" not in self._inputs)
        offsets = [0]
        for artifact in self._completions[:is_followed]:
            offsets.append(offsets[-1] + 1 + max((row.sample_index for row in artifact.rows(Completion)), default=-1))
        return offsets


def visible(completions: Iterable[Completion], *, offset: int = 0) -> Iterator[Response]:
    """Yield what judges may see of completions.

    Args:
        completions: Rows.
        offset: Added to the sample indices.
    """
    for row in completions:
        yield Response(row.prompt_id, offset + row.sample_index, row.response, row.split_error)
