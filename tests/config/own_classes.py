"""Classes such as a user writes outside of the repository; no third-party import."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tpo.config.thought import Split, ThoughtFormat
from tpo.judge.protocol import Candidates, Judgement
from tpo.pairs.rule import Candidate
from tpo.sample.decoding import Decoding, Generation, Request, Sample
from tpo.sample.prompts import make_prompt
from tpo.store.records import Completion, Prompt


class Vowels:
    """Scores a response by how many of its letters are vowels, above a threshold."""

    def __init__(self, threshold: float, letters: str = "aeiou") -> None:
        self.threshold, self.letters = threshold, letters

    def score(self, candidates: Iterable[Candidates]) -> Iterator[list[Judgement]]:
        """Yield the shares."""
        for item in candidates:
            yield [Judgement(self._share(response), None) for response in item.responses]

    def _share(self, response: str) -> float:
        return max(self.threshold, sum(letter in self.letters for letter in response) / len(response))


class Longer:
    """Prefers the longer of two responses."""

    def compare(self, pairs: Iterable[Candidates]) -> Iterator[Judgement]:
        """Yield 1, 0.5 or 0."""
        for pair in pairs:
            first, second = map(len, pair.responses)
            yield Judgement(0.5 + 0.5 * ((first > second) - (first < second)), None)


class ReadsTheModel:
    """A judge that wants the seed model."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def score(self, candidates: Iterable[Candidates]) -> Iterator[list[Judgement]]:
        """Yield the length of the model's path."""
        for item in candidates:
            yield [Judgement(float(len(self.policy.model_path)), None) for _ in item.responses]


class Echo:
    """Completes every prompt with a few of its own tokens."""

    uses_seeds = False

    def __init__(self, chat: Any, max_len: int, count: int = 3) -> None:
        self.chat, self.max_len, self.count = chat, max_len, count

    def stream(self, requests: Iterable[Request], *, decoding: Decoding) -> Iterator[Sample]:
        """Yield the same for every sample."""
        for request in requests:
            token_ids = [*request.prompt_ids[-self.count :], min(self.chat.end_ids)]
            for sample_index in request.seeds:
                yield Sample(request.key, sample_index, Generation(token_ids, "stop"))

    def close(self) -> None:
        """Do nothing."""


class Sums:
    """Instructions to add two numbers."""

    def __init__(self, upto: int) -> None:
        self.upto = upto

    def load(self) -> list[Prompt]:
        """Return one for every number."""
        numbers = range(self.upto)
        return [
            make_prompt(
                f"What is {number} + {number}?", category="sums", source="sums", split="", where=f"sum {number}"
            )
            for number in numbers
        ]


class NoRows:
    """A source that returns something else."""

    def load(self) -> list[Any]:
        """Return texts."""
        return ["What is 1 + 1?"]


class LastLine(ThoughtFormat):
    """Everything but the last line is the thought."""

    @property
    def has_thought(self) -> bool:
        """Whether completions hold a thought."""
        return True

    def split(self, completion: str, *, is_prefilled: bool, finish_reason: str) -> Split:
        """Return thought and response."""
        thought, _, response = completion.rpartition("\n")
        if not thought or not response.strip():
            return Split(None, None, "one_line")
        return Split(thought, response, None, (0, len(thought)), (len(thought) + 1, len(completion)))


class Shortest:
    """A rule: the shortest of the good responses against the worst one."""

    def __init__(self, good: float = 0.0) -> None:
        self.good = good

    def choose(self, candidates: Sequence[Candidate]) -> tuple[int, int] | str:
        """Return the pair, or that there is no good one."""
        good = [position for position, candidate in enumerate(candidates) if candidate.value > self.good]
        if not good:
            return "none_good"
        worst = min(range(len(candidates)), key=lambda position: candidates[position].value)
        return min(good, key=lambda position: candidates[position].length), worst


class Shouting:
    """An evaluation: how many answers are in capitals."""

    def __init__(self, letters: str = "ABC") -> None:
        self.letters = letters

    def measure(self, steps: Any, path: Any) -> dict[str, Any]:
        """Return the count."""
        prompts = steps.prompts()
        answers = list(steps.answers(steps.policy, prompts).rows(Completion))
        return {"num_answers": len(answers), "num_loud": sum((row.response or "").isupper() for row in answers)}


class NoJson:
    """An evaluation that returns what is no JSON."""

    def measure(self, steps: Any, path: Any) -> Any:
        """Return a set."""
        return {"kinds": {1, 2}}


NOT_A_CLASS = 1
