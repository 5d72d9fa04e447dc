"""A run's data for other programs: pairs as trl reads them, completions as JSON lines; the fields are in README.md.

`pairs` is a folder that `datasets.load_dataset` reads, with two configurations, each one parquet file that trl's
`DPOTrainer` takes as it is: `with_thoughts`, what this policy was trained on, and `without_thoughts`, instructions and
responses. Artifacts are read a row at a time.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tpo.config.kinds import load_settings
from tpo.config.thought import ThoughtFormat
from tpo.model.asked import Asked, ask
from tpo.model.conventions import Conventions
from tpo.results.read import FinishedRun, ResultError, contents_of
from tpo.results.text_table import code_span
from tpo.store.artifacts import Artifact, open_artifact
from tpo.store.layout import MANIFEST
from tpo.store.records import Comparison, Completion, Pair, Prompt, Score

What = Literal["pairs", "completions"]
CONFIGURATIONS = ("with_thoughts", "without_thoughts")
CARD = """\
---
configs:
- config_name: with_thoughts
  default: true
  data_files: [{split: train, path: with_thoughts.parquet}]
- config_name: without_thoughts
  data_files: [{split: train, path: without_thoughts.parquet}]
tags: [preference, dpo, trl]
---

Preference pairs of the run RUN, by its judge JUDGE, in trl's conversational format. `with_thoughts` has the thought
prompt and whole completions, `without_thoughts` the instruction and the responses alone.
"""


def export_data(run: FinishedRun, what: What, directory: Path) -> list[Path]:
    """Write a run's pairs or completions to `<directory>/<its name>` and return the paths of the files.

    Raises:
        ResultError: If the run has none, its artifacts are not at hand, or the folder exists.
    """
    target = directory / run.path.resolve().name / what
    if target.exists():
        raise ResultError(f"{target} exists already, and nothing is overwritten: give another --out")
    if what == "pairs" and not any("pairs" in entry["artifacts"] for entry in run.summary["iterations"]):
        raise ResultError(f"{run.path}: the run has no iteration that trains, and so no pairs")
    part = target.with_name(f".{what}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        if what == "pairs":
            _write_pairs(run, part)
        else:
            with (part / "completions.jsonl").open("w", encoding="utf-8") as file:
                for row in completions(run):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sorted(target.iterdir())


def pairs(run: FinishedRun, *, has_thoughts: bool) -> Iterator[dict[str, Any]]:
    """Yield the pairs of all iterations in trl's columns, with what is known of them besides.

    Args:
        run: The run.
        has_thoughts: Whether thought prompt and whole completions are given, or instruction and responses.

    Raises:
        ResultError: If an artifact is not at hand.
    """
    form = load_settings(ThoughtFormat, run.config["thought"])
    for entry in run.summary["iterations"]:
        if "pairs" not in entry["artifacts"]:
            continue
        sampled = _artifact(run, entry["artifacts"]["completions"])
        prompts = {row.prompt_id: row for row in sampled.input("prompts").rows(Prompt)}
        asked = ask(form, Conventions.from_metrics(sampled.input("model").metrics))
        rows = list(_artifact(run, entry["artifacts"]["pairs"]).rows(Pair))
        wanted = {(row.prompt_id, index) for row in rows for index in (row.chosen_index, row.rejected_index)}
        responses = {row.key: row.response or "" for row in sampled.rows(Completion) if row.key in wanted}
        for row in rows:
            prompt = prompts[row.prompt_id]
            if has_thoughts:
                user = form.user_turn(prompt.text)
                chosen, rejected = (_opening(asked) + text for text in (row.chosen, row.rejected))
            else:
                user = prompt.text
                chosen, rejected = (responses[row.prompt_id, at] for at in (row.chosen_index, row.rejected_index))
            yield {
                "prompt": [{"role": "user", "content": user}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
                "score_chosen": row.chosen_score,
                "score_rejected": row.rejected_score,
                "margin": row.margin,
                "iteration": entry["iteration"],
                "prompt_id": row.prompt_id,
                "category": prompt.category,
            }


def _opening(asked: Asked) -> str:
    """Return what the assistant's turn starts with before anything is sampled, also where the template writes it."""
    is_open = asked.is_native and asked.start.state == "open"
    tags = asked.conventions.tags
    return tags.opening_text if is_open and tags is not None else asked.prefill


def completions(run: FinishedRun) -> Iterator[dict[str, Any]]:
    """Yield what was sampled of the run's policies, for training and to the held-out instructions, and its baseline.

    Raises:
        ResultError: If an artifact is not at hand.
    """
    for entry in run.summary["iterations"]:
        names, iteration = entry["artifacts"], entry["iteration"]
        compared = _artifact(run, names["comparison"])
        prompts = {row.prompt_id: row for row in compared.input("prompts").rows(Prompt)}
        wins = {row.prompt_id: row.win for row in compared.rows(Comparison)}
        if iteration == 0:
            rows = compared.input("baseline_completions").rows(Completion)
            yield from _described(rows, prompts, policy=None, split="test")
        if "completions" in names:
            scores = {row.key: row.score for row in _artifact(run, names["scores"]).rows(Score)}
            rows = _artifact(run, names["completions"]).rows(Completion)
            yield from _described(rows, prompts, policy=iteration - 1, split=f"train-{iteration}", scores=scores)
        rows = _artifact(run, names["answers"]).rows(Completion)
        yield from _described(rows, prompts, policy=iteration, split="test", wins=wins)


def _described(
    rows: Iterable[Completion],
    prompts: dict[str, Prompt],
    *,
    policy: int | None,
    split: str,
    scores: dict[Any, float | None] | None = None,
    wins: dict[str, float | None] | None = None,
) -> Iterator[dict[str, Any]]:
    for row in rows:
        prompt = prompts[row.prompt_id]
        yield {
            "policy": policy,
            "split": split,
            "prompt_id": row.prompt_id,
            "sample_index": row.sample_index,
            "instruction": prompt.text,
            "category": prompt.category,
            "thought": row.thought,
            "response": row.response,
            "completion": row.completion,
            "split_error": row.split_error,
            "finish_reason": row.finish_reason,
            "num_thought_tokens": row.num_thought_tokens,
            "num_response_tokens": row.num_response_tokens,
            "score": None if scores is None else scores[row.key],
            "win": None if wins is None else wins[row.prompt_id],
        }


def _write_pairs(run: FinishedRun, target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    numbers = [(name, pa.float64()) for name in ("score_chosen", "score_rejected", "margin")]
    texts = [(name, pa.string()) for name in ("prompt_id", "category")]
    columns = [(name, turns) for name in ("prompt", "chosen", "rejected")]
    schema = pa.schema([*columns, *numbers, ("iteration", pa.int64()), *texts])
    for name in CONFIGURATIONS:
        with pq.ParquetWriter(target / f"{name}.parquet", schema) as writer:
            rows = pairs(run, has_thoughts=name == "with_thoughts")
            while some := list(islice(rows, 1024)):
                writer.write_table(pa.Table.from_pylist(some, schema=schema))
    told = {"RUN": code_span(run.path.resolve().name), "JUDGE": code_span(run.summary["judge"])}
    card = re.sub("RUN|JUDGE", lambda found: told[found[0]], CARD)
    (target / "README.md").write_text(card, encoding="utf-8")


def _artifact(run: FinishedRun, name: str) -> Artifact:
    path = run.artifacts_dir / name
    if not (path / MANIFEST).exists():
        raise ResultError(f"{run.path}: its artifact {path} is not at hand; repeat the run, which computes it again")
    return open_artifact(path, content=contents_of(run.summary).get(name))
