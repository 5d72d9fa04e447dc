"""What the page's browser of samples shows: a run's artifacts -> plain JSON, an entry per instruction and iteration.

Nothing is guessed: pairs, and the reasons for none, are found again by `tpo.pairs` and must agree with what the stage
counted; wins are those of the comparison's rows.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tpo.config.kinds import load_settings
from tpo.pairs.build import count_drops, judged_groups, pair_or_reason
from tpo.pairs.rule import PairsRule
from tpo.pairs.stages import PAIRS
from tpo.results.page.marks import asked, describe, passed
from tpo.store.artifacts import Artifact, open_artifact
from tpo.store.errors import ArtifactError
from tpo.store.records import Comparison, Completion, Pair, Prompt, Score, by_prompt
from tpo.store.seeds import derive_seed
from tpo.store.text import one_line

MAX_INSTRUCTIONS = 100
SHOWN = ("comparison", "completions", "scores", "pairs")  # adapters need not be there

Entry = dict[str, Any]


def load_samples(summary: dict[str, Any], artifacts_dir: Path, *, max_instructions: int) -> dict[str, Any]:
    """Return the samples of a run.

    Args:
        summary: `summary.json`.
        artifacts_dir: Where the artifacts that it names lie.
        max_instructions: To show per iteration, of training and of held-out ones each; see `choose`.

    Returns:
        `instructions` (prompt id -> text, category and what is checked), `baseline` (prompt id -> its first sample, see
        `_sample`), `entries` (see `training_entries` and `held_out_entries`) and `groups` (iteration, split, how many
        instructions there are, how many of them are among the entries). Samples of instructions with checks say which
        they pass.

    Raises:
        ArtifactError: If an artifact is missing, damaged or of another version.
        RecordError: If a row is of another version.
    """
    entries: list[Entry] = []
    groups: list[dict[str, Any]] = []
    for summed in summary["iterations"]:
        iteration, names = summed["iteration"], summed["artifacts"]
        found = {role: open_artifact(artifacts_dir / name) for role, name in names.items() if role in SHOWN}
        compared = list(found["comparison"].rows(Comparison))
        splits = {"held-out": [row.prompt_id for row in compared]}
        if "pairs" in found:
            splits = {"training": [key for key, _ in by_prompt(found["scores"].rows(Score))], **splits}
        for split, prompt_ids in splits.items():
            shown = choose(prompt_ids, seed=summary["seed"], limit=max_instructions)
            counts = {"num_instructions": len(prompt_ids), "num_entries": len(shown)}
            groups.append({"iteration": iteration, "split": split, **counts})
            if split == "training":
                entries += training_entries(iteration, found, shown)
            else:
                answers = _input(found["comparison"], "completions").rows(Completion)
                entries += held_out_entries(iteration, compared, answers, shown)
    shared = found["comparison"]  # instructions and baseline are those of every iteration
    shown = {entry["prompt_id"] for entry in entries}
    held_out = {entry["prompt_id"] for entry in entries if entry["split"] == "held-out"}
    prompts = {row.prompt_id: row for row in _input(shared, "prompts").rows(Prompt) if row.prompt_id in shown}
    baseline = {
        row.prompt_id: _sample(row)
        for row in _input(shared, "baseline_completions").rows(Completion)
        if row.prompt_id in held_out and row.sample_index == 0
    }
    for entry in entries:
        for sample in entry["samples"] if entry["split"] == "training" else [entry["policy"]]:
            sample["passed"] = passed(prompts[entry["prompt_id"]].checks, sample["response"])
    for prompt_id, sample in baseline.items():
        sample["passed"] = passed(prompts[prompt_id].checks, sample["response"])
    return {
        "instructions": {
            row.prompt_id: {
                "text": row.text,
                "category": one_line(row.category),
                "checks": [describe(check) for check in asked(row.checks)],
            }
            for row in prompts.values()
        },
        "baseline": baseline,
        "entries": entries,
        "groups": groups,
    }


def choose(prompt_ids: Collection[str], *, seed: int, limit: int) -> set[str]:
    """Return at most `limit` prompt ids, a draw without replacement that depends on the ids and the seed alone.

    The held-out instructions of every iteration are the same, and so is the draw from them; a draw of fewer is part
    of a draw of more.
    """
    return set(sorted(prompt_ids, key=lambda prompt_id: (derive_seed(seed, "report", prompt_id), prompt_id))[:limit])


def training_entries(iteration: int, found: Mapping[str, Artifact], shown: Collection[str]) -> Iterator[Entry]:
    """Yield one entry for each instruction of `shown` that an iteration sampled, in the order of the completions.

    `outcome` is "pair" or the reason for none; `chosen` and `rejected` are sample indices, `margin` is that of the
    length-controlled scores, all three null where there is no pair; `samples` are in the order of their index.

    Raises:
        ArtifactError: If the pairs are of another version, or count other drops than completions and scores give.
    """
    pairs = found["pairs"]
    if pairs.manifest["version"] != PAIRS.version:
        raise ArtifactError(f"{pairs.path} was made by another version of tpo.pairs: run the experiment again")
    rule = load_settings(PairsRule, pairs.manifest["config"])
    drops: list[str] = []
    for judged in judged_groups(found["completions"].rows(Completion), found["scores"].rows(Score)):
        outcome = pair_or_reason(judged, rule)
        pair = outcome if isinstance(outcome, Pair) else None
        if isinstance(outcome, str):
            drops.append(outcome)
        prompt_id = judged[0].completion.prompt_id
        if prompt_id in shown:
            yield {
                "split": "training",
                "iteration": iteration,
                "prompt_id": prompt_id,
                "outcome": "pair" if pair else outcome,
                "chosen": pair and pair.chosen_index,
                "rejected": pair and pair.rejected_index,
                "margin": pair and pair.margin,
                "samples": [
                    _sample(row) | {"score": score.score, "unscored_reason": score.unscored_reason}
                    for row, score in judged
                ],
            }
    if count_drops(drops) != pairs.metrics["drops"]:
        raise ArtifactError(
            f"{pairs.path} counts other drops than its completions and scores give. Delete it to compute it again."
        )


def held_out_entries(
    iteration: int, comparisons: Iterable[Comparison], answers: Iterable[Completion], shown: Collection[str]
) -> Iterator[Entry]:
    """Yield one entry for each comparison of an instruction of `shown`, with the policy's answer.

    `outcome` is "win", "tie", "loss" or "unscored", and `reason` says why it is the latter. Of several samples of the
    policy or the baseline, and of a judge's two orders, the mean decides, `win`; scores are means over `num_samples`,
    and the first sample is shown. The baseline's answers are the same in every iteration.
    """
    first: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for row in answers:
        if row.prompt_id in shown:
            counts[row.prompt_id] += 1
            if row.sample_index == 0:
                first[row.prompt_id] = _sample(row)
    for compared in comparisons:
        if compared.prompt_id in shown:
            yield {
                "split": "held-out",
                "iteration": iteration,
                "prompt_id": compared.prompt_id,
                "outcome": _outcome(compared.win),
                "win": compared.win,
                "reason": compared.unscored_reason,
                "policy": first[compared.prompt_id],
                "num_samples": counts[compared.prompt_id],
                "policy_score": compared.policy_score,
                "baseline_score": compared.baseline_score,
            }


def _outcome(win: float | None) -> str:
    if win is None:
        return "unscored"
    return "tie" if win == 0.5 else "win" if win > 0.5 else "loss"


def _sample(row: Completion) -> dict[str, Any]:
    """Return what people want to know of a completion; its raw text only where there is no response in it."""
    return {
        "sample_index": row.sample_index,
        "thought": row.thought,
        "response": row.response,
        "completion": row.completion if row.response is None else None,
        "split_error": row.split_error,
        "is_forced": row.forced_stop > row.forced_start,
        "is_truncated": row.finish_reason == "length",
        "num_thought_tokens": row.num_thought_tokens,
        "num_response_tokens": row.num_response_tokens,
    }


def _input(artifact: Artifact, role: str) -> Artifact:
    return open_artifact(artifact.path.parent / artifact.manifest["inputs"][role])
