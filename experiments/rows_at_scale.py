"""What do rows cost at the size of the paper's iterations, and how much memory do their readers take?

python -m experiments.rows_at_scale --rows 40000
python -m experiments.rows_at_scale --rows 200000

Makes completions of 1,000 tokens, 8 for each instruction of 350, of words of the built-in instructions, and gives
them random scores. Every stage runs in a process of its own; its peak memory is that of the process, and beside it what
the process held before the stage began, its imports. Making is timed on 2,000 rows. The files, 16 KB a row and twice
that while rows are put in order, lie in a temporary folder and are removed.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from tpo.config.thought import ThoughtFormat
from tpo.model.asked import ask
from tpo.model.chat import Chat
from tpo.sample.completions import make_completion
from tpo.sample.decoding import Generation
from tpo.store.artifacts import Artifact, finish, open_artifact
from tpo.store.files import write_json
from tpo.store.job import Job
from tpo.store.memory import host_peak_mib
from tpo.store.records import Completion, Key, Pair, Prompt, Score, read_records, write_records
from tpo.store.rows import grow_rows

NUM_SAMPLES = 8
NUM_PROMPT_TOKENS, NUM_TOKENS = 350, 1000
NUM_MADE = 2000
NUM_SPECIAL = 256  # special tokens, as Llama 3's tokenizer has them
NUM_IN_FLIGHT = 256  # completions are finished in a random order of this many
NUM_DISTINCT = 256  # completions that differ in more than their key
FORM = ThoughtFormat("{instruction}", "Here is my thought process:", "Here is my response:", "prefill")
PAIRS_CONFIG = {
    "kind": "best_worst",
    "length_penalty": 0.5,
    "length_unit": "tokens",
    "min_margin": 0.0,
    "max_tokens": 4096,
    "truncated_responses": "keep",
}
ROW = "{:<28} {:>9} {:>9} {:>11} {:>10} {:>12}"


class Measured(NamedTuple):
    """What a stage took in a process of its own."""

    num_rows: int
    seconds: float
    peak_mib: float
    before_mib: float  # of the peak, what the process had used before the stage began


def make_chat() -> Chat:
    """Return a byte-level BPE tokenizer of the built-in instructions' words, with many special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from tpo.sample.sources.builtin import load_builtin

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<eos>", *(f"<|reserved_{number}|>" for number in range(NUM_SPECIAL - 1))]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=8000, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((prompt.text for prompt in load_builtin()), trainer)
    return Chat(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>"), frozenset({0}))


def make_generations(chat: Chat, count: int) -> list[Generation]:
    """Return completions of `NUM_TOKENS` tokens, half of them the thought's."""
    from tpo.sample.sources.builtin import load_builtin

    words = sorted({word for prompt in load_builtin() for word in prompt.text.split()})
    draw = random.Random(0)
    delimiter = chat.tokenizer.encode(f"\n{FORM.response_delimiter}", add_special_tokens=False)
    generations = []
    for _ in range(count):
        ids = chat.tokenizer.encode(" " + " ".join(draw.choices(words, k=NUM_TOKENS)), add_special_tokens=False)
        ids[NUM_TOKENS // 2 : NUM_TOKENS // 2 + len(delimiter)] = delimiter
        generations.append(Generation([*ids[: NUM_TOKENS - 1], 0], "stop"))
    return generations


def make_rows(chat: Chat, generations: Sequence[Generation]) -> list[Completion]:
    """Return the generations as rows."""
    prompt_ids = generations[0].token_ids[:NUM_PROMPT_TOKENS]
    return [
        make_completion(
            chat,
            ask(FORM, chat.conventions),
            prompt_id="",
            sample_index=0,
            prompt_ids=prompt_ids,
            generation=generation,
            seed=2**62,
        )
        for generation in generations
    ]


def making(folder: Path, num_rows: int) -> Callable[[], int]:
    """Generations -> rows."""
    chat = make_chat()
    generations = make_generations(chat, NUM_MADE)
    make_rows(chat, generations[:100])  # lengths of tokens are remembered
    return lambda: len(make_rows(chat, generations))


def writing(folder: Path, num_rows: int) -> Callable[[], int]:
    """Rows that are finished in any order -> the artifact "completions"."""
    chat = make_chat()
    pool = make_rows(chat, make_generations(chat, NUM_DISTINCT))
    keys: list[Key] = [
        (f"{number:016x}", index) for number in range(num_rows // NUM_SAMPLES) for index in range(NUM_SAMPLES)
    ]

    def compute(missing: Sequence[Key]) -> Iterator[Completion]:
        draw = random.Random(0)
        for start in range(0, len(missing), NUM_IN_FLIGHT):
            flight = list(missing[start : start + NUM_IN_FLIGHT])
            draw.shuffle(flight)
            for prompt_id, index in flight:
                yield replace(draw.choice(pool), prompt_id=str(prompt_id), sample_index=int(index))

    path = folder / "completions"
    path.mkdir()

    def work() -> int:
        grow_rows(
            path,
            Completion,
            keys=keys,
            compute=compute,
            unit="completion",
            count_tokens=lambda row: len(row.completion_ids),
        )
        return len(keys)

    return work


def reading(folder: Path, num_rows: int) -> Callable[[], int]:
    """All completions, one after the other."""
    return lambda: sum(1 for _ in read_records(folder / "completions" / "rows.jsonl", Completion))


def pairs(folder: Path, num_rows: int) -> Callable[[], int]:
    """Completions and scores -> pairs."""
    import tpo.pairs.build

    inputs = {"completions": artifact(folder, "completions"), "scores": artifact(folder, "scores")}
    path = folder / "pairs"
    path.mkdir()

    def work() -> int:
        metrics = tpo.pairs.build.work(Job(path, PAIRS_CONFIG, inputs))
        complete(path, "pairs", PAIRS_CONFIG, {name: name for name in inputs}, metrics)
        return num_rows

    return work


def judging(folder: Path, num_rows: int) -> Callable[[], int]:
    """Completions to scores, by the judge that only looks at lengths."""
    from tpo.judge.judges.length import LengthJudge
    from tpo.judge.responses import JudgedResponses
    from tpo.judge.score import judge_responses

    responses = JudgedResponses(
        {"prompts": artifact(folder, "prompts"), "completions_0": artifact(folder, "completions")}
    )
    judge = LengthJudge().make(policy=None, answers_path=folder / "answers.sqlite")
    path = folder / "judged"
    path.mkdir()
    return lambda: int(judge_responses(path, responses, judge)["num_scores"])


def comparing(folder: Path, num_rows: int) -> Callable[[], int]:
    """Completions as a policy's answers, 8 for each instruction, against a baseline's: win rates."""
    import tpo.evaluate.compare

    roles = ("prompts", "completions", "baseline_completions", "scores", "baseline_scores")
    config = {"confidence": 0.95, "no_response": "loss", "are_together": False}
    inputs = {role: artifact(folder, role) for role in roles}
    path = folder / "comparison"
    path.mkdir()

    def work() -> int:
        metrics = tpo.evaluate.compare.work(Job(path, config, inputs))
        complete(path, "compare", config, {role: role for role in roles}, metrics)
        return num_rows

    return work


def tracking(folder: Path, num_rows: int) -> Callable[[], int]:
    """The first 200 samples and pairs as tables of Weights & Biases."""
    import wandb  # noqa: F401

    from tpo.config.tracking import WandbTracking
    from tpo.results.tracking.wandb_tracker import WandbTracker

    class Tables(WandbTracker):
        """Makes the tables and sends them nowhere."""

        def __init__(self) -> None:
            self.settings = WandbTracking(table_rows=200)

        def _log_media(self, values: dict[str, Any]) -> None:
            pass

    found = {name: artifact(folder, name) for name in ("completions", "scores", "pairs")}

    def work() -> int:
        Tables()._log_tables(1, found)
        return num_rows

    return work


def page(folder: Path, num_rows: int) -> Callable[[], int]:
    """The samples that a run's page shows, of 100 instructions."""
    from tpo.results.page.samples import load_samples
    from tpo.results.read import FinishedRun

    names = {name: name for name in ("comparison", "completions", "scores", "pairs")}
    summary = {"iterations": [{"iteration": 1, "artifacts": names}], "seed": 0, "judge": "made"}
    run = FinishedRun(folder, summary, {"artifacts_dir": str(folder)})

    def work() -> int:
        load_samples(run, max_instructions=100)
        return num_rows

    return work


def training(folder: Path, num_rows: int) -> Callable[[], int]:
    """All pairs, held as training holds them."""
    found = artifact(folder, "pairs")
    return lambda: len(list(found.rows(Pair)))


def prepare(folder: Path, num_rows: int) -> Callable[[], int]:
    """Manifest of the completions, and all that stages read beside them."""

    def work() -> int:
        draw, ids = random.Random(1), [f"{number:016x}" for number in range(num_rows // NUM_SAMPLES)]
        complete(folder / "completions", "sample", {}, {}, {})
        rows: dict[str, Iterator[Any]] = {
            "prompts": (
                Prompt(prompt_id, f"Question {prompt_id}", "general", "s", "test", (), prompt_id) for prompt_id in ids
            ),
            "scores": (
                Score(row.prompt_id, row.sample_index, draw.gauss(), None, None, 0)
                for row in read_records(folder / "completions" / "rows.jsonl", Completion)
            ),
            "baseline_scores": (Score(prompt_id, 0, draw.gauss(), None, None, 0) for prompt_id in ids),
            "baseline_completions": (
                row for row in read_records(folder / "completions" / "rows.jsonl", Completion) if row.sample_index == 0
            ),
        }
        for name, items in rows.items():
            (folder / name).mkdir()
            write_records(folder / name / "rows.jsonl", items)
            complete(folder / name, name, {}, {}, {})
        return num_rows

    return work


def artifact(folder: Path, name: str) -> Artifact:
    """Return an artifact of the folder."""
    return open_artifact(folder / name)


def complete(path: Path, stage: str, config: dict[str, Any], inputs: dict[str, str], metrics: dict[str, Any]) -> None:
    """Make the folder `path` an artifact."""
    from tpo.pairs.stages import PAIRS

    version = PAIRS.version if stage == PAIRS.name else 1  # of pairs the page asks for the present one
    contents = {role: artifact(path.parent, name).content for role, name in inputs.items()}
    request = {"stage": stage, "version": version, "config": config, "inputs": inputs, "seed": 0, "contents": contents}
    write_json(path / "request.json", request)
    finish(path, metrics=metrics, started=time.time())


STAGES: dict[str, Callable[[Path, int], Callable[[], int]]] = {
    function.__name__: function
    for function in (making, writing, reading, prepare, judging, pairs, comparing, tracking, page, training)
}


def measure(name: str, folder: Path, num_rows: int) -> Measured:
    """Run a stage; called in a process of its own."""
    work = STAGES[name](folder, num_rows)
    before, started = host_peak_mib(), time.perf_counter()
    count = work()
    return Measured(count, time.perf_counter() - started, host_peak_mib(), before)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000, help="completions (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="keep the files in this folder, and run stages on them again")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="(default: all, in order)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(ROW.format("stage", "rows", "seconds", "ms a row", "peak MiB", "before MiB"))
        for name in options.stages:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                found = process.submit(measure, name, folder, options.rows).result()
            numbers = (found.num_rows, f"{found.seconds:.2f}", f"{1000 * found.seconds / found.num_rows:.3f}")
            print(ROW.format(name, *numbers, f"{found.peak_mib:.0f}", f"{found.before_mib:.0f}"), flush=True)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{size / 1e9:.2f} GB on disk, of it {file_gb(folder / 'completions'):.2f} GB completions")


def file_gb(folder: Path) -> float:
    """Return the size of a folder's rows."""
    return (folder / "rows.jsonl").stat().st_size / 1e9 if (folder / "rows.jsonl").exists() else 0.0


if __name__ == "__main__":
    main()
