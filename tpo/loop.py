"""The loop of Thought Preference Optimization ("Thinking LLMs", section 2), written like the paper's algorithm.

`tpo.run` runs it; `tpo.plan` follows it over a store that computes nothing.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tpo.pipeline import Pipeline


def iterate(tpo: "Pipeline", record: Callable[..., None], *, num_iterations: int) -> None:
    """Go through the loop of the paper and hand the results of each iteration to `record` (see `Run.record`).

    It ends early, unless `on_collapse` says otherwise, with the iteration whose policy has collapsed. What the next
    iteration trains on is asked for before a policy's answers are judged: the engine that wrote them is loaded.
    """
    policy = tpo.seed_policy  # iteration 0: with the thought prompt and untrained
    baseline, control = tpo.baseline(), tpo.control()
    untrained = answers = tpo.answer(policy)
    if num_iterations > 0:
        tpo.sample(policy, 1)
    record(0, answers, **tpo.measure(answers, baseline), null_control=tpo.null_control(control, baseline))

    for iteration in range(1, num_iterations + 1):
        completions = tpo.sample(policy, iteration)
        scores = tpo.judge(completions)
        pairs = tpo.pairs(completions, scores)
        checkpoints = tpo.train(policy, pairs, iteration)
        policy, selection = tpo.select(checkpoints)
        answers = tpo.answer(policy)
        collapse = tpo.collapse(answers, untrained)
        is_over = collapse is not None and tpo.config.on_collapse == "stop"
        if iteration < num_iterations and not is_over:
            tpo.sample(policy, iteration + 1)
        record(
            iteration,
            answers,
            **tpo.measure(answers, baseline),
            completions=completions,
            scores=scores,
            pairs=pairs,
            checkpoints=checkpoints,
            selection=selection,
            collapse=collapse,
        )
        if is_over:
            return
