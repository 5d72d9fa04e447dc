"""Stages "benchmark" and "check": a benchmark's instructions and reference answers, and what a program checks."""

import json
from pathlib import Path

from tpo.config.kinds import kinds
from tpo.evaluate.benchmarks.kind import BenchmarkEval, VerifiableEval, read_keys
from tpo.judge.responses import visible
from tpo.store.job import Job, Metrics
from tpo.store.records import Completion, write_records


def work(job: Job) -> Metrics:
    """Read a benchmark's instructions."""
    paths = {key: Path(value) for key, value in job.how.items()}
    found = _kind(job.config["name"]).read(job.config, paths, seed=job.seed)
    write_records(job.path / "rows.jsonl", found.prompts)
    write_records(job.path / "references.jsonl", found.baseline)
    (job.path / "keys.json").write_text(json.dumps(found.keys, ensure_ascii=False))
    return {"num_prompts": len(found.prompts), "num_references": len(found.baseline)}


def check_work(job: Job) -> Metrics:
    """Check answers that a program can check."""
    from tpo.evaluate.benchmarks.verifiable import count_no_response

    kind = _kind(job.config["benchmark"])
    assert issubclass(kind, VerifiableEval)
    keys = read_keys(job.inputs["benchmark"])
    responses = list(visible(job.inputs["completions"].rows(Completion)))
    rows = [check for row in responses for check in kind.checks(row, keys[row.prompt_id])]
    write_records(job.path / "rows.jsonl", rows)
    accuracies = kind.summarize(rows, confidence=job.config["confidence"])
    return {
        "accuracy": {name: accuracy.to_dict() for name, accuracy in accuracies.items()},
        "num_no_response": count_no_response(rows),
    }


def _kind(name: str) -> type[BenchmarkEval]:
    return kinds(BenchmarkEval)[name][0]
