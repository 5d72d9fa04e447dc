"""Whether an export is the policy: greedy tokens of what was saved, of the export in a fresh process, of the policy.

The fresh process runs the very code that the card shows, with transformers and peft and without this package, from the
instruction as a user writes it to the tokens. All compute in float32 with the weights as they are, whatever their
dtype: in 16 bits two ways to compute an adapter round so differently that greedy answers part after a dozen tokens,
which would hide a wrong weight. An adapter is the policy. Merged weights are rounded once more, and how far their
log-probabilities are from the policy's is measured, and said in the card.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tpo.store.errors import TpoError

NUM_TOKENS = 32  # of each answer
TIED = 1e-3  # nats by which a token may be less probable than the one that the export prefers to it
OTHER = 0.5  # nats a token, on average, from which on merged weights are not the policy's any more

CHECK = """
import json, sys
import torch

task = json.load(open(sys.argv[1]))
model = model.float()
rows = []
for messages, expected in zip(task["chats"], task["expected"]):
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    prompt = inputs["input_ids"].to(model.device)
    mask = torch.ones_like(prompt)
    found = model.generate(input_ids=prompt, attention_mask=mask, do_sample=False, max_new_tokens=task["num_tokens"])
    ids = torch.cat([prompt, torch.tensor([expected], device=model.device)], dim=1)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, prompt.shape[1] - 1 : -1]
    logps = torch.log_softmax(logits.float(), dim=-1)
    own = logps.gather(1, ids[0, prompt.shape[1] :, None])[:, 0]
    rows.append({
        "prompt_ids": prompt[0].tolist(),
        "token_ids": found[0, prompt.shape[1] :].tolist(),
        "logps": own.tolist(),
        "gaps": (logps.max(dim=-1).values - own).tolist(),
    })
json.dump(rows, open(sys.argv[2], "w"))
"""


class ExportError(TpoError):
    """A policy that cannot be exported, or an export that is not the policy; says what to do."""


@dataclass(frozen=True)
class Greedy:
    """What the policy answers greedily.

    Attributes:
        prompt_ids: The context, as completions were sampled after it.
        token_ids: The answer.
        logps: Log-probability of each of its tokens, nats.
    """

    prompt_ids: list[int]
    token_ids: list[int]
    logps: list[float]


@dataclass(frozen=True)
class Difference:
    """How an export, loaded in a fresh process, differs from the policy.

    Attributes:
        num_tokens: Of the policy's greedy answers.
        num_equal: How many of them the export gives too, up to the first that differs in each answer.
        is_equal: Whether all answers are the policy's, ends included.
        mean_difference: Mean distance of the log-probabilities of the policy's tokens, nats.
        largest_gap: How much less probable than the one that the export prefers a token of the policy is at most, nats.
    """

    num_tokens: int
    num_equal: int
    is_equal: bool
    mean_difference: float
    largest_gap: float

    def __str__(self) -> str:
        """Return it in words."""
        share = "all" if self.is_equal else f"{self.num_equal} of"
        return (
            f"{share} {self.num_tokens} greedy tokens are the policy's, whose log-probabilities differ by "
            f"{self.mean_difference:.4f} nats on average"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def answer_greedily(model: Any, contexts: Sequence[Sequence[int]], generation_config: Any) -> list[Greedy]:
    """Return a loaded policy's greedy answers to contexts of token ids, computed in float32, which it then has."""
    import torch

    model = model.float()
    model.generation_config = generation_config
    found = []
    for context in contexts:
        prompt = torch.tensor([list(context)], device=model.device)
        with torch.no_grad():
            ids = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=NUM_TOKENS,
            )
            logits = model(input_ids=ids).logits[0, prompt.shape[1] - 1 : -1]
        answer = ids[0, prompt.shape[1] :]
        logps = torch.log_softmax(logits.float(), dim=-1).gather(1, answer[:, None])[:, 0]
        found.append(Greedy(list(context), answer.tolist(), logps.tolist()))
    return found


def check_export(
    code: str, instructions: Sequence[str], saved: Sequence[Greedy], policy: Sequence[Greedy]
) -> Difference:
    """Return how an export differs from the policy, after checking in a fresh process that it is what was saved.

    Args:
        code: What loads it: leaves `model` and `tokenizer`.
        instructions: As users write them.
        saved: What the weights that were saved answer to them: the policy's, or merged ones.
        policy: What the policy answers.

    Raises:
        ExportError: If it cannot be loaded, asks in other tokens, or answers otherwise than what was saved by more than
            rounding, or than the policy by more than `OTHER`.
    """
    rows = _run(code, [*instructions, *instructions], [*saved, *policy])
    for instruction, row, expected in zip(instructions, rows, saved, strict=False):
        if row["prompt_ids"] != expected.prompt_ids:
            raise ExportError(
                f"the exported chat template asks {instruction[:60]!r} in other tokens than the policy was trained "
                "with: a thought format of a class of your own, or a template that a prefilled text changes, cannot be "
                "carried by a chat template"
            )
    found = _compare(rows[: len(saved)], saved)
    # One answer is the other's beginning: the turn ends elsewhere.
    is_cut = any(
        _common(row["token_ids"], own.token_ids) == min(len(row["token_ids"]), len(own.token_ids))
        and row["token_ids"] != own.token_ids
        for row, own in zip(rows, saved, strict=False)
    )
    if is_cut or found.largest_gap > TIED:
        why = f"a token is {found.largest_gap:.3f} nats less probable than another"
        raise ExportError(
            f"the export, loaded in a fresh process, is not what was saved: {found.num_equal} of {found.num_tokens} "
            f"greedy tokens are the same; {'answers end elsewhere' if is_cut else why}. Nothing was kept"
        )
    difference = _compare(rows[len(saved) :], policy)
    if difference.mean_difference > OTHER:
        raise ExportError(f"the merged model is another policy: {difference}. Nothing was kept; take format=adapter")
    return difference


def _compare(rows: Sequence[dict[str, Any]], expected: Sequence[Greedy]) -> Difference:
    pairs = list(zip(rows, expected, strict=True))
    distances = [abs(a - b) for row, own in pairs for a, b in zip(row["logps"], own.logps, strict=True)]
    return Difference(
        num_tokens=len(distances),
        num_equal=sum(_common(row["token_ids"], own.token_ids) for row, own in pairs),
        is_equal=all(row["token_ids"] == own.token_ids for row, own in pairs),
        mean_difference=sum(distances) / max(len(distances), 1),
        largest_gap=max((gap for row in rows for gap in row["gaps"]), default=0.0),
    )


def _run(code: str, instructions: Sequence[str], expected: Sequence[Greedy]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        task = {
            "chats": [[{"role": "user", "content": text}] for text in instructions],
            "expected": [policy.token_ids for policy in expected],
            "num_tokens": NUM_TOKENS,
        }
        (place / "task.json").write_text(json.dumps(task))
        (place / "check.py").write_text(code + CHECK)
        done = subprocess.run(
            [sys.executable, str(place / "check.py"), str(place / "task.json"), str(place / "found.json")],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise ExportError(f"the export cannot be loaded by transformers and peft in a fresh process: {last}")
        found: list[dict[str, Any]] = json.loads((place / "found.json").read_text())
        return found


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    return next(
        (place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
