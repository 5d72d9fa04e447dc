"""Rows that tests make, every field of which a test may set."""

from collections.abc import Sequence
from typing import Any

from tpo.store.artifacts import Artifact
from tpo.store.job import Job
from tpo.store.records import Comparison, Completion, Prompt, write_records
from tpo.store.stage import Stage
from tpo.store.store import Store

MADE = Stage("made", 1, "made_rows:work")  # an artifact with given rows


def comparison(prompt_id: str, win: float | None, **changes: Any) -> Comparison:
    """Return a comparison of one answered sample with one of the baseline's, scored unless `win` is None."""
    scored = int(win is not None)
    fields: dict[str, Any] = {
        "base_id": prompt_id,
        "category": "c",
        "unscored_reason": None if scored else "why",
        "num_pairs": scored,
        "win_answered": win,
        "num_answered_pairs": scored,
        "num_samples": 1,
        "num_no_response": 0,
        "policy_score": 1.0,
        "baseline_score": 1.0,
        "policy_tokens": 9.0,
        "baseline_tokens": 9.0,
        "policy_characters": 9.0,
        "baseline_characters": 9.0,
    }
    return Comparison(prompt_id=prompt_id, win=win, **(fields | changes))


def completion(prompt_id: str, index: int, response: str | None) -> Completion:
    """Return a completion that holds this response, or none."""
    return Completion(
        prompt_id=prompt_id,
        sample_index=index,
        prompt_ids=[1],
        completion_ids=[2],
        forced_start=0,
        forced_stop=0,
        response_start=0,
        is_prefilled=False,
        completion=f"a secret {response}",
        thought=None if response is None else "a secret",
        response=response,
        split_error="empty_response" if response is None else None,
        finish_reason="stop",
        num_thought_tokens=1,
        num_response_tokens=len((response or "").split()),
        seed=0,
    )


def made_prompts(store: Store, texts: Sequence[str]) -> Artifact:
    """Return test instructions, whose ids are their texts."""
    return store.request(MADE, {"prompts": list(texts)})


def made_answers(store: Store, responses: dict[str, list[str | None]]) -> Artifact:
    """Return completions by prompt_id."""
    return store.request(MADE, {"responses": responses})


def work(job: Job) -> dict[str, Any]:
    """Write the rows that were asked for."""
    prompts = [Prompt(text, text, "c", "made", "test", (), text) for text in job.config.get("prompts", [])]
    rows = [
        completion(prompt_id, index, text)
        for prompt_id, texts in job.config.get("responses", {}).items()
        for index, text in enumerate(texts)
    ]
    write_records(job.path / "rows.jsonl", [*prompts, *rows])
    return {}
