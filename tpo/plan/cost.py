"""What stages cost: a token budget from their settings, and tokens and seconds as past stages like them took.

The budget counts the completion tokens that are sampled, judged or trained on if every completion uses all it may;
prompts, a judge's questions and forced delimiters come on top. What is expected is the budget times what past stages
took per token of theirs, so that it holds for other numbers of instructions, samples and epochs too. Nothing is
expected where no stage like it has been computed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tpo.sample.thought import ThoughtFormat
from tpo.store.artifacts import MANIFEST, read_manifest

Manifest = Mapping[str, Any]  # or the request of a stage that has none yet


class Estimate(NamedTuple):
    """What is expected of a stage; None where no past stage says anything."""

    tokens: float | None
    seconds: float | None
    num_past: int  # stages that the expectation rests on


class Past:
    """The manifests in a directory of artifacts."""

    def __init__(self, root: Path, stages: Sequence[str]) -> None:
        """Read the manifests of these stages, and of what their budgets depend on."""
        kinds = sorted({*stages, "sample", "pairs", "prompts"})
        paths = [path for kind in kinds for path in sorted(root.glob(f"{kind}-*/{MANIFEST}"))]
        self.manifests = {path.parent.name: read_manifest(path.parent) for path in paths}
        self._alike: dict[tuple[Any, ...], list[tuple[int, Manifest]]] = {}
        for manifest in self.manifests.values():
            tokens = token_budget(manifest, self.manifests)
            if tokens is not None:
                self._alike.setdefault(_likeness(manifest), []).append((tokens, manifest))

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


def token_budget(request: Manifest, others: Mapping[str, Manifest]) -> int | None:
    """Return the tokens that a stage may sample, judge or train on; 0 for stages without a model's tokens.

    Args:
        request: Of the stage.
        others: Requests or manifests by id, among them the stage's inputs.

    Returns:
        None if they are not among them, or are not those of a run (labelled pairs, a public benchmark).
    """
    try:
        match request["stage"]:
            case "synthesize":
                settings = request["config"]["settings"]
                return int(settings["num_candidates"] * settings["max_tokens"])
            case "sample":
                thought, response = _budgets(request)
                return _num_responses(request, others) * (thought + response)
            case "judge" | "verdicts" if "completions_0" in request["inputs"]:
                return _judged(request, others)
            case "train":
                completions = others[others[request["inputs"]["pairs"]]["inputs"]["completions"]]
                pairs = _num_responses(completions, others) // completions["config"]["settings"]["num_samples"]
                return int(2 * pairs * sum(_budgets(completions)) * request["config"]["settings"]["num_epochs"])
            case "judge" | "verdicts":  # of labelled pairs
                return None
            case _:
                return 0
    except KeyError:
        return None


def _num_responses(sample: Manifest, others: Mapping[str, Manifest]) -> int:
    prompts = others[sample["inputs"]["prompts"]]["config"]["settings"]
    split, _, _ = sample["config"]["split"].partition("-")  # "train-2" has num_train instructions
    return int(prompts[f"num_{split}"] * sample["config"]["settings"]["num_samples"])


def _budgets(sample: Manifest) -> tuple[int, int]:
    """Return the tokens of a thought and of a response; without a forced switch they share theirs."""
    form, settings = ThoughtFormat(**sample["config"]["thought"]), sample["config"]["settings"]
    return (settings["max_thought_tokens"] if form.has_thought else 0), settings["max_response_tokens"]


def _judged(request: Manifest, others: Mapping[str, Manifest]) -> int:
    """Return the tokens of responses that a judge reads, and of what it may write about them."""
    judge = request["config"]["judge"]
    if judge["kind"] in {"length", "random"}:
        return 0
    sets = [others[name] for role, name in request["inputs"].items() if role.startswith("completions_")]
    longest = [_longest_response(sample) for sample in sets]
    counts = [_num_responses(sample, others) for sample in sets]
    written = judge.get("max_tokens", 0) if "backend" in judge else 0  # a reward model's is a limit on what it reads
    if request["stage"] == "judge":
        return sum(count * (tokens + written) for count, tokens in zip(counts, longest, strict=True))
    samples = [sample["config"]["settings"]["num_samples"] for sample in sets]
    num_prompts, num_samples = counts[0] // samples[0], sum(samples)
    matches = num_samples - 1 if "against" in request["config"] else num_samples * (num_samples - 1) // 2
    orders = 2 if judge["orders"] == "both" else 1
    return int(num_prompts * matches * orders * (2 * max(longest) + written))


def _longest_response(sample: Manifest) -> int:
    thought, response = _budgets(sample)
    return response if ThoughtFormat(**sample["config"]["thought"]).switch else thought + response


def _likeness(manifest: Manifest) -> tuple[Any, ...]:
    """Return what stages have in common whose costs are comparable."""
    config, stage = manifest["config"], manifest["stage"]
    judge, thought = config.get("judge", {}), config.get("thought", {})
    return (
        *(stage, manifest["version"], manifest["inputs"].get("model")),
        *((config.get("name"), config.get("quantization")) if stage == "model" else ()),
        *(config.get("engine", {}).get("kind"), thought.get("response_delimiter") is not None),
        *((judge.get("kind"), judge.get("name")) if stage in {"judge", "verdicts"} else ()),
        *((config["settings"].get("lora_rank") == 0,) if stage == "train" else ()),  # all weights, or an adapter
    )


def _num_tokens(manifest: Manifest) -> float | None:
    """Return the tokens that a stage counted, or None."""
    metrics = manifest["metrics"]
    found = metrics.get("last", metrics).get("num_tokens")
    return None if found is None else float(found)
