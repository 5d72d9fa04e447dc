"""Execute one requested step: `python -m tpo.store.execute <artifact directory>`, or `execute(path)` in this process.

The directory holds `request.json`; its stage's function does the work, then the manifest is written. A fresh
process per step gives memory back for certain. A training may be executed by several processes.
"""

import ctypes
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tpo.config.groups import PromptsConfig
from tpo.config.kinds import load_settings
from tpo.evaluate import stages as eval_stages
from tpo.judge import work as judge_stages
from tpo.model.policy import load_policy_reference
from tpo.sample.decoding import EngineSettings
from tpo.sample.sources.synthetic import SyntheticPrompts
from tpo.sample.thought import ThoughtFormat
from tpo.store.artifacts import LOCK, Artifact, Store, finish, open_artifact, read_how
from tpo.store.errors import ArtifactError, TpoError
from tpo.store.files import translate_disk_errors
from tpo.store.locks import adopt
from tpo.store.processes import launch
from tpo.store.processes.resident import Resident
from tpo.store.records import Completion, Pair, Prompt, Score, Verdict, write_records

Inputs = dict[str, Artifact]


# They need none of the device's memory, and no vLLM.
_ON_HOST = {
    *("prompts", "preflight", "labelled", "benchmark", "reference", "adapter"),
    *("pairs", "rate", "combine", "normalize", "compare", "check"),
}


@contextmanager
def open_store(root: Path, *, isolate: bool = False, run: str | None = None) -> Iterator[Store]:
    """Give a store whose steps are executed here or, where `isolate`, each in a process of its own.

    Trainings of several processes are isolated in any case. Steps with vLLM share a process, which ends with the
    context at the latest (`tpo.store.processes.resident`).

    Args:
        root: Of all artifacts.
        isolate: The setting `isolate_stages`.
        run: Name of the run that asks, for the manifests.
    """
    with closing(Resident()) as resident:

        def execute_somewhere(path: Path) -> None:
            request = json.loads((path / "request.json").read_text())
            config = request["config"]
            asking = config.get("judge") or config.get("classifier") or {}
            engines = {config.get("engine", {}).get("kind"), asking.get("backend")}
            accelerate = config.get("accelerate")
            if request["stage"] not in _ON_HOST:
                if "vllm" in engines:
                    resident.execute(path)
                    return
                if "server" not in engines:
                    resident.make_room()
            if isolate or accelerate is not None:
                launch.start(path, accelerate)
            else:
                execute(path)

        yield Store(root, execute=execute_somewhere, run=run)


def execute(path: Path, *, started: float | None = None) -> None:
    """Do the work that `path/request.json` asks for and, where this process is the first of several, the manifest.

    Args:
        path: The artifact's directory.
        started: `time.time()` when the stage began, where that was before this call.
    """
    keep_freed_memory()
    started = time.time() if started is None else started
    request = json.loads((path / "request.json").read_text())
    rank = launch.join(request["config"].get("accelerate"))
    inputs = {role: open_artifact(path.parent / name) for role, name in request["inputs"].items()}
    metrics = _dispatch(request["stage"])(path, request["config"], inputs, request["seed"])
    if rank == 0:
        finish(path, metrics=metrics, started=started)


def _dispatch(stage: str) -> Callable[[Path, dict[str, Any], Inputs, int], dict[str, Any]]:
    match stage:
        case "model":
            return _model
        case "synthesize":
            return _synthesize
        case "prompts":
            return _prompts
        case "preflight":
            return _preflight
        case "sample":
            return _sample
        case "judge":
            return judge_stages.judge
        case "verdicts":
            return judge_stages.verdicts
        case "rate":
            return judge_stages.rate
        case "combine":
            return judge_stages.combine
        case "normalize":
            return judge_stages.normalize
        case "labelled":
            return judge_stages.labelled
        case "adapter":
            return eval_stages.adapter
        case "classify":
            return eval_stages.classify
        case "benchmark":
            return eval_stages.benchmark
        case "reference":
            return eval_stages.reference
        case "intervene":
            return eval_stages.intervene
        case "check":
            return eval_stages.check
        case "pairs":
            return _pairs
        case "train":
            return _train
        case "compare":
            return _compare
        case _:
            raise ArtifactError(f"unknown stage {stage!r}")


