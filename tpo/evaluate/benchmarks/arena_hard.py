"""Arena-Hard-Auto (Li et al. 2024, arXiv 2406.11939): hard instructions of Chatbot Arena's users, a baseline's answers.

Reads the benchmark's own files, from the Hub or from disk; writes a policy's answers and a judge's verdicts in the same
formats, so that the official `show_result.py` can be run on them. `tpo.evaluate.benchmarks.arena_score` has the scores.

v0.1 and v2.0 are two benchmarks with other questions and other baselines: a score on one says nothing about the other.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tpo.evaluate.benchmarks import Benchmark
from tpo.evaluate.benchmarks.arena_score import pair_games
from tpo.sample.prompts import make_prompt, prompt_id
from tpo.store.errors import TpoError
from tpo.store.records import RecordError, Response, Verdict, read_json_lines

HUB_NAME = "lmarena-ai/arena-hard-auto"
HUB_REVISION = "15f3746e21432264ce9b453999bde4f3c946d2e6"  # of 2 May 2025

# Version -> category of the question -> the model whose answer it is compared with (the benchmark's
# utils/judge_utils.py). "coding" and "math" are there too, though the published v2.0 file has neither.
BASELINES: dict[str, dict[str, str]] = {
    "v0.1": {"arena-hard-v0.1": "gpt-4-0314"},
    "v2.0": {
        "hard_prompt": "o3-mini-2025-01-31",
        "coding": "o3-mini-2025-01-31",
        "math": "o3-mini-2025-01-31",
        "creative_writing": "gemini-2.0-flash-001",
    },
}

# (outcome for the first, weight) -> the benchmark's label; its script lets >> and << count three times.
_LABELS = {(1.0, 1.0): "A>B", (1.0, 3.0): "A>>B", (0.5, 1.0): "A=B", (0.0, 1.0): "B>A", (0.0, 3.0): "B>>A"}


class ArenaHardError(TpoError):
    """A file of the benchmark that cannot be used; the message names it, the line and what is wrong."""


def load(path: Path | None, *, answers_path: Path | None, baseline: str, version: str) -> Benchmark:
    """Return the questions that are compared with `baseline`, in the file's order, and its answers.

    Texts are kept as published, white space at their ends included (72 of v0.1's 500 questions have some). The
    category of a `Prompt` is the question's cluster in v0.1 and its category in v2.0; `keys` hold "uid", "category"
    and "cluster", which is the subcategory in v2.0. A baseline's empty answer is a response without text ("empty").

    Args:
        path: Questions, one JSON object a line, gzipped or not: `uid` with `prompt`, or the older `question_id` with
            one turn in `turns`. None: the Hub's, at `HUB_REVISION`.
        answers_path: The baseline's answers: `messages`, or the older `choices`. None: the Hub's.
        baseline: "gpt-4-0314" for v0.1. In v2.0 "o3-mini-2025-01-31" for the 500 hard prompts and
            "gemini-2.0-flash-001" for the 250 of creative writing, two scores that are never one.
        version: "v0.1" or "v2.0".

    Raises:
        ArenaHardError: If the version has no such baseline, a file is missing or not as described, a question is of
            another version, has no answer or has the same text as another, or an answer is another model's.
    """
    if baseline not in (expected := BASELINES.get(version, {})).values():
        known = ", ".join(f"{name} {'/'.join(sorted(set(models.values())))}" for name, models in BASELINES.items())
        raise ArenaHardError(f"Arena-Hard {version} is not compared with {baseline}; version and baseline: {known}")
    folder = f"data/arena-hard-{version}"
    path = path or _download(f"{folder}/question.jsonl")
    answers = read_answers(answers_path or _download(f"{folder}/model_answer/{baseline}.jsonl"), model=baseline)
    prompts, responses = [], []
    keys: dict[str, dict[str, Any]] = {}
    for where, row in _read(path):
        uid, category = _uid(row, where), row.get("category")
        if category not in expected:
            raise ArenaHardError(
                f"{where}: the category is {category!r}; a question of Arena-Hard {version} has {' or '.join(expected)}"
            )
        if expected[category] != baseline:
            continue
        cluster = row.get("cluster", row.get("subcategory"))
        text = _get(row, where, "the question", lambda row: row["prompt"], lambda row: _only(row["turns"])["content"])
        checked = make_prompt(
            text,
            category=cluster if version == "v0.1" else category,
            source=f"arena-hard-{version}",
            split="test",
            where=where,
        )
        identity = prompt_id(text)
        prompt = replace(checked, prompt_id=identity, base_id=identity, text=text)
        # Rows are told apart by their text, so two questions with one text would become one.
        if prompt.prompt_id in keys:
            raise ArenaHardError(
                f"{where}: question {uid} has the text of question {keys[prompt.prompt_id]['uid']}: remove one"
            )
        if uid not in answers:
            raise ArenaHardError(f"{where}: {baseline} has no answer to question {uid} ({answers_path or HUB_NAME})")
        prompts.append(prompt)
        answer = answers[uid]
        responses.append(
            Response(prompt.prompt_id, 0, answer, None)
            if answer.strip()
            else Response(prompt.prompt_id, 0, None, "empty")
        )
        keys[prompt.prompt_id] = {"uid": uid, "category": category, "cluster": cluster}
    if not prompts:
        raise ArenaHardError(f"{path}: no question that is compared with {baseline}")
    return Benchmark(prompts, responses, keys)


def read_answers(path: Path, *, model: str) -> dict[str, str]:
    """Return uid -> answer of a model_answer file in either published layout, gzipped or not.

    Raises:
        ArenaHardError: If the file is missing, a row has no uid or answer or is another model's, or a question has two
            different answers.
    """
    answers: dict[str, str] = {}
    for where, row in _read(path):
        uid = _uid(row, where)
        answerer = row.get("model", row.get("model_id"))
        if answerer != model:
            raise ArenaHardError(f"{where}: an answer of {answerer!r}; expected {model!r}")
        answer = _get(
            row,
            where,
            "the answer",
            lambda row: row["messages"][-1]["content"]["answer"],
            lambda row: row["messages"][-1]["content"],
            lambda row: _only(_only(row["choices"])["turns"])["content"],
        )
        if answers.setdefault(uid, answer) != answer:
            raise ArenaHardError(f"{where}: a second, different answer to question {uid}")
    return answers


def write_answers(path: Path, benchmark: Benchmark, responses: Sequence[Response], *, model: str) -> int:
    """Write a policy's responses as the benchmark's `data/<name>/model_answer/<model>.jsonl`; return how many.

    Questions without a response are left out: the official judge warns of them and skips them, where it would judge an
    empty text. There is no time stamp. The `metadata` that the official script needs for style control, and only
    for that, is added by the benchmark's own `utils/add_markdown_info.py`.

    Args:
        path: The file; the directory must exist.
        benchmark: What was answered.
        responses: One per prompt, thoughts removed.
        model: The policy's name; the official scripts take it from the file's name too.

    Raises:
        ValueError: If a prompt has no response or more than one.
    """
    texts = {row.prompt_id: row.text for row in responses}
    if len(texts) != len(responses) or texts.keys() != benchmark.keys.keys():
        raise ValueError(f"{len(responses)} responses to {len(benchmark.prompts)} prompts; expected one to each")
    rows = []
    for prompt in benchmark.prompts:
        if text := texts[prompt.prompt_id]:
            uid = benchmark.keys[prompt.prompt_id]["uid"]
            answer_id = hashlib.sha256("\0".join([uid, model, text]).encode()).hexdigest()[:22]
            messages = [
                {"content": prompt.text, "role": "user"},
                {"content": {"answer": text}, "role": "assistant"},
            ]
            rows.append({"uid": uid, "ans_id": answer_id, "model": model, "messages": messages})
    _write(path, rows)
    return len(rows)


def write_judgements(path: Path, benchmark: Benchmark, verdicts: Sequence[Verdict], *, model: str, judge: str) -> int:
    """Write verdicts as the benchmark's `data/<name>/model_judgment/<judge>/<model>.jsonl`; return how many questions.

    The baseline is assistant A in a question's first game and B in its second. An unscored game has the score null.
    What the judge was shown (`prompt`) is left out; no official script reads it.

    Args:
        path: The file; the directory must exist.
        benchmark: What was judged.
        verdicts: Two per prompt, see `tpo.evaluate.benchmarks.arena_score`.
        model: The policy's name.
        judge: The judge's name; the official script leaves out a model of the same name.

    Raises:
        ArenaHardError: If a verdict has no label on the benchmark's menu.
        ValueError: If a prompt has not exactly one verdict in each order.
    """
    games = pair_games(verdicts)
    if games.keys() != benchmark.keys.keys():
        raise ValueError(f"verdicts on {len(games)} prompts of {len(benchmark.prompts)}; expected two on each")
    baselines = {category: baseline for models in BASELINES.values() for category, baseline in models.items()}
    rows = []
    for prompt in benchmark.prompts:
        key = benchmark.keys[prompt.prompt_id]
        rows.append(
            {
                "uid": key["uid"],
                "category": key["category"],
                "judge": judge,
                "model": model,
                "baseline": baselines[key["category"]],
                "games": [
                    {"score": _label(game), "judgment": {"answer": game.raw or ""}} for game in games[prompt.prompt_id]
                ],
            }
        )
    _write(path, rows)
    return len(rows)


def _label(verdict: Verdict) -> str | None:
    if verdict.outcome is None:
        return None
    label = _LABELS.get((verdict.outcome, verdict.weight))
    if label is None:
        raise ArenaHardError(
            f"prompt {verdict.prompt_id}: outcome {verdict.outcome:g} with weight {verdict.weight:g} is not on the "
            "benchmark's menu: judge with judge.verdicts=five_way and judge.strong_weight=3"
        )
    return label


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(HUB_NAME, name, repo_type="dataset", revision=HUB_REVISION))


def _read(path: Path) -> list[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise ArenaHardError(f"there is no file {path}")
    try:
        return [(f"{path}, line {number}", row) for number, row in read_json_lines(path)]
    except RecordError as error:
        raise ArenaHardError(str(error)) from error
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise ArenaHardError(f"{path}: cannot be read ({error})") from error


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _uid(row: dict[str, Any], where: str) -> str:
    return _get(row, where, "the uid", lambda row: row["uid"], lambda row: row["question_id"])


def _get(row: dict[str, Any], where: str, what: str, *layouts: Callable[[dict[str, Any]], Any]) -> str:
    """Return the text that the first fitting layout finds in the row."""
    for layout in layouts:
        try:
            found = layout(row)
        except (KeyError, IndexError, TypeError):
            continue
        if isinstance(found, str):
            return found
    raise ArenaHardError(f"{where}: {what} is not where either published layout has it; the row has {sorted(row)}")


def _only(items: Sequence[Any]) -> Any:
    if len(items) != 1:
        raise IndexError("expected one")
    return items[0]
