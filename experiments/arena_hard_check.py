"""Arena-Hard v0.1's score on verdicts of a fixed rule, against two independent Bradley-Terry fits.

    python experiments/arena_hard_check.py question.jsonl gpt-4-0314.jsonl gpt-3.5-turbo-0125.jsonl

The files are the benchmark's own, gzipped or not; a file is named after its model. The rule prefers the answer with
more distinct words and, by 3 %, the one shown first. It is no judge: its score says nothing about the models, only
whether the arithmetic is right.
"""

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tpo.evaluate.benchmarks import Benchmark
from tpo.evaluate.benchmarks.arena_hard import load, read_answers
from tpo.evaluate.benchmarks.arena_score import arena_score, complete_verdicts
from tpo.judge.protocol import Candidates, Judgement
from tpo.judge.responses import Group
from tpo.judge.score import collect_verdicts
from tpo.judge.verdicts import parse_verdict
from tpo.store.records import Response, Verdict, read_records

BASELINE = "gpt-4-0314"
# (the policy's points, weight) -> heading of the number of such games.
MENU = {
    (1.0, 3.0): "much better",
    (1.0, 1.0): "better",
    (0.5, 1.0): "tie",
    (0.0, 1.0): "worse",
    (0.0, 3.0): "much worse",
}


class DistinctWords:
    """Gives one of five verdicts by the ratio of the answers' numbers of distinct words."""

    def compare(self, pairs: Iterable[Candidates]) -> Iterator[Judgement]:
        """Yield one judgement per pair, parsed from the text that a judge would write."""
        return map(self._decide, pairs)

    def _decide(self, pair: Candidates) -> Judgement:
        first, second = (len(set(re.findall(r"\w+", text.lower()))) for text in (pair.responses[0], pair.responses[1]))
        ratio = 1.03 * (first + 1) / (second + 1)
        bounds = (1 / 1.6, 1 / 1.1, 1.1, 1.6)
        verdict = ("B>>A", "B>A", "A=B", "A>B", "A>>B")[sum(ratio > bound for bound in bounds)]
        text = f"{first} and {second} distinct words: [[{verdict}]]"
        return parse_verdict(text, verdicts="five_way", strong_weight=3.0, is_cut=False)._replace(raw=text)


def play(benchmark: Benchmark, answers: dict[str, str]) -> list[Verdict]:
    """Return the rule's verdicts on a model's answers (uid -> answer) against the baseline's, two per question."""
    responses = [Response(key, 0, answers[row["uid"]], None) for key, row in benchmark.keys.items()]
    groups = {prompt.prompt_id: Group(prompt.prompt_id, prompt.text, []) for prompt in benchmark.prompts}
    for response in [*responses, *(Response(row.prompt_id, 1, row.text, row.error) for row in benchmark.baseline)]:
        groups[response.prompt_id].responses.append(response)
    with tempfile.TemporaryDirectory() as folder:
        collect_verdicts(Path(folder), list(groups.values()), DistinctWords())
        verdicts = list(read_records(Path(folder) / "rows.jsonl", Verdict))
    return complete_verdicts(verdicts, benchmark, responses, no_response="loss")


def explode(verdicts: Sequence[Verdict]) -> np.ndarray:
    """Return the policy's points in every battle, as the official script counts them: a game of weight 3 is three."""
    battles: list[float] = []
    for verdict in verdicts:
        if verdict.outcome is not None:
            battles += [verdict.outcome if verdict.first_index == 0 else 1 - verdict.outcome] * int(verdict.weight)
    return np.array(battles)


def fit_sklearn(battles: np.ndarray) -> float:
    """Return the win rate of a logistic regression without penalty, each battle twice: a tie is won and lost once."""
    from sklearn.linear_model import LogisticRegression

    outcomes = np.concatenate([battles > 0, battles == 1])
    features = np.tile([1.0, -1.0], (len(outcomes), 1))  # a strength for the policy and one for the baseline
    model = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-10)
    strengths = model.fit(features, outcomes).coef_[0]
    return float(1 / (1 + np.exp(strengths[1] - strengths[0])))


def fit_scipy(battles: np.ndarray) -> float:
    """Return the win rate where the Bradley-Terry likelihood of the battles is highest."""
    from scipy.optimize import minimize

    def loss(strengths: np.ndarray) -> tuple[float, np.ndarray]:
        margin = strengths[0] - strengths[1]
        slope = 1 / (1 + np.exp(-margin)) - battles.mean()
        return float((np.logaddexp(0, margin) - battles * margin).mean()), np.array([slope, -slope])

    strengths = minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    return float(1 / (1 + np.exp(strengths[1] - strengths[0])))


def resample_battles(battles: np.ndarray, *, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile interval over resampled battles: as official ones are made, with 10,000 resamples."""
    points, counts = np.unique(battles, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(battles), counts / len(battles), size=10_000)
    low, high = np.quantile(draws @ points / len(battles), [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Print the scores of the models named on the command line, the baseline's own last."""
    questions, baseline_path, *paths = map(Path, sys.argv[1:])
    benchmark = load(questions, answers_path=baseline_path, baseline=BASELINE, version="v0.1")
    columns = [
        "policy",
        "score",
        "over questions",
        "over battles",
        "sklearn",
        "scipy",
        "questions",
        "games",
        "unscored",
    ]
    print(f"| {' | '.join([*columns, *MENU.values()])} |\n{'|---' * (len(columns) + len(MENU))}|")
    for path in [*paths, baseline_path]:
        model = path.name.split(".jsonl")[0].split(".model_answer")[0]
        verdicts = play(benchmark, read_answers(path, model=model))
        result = arena_score(verdicts, seed=0)
        assert result.score.rate is not None and result.score.interval is not None
        battles = explode(verdicts)
        games = Counter(
            (row.outcome if row.first_index == 0 else 1 - (row.outcome or 0), row.weight) for row in verdicts
        )
        intervals = [
            f"[{low:.4f}, {high:.4f}]" for low, high in (result.score.interval, resample_battles(battles, seed=0))
        ]
        scores = [f"{score:.6f}" for score in (fit_sklearn(battles), fit_scipy(battles))]
        counts = [
            result.score.num_prompts,
            result.score.num_rows,
            result.score.num_unscored,
            *(games[key] for key in MENU),
        ]
        print(f"| {' | '.join([model, f'{result.score.rate:.6f}', *intervals, *scores, *map(str, counts)])} |")


if __name__ == "__main__":
    main()
