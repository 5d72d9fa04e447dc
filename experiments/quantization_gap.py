"""How far is the NF4 policy from the 16-bit model that it came from? And is the sampled policy the trained one?

python experiments/quantization_gap.py artifacts/<a train artifact>

Reads the pairs and the model that an artifact of the stage "train" was made from. Prints the mean
log-probability per completion token, with a bootstrap interval over pairs, under (1) the 16-bit weights, (2) the
weights that sampling uses, (3) the 4-bit layers that training uses, and the largest difference of (2) and (3).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from tpo.model.load import load_model
from tpo.model.policy import open_policy
from tpo.store.artifacts import open_artifact
from tpo.store.records import Pair
from tpo.train.dpo import sequence_logps


def main(path: Path) -> None:
    """Print the table."""
    request = json.loads((path / "request.json").read_text())
    inputs = {role: open_artifact(path.parent / name) for role, name in request["inputs"].items()}
    policy = open_policy(request["config"], {"model": inputs["model"]})
    if policy.unquantized_path is None:
        sys.exit(f"{path}: the policy is not quantized (model.quantization=none)")
    pairs = list(inputs["pairs"].rows(Pair))
    sequences = [(pair.prompt_ids, ids) for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
    lengths = np.array([len(completion) for _, completion in sequences])
    forms = {
        "16-bit": (policy.unquantized_path, "none"),
        "sampled": (policy.model_path, "none"),
        "trained": (policy.unquantized_path, "nf4"),
    }
    logps = {}
    for name, (weights, quantization) in forms.items():
        model = load_model(weights, revision=policy.revision, dtype=policy.dtype, quantization=quantization).train()
        logps[name] = np.array([completion_logp(model, *sequence) for sequence in sequences])
        draws = np.random.default_rng(0).integers(0, len(pairs), size=(1000, len(pairs)))
        sums = logps[name].reshape(-1, 2).sum(axis=1)[draws].sum(axis=1)
        low, high = np.quantile(sums / lengths.reshape(-1, 2).sum(axis=1)[draws].sum(axis=1), [0.025, 0.975])
        rate = logps[name].sum() / lengths.sum()
        print(f"{name:8} {rate:7.3f} nats/token [{low:.3f}, {high:.3f}], {len(sequences)} completions")
    print(f"largest |sampled - trained| of a completion: {np.abs(logps['sampled'] - logps['trained']).max():.3f} nats")


def completion_logp(model: torch.nn.Module, prompt_ids: list[int], completion_ids: list[int]) -> float:
    """Return log p(completion | prompt) in nats; one sequence at a time, so that no batch shape plays a part."""
    ids = torch.tensor([prompt_ids + completion_ids])
    mask = torch.arange(ids.shape[1])[None] >= len(prompt_ids)
    logits = model(input_ids=ids).logits  # with gradients on, as in training
    return float(sequence_logps(logits.detach(), ids, mask))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
