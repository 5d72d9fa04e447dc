"""AlpacaEval 2's published figures against ours, from published outputs and annotations.

    PYTHONPATH=. python experiments/alpaca_eval_check.py baseline.jsonl.gz model-1.jsonl.gz model-2.jsonl.gz ...

Rows of the baseline's file are in AlpacaEval's output format; rows of a model's file hold `output` and `preference`, 1
(the baseline surely preferred) to 2 (the model surely), in the same order. A file's name is the model's name on the
leaderboard, whose table comes with the package alpaca_eval. Prints a table in Markdown.
"""

import csv
import gzip
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from tpo.evaluate.benchmarks.alpaca_eval import ANNOTATOR, length_gaps, load
from tpo.evaluate.length_control import ALPACA_EVAL_SLOPE, estimate_length_controlled, length_controlled_rate
from tpo.store.records import Response

LEADERBOARD = f"leaderboards/data_AlpacaEval_2/{ANNOTATOR}_leaderboard.csv"


class Model(NamedTuple):
    """A model's results and the published figures; rates in [0, 1]."""

    name: str
    wins: list[float]
    gaps: list[float]  # characters
    mean_length: float
    win_rate: float  # published, as all that follow
    length_controlled: float
    average_length: int

    def error(self, slope: float) -> float:
        """Return our length-controlled rate less the published one."""
        return length_controlled_rate(self.wins, self.gaps, slope=slope) - self.length_controlled


def read_models(baseline: Path, paths: Sequence[Path]) -> list[Model]:
    """Return the models, those with the lowest published length-controlled rate first."""
    spec = importlib.util.find_spec("alpaca_eval")
    if spec is None or spec.origin is None:
        raise SystemExit("the leaderboard's table is in the package alpaca_eval: pip install alpaca-eval==0.6.6")
    with (Path(spec.origin).parent / LEADERBOARD).open(encoding="utf-8") as file:
        published = {row[""]: row for row in csv.DictReader(file)}
    benchmark = load(baseline)
    models = []
    for path in paths:
        name = path.name.split(".json")[0]
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        pairs = zip(benchmark.prompts, rows, strict=True)
        responses = [Response(prompt.prompt_id, 0, row["output"], None) for prompt, row in pairs]
        models.append(
            Model(
                name=name,
                wins=[row["preference"] - 1 for row in rows],
                gaps=length_gaps(benchmark, responses),
                mean_length=float(np.mean([len(row["output"]) for row in rows])),
                win_rate=float(published[name]["win_rate"]) / 100,
                length_controlled=float(published[name]["length_controlled_winrate"]) / 100,
                average_length=int(published[name]["avg_length"]),
            )
        )
    return sorted(models, key=lambda model: model.length_controlled)


def calibrate(models: Sequence[Model]) -> float:
    """Return the slope with the least sum of squared errors."""
    found = minimize_scalar(lambda slope: sum(model.error(slope) ** 2 for model in models), bounds=(0, 4))
    return float(found.x)


def statement(models: Sequence[Model]) -> str:
    """Return what the table comes to, in a sentence for README and experiments/alpaca_eval.md."""
    gap = max(abs(float(np.mean(model.wins)) - model.win_rate) for model in models)
    num_same = sum(int(model.mean_length) == model.average_length for model in models)
    fixed = [model.error(ALPACA_EVAL_SLOPE) for model in models]
    others = [model.error(calibrate([other for other in models if other is not model])) for model in models]
    (mean, most), (mean_others, most_others) = (
        (100 * np.abs(errors).mean(), 100 * np.abs(errors).max()) for errors in (fixed, others)
    )
    return (
        f"AlpacaEval 2's figures of {len(models)} models from their published annotations: win rates differ by at most "
        f"{100 * gap:.2f} points, average lengths agree for {num_same} of {len(models)}; the length-controlled win "
        f"rate with the slope fixed at {ALPACA_EVAL_SLOPE:g} has a mean absolute error of {mean:.2f} points (largest "
        f"{most:.2f}), with the slope that the other models give {mean_others:.2f} (largest {most_others:.2f})."
    )


def main() -> None:
    """Print the table, a model a line, and what it comes to."""
    baseline, *paths = map(Path, sys.argv[1:])
    models = read_models(baseline, paths)
    columns = [
        *("model", "win rate", "published", "mean length", "published", "LC published"),
        *("fitted", f"slope {ALPACA_EVAL_SLOPE:g}", "error", "exact slope", "slope of the others", "error with it"),
    ]
    print("| " + " | ".join(columns) + " |\n|---|" + "---:|" * (len(columns) - 1))
    for model in models:
        found = estimate_length_controlled(model.wins, model.gaps, seed=0, slope=ALPACA_EVAL_SLOPE)
        fitted = estimate_length_controlled(model.wins, model.gaps, seed=0)
        slope = calibrate([other for other in models if other is not model])
        cells = [
            *(model.name, f"{100 * np.mean(model.wins):.2f}", f"{100 * model.win_rate:.2f}"),
            *(f"{model.mean_length:.1f}", f"{model.average_length}", f"{100 * model.length_controlled:.2f}"),
            *(_shown(rate.rate, rate.interval) for rate in (fitted, found)),
            *(f"{100 * model.error(ALPACA_EVAL_SLOPE):+.2f}", f"{brentq(model.error, 0, 4):.2f}"),
            *(f"{slope:.2f}", f"{100 * model.error(slope):+.2f}"),
        ]
        print("| " + " | ".join(cells) + " |")
    print(f"\n{statement(models)}")
    print(f"\nleast squares over all: slope {calibrate(models):.3f}")


def _shown(rate: float | None, interval: tuple[float, float] | None) -> str:
    if rate is None or interval is None:
        return "-"
    return f"{100 * rate:.2f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


if __name__ == "__main__":
    main()
