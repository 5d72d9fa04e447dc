"""What each step of an evaluation executes; `tpo.evaluate.steps` requests them, `tpo.store.execute` calls these.

Like those of `tpo.judge.work`, every function gets the artifact's directory, the step's settings, its inputs and its
seed, and returns what it counted.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpo.config.fields import restore
from tpo.config.kinds import load_settings
from tpo.evaluate.benchmarks import Benchmark
from tpo.judge.score import visible
from tpo.model.policy import load_policy_reference
from tpo.sample.decoding import EngineSettings
from tpo.sample.thought import ThoughtFormat
from tpo.store.artifacts import Artifact, read_how
from tpo.store.errors import ArtifactError
from tpo.store.records import Completion, Prompt, Response, write_records

Inputs = Mapping[str, Artifact]


def adapter(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    """Import an adapter that was trained elsewhere."""
    source = Path(read_how(path)["path"])
    (path / "epoch-1").mkdir(exist_ok=True)
    for name in config["files"]:
        shutil.copyfile(source / name, path / "epoch-1" / name)
    return {"source": str(source)}


def classify(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    """Sort the test instructions into categories and take some of each."""
    from tpo.evaluate import categories as classify

    prompts = [prompt for prompt in inputs["prompts"].rows(Prompt) if prompt.split == "test"]
    found: list[Prompt | None] = list(prompts)
    if config["classifier"] is not None:
        found = classify.classify(
            prompts,
            categories=config["categories"],
            classifier=restore(classify.ClassifierConfig, config["classifier"], read_how(path)),
            answers_path=path.parent / "answers.sqlite",
        )
    kept, drops = classify.balance(found, per_category=config["per_category"], seed=seed)
    write_records(path / "rows.jsonl", kept)
    return {
        "num_prompts": len(kept),
        "drops": drops,
        "categories": dict(sorted(Counter(prompt.category for prompt in kept).items())),
    }


def benchmark(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    """Read a benchmark's instructions."""
    found = _load_benchmark(config, {key: Path(value) for key, value in read_how(path).items()}, seed=seed)
    write_records(path / "rows.jsonl", found.prompts)
    write_records(path / "reference.jsonl", found.baseline)
    (path / "keys.json").write_text(json.dumps(found.keys, ensure_ascii=False))
    return {"num_prompts": len(found.prompts), "num_reference": len(found.baseline)}


def _load_benchmark(config: dict[str, Any], paths: Mapping[str, Path], *, seed: int) -> Benchmark:
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
        prompts=benchmark.rows(Prompt), baseline=benchmark.rows(Response, "reference.jsonl"), keys=read_keys(benchmark)
    )


def reference(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    """Write a benchmark's reference answers as completions, without ids: nothing was sampled."""
    rows = [
        Completion(
            prompt_id=row.prompt_id,
            sample_index=0,
            prompt_ids=[],
            completion_ids=[],
            forced_start=0,
            forced_stop=0,
            is_prefilled=False,
            completion=row.text or "",
            thought=None,
            response=row.text or None,
            split_error=None if row.text else "empty_response",
            finish_reason="stop",
            num_thought_tokens=0,
            num_response_tokens=0,
            seed=-1,
        )
        for row in inputs["benchmark"].rows(Response, "reference.jsonl")
    ]
    write_records(path / "rows.jsonl", rows)
    return {"num_completions": len(rows)}


def intervene(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    """Sample responses after given thoughts."""
    from tpo.evaluate.interventions import alter, intervene

    prompts = [prompt for prompt in inputs["prompts"].rows(Prompt) if prompt.split == "test"]
    return intervene(
        path,
        prompts,
        alter(inputs["thoughts"].rows(Completion), seed=seed, **config["intervention"]),
        load_policy_reference(config, inputs),
        ThoughtFormat(**config["thought"]),
        settings=config["settings"],
        engine_settings=load_settings(EngineSettings, config["engine"], read_how(path)["engine"]),
        seed=seed,
    )


def check(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    """Check answers that a program can check."""
    from tpo.evaluate.benchmarks import gsm8k, ifeval

    checker: Any = {"gsm8k": gsm8k, "ifeval": ifeval}[config["benchmark"]]
    keys = read_keys(inputs["benchmark"])
    responses = visible([inputs["completions"].rows(Completion)])
    rows = [check for row in responses for check in checker.checks(row, keys[row.prompt_id])]
    write_records(path / "rows.jsonl", rows)
    accuracies = checker.summarize(rows, confidence=config["confidence"])
    return {"accuracy": {name: accuracy.to_dict() for name, accuracy in accuracies.items()}}