def _model(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.model.chat import save_tokenizer
    from tpo.model.load import prepare_embedded, save_quantized

    is_embedded = config["source"] == "embedded"
    if is_embedded:
        prepare_embedded(config["name"], directory=path / "model")
    source = path / "model" if is_embedded else config["name"]
    save_tokenizer(source, path / "tokenizer", revision=config["revision"], chat_template=config["chat_template"])
    is_quantized = config["quantization"] != "none"
    if is_quantized:
        save_quantized(
            source,
            path / "quantized",
            revision=config["revision"],
            dtype=config["dtype"],
            quantization=config["quantization"],
        )
    return {
        "is_embedded": is_embedded,
        "is_quantized": is_quantized,
        "name": config["name"],
        "revision": config["revision"],
    }


def _synthesize(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.sample.synthetic import synthesize

    return synthesize(
        path,
        load_policy_reference(config, inputs),
        settings=load_settings(SyntheticPrompts, config["settings"]),
        engine_settings=load_settings(EngineSettings, config["engine"], read_how(path)["engine"]),
        seed=seed,
    )


def _prompts(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.sample.prompts import SplitSizes, split_prompts

    settings = load_settings(PromptsConfig, config["settings"])
    found, drops = settings.load(inputs["candidates"].rows(Prompt) if settings.are_generated else ())
    sizes = SplitSizes(settings.num_train, settings.num_validation, settings.num_test)
    rows = split_prompts(found, sizes=sizes, seed=seed)
    write_records(path / "rows.jsonl", rows)
    num_train = sum(row.split.startswith("train-") for row in rows)
    return {
        "num_prompts": len(rows),
        "num_found": len(found),
        "num_iterations": num_train // settings.num_train,
        "drops": drops,
    }


def _preflight(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.sample.preflight import preflight

    return preflight(
        inputs["prompts"].rows(Prompt),
        load_policy_reference(config, inputs),
        [ThoughtFormat(**form) for form in config["forms"]],
        sample_settings=config["sample"],
        judge_settings=config["judge"],
    )


def _sample(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.sample.completions import sample

    return sample(
        path,
        [prompt for prompt in inputs["prompts"].rows(Prompt) if prompt.split == config["split"]],
        load_policy_reference(config, inputs),
        ThoughtFormat(**config["thought"]),
        settings=config["settings"],
        engine_settings=load_settings(EngineSettings, config["engine"], read_how(path)["engine"]),
        seed=seed,
    )


def _pairs(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.pairs import PairSettings, build_pairs

    completions = inputs["completions"].rows(Completion)
    pairs, drops = build_pairs(completions, inputs["scores"].rows(Score), PairSettings(**config))
    write_records(path / "rows.jsonl", pairs)
    return {"num_pairs": len(pairs), "drops": drops, "num_prompts": len({row.prompt_id for row in completions})}


def _train(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.train.reference import reference_path
    from tpo.train.settings import TrainSettings
    from tpo.train.trainer import train

    policy = load_policy_reference(config, inputs)
    num_processes = config.get("accelerate", {"num_processes": 1})["num_processes"]
    settings = TrainSettings(**config["settings"], num_processes=num_processes)
    kept = reference_path(path.parent, config, inputs)
    return train(path, inputs["pairs"].rows(Pair), policy, settings, seed=seed, reference_path=kept)


def _compare(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.evaluate.compare import compare, judged_by_scores, judged_by_verdicts, summarize

    policy, baseline = (inputs[role].rows(Completion) for role in ("completions", "baseline_completions"))
    if "verdicts" in inputs:
        judged = judged_by_verdicts(inputs["verdicts"].rows(Verdict), baseline_index=config["baseline_index"])
    else:
        scores, baseline_scores = (inputs[role].rows(Score) for role in ("scores", "baseline_scores"))
        judged = judged_by_scores(scores, baseline_scores, baseline_index=config["baseline_index"])
    prompts = [prompt for prompt in inputs["prompts"].rows(Prompt) if prompt.split == "test"]
    rows = compare(prompts, policy, baseline, judged, no_response=config["no_response"])
    write_records(path / "rows.jsonl", rows)
    return summarize(rows, confidence=config["confidence"], seed=seed)


def main() -> None:
    """Execute the step in the directory given on the command line."""
    is_launched = "LOCAL_RANK" in os.environ  # by accelerate
    level = logging.WARNING if os.environ.get("LOCAL_RANK", "0") != "0" else logging.INFO
    logging.basicConfig(level=level, format="[%(asctime)s] %(message)s", datefmt="%H:%M:%S")
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tpo.store.execute <artifact directory that holds request.json>")
    path = Path(sys.argv[1])
    if is_launched:
        launch.end_with_launcher()
    else:
        adopt(path / LOCK)
    try:
        with translate_disk_errors(path):
            execute(path)
    except Exception as error:
        if is_launched:
            launch.report(path, error)
        if isinstance(error, TpoError):
            sys.exit(f"error: {error}")
        raise


if __name__ == "__main__":
    main()


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Tell glibc to reuse freed memory in place of returning it to the system; elsewhere do nothing.

    A training step on a CPU allocates and frees gigabytes of activations. By default glibc maps and unmaps each
    large tensor, and the kernel clears every page anew; experiments/LOG.md has what a training gained.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
