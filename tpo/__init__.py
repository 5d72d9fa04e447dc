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
from types import TracebackType

if sys.platform == "win32":
    raise SystemExit("tpo needs Linux or macOS: on Windows run it in WSL 2")

# OpenMP reads it when torch is imported, so it is set before that, for child processes too. By default its threads spin
# while they wait, and take the cores from whatever else computes (experiments/LOG.md, 2026-11-26, has both by hand).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _started() -> str:
    """Return the module that `python -m` is about to execute, if it is still being looked for."""
    words = sys.orig_argv
    return words[words.index("-m") + 1] if sys.argv[:1] == ["-m"] and "-m" in words else ""


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End a command that is interrupted in its imports as `tpo.store.ending`, one of them, ends it later."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print("interrupted: nothing had begun", file=sys.stderr)
    raise SystemExit(130)


# Only in a command's process: a program that imports the package keeps its own hook, and so does a stage's process, of
# which the store tells how it ended.
if _started().startswith("tpo.") and _started() != "tpo.store.execute":
    sys.excepthook = _end
