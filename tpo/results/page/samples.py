"""What the page's browser of samples shows: a run's artifacts -> plain JSON, an entry per instruction and iteration.

Nothing is guessed: pairs, and the reasons for none, are found again by `tpo.pairs` and must agree with what the stage
counted; wins are those of the comparison's rows.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from tpo.config.kinds import load_settings
from tpo.pairs.build import judged_groups, pair_or_reason
from tpo.pairs.rule import PairsRule
from tpo.pairs.stages import PAIRS
from tpo.results.marks import asked, describe, name, passed
from tpo.results.read import FinishedRun, contents_of
from tpo.results.sides import Answers, Side, sides_of_run
from tpo.results.versus import Versus, versus
from tpo.store.artifacts import Artifact, open_artifact
from tpo.store.errors import ArtifactError
from tpo.store.records import Comparison, Completion, Pair, Prompt, Score, by_prompt
from tpo.store.seeds import derive_seed
from tpo.store.text import one_line

MAX_INSTRUCTIONS = 100
SHOWN = ("comparison", "completions", "scores", "pairs")  # adapters need not be there

Entry = dict[str, Any]


def load_samples(run: FinishedRun, *, max_instructions: int) -> dict[str, Any]:
    """Return the samples of a run.

    Args:
        run: A finished run.
        max_instructions: To show per iteration, of training and of held-out ones each; see `choose`.

    Returns:
        `instructions` (prompt id -> text, category and what is checked), `entries` (see `training_entries` and
        `held_out_entries`), `groups` (iteration, split, how many instructions there are, how many of them are among the
        entries) and what `sides_data` returns of the baseline and the policy after each iteration. Samples of
        instructions with checks say which they pass.

    Raises:
        TpoError: If an artifact is missing, damaged or of another version.
    """
    entries: list[Entry] = []
    groups: list[dict[str, Any]] = []
    sides, contents = list(sides_of_run(run)), contents_of(run.summary)
    for place, summed in enumerate(run.summary["iterations"], start=1):  # the baseline is side 0
        iteration, names = summed["iteration"], summed["artifacts"]
        found = {
            role: open_artifact(run.artifacts_dir / name, content=contents.get(name))
            for role, name in names.items()
            if role in SHOWN
        }
        compared = list(found["comparison"].rows(Comparison))
        splits = {"held-out": [row.prompt_id for row in compared]}
        if "pairs" in found:
            splits = {"training": [key for key, _ in by_prompt(found["scores"].rows(Score))], **splits}
        for split, prompt_ids in splits.items():
            shown = choose(prompt_ids, seed=run.summary["seed"], limit=max_instructions)
            counts = {"num_instructions": len(prompt_ids), "num_entries": len(shown)}
            groups.append({"iteration": iteration, "split": split, **counts})
            if split == "training":
                entries += training_entries(iteration, found, shown)
            else:
                entries += held_out_entries(iteration, compared, shown, side=place)
    ids = {entry["prompt_id"] for entry in entries}
    prompts = {row.prompt_id: row for row in sides[0].artifact("prompts").rows(Prompt) if row.prompt_id in ids}
    for entry in entries:
        for sample in entry.get("samples", ()):
            sample["passed"] = passed(prompts[entry["prompt_id"]].checks, sample["response"])
    held_out = dict.fromkeys(entry["prompt_id"] for entry in entries if entry["split"] == "held-out")
    asked_of_all = {prompt_id: prompts[prompt_id] for prompt_id in held_out}
    answers = [side.answers(asked_of_all) for side in sides]
    compared_sides = {
        (first, second): versus((sides[first], sides[second]), (answers[first], answers[second]))
        for first, second in combinations(range(len(sides)), 2)
    }
    return {
        "instructions": {row.prompt_id: instruction_data(row) for row in prompts.values()},
        "entries": entries,
        "groups": groups,
        **sides_data([side.title for side in sides], sides, answers, compared_sides),
    }


def instruction_data(prompt: Prompt) -> dict[str, Any]:
    """Return an instruction with what is checked of responses to it, in words and by type."""
    checks = asked(prompt.checks)
    return {
        "text": prompt.text,
        "category": one_line(prompt.category),
        "checks": [describe(check) for check in checks],
        "types": [name(check) for check in checks],
    }


def sides_data(
    titles: Sequence[str],
    sides: Sequence[Side],
    answers: Sequence[Mapping[str, Answers]],
    compared: Mapping[tuple[int, int], Versus],
) -> dict[str, Any]:
    """Return what the page shows side by side.

    Args:
        titles: What the sides are called.
        sides: Any number of them.
        answers: Of each side, by prompt_id.
        compared: Who won, by the positions of the first side and of a later one.

    Returns:
        `sides` (title, judge, whether it is a baseline, and its answers by prompt_id: the first sample with the mean
        score, and its `outcome` against the baseline) and `versus` (by position of the first side and of the second,
        "0 1": in words what decides, whether that is scores, and the second's wins by prompt_id).
    """
    return {
        "sides": [
            {
                "title": title,
                "judge": side.judge,
                "is_baseline": side.is_baseline,
                "answers": {prompt_id: _answers_data(one, side) for prompt_id, one in found.items()},
            }
            for title, side, found in zip(titles, sides, answers, strict=True)
        ],
        "versus": {
            f"{first} {second}": {"text": found.text, "is_by_score": found.by == "score", "wins": found.wins}
            for (first, second), found in compared.items()
        },
    }


def _answers_data(answers: Answers, side: Side) -> dict[str, Any]:
    first, *_ = answers.samples
    return {
        **_sample(first),
        "passed": list(answers.passed[0]) if answers.passed else [],
        "num_samples": len(answers.samples),
        "score": answers.score,
        "reason": answers.reason,
        "outcome": None if side.is_baseline else _outcome(answers.win),
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
        ArtifactError: If the pairs are of another version.
    """
    pairs = found["pairs"]
    if pairs.manifest["version"] != PAIRS.version:
        raise ArtifactError(f"{pairs.path} was made by another version of tpo.pairs: run the experiment again")
    rule = load_settings(PairsRule, pairs.manifest["config"])
    for judged in judged_groups(found["completions"].rows(Completion), found["scores"].rows(Score)):
        outcome = pair_or_reason(judged, rule)
        pair = outcome if isinstance(outcome, Pair) else None
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


def held_out_entries(
    iteration: int, comparisons: Iterable[Comparison], shown: Collection[str], *, side: int
) -> Iterator[Entry]:
    """Yield one entry for each comparison of an instruction of `shown`, whose answers are those of side `side`.

    `outcome` is "win", "tie", "loss" or "unscored", and `reason` says why it is the latter. Of several samples of the
    policy or the baseline, and of a judge's two orders, the mean decides, `win`; scores are means over samples. The
    baseline's answers are the same in every iteration.
    """
    for compared in comparisons:
        if compared.prompt_id in shown:
            yield {
                "split": "held-out",
                "iteration": iteration,
                "prompt_id": compared.prompt_id,
                "outcome": _outcome(compared.win),
                "win": compared.win,
                "reason": compared.unscored_reason,
                "side": side,
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
