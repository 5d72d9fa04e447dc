"""Execute one requested step: `python -m tpo.stage <artifact directory>`, or `execute(path)` in this process.

The directory holds `request.json`; its stage's function does the work, then the manifest is written. A fresh
process per step gives memory back for certain, which vLLM needs.
"""

import json
import logging
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tpo.artifacts import Artifact, ArtifactError, finish, open_artifact, translate_disk_errors
from tpo.engines import Policy
from tpo.errors import TpoError
from tpo.labelled import LabelledPair
from tpo.memory import keep_freed_memory
from tpo.records import (
    Comparison,
    Completion,
    Pair,
    Preference,
    Prompt,
    Response,
    Score,
    Verdict,
    write_records,
)
from tpo.thought import ThoughtFormat

Inputs = dict[str, Artifact]


def executor(*, isolate: bool) -> Callable[[Path], None]:
    """Return how a step is executed: here, or always in a process of its own.

    Steps that start vLLM are isolated in any case.
    """

    def run(path: Path) -> None:
        request = json.loads((path / "request.json").read_text())
        config = request["config"]
        engines = (config.get("engine", {}).get("kind"), config.get("judge", {}).get("backend"))
        if isolate or "vllm" in engines:
            # close_fds=False hands on the artifact's lock, the only inheritable file.
            done = subprocess.run([sys.executable, "-m", "tpo.stage", str(path)], check=False, close_fds=False)
            if done.returncode != 0:
                raise ArtifactError(
                    f"the stage {path.name} failed (exit {done.returncode}); its message is above. Completed stages "
                    "are kept: mend the cause and run the same command again"
                )
        else:
            execute(path)

    return run


def execute(path: Path) -> None:
    """Do the work that `path/request.json` asks for and write the manifest."""
    keep_freed_memory()
    started = time.time()
    request = json.loads((path / "request.json").read_text())
    inputs = {role: open_artifact(path.parent / name) for role, name in request["inputs"].items()}
    config = {**request["config"], "how": request["how"]}
    metrics = _dispatch(request["stage"])(path, config, inputs, request["seed"])
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
            return _judge
        case "verdicts":
            return _verdicts
        case "rate":
            return _rate
        case "combine":
            return _combine
        case "labelled":
            return _labelled
        case "contrast":
            return _contrast
        case "split_preferences":
            return _split_preferences
        case "reward":
            return _reward
        case "pairs":
            return _pairs
        case "train":
            return _train
        case "compare":
            return _compare
        case _:
            raise ArtifactError(f"unknown stage {stage!r}")


def load_policy_reference(config: dict[str, Any], inputs: Inputs) -> Policy:
    """Return the policy that a step's config and inputs describe."""
    model = inputs["model"]
    adapter = inputs.get("adapter")
    weights = str(model.path / "model") if model.metrics["is_embedded"] else model.metrics["name"]
    is_quantized = model.metrics["is_quantized"]
    return Policy(
        model_path=str(model.path / "quantized") if is_quantized else weights,
        revision=model.metrics["revision"],
        tokenizer_path=str(model.path / "tokenizer"),
        dtype=config["dtype"],
        max_model_len=config["max_model_len"],
        adapter_path=adapter.path / f"epoch-{config['epoch']}" if adapter else None,
        unquantized_path=weights if is_quantized else None,
    )


