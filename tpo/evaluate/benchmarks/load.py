"""Stages "benchmark" and "check": a benchmark's instructions and reference answers, and what a program checks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpo.evaluate.benchmarks import Benchmark
from tpo.judge.score import visible
from tpo.store.artifacts import Artifact
from tpo.store.errors import ArtifactError
from tpo.store.job import Job, Metrics
from tpo.store.records import Completion, Prompt, Response, write_records


def work(job: Job) -> Metrics:
    """Read a benchmark's instructions."""
    paths = {key: Path(value) for key, value in job.how.items()}
    found = load_benchmark(job.config, paths, seed=job.seed)
    write_records(job.path / "rows.jsonl", found.prompts)
    write_records(job.path / "references.jsonl", found.baseline)
    (job.path / "keys.json").write_text(json.dumps(found.keys, ensure_ascii=False))
    return {"num_prompts": len(found.prompts), "num_references": len(found.baseline)}


def check_work(job: Job) -> Metrics:
    """Check answers that a program can check."""
    from tpo.evaluate.benchmarks import gsm8k, ifeval
    from tpo.evaluate.benchmarks.verifiable import count_no_response

    checker: Any = {"gsm8k": gsm8k, "ifeval": ifeval}[job.config["benchmark"]]
    keys = read_keys(job.inputs["benchmark"])
    responses = visible([job.inputs["completions"].rows(Completion)])
    rows = [check for row in responses for check in checker.checks(row, keys[row.prompt_id])]
    write_records(job.path / "rows.jsonl", rows)
    accuracies = checker.summarize(rows, confidence=job.config["confidence"])
    return {
        "accuracy": {name: accuracy.to_dict() for name, accuracy in accuracies.items()},
        "num_no_response": count_no_response(rows),
    }


def load_benchmark(config: dict[str, Any], paths: Mapping[str, Path], *, seed: int) -> Benchmark:
    """Return the benchmark that a step's config names."""
    from tpo.evaluate.benchmarks import alpaca_eval, arena_hard, gsm8k, ifeval

    path = paths.get("path")
    match config["name"]:
        case "alpaca_eval":
            return alpaca_eval.load(path)
        case "arena_hard":
            return arena_hard.load(
                path,
                answers_path=paths.get("answers_path"),
                baseline=config["reference"],
                version=config["version"],
            )
        case "gsm8k":
            return gsm8k.load(path, num_prompts=config["num_prompts"], seed=seed)
        case "ifeval":
            found = ifeval.load(path, num_prompts=config["num_prompts"], seed=seed)
            ifeval.require(found.keys.values())  # before anything is sampled
            return found
        case name:
            raise ArtifactError(f"unknown benchmark {name!r}")


def read_keys(benchmark: Artifact) -> dict[str, dict[str, Any]]:
    """Return a benchmark's keys by prompt id."""
    keys: dict[str, dict[str, Any]] = json.loads((benchmark.path / "keys.json").read_text())
    return keys


def open_benchmark(benchmark: Artifact) -> Benchmark:
    """Return the benchmark that an artifact of the stage "benchmark" holds."""
    return Benchmark(
        prompts=benchmark.rows(Prompt), baseline=benchmark.rows(Response, "references.jsonl"), keys=read_keys(benchmark)
    )
