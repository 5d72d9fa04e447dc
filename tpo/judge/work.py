"""The stages that judge: what `tpo.store.execute` executes for each of them.

Every function gets the artifact's directory, the step's settings, its inputs and its seed, and returns what it counted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpo.config.kinds import load_settings
from tpo.judge.protocol import PairwiseJudgeConfig, PointwiseJudgeConfig
from tpo.model.policy import load_policy_reference
from tpo.store.artifacts import Artifact, read_how
from tpo.store.records import Completion, LabelledPair, Prompt, Response, Score, Verdict, write_records

Inputs = Mapping[str, Artifact]


def judge(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    """Score responses one by one."""
    from tpo.judge.score import judge_responses

    prompts, responses = _responses(inputs)
    settings = load_settings(PointwiseJudgeConfig, config["judge"], read_how(path))
    return judge_responses(path, prompts, responses, settings.make(**_parts(path, config, inputs)))


def verdicts(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    """Compare responses two at a time."""
    from tpo.judge.score import collect_verdicts

    prompts, responses = _responses(inputs)
    pairs: dict[str, list[tuple[int, int]]] | None = None
    if "labelled" in inputs:  # only the pairs that have a label
        pairs = {}
        for pair in inputs["labelled"].rows(LabelledPair, "pairs.jsonl"):
            indices = (min(pair.first_index, pair.second_index), max(pair.first_index, pair.second_index))
            if indices not in pairs.setdefault(pair.prompt_id, []):
                pairs[pair.prompt_id].append(indices)
    elif "against" in config:
        indices_of: dict[str, list[int]] = {}
        for row in responses:
            indices_of.setdefault(row.prompt_id, []).append(row.sample_index)
        other = config["against"]
        pairs = {key: [(index, other) for index in found if index != other] for key, found in indices_of.items()}
    settings = load_settings(PairwiseJudgeConfig, config["judge"], read_how(path))
    judge = settings.make(**_parts(path, config, inputs))
    return collect_verdicts(path, prompts, responses, judge, orders=settings.orders, pairs=pairs)


def rate(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    """Turn verdicts into scores."""
    from tpo.judge.rating import Rating, rate_responses
    from tpo.judge.score import count_scores

    _, responses = _responses(inputs)
    rating = load_settings(Rating, config["rating"])
    scores = rate_responses(responses, inputs["verdicts"].rows(Verdict), rating=rating, seed=seed)
    write_records(path / "rows.jsonl", scores)
    return count_scores(scores)


def combine(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    """Add up the scores of an ensemble."""
    from tpo.judge.score import combine, count_scores

    members = {role.removeprefix("member_"): artifact.rows(Score) for role, artifact in inputs.items()}
    scores = combine(members, config["weights"])
    write_records(path / "rows.jsonl", scores)
    return count_scores(scores)


def normalize(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    """Turn log-likelihoods into scores."""
    from tpo.judge.score import count_scores, normalize_likelihoods

    parts = {role: artifact.rows(Score) for role, artifact in inputs.items()}
    scores = normalize_likelihoods(parts["likelihoods"], parts.get("priors"), per_token=config["per_token"])
    write_records(path / "rows.jsonl", scores)
    return count_scores(scores)


def labelled(path: Path, config: dict[str, Any], inputs: Inputs, seed: int) -> dict[str, Any]:
    """Read labelled preferences."""
    from tpo.evaluate.agreement.labelled import load_preferences, to_rows

    prompts, responses, pairs = to_rows(load_preferences(Path(read_how(path)["path"])))
    for name, rows in (("prompts", prompts), ("responses", responses), ("pairs", pairs)):
        write_records(path / f"{name}.jsonl", rows)
    return {"num_instructions": len(prompts), "num_responses": len(responses), "num_pairs": len(pairs)}


def _responses(inputs: Inputs) -> tuple[list[Prompt], list[Response]]:
    """Return what a judge may see: the responses of labelled pairs or of one or more sets of completions."""
    from tpo.judge.score import visible

    if "labelled" in inputs:
        labelled = inputs["labelled"]
        return labelled.rows(Prompt, "prompts.jsonl"), labelled.rows(Response, "responses.jsonl")
    count = sum(role.startswith("completions_") for role in inputs)
    sets = [inputs[f"completions_{position}"].rows(Completion) for position in range(count)]
    return inputs["prompts"].rows(Prompt), visible(sets)


def _parts(path: Path, config: dict[str, Any], inputs: Inputs) -> dict[str, Any]:
    """Return what a judge is made with beside its settings."""
    return {
        "policy": load_policy_reference(config, inputs) if "model" in inputs else None,
        "answers_path": path.parent / "answers.sqlite",
    }