def _model(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.chat import save_tokenizer
    from tpo.models import prepare_embedded, save_quantized

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
    from tpo.synthetic import synthesize

    return synthesize(
        path,
        _shots(config["settings"]),
        load_policy_reference(config, inputs),
        settings=config["settings"],
        engine_settings=config["engine"],
        seed=seed,
    )


def _shots(settings: dict[str, Any]) -> list[Prompt]:
    from tpo.prompts import load_builtin, load_json_lines

    if settings["shots_path"] is None:
        return [prompt for prompt in load_builtin() if prompt.split == "train"]
    return load_json_lines(
        Path(settings["shots_path"]), text_field="text", category_field="category", split_field="split"
    )


def _prompts(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo import prompts as source
    from tpo.synthetic import filter_candidates

    settings = config["settings"]
    drops: dict[str, int] = {}
    match settings["kind"]:
        case "builtin":
            found = source.load_builtin()
        case "hub":
            loaded = source.load_hub(
                settings["dataset"],
                revision=settings["revision"],
                split=settings["split"],
                text_field=settings["text_field"],
            )
            found = [prompt for prompt in loaded if len(prompt.text) <= settings["max_characters"]]
            drops = {"too_long": len(loaded) - len(found)}
        case "jsonl":
            found = source.load_json_lines(
                Path(settings["path"]),
                text_field=settings["text_field"],
                category_field=settings["category_field"],
                split_field=settings["split_field"],
            )
        case "synthetic":
            found, drops = filter_candidates(
                inputs["candidates"].rows(Prompt),
                against=_shots(settings),
                min_characters=settings["min_characters"],
                max_characters=settings["max_characters"],
                max_similarity=settings["max_similarity"],
            )
        case kind:
            raise ArtifactError(f"prompts.kind={kind}: expected builtin, hub, jsonl or synthetic")
    sizes = source.SplitSizes(settings["num_train"], settings["num_validation"], settings["num_test"])
    rows = source.split_prompts(found, sizes=sizes, seed=seed)
    write_records(path / "rows.jsonl", rows)
    num_train = sum(row.split.startswith("train-") for row in rows)
    return {
        "num_prompts": len(rows),
        "num_found": len(found),
        "num_iterations": num_train // settings["num_train"],
        "drops": drops,
    }


def _preflight(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.preflight import preflight

    return preflight(
        inputs["prompts"].rows(Prompt),
        load_policy_reference(config, inputs),
        [ThoughtFormat(**form) for form in config["forms"]],
        sample_settings=config["sample"],
        judge_settings=config["judge"],
    )


def _sample(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.sample import sample

    return sample(
        path,
        [prompt for prompt in inputs["prompts"].rows(Prompt) if prompt.split == config["split"]],
        load_policy_reference(config, inputs),
        ThoughtFormat(**config["thought"]),
        settings=config["settings"],
        engine_settings=config["engine"],
        seed=seed,
    )


def _judge(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.judge import judge_responses
    from tpo.judges import load_judge

    prompts, responses = _responses(inputs)
    return judge_responses(path, prompts, responses, load_judge(**_judge_arguments(path, config, inputs)))


def _verdicts(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.judge import collect_verdicts
    from tpo.judges import load_pairwise_judge

    prompts, responses = _responses(inputs)
    pairs: dict[str, list[tuple[int, int]]] | None = None
    if "labelled" in inputs:  # only the pairs that have a label
        pairs = {}
        for pair in inputs["labelled"].rows(LabelledPair, "pairs.jsonl"):
            indices = (min(pair.first_index, pair.second_index), max(pair.first_index, pair.second_index))
            if indices not in pairs.setdefault(pair.prompt_id, []):
                pairs[pair.prompt_id].append(indices)
    judge = load_pairwise_judge(**_judge_arguments(path, config, inputs))
    return collect_verdicts(path, prompts, responses, judge, pairs=pairs)


def _rate(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.judge import count_scores
    from tpo.rating import rate_responses

    _, responses = _responses(inputs)
    scores = rate_responses(responses, inputs["verdicts"].rows(Verdict), config=config["rating"], seed=seed)
    write_records(path / "rows.jsonl", scores)
    return count_scores(scores)


def _combine(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.judge import combine, count_scores

    members = {role.removeprefix("member_"): artifact.rows(Score) for role, artifact in inputs.items()}
    scores = combine(members, config["weights"])
    write_records(path / "rows.jsonl", scores)
    return count_scores(scores)


def _labelled(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.labelled import load_preferences, to_rows

    prompts, responses, pairs = to_rows(load_preferences(Path(config["how"]["path"])))
    for name, rows in (("prompts", prompts), ("responses", responses), ("pairs", pairs)):
        write_records(path / f"{name}.jsonl", rows)
    return {"num_instructions": len(prompts), "num_responses": len(responses), "num_pairs": len(pairs)}


def _contrast(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo import contrast

    sides = {}
    for name, split in (("train", "train-1"), ("held_out", "validation")):
        materials = contrast.gather(
            [prompt for prompt in inputs["prompts"].rows(Prompt) if prompt.split == split],
            *(inputs[f"{role}_{split}"].rows(Completion) for role in ("plain", "greedy", "hot")),
        )
        sides[name] = contrast.make_preferences(
            materials,
            pairs_per_kind=config["pairs_per_kind"],
            max_length_ratio=config["max_length_ratio"],
            seed=seed,
        )
    return _write_preferences(path, sides)


def _split_preferences(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.contrast import split_preferences

    train, held_out = split_preferences(
        Path(config["how"]["path"]), held_out_fraction=config["held_out_fraction"], seed=seed
    )
    return _write_preferences(path, {"train": train, "held_out": held_out})


def _write_preferences(path: Path, sides: dict[str, list[Preference]]) -> dict[str, Any]:
    from tpo.contrast import length_accuracy

    metrics: dict[str, Any] = {}
    for name, rows in sides.items():
        write_records(path / f"{name}.jsonl", rows)
        kinds = Counter(row.group for row in rows)
        metrics[name] = {
            "num_pairs": len(rows),
            "kinds": dict(sorted(kinds.items())),
            "length_accuracy": length_accuracy(rows),
        }
    return metrics


def _reward(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.reward_training import RewardSettings, measure, train_reward_model

    policy, settings = load_policy_reference(config, inputs), RewardSettings(**config["settings"])
    train, held_out = (inputs["preferences"].rows(Preference, f"{name}.jsonl") for name in ("train", "held_out"))
    metrics = train_reward_model(path, train, policy, settings, seed=seed)
    return {**metrics, "held_out": measure(path / "reward_model", held_out, policy, settings)}


def _responses(inputs: Inputs) -> tuple[list[Prompt], list[Response]]:
    """Return what a judge may see: the responses of labelled pairs or of one or more sets of completions."""
    from tpo.judge import visible

    if "labelled" in inputs:
        labelled = inputs["labelled"]
        return labelled.rows(Prompt, "prompts.jsonl"), labelled.rows(Response, "responses.jsonl")
    count = sum(role.startswith("completions_") for role in inputs)
    sets = [inputs[f"completions_{position}"].rows(Completion) for position in range(count)]
    return inputs["prompts"].rows(Prompt), visible(sets)


def _judge_arguments(path: Path, config: dict[str, Any], inputs: Inputs) -> dict[str, Any]:
    return {
        "config": config["judge"] | config["how"],
        "policy": load_policy_reference(config, inputs) if "model" in inputs else None,
        "answers_path": path.parent / "answers.sqlite",
    }


def _pairs(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.pairs import PairSettings, build_pairs

    completions = inputs["completions"].rows(Completion)
    pairs, drops = build_pairs(completions, inputs["scores"].rows(Score), PairSettings(**config))
    write_records(path / "rows.jsonl", pairs)
    return {"num_pairs": len(pairs), "drops": drops, "num_prompts": len({row.prompt_id for row in completions})}


def _train(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.train import TrainSettings, train

    policy = load_policy_reference(config, inputs)
    return train(path, inputs["pairs"].rows(Pair), policy, TrainSettings(**config["settings"]), seed=seed)


def _compare(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    from tpo.evaluate import compare, summarize

    rows: list[Comparison] = compare(
        [prompt for prompt in inputs["prompts"].rows(Prompt) if prompt.split == "test"],
        (inputs["completions"].rows(Completion), inputs["scores"].rows(Score)),
        (inputs["baseline_completions"].rows(Completion), inputs["baseline_scores"].rows(Score)),
        no_response=config["no_response"],
        baseline_index=config["baseline_index"],
    )
    write_records(path / "rows.jsonl", rows)
    return summarize(rows, confidence=config["confidence"], seed=seed)


def main() -> None:
    """Execute the step in the directory given on the command line."""
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(message)s", datefmt="%H:%M:%S")
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tpo.stage <artifact directory that holds request.json>")
    try:
        with translate_disk_errors(Path(sys.argv[1])):
            execute(Path(sys.argv[1]))
    except TpoError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
