"""What stages cost: a token budget from their settings; expected tokens and seconds from past stages of the same kind.

The budget counts the completion tokens that are sampled, judged or trained on if every completion has its maximal
length; prompts, a judge's questions and forced delimiters are not counted. Expected tokens and seconds are the budget
times what past stages took per token of their budgets, so they scale to other numbers of instructions, samples and
epochs. Without a past stage of the same kind there is no estimate.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tpo.store.artifacts import read_manifest
from tpo.store.errors import ArtifactError
from tpo.store.layout import MANIFEST

Manifest = Mapping[str, Any]  # or the request of a stage that has none yet


class Estimate(NamedTuple):
    """Expected cost of a stage; None where there is no past stage of the same kind."""

    tokens: float | None
    seconds: float | None
    num_past: int  # stages that the expectation rests on


class Past:
    """The manifests in a directory of artifacts."""

    def __init__(self, root: Path, stages: Sequence[str]) -> None:
        """Read the manifests of these stages."""
        paths = [path for kind in sorted(set(stages)) for path in sorted(root.glob(f"{kind}-*/{MANIFEST}"))]
        self._alike: dict[tuple[Any, ...], list[tuple[int, Manifest]]] = {}
        for path in paths:
            with suppress(ArtifactError):  # another run's, damaged or of an earlier version: no reason to fail
                manifest = read_manifest(path.parent)
                self._alike.setdefault(_likeness(manifest), []).append((token_budget(manifest), manifest))

    def expect(self, request: Manifest, *, budget: int) -> Estimate:
        """Return what a stage will take, from all past stages of the same computation on the same model.

        Args:
            request: Of the stage.
            budget: Its tokens; a stage without any is expected to take the mean time of those like it.
        """
        past = [(tokens, manifest) for tokens, manifest in self._like(request) if (tokens > 0) == (budget > 0)]
        if not past:
            return Estimate(None, None, 0)
        share = budget / sum(tokens for tokens, _ in past) if budget else 1 / len(past)
        seconds = share * sum(float(manifest["seconds"]) for _, manifest in past)
        counted = [(tokens, count) for tokens, manifest in past if (count := _num_tokens(manifest)) is not None]
        expected = None
        if budget and counted:
            expected = budget * sum(count for _, count in counted) / sum(tokens for tokens, _ in counted)
        return Estimate(expected, seconds, len(past))

    def devices(self, requests: Sequence[Manifest]) -> list[str]:
        """Return what the past stages ran on that are like the given ones."""
        return sorted(
            {manifest["environment"]["device"] for request in requests for _, manifest in self._like(request)}
        )

    def _like(self, request: Manifest) -> list[tuple[int, Manifest]]:
        return self._alike.get(_likeness(request), [])


def token_budget(request: Manifest) -> int:
    """Return the tokens that a stage may sample, judge or train on; 0 where none are known."""
    budget = request.get("budget")
    return 0 if budget is None else int(budget["tokens"])


def _likeness(manifest: Manifest) -> tuple[Any, ...]:
    """Return what stages have in common whose costs are comparable."""
    config = manifest["config"]
    judge = config.get("judge") or {}  # None where a check has no judge
    return (
        *(manifest["stage"], manifest["version"], manifest["inputs"].get("model")),
        *(config.get("name"), config.get("quantization")),  # of a model
        *(config.get("engine", {}).get("kind"), _has_thought(config.get("thought", {}))),
        *(judge.get("kind"), judge.get("name")),
        config.get("settings", {}).get("lora_rank") == 0,  # training all weights, or an adapter
    )


def _has_thought(form: Mapping[str, Any]) -> bool:
    return form.get("response_delimiter") is not None or form.get("thinking", "off") != "off"


def _num_tokens(manifest: Manifest) -> float | None:
    """Return the tokens that a stage counted, or None."""
    metrics = manifest["metrics"]
    found = metrics.get("last", metrics).get("num_tokens")
    return None if found is None else float(found)
