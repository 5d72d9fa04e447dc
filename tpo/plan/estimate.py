"""A plan with what it costs: the stages of all jobs, which are there, and what past stages say of the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpo.plan.cost import Estimate, Past, token_budget
from tpo.plan.stages import PlannedRun, PlannedStep, distinct_steps, stage_kind


@dataclass(frozen=True)
class Plan:
    """The stages of all jobs with what they cost; `budgets` and `estimates` are by stage id."""

    jobs: tuple[PlannedRun, ...]
    stages: dict[str, PlannedStep]
    budgets: dict[str, int]
    estimates: dict[str, Estimate]
    devices: tuple[str, ...]  # that the estimates come from


def estimate(jobs: Sequence[PlannedRun], root: Path) -> Plan:
    """Return what the jobs compute and cost together, judged by the past stages in a directory of artifacts."""
    stages = distinct_steps(jobs)
    asked = {name: stage.artifact.manifest for name, stage in stages.items()}
    budgets = {name: token_budget(request) for name, request in asked.items()}
    past = Past(root, [stage_kind(stage.artifact) for stage in stages.values()])
    missing = {name: asked[name] for name, stage in stages.items() if not stage.is_there}
    return Plan(
        jobs=tuple(jobs),
        stages=stages,
        budgets=budgets,
        estimates={name: past.expect(request, budget=budgets[name]) for name, request in missing.items()},
        devices=tuple(past.devices(list(missing.values()))),
    )


def to_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan in plain JSON types; null stands for unknown values."""
    kinds = list(dict.fromkeys(stage_kind(stage.artifact) for stage in plan.stages.values()))
    return {
        "jobs": [
            {"overrides": list(job.overrides), "stages": [artifact.artifact_id for artifact in job.stages]}
            for job in plan.jobs
        ],
        "stages": [_describe(plan, name) for name in plan.stages],
        "kinds": [_sum_up(plan, kind) for kind in kinds],
        "total": total(plan),
        "devices": list(plan.devices),
    }


def total(plan: Plan) -> dict[str, Any]:
    """Return counts and costs of all stages of a plan."""
    return _sum_up(plan, None)


def _describe(plan: Plan, name: str) -> dict[str, Any]:
    stage = plan.stages[name]
    expected = plan.estimates.get(name, Estimate(None, None, 0))
    return {
        "artifact_id": name,
        "stage": stage_kind(stage.artifact),
        "jobs": list(stage.jobs),
        "is_there": stage.is_there,
        "depends_on_selection": stage.is_open,
        "token_budget": plan.budgets[name],
        "expected_tokens": expected.tokens,
        "expected_seconds": expected.seconds,
        "num_past": expected.num_past,
    }


def _sum_up(plan: Plan, kind: str | None) -> dict[str, Any]:
    """Return counts of one kind of stage, or of all; costs are those of the stages to compute."""
    rows = [_describe(plan, name) for name in plan.stages]
    rows = [row for row in rows if kind in (None, row["stage"])]
    missing = [row for row in rows if not row["is_there"]]
    costly = [row for row in missing if row["token_budget"]]
    return {
        "stage": kind,
        "num_asked": sum(len(row["jobs"]) for row in rows),
        "num_distinct": len(rows),
        "num_there": len(rows) - len(missing),
        "num_missing": len(missing),
        "num_shared": sum(len(row["jobs"]) > 1 for row in rows),
        "token_budget": sum(row["token_budget"] for row in missing),
        "expected_tokens": _total([row["expected_tokens"] for row in costly]),
        "expected_seconds": _total([row["expected_seconds"] for row in missing]),
        "num_without_tokens": sum(row["expected_tokens"] is None for row in costly),
        "num_without_estimate": sum(row["expected_seconds"] is None for row in missing),
    }


def _total(values: Sequence[float | None]) -> float | None:
    """Return the sum of the known values; None if there are values but all are unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if known or not values else None
