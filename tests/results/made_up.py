"""Made-up summaries of runs, with all keys that `tpo.results.run` writes, and a composed config."""

import json
from dataclasses import asdict
from functools import cache
from typing import Any

from tpo.config.compose import compose_config
from tpo.config.schema import Config, register
from tpo.store.records import Comparison

UNSCORED: dict[str, Any] = {"rate": None, "interval": None, "num_prompts": 0, "num_unscored": 3}


def rate(value: float | None, count: int = 12, *, width: float = 0.2, num_unscored: int = 0) -> dict[str, Any]:
    """A fraction with an interval so wide to each side, within [0, 1]; nothing scored where it is None."""
    if value is None:
        return {**UNSCORED, "num_unscored": num_unscored or 3}
    interval = [max(0.0, value - width), min(1.0, value + width)]
    return {"rate": value, "interval": interval, "num_prompts": count, "num_unscored": num_unscored}


def difference(value: float | None, count: int = 12, *, width: float = 0.05) -> dict[str, Any]:
    """A change with an interval so wide to each side."""
    if value is None:
        return {**UNSCORED}
    return {"rate": value, "interval": [value - width, value + width], "num_prompts": count, "num_unscored": 0}


def checked(value: float, *, types: dict[str, float] | None = None, unseen: float | None = None) -> dict[str, Any]:
    """What an iteration says of checks: the strict rate `value`, the loose one a little higher."""
    return {
        "strict": rate(value, 320, width=0.05),
        "loose": rate(value + 0.02, 320, width=0.05),
        "unseen": None if unseen is None else rate(unseen, 80, width=0.1),
        "types": {name: rate(found, 40, width=0.15) for name, found in (types or {}).items()},
        "unseen_types": [name for name in types or {} if name == "postscript"],
        "num_no_response": 4,
    }


def change(
    win_rate: float | None,
    *,
    score: float | None = None,
    checked: float | None = None,
    types: dict[str, float] | None = None,
    unseen: float | None = None,
    tokens: float = -3.0,
) -> dict[str, Any]:
    """The paired change of an iteration."""
    return {
        "win_rate": difference(win_rate),
        "score": difference(score),
        "checked": None if checked is None else difference(checked, 320),
        "checked_unseen": None if unseen is None else difference(unseen, 80),
        "checked_types": {name: difference(found, 40, width=0.1) for name, found in (types or {}).items()},
        "response_tokens": difference(tokens, width=2.0),
    }


def entry(iteration: int, value: float | None, **changes: Any) -> dict[str, Any]:
    """An iteration whose win rate is `value`; `changes` are keys."""
    lower = None if value is None else max(0.0, value - 0.05)
    return {
        "iteration": iteration,
        "win_rate": rate(value, 24),
        "win_rate_answered": rate(value, 20),
        "win_rate_length_controlled": rate(lower, 24),
        "num_no_response": 4,
        "num_answers": 24,
        "mean_score": None if value is None else value - 1,
        "categories": {},
        "checked": None,
        "change": None if iteration == 0 else change(None if value is None else value - 0.3, score=0.1),
        "second_judge": None,
        "collapse": None,
        "mean_thought_tokens": 40.0 + iteration,
        "mean_response_tokens": 80.0 - iteration,
        "format_rate": 0.25,
        "cut_thought_rate": 0.125,
        "empty_thought_rate": 0.0,
        "parse_rate": 0.875,
        "num_pairs": 30 * iteration,
        "drops": {"tied": 2, "too_few_scored": 0} if iteration else {},
        "sampling": {"num_completions": 128} if iteration else None,
        "judging": {"num_scores": 128} if iteration else None,
        "training": {"num_steps": 8} if iteration else None,
        "adapter": f"train-deleted/epoch-{iteration}" if iteration else None,
        "validation_scores": {},
        "artifacts": {"comparison": "compare-deleted", "answers": "sample-deleted"},
        **changes,
    }


