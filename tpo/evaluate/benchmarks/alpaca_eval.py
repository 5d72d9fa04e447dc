"""AlpacaEval 2: 805 instructions, gpt4_1106_preview's answers to them, and the win rate against these.

Reads the benchmark's outputs, from the Hub or a local file; writes files in its own formats, so that the official tool
can take over; asks the `alpaca_eval` package for the length-controlled win rate. Lengths are in characters, as there.
"""

import gzip
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tpo.evaluate.benchmarks import Benchmark
from tpo.results.rate import Rate
from tpo.results.stats import bootstrap_statistic
from tpo.sample.prompts import make_prompt
from tpo.store.errors import TpoError
from tpo.store.files import write_json
from tpo.store.records import Prompt, Response

BASELINE = "gpt4_1106_preview"
ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
HUB_DATASET = "tatsu-lab/alpaca_eval"
BASELINE_FILE = "alpaca_eval_gpt4_baseline.json"
DIFFICULTY_FILE = "df_gamed.csv"
NUM_INSTRUCTIONS = 805
# Of the prompt ids in the benchmark's order, a line each: the package looks difficulties up by position alone.
INSTRUCTIONS_SHA256 = "cf251132699bc0e099e7de3ab2479eecaeaa9c056253db9ce69438601b645139"
NUM_RESAMPLES = 100  # each is a fit of the package's model


class AlpacaEvalError(TpoError):
    """The benchmark's data or package cannot be used; the message names the file and what to do."""


def load(path: Path | None) -> Benchmark:
    """Return the benchmark's instructions in their order, with the baseline's outputs.

    `keys` has for each instruction its "index" (position from 0) and "dataset" (where it is from, None if not given),
    the original "instruction" where that has white space at its ends, and "generator" where the file names one.

    Args:
        path: A file in AlpacaEval's output format: a JSON list or JSON lines, perhaps gzipped, of objects with
            `instruction`, `output` and perhaps `dataset`, `generator` and `index`. None fetches the official one from
            the Hub.

    Raises:
        AlpacaEvalError: Naming the file and the row, counted from 1.
        PromptError: Likewise, if an instruction is not a text or is empty.
    """
    path = _fetch(BASELINE_FILE, "give the path of a local copy") if path is None else path
    prompts: list[Prompt] = []
    baseline: list[Response] = []
    keys: dict[str, dict[str, Any]] = {}
    for index, row in enumerate(_read_rows(path)):
        where = f"{path}, row {index + 1}"
        if not isinstance(row, dict) or not {"instruction", "output"} <= set(row):
            raise AlpacaEvalError(f"{where}: expected an object with instruction and output, got {_shown(row)}")
        if row.get("index", index) != index:
            raise AlpacaEvalError(
                f"{where}: its index is {row['index']}, its place is {index}: put the rows in the benchmark's order"
            )
        for name in ("output", "generator"):
            if not isinstance(row.get(name, BASELINE), str) or not row.get(name, BASELINE).strip():
                raise AlpacaEvalError(f"{where}: {name} is {row[name]!r}; expected text that is not empty")
        dataset = row.get("dataset")
        prompt = make_prompt(row["instruction"], category=dataset, source="alpaca_eval", split="test", where=where)
        if prompt.prompt_id in keys:
            first = keys[prompt.prompt_id]["index"] + 1
            raise AlpacaEvalError(f"{where}: the instruction of row {first} again; each may be there once")
        prompts.append(prompt)
        baseline.append(Response(prompt.prompt_id, 0, row["output"], None))
        keys[prompt.prompt_id] = {"index": index, "dataset": dataset}
        if row["instruction"] != prompt.text:
            keys[prompt.prompt_id]["instruction"] = row["instruction"]
        if "generator" in row:
            keys[prompt.prompt_id]["generator"] = row["generator"]
    if not prompts:
        raise AlpacaEvalError(f"{path}: no rows; expected {NUM_INSTRUCTIONS}")
    return Benchmark(prompts, baseline, keys)


