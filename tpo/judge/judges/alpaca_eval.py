"""AlpacaEval 2's annotator: one token says which response is better, its log-probabilities say how surely.

The prompt is the benchmark's own, read from the installed `alpaca_eval` package. There the response shown first is
called "m", the other "M", and the outcome is p(m) / (p(m) + p(M)).

Texts go in as they are, but for control tokens of chat templates (`tpo.judge.verdicts.defuse`), which a server could
read as the end of the turn. So this annotator can be fooled as the official one can: NullModel, whose one answer closes
the prompt's quotes and adds instructions of its own, is preferred to GPT-4 in 84 % of the benchmark.
"""

import importlib.util
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpo.config.fields import setting
from tpo.config.tags import NO_THOUGHT, last_thought
from tpo.judge.llm.ask import load_llm
from tpo.judge.llm.question import FIRST_TOKEN, Answer, Question
from tpo.judge.llm.settings import LLMConfig
from tpo.judge.protocol import Candidates, Judgement, PairwiseJudge, PairwiseJudgeConfig
from tpo.judge.verdicts import fill
from tpo.model.policy import Policy
from tpo.store.errors import TpoError
from tpo.store.files import file_digest

TEMPLATE = "evaluators_configs/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt"
FIRST, SECOND = "m", "M"
NUM_LIKELIEST = 5  # of the alternatives to the token, as many as the benchmark asks for
_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)


@dataclass
class AlpacaEvalJudge(LLMConfig, PairwiseJudgeConfig):
    """Which model is asked; the prompt is the benchmark's."""

    kind: str = setting("alpaca_eval", packages={"alpaca_eval": "alpaca_eval"})
    orders: str = setting("random", choices=("both", "random"))

    def depends_on(self) -> dict[str, Any]:
        """Return the digest of the benchmark's prompt too."""
        return super().depends_on() | {"template_sha256": file_digest(template_path())}

    def make(self, *, policy: Policy | None, answers_path: Path) -> PairwiseJudge:
        """Return the judge; the model is started, or its server reached, when there is something to ask.

        Raises:
            TpoError: If the package, or a prompt as expected in it, is missing.
        """
        return AlpacaEvalAnnotator(self, policy=policy, cache_path=answers_path)


class AlpacaEvalAnnotator:
    """Asks which of two responses is better and reads how surely."""

    def __init__(self, settings: AlpacaEvalJudge, *, policy: Policy | None, cache_path: Path) -> None:
        """Set up the judge.

        Args:
            settings: Of the judge.
            policy: The seed model, for a judge without a model of its own.
            cache_path: File that keeps the answers.

        Raises:
            TpoError: If the package, or a prompt as expected in it, is missing.
        """
        self.settings = settings
        self.system, self.prompt = read_template(template_path())
        self.llm = load_llm(settings, policy=policy, cache_path=cache_path)

    def compare(self, pairs: Iterable[Candidates]) -> Iterator[Judgement]:
        """Yield one judgement per pair, in order; equal pairs are asked about once.

        Unscored are, besides what was not asked: "thought_first", the first token is a thought's and no name;
        "no_identifier", neither name among the likeliest tokens; "no_logprobs", an answer without a token.

        Raises:
            TpoError: If the first answer that the model writes has no log-probabilities: its others have none either.
        """
        has_logprobs = False
        for answer in self.llm.ask(map(self._question, pairs)):
            has_logprobs = has_logprobs or bool(answer.watched)
            if answer.error is None and answer.text and not has_logprobs:
                raise TpoError(
                    f"judge.name={self.settings.name}: the answers have no log-probabilities, from which AlpacaEval's "
                    "annotator is read: take a server that gives them (logprobs and top_logprobs), or "
                    "judge.backend=vllm"
                )
            yield _decide(answer)

    def _question(self, pair: Candidates) -> Question:
        texts = {"instruction": pair.instruction, "output_1": pair.responses[0], "output_2": pair.responses[1]}
        return Question(
            system=self.system,
            user=fill(self.prompt, are_markers_kept=True, **texts),
            temperature=self.settings.temperature,
            max_tokens=self.settings.max_tokens,
            watch=(FIRST_TOKEN,),
        )


def _decide(answer: Answer) -> Judgement:
    if answer.error is not None:
        return Judgement(None, answer.error, weight=0.0)
    if last_thought(answer.text) != NO_THOUGHT:
        return Judgement(None, "thought_first", answer.text, answer.num_tokens, 0.0)
    if not answer.watched:
        return Judgement(None, "no_logprobs", answer.text, answer.num_tokens, 0.0)
    preference = first_preference(answer.watched[0].alternatives)
    if preference is None:
        return Judgement(None, "no_identifier", answer.text, answer.num_tokens, 0.0)
    return Judgement(preference, None, answer.text, answer.num_tokens, 1.0)


def first_preference(alternatives: Mapping[str, float]) -> float | None:
    """Return how surely the response shown first is better: p(m) / (p(m) + p(M)), in [0, 1].

    Args:
        alternatives: Likely tokens, exactly as the model writes them (" m" is not "m"), to their log-probabilities in
            nats. Only the five likeliest count; a name that is not among them has probability 0.

    Returns:
        None where neither name is among them.
    """
    likeliest = dict(sorted(alternatives.items(), key=lambda item: -item[1])[:NUM_LIKELIEST])
    first, second = (likeliest.get(name, -math.inf) for name in (FIRST, SECOND))
    if max(first, second) == -math.inf:
        return None
    return math.exp(first - max(first, second)) / sum(math.exp(value - max(first, second)) for value in (first, second))


def template_path() -> Path:
    """Return the file of the benchmark's prompt.

    Raises:
        TpoError: If the package that has it is not installed.
    """
    spec = importlib.util.find_spec("alpaca_eval")  # does not import it
    if spec is None or spec.origin is None:
        raise TpoError(
            "the prompt of AlpacaEval's annotator is in the package alpaca_eval, which is not installed: "
            "pip install alpaca-eval==0.6.6"
        )
    return Path(spec.origin).parent / TEMPLATE


def read_template(path: Path) -> tuple[str, str]:
    """Return the texts of the system and the user turn of the benchmark's prompt.

    Raises:
        TpoError: If the file is not such a prompt.
    """
    try:
        turns = _TURN.findall(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TpoError(f"{path}: cannot be read ({error}): install alpaca-eval==0.6.6") from error
    texts = {role: text.strip() for role, text in turns}
    user = texts.get("user", "")
    places = [user.count(f"{{{name}}}") for name in ("instruction", "output_1", "output_2")]
    if [role for role, _ in turns] != ["system", "user"] or places != [1, 1, 1]:
        raise TpoError(
            f"{path}: expected a system and a user turn, and in this {{instruction}}, {{output_1}} and {{output_2}} "
            "once each: install alpaca-eval==0.6.6"
        )
    return texts["system"], user