def summary(*entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A run's summary; `changes` are keys."""
    return {
        "experiment": "quickstart",
        "command": "python -m tpo.run experiment=quickstart",
        "seed": 0,
        "baseline": "seed model, direct answers",
        "confidence": 0.95,
        "thought": "generic",
        "judge": "self_rating",
        "baseline_checked": None,
        "null_control": None,
        "collapse": None,
        "iterations": list(entries),
        "stages": [{"artifact_id": "model-1", "stage": "model", "seconds": 100.0, "is_reused": True}],
        **changes,
    }


def comparison(prompt_id: str, win: float | None, **changes: Any) -> Comparison:
    """A row of a comparison in which one thing was scored."""
    found = {
        "prompt_id": prompt_id,
        "base_id": prompt_id,
        "category": "made up",
        "win": win,
        "unscored_reason": None if win is not None else "made up",
        "num_pairs": int(win is not None),
        "win_answered": win,
        "num_answered_pairs": int(win is not None),
        "num_samples": int(win is not None),
        "num_no_response": 0,
        "policy_score": 1.0,
        "baseline_score": 0.5,
        "policy_tokens": 1.0,
        "baseline_tokens": 1.0,
        "policy_characters": 1.0,
        "baseline_characters": 1.0,
        **changes,
    }
    return Comparison(**{name: found[name] for name in Comparison.__struct_fields__})


BEFORE = {"no_comma": 0.25, "more_words": 0.65, "title": 0.1, "postscript": 0.2}
AFTER = {"no_comma": 0.25, "more_words": 0.925, "title": 0.975, "postscript": 0.15}


def full_summary() -> dict[str, Any]:
    """A run with everything: thoughts, checks, a second judge, controls, two iterations."""

    def second(value: float, gain: float | None) -> dict[str, Any]:
        found = None if gain is None else difference(gain, 320, width=0.06)
        agreement = rate(0.612, 1280, width=0.04)
        return {
            "judge": "likelihood",
            "win_rate": rate(value, 320, width=0.05),
            "change": found,
            "agreement": agreement,
        }

    half = {name: (BEFORE[name] + AFTER[name]) / 2 for name in BEFORE}
    gains = {name: AFTER[name] - BEFORE[name] for name in BEFORE}
    wide = {"win_rate_answered": rate(0.52, 310, width=0.05), "num_no_response": 96, "num_answers": 1280}
    entries = [
        entry(0, 0.46, checked=checked(0.278, types=BEFORE, unseen=0.2), second_judge=second(0.47, None), **wide),
        entry(
            1,
            0.5,
            checked=checked(0.278, types=half, unseen=0.18),
            change=change(0.04, score=0.08, checked=0.0, types=gains, unseen=-0.02, tokens=-23.0),
            second_judge=second(0.49, 0.02),
            **wide,
        ),
        entry(
            2,
            0.55,
            checked=checked(0.409, types=AFTER, unseen=0.16),
            change=change(0.09, score=0.177, checked=0.131, types=gains, unseen=-0.04, tokens=1.0),
            second_judge=second(0.53, 0.06),
            **wide,
        ),
    ]
    for found in entries:
        found["win_rate"] = {**rate(found["win_rate"]["rate"], 312, width=0.05), "num_unscored": 8}
        found["categories"] = {"maths": rate(0.5, 40), "code": rate(0.6, 40), "poetry": rate(0.6, 3)}
    return summary(
        *entries,
        baseline="smollm2-135m-instruct, direct answers",
        baseline_checked=checked(0.359, types=BEFORE, unseen=0.22),
        null_control={"win_rate": rate(0.504, 320, width=0.04), "score": difference(0.01)},
    )


@cache
def _config_text() -> str:
    register()
    overrides = ["experiment=quickstart", "thought=generic", "judge=self_rating", "pairs.length_penalty=0.25"]
    return json.dumps(asdict(compose_config(Config, [*overrides, "pairs.truncated_responses=keep", "prompts=builtin"])))


def config() -> dict[str, Any]:
    """A config as `config.json` holds it: the quickstart's, with what tests rely on."""
    found: dict[str, Any] = json.loads(_config_text())
    return found