def _fetch(name: str, otherwise: str) -> Path:
    """Return a file of the benchmark's data set on the Hub, from the local cache where it is there."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(HUB_DATASET, name, repo_type="dataset"))
    except OSError as error:  # all of the Hub's errors
        raise _no_file(name, error, otherwise) from error


def _no_file(name: str, error: Exception, otherwise: str) -> AlpacaEvalError:
    return AlpacaEvalError(
        f"{name} of the Hub's data set {HUB_DATASET} is not here and cannot be fetched "
        f"({' '.join(str(error).split())}). Run `hf download {HUB_DATASET} {name} --repo-type dataset` where there is "
        f"a network, or {otherwise}"
    )


def _read_rows(path: Path) -> list[Any]:
    try:
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise AlpacaEvalError(f"{path}: cannot be read ({error})") from error
    is_list = text.lstrip().startswith("[")
    rows = []
    # Only a line feed ends a line: outputs may hold other separators of lines.
    for number, part in enumerate([text] if is_list else text.split("\n"), start=1):
        if part.strip():
            try:
                rows.append(json.loads(part))
            except json.JSONDecodeError as error:
                where = f"{path}" if is_list else f"{path}, line {number}"
                raise AlpacaEvalError(f"{where}: not JSON ({error})") from error
    return rows[0] if is_list else rows


def _shown(row: Any) -> str:
    return f"one with {sorted(row)}" if isinstance(row, dict) else repr(row)[:80]


# --- the benchmark's own formats --------------------------------------------------------------------------------


def write_outputs(path: Path, benchmark: Benchmark, responses: Sequence[Response], *, generator: str) -> None:
    """Write `model_outputs.json`: what the official tool takes, in the benchmark's order.

    A missing response is the empty string, which is how that tool sees it.

    Args:
        path: The file; its folder must be there.
        benchmark: Instructions.
        responses: The policy's, at most one per instruction.
        generator: The policy's name on a leaderboard.

    Raises:
        ValueError: If two responses are to one instruction, or one to none of the benchmark.
    """
    texts = _texts(benchmark, responses)
    rows = [
        {**_instruction(benchmark, prompt), "output": text, "generator": generator}
        for prompt, text in zip(benchmark.prompts, texts, strict=True)
    ]
    write_json(path, rows)


def write_annotations(
    path: Path,
    benchmark: Benchmark,
    responses: Sequence[Response],
    wins: Mapping[str, float | None],
    *,
    generator: str,
    annotator: str = ANNOTATOR,
) -> None:
    """Write `annotations.json`: what the official tool computes its leaderboard from, in the benchmark's order.

    Args:
        path: The file; its folder must be there.
        benchmark: Instructions and the baseline, which is `output_1`.
        responses: The policy's, `output_2`; as for `write_outputs`.
        wins: Prompt id to how surely the policy is better, in [0, 1]: `preference` is that plus 1. What is not there or
            None is unscored, `preference` null, which the tool leaves out of its win rate.
        generator: The policy's name.
        annotator: The judge's.

    Raises:
        ValueError: As for `write_outputs`, or if a win is out of range.
    """
    texts = _texts(benchmark, responses)
    rows = [
        {
            **_instruction(benchmark, prompt),
            "output_1": baseline.text,
            "generator_1": benchmark.keys[prompt.prompt_id].get("generator", BASELINE),
            "output_2": text,
            "generator_2": generator,
            "annotator": annotator,
            "preference": preference,
        }
        for prompt, baseline, text, preference in zip(
            benchmark.prompts, benchmark.baseline, texts, _preferences(benchmark, wins), strict=True
        )
    ]
    write_json(path, rows)


def length_gaps(benchmark: Benchmark, responses: Sequence[Response]) -> list[float]:
    """Return per instruction the characters of the policy's response less those of the baseline's.

    A missing response has no characters, as the official tool sees it.
    """
    texts = _texts(benchmark, responses)
    return [float(len(text) - len(row.text or "")) for text, row in zip(texts, benchmark.baseline, strict=True)]


def _instruction(benchmark: Benchmark, prompt: Prompt) -> dict[str, str]:
    key = benchmark.keys[prompt.prompt_id]
    dataset = {} if key["dataset"] is None else {"dataset": key["dataset"]}
    return {"instruction": key.get("instruction", prompt.text), **dataset}


def _texts(benchmark: Benchmark, responses: Sequence[Response]) -> list[str]:
    texts = {row.prompt_id: row.text or "" for row in responses}
    if len(texts) < len(responses):
        raise ValueError(f"{len(responses) - len(texts)} responses are to an instruction that has one already")
    if not texts.keys() <= benchmark.keys.keys():
        raise ValueError("some responses are to instructions that are not the benchmark's")
    return [texts.get(prompt.prompt_id, "") for prompt in benchmark.prompts]


def _preferences(benchmark: Benchmark, wins: Mapping[str, float | None]) -> list[float | None]:
    found = [wins.get(prompt.prompt_id) for prompt in benchmark.prompts]
    if not all(win is None or 0 <= win <= 1 for win in found):
        raise ValueError("a win is not in [0, 1]")
    return [None if win is None else 1 + win for win in found]


# --- length-controlled win rate ---------------------------------------------------------------------------------


def official_length_controlled(
    benchmark: Benchmark,
    responses: Sequence[Response],
    wins: Mapping[str, float | None],
    *,
    seed: int,
    confidence: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
) -> Rate:
    """Return the length-controlled win rate as the leaderboard has it: by the `alpaca_eval` package, in [0, 1].

    Its model knows the difficulty of each of the 805 instructions and is held near two models that game the annotator;
    both come from `df_gamed.csv`. The interval is the percentile bootstrap over instructions with a fit each. It is not
    made from the package's `lc_standard_error`, which says how the fitted probabilities differ between instructions and
    nothing about how the fit would change with others.

    Args:
        benchmark: All 805 instructions in their order.
        responses: The policy's, at most one per instruction.
        wins: As for `write_annotations`. Instructions without one are not fitted, but predicted.
        seed: Of the bootstrap.
        confidence: Nominal coverage, in (0, 1).
        num_resamples: Of the bootstrap.

    Raises:
        AlpacaEvalError: If these are not the 805 instructions in their order, the package or its data file is not here,
            or the responses' lengths differ from the baseline's all by the same, which the package divides by.
    """
    _require_the_instructions(benchmark)
    texts, preferences = _texts(benchmark, responses), _preferences(benchmark, wins)
    num_scored = sum(preference is not None for preference in preferences)
    num_unscored = len(preferences) - num_scored
    if num_scored == 0:
        return Rate(None, None, 0, num_unscored, estimator="official")
    if len(set(length_gaps(benchmark, responses))) == 1:
        raise AlpacaEvalError(
            "the responses' lengths differ from the baseline's all by the same number of characters: the package "
            "divides by the spread of that, and there is nothing to control for; take the raw win rate"
        )
    with _official_model() as glm:
        import pandas

        frame = pandas.DataFrame(
            {
                "index": range(len(texts)),  # by which the package finds the difficulty, in resamples too
                "output_1": [row.text for row in benchmark.baseline],
                "output_2": texts,
                "generator_1": BASELINE,
                "generator_2": "policy",
                "preference": np.array(preferences, dtype=np.float64),
            }
        )

        def fit(rows: Any) -> float:
            found = glm.get_length_controlled_winrate(
                rows.reset_index(drop=True),
                save_weights_dir=None,  # "auto" would write into the installed package
                is_add_glm_preference_inplace=False,
                is_warn_extreme_changes=False,
            )
            return float(found["length_controlled_winrate"]) / 100

        found = bootstrap_statistic(
            lambda rows: fit(frame.iloc[rows]),
            len(frame),
            seed=seed,
            confidence=confidence,
            num_resamples=num_resamples,
        )
    return Rate(found.estimate, found.interval, num_scored, num_unscored, estimator="official")


def _require_the_instructions(benchmark: Benchmark) -> None:
    digest = hashlib.sha256("\n".join(prompt.prompt_id for prompt in benchmark.prompts).encode()).hexdigest()
    if digest != INSTRUCTIONS_SHA256:
        raise AlpacaEvalError(
            f"the official length-controlled win rate is of AlpacaEval's {NUM_INSTRUCTIONS} instructions in their "
            f"order, and these are {len(benchmark.prompts)}, not the same ones or not in that order: load the official "
            "file, or take another estimate of tpo.evaluate.length_control"
        )


@contextmanager
def _official_model() -> Iterator[Any]:
    """Give the package's module of length control, which fetches its data file once and leaves nothing changed."""
    try:
        import sklearn
        from alpaca_eval.metrics import glm_winrate as glm
    except ImportError as error:
        raise AlpacaEvalError(
            f"the package alpaca_eval cannot be imported ({error}): install alpaca-eval==0.6.6, and where "
            "pkg_resources is missing setuptools below 81"
        ) from error
    fetch = glm.hf_hub_download
    try:
        path = fetch(repo_id=HUB_DATASET, filename=DIFFICULTY_FILE, repo_type="dataset")
    except OSError as error:
        otherwise = (
            "take the estimate with the slope fixed, tpo.evaluate.length_control.ALPACA_EVAL_SLOPE, which needs no file"
        )
        raise _no_file(DIFFICULTY_FILE, error, otherwise) from error
    # The package sets a global option of scikit-learn, and uses one that scikit-learn warns about at every fit.
    with sklearn.config_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        glm.hf_hub_download = lambda **_: path  # it would ask the Hub again for every fit
        try:
            yield glm
        finally:
            glm.hf_hub_download = fetch
