"""Thought Preference Optimization ("Thinking LLMs", arXiv 2410.10630).

For each iteration t, with the policy of the iteration before:

    completions = sample(policy, instructions)         # K thoughts and responses each
    scores      = judge(instructions, responses)       # responses only, never a thought
    pairs       = build_pairs(completions, scores)     # best against worst, thoughts included
    policy      = train_dpo(policy, pairs)             # the next iterate
    evaluate(policy, baseline=seed model's direct answers)
"""

import os
import sys

if sys.platform == "win32":
    raise SystemExit("tpo needs Linux or macOS: on Windows run it in WSL 2")

# OpenMP reads it when torch is imported, so it is set before that, for child processes too. By default its threads spin
# while they wait, and take the cores from whatever else computes (experiments/LOG.md, 2026-11-26, has both by hand).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
