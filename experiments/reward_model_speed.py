"""How much faster is a reward model as judge than one chat at a time? And does it give the same rewards?

python experiments/reward_model_speed.py [--model artifacts/<a model artifact>/model]

Builds a sequence classifier from the embedded model and a random score head, and scores the same rows in the same
process by two contenders, interleaved: transformers' own forward on one chat at a time in the order given, and
`tpo.judge.judges.reward_model`. Rows are K responses to each of some built-in instructions, of 20 to 300 tokens, pieced
together from other built-in instructions, or the lines of a file (`--rows`: instruction, responses). Prints, for
float32 and bfloat16, the seconds of both, their ratio, and the largest difference of a reward, beside the
standard deviation of rewards among responses to the same instruction.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tpo.judge.judges.reward_model import RewardModel, RewardModelJudge
from tpo.judge.protocol import Candidates
from tpo.model.load import default_device
from tpo.model.prepare import prepare_embedded
from tpo.sample.sources.builtin import load_builtin

EMBEDDED = "smollm2-135m-instruct"


def main(options: argparse.Namespace) -> None:
    """Print the comparison for every dtype."""
    with tempfile.TemporaryDirectory() as folder:
        source = options.model or Path(folder) / "embedded"
        if options.model is None:
            prepare_embedded(EMBEDDED, directory=source)
        path = save_classifier(source, Path(folder) / "classifier")
        for dtype in options.dtypes:
            compare(path, dtype, options)


def save_classifier(source: Path, path: Path) -> Path:
    """Save a sequence classifier with the weights of `source` and a random head, and its tokenizer, to `path`."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, dtype=torch.float32)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(source).save_pretrained(path)
    return path


def compare(path: Path, dtype: str, options: argparse.Namespace) -> None:
    """Time both contenders on the same rows and print what was found."""
    from transformers import AutoModelForSequenceClassification

    judge = RewardModel(
        RewardModelJudge(name=str(path), dtype=dtype, batch_tokens=options.batch_tokens, max_tokens=8192)
    )
    plain = AutoModelForSequenceClassification.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
    plain.to(default_device())
    candidates = read_rows(options.rows) if options.rows else make_rows(judge.tokenizer, options)
    lengths = [len(judge.chat(item.instruction, response).ids) for item in candidates for response in item.responses]
    print(
        f"{dtype}: {len(lengths)} chats to {len(candidates)} instructions, {min(lengths)} to {max(lengths)} tokens, "
        f"{sum(lengths)} in all; {default_device()}, {torch.get_num_threads()} threads, "
        f"batch_tokens {options.batch_tokens}"
    )

    def one_at_a_time() -> list[float]:
        with torch.inference_mode():
            return [
                float(plain(input_ids=torch.tensor([ids], device=plain.device)).logits[0, 0])
                for item in candidates
                for ids in (judge.chat(item.instruction, response).ids for response in item.responses)
            ]

    def ours() -> list[float]:
        return [float(judgement.value or 0.0) for group in judge.score(candidates) for judgement in group]

    contenders: dict[str, Callable[[], list[float]]] = {"one at a time": one_at_a_time, "ours": ours}
    list(judge.score(candidates[:1]))  # kernels are set up at the first call
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    rewards: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        for name, contender in contenders.items():
            start = time.perf_counter()
            rewards[name] = contender()
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        print(f"  {name:14} {statistics.median(values):7.2f} s (all: {', '.join(f'{value:.2f}' for value in values)})")
    ratios = [slow / fast for slow, fast in zip(*seconds.values(), strict=True)]
    print(f"  ratio          {statistics.median(ratios):7.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")
    difference = max(abs(first - second) for first, second in zip(*rewards.values(), strict=True))
    print(
        f"  largest difference of a reward {difference:.1e}, "
        f"where rewards within an instruction spread by {spread(candidates, rewards):.1e}"
    )


def spread(candidates: list[Candidates], rewards: dict[str, list[float]]) -> float:
    """Return the mean over instructions of the standard deviation of their responses' rewards."""
    values = iter(rewards["ours"])
    groups = [[next(values) for _ in item.responses] for item in candidates]
    return statistics.mean(statistics.stdev(group) for group in groups if len(group) > 1)


def make_rows(tokenizer: Any, options: argparse.Namespace) -> list[Candidates]:
    """Return instructions with responses whose lengths are uniform between 20 and 300 tokens."""
    rng = random.Random(0)
    texts = [prompt.text for prompt in load_builtin()]
    rows = []
    for instruction in rng.sample(texts, options.num_instructions):
        responses = []
        for length in (rng.randint(20, 300) for _ in range(options.num_samples)):
            ids: list[int] = []
            while len(ids) < length:
                ids += tokenizer.encode(rng.choice(texts) + " ", add_special_tokens=False)
            responses.append(tokenizer.decode(ids[:length]))
        rows.append(Candidates(instruction, tuple(responses)))
    return rows


def read_rows(path: Path) -> list[Candidates]:
    """Return the rows of a JSON-lines file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Candidates(row["instruction"], tuple(row["responses"])) for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="directory with the embedded model; made where it is not given")
    parser.add_argument("--rows", type=Path, help="JSON lines with instruction and responses")
    parser.add_argument("--num-instructions", type=int, default=16)
    parser.add_argument("--num-samples", type=int, default=8, help="responses to each instruction")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    main(parser.parse_args())
