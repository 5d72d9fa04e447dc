# %% [markdown]
# # What is a thought worth?
#
# Interventions on the thought of one policy, over the same instructions: its own thought, none, another instruction's,
# its own cut short, the seed model's. If the responses are as good without it, the thought does not help by what it
# says. Then the win rate against how many tokens a thought may take: what more computation at test time buys.
#
# Reads: evaluations `thought_value` and `thought_budget` of `python -m tpo.evaluate`. As committed: the quickstart's
# policy of one seed (`experiments/evaluations`), whose thoughts are cut off at 32 tokens; no record has budgets.

# %% tags=["parameters"]
# Folders or patterns from the repository's root, such as "runs/*"; W&B's offline runs: "runs/*/wandb/offline-run-*";
# W&B itself: "wandb:entity/project", or "wandb:entity/project/quickstart-*" for the runs with such ids.
EVALUATIONS = ["experiments/*/evaluate-thought_*"]

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from tpo.results.figures import draw_thought_budget, draw_thought_value, show
from tpo.results.read import read_folders

# %%
evaluations = read_folders(EVALUATIONS).evaluations
interventions = [found for found in evaluations if found.kind == "thought_value"]
for evaluation in interventions:
    print(evaluation.path.name)
    show(draw_thought_value(evaluation.summary))
if not interventions:
    print(f"No evaluation `thought_value` in {EVALUATIONS}.")

# %%
budgets = [found for found in evaluations if found.kind == "thought_budget"]
for evaluation in budgets:
    print(evaluation.path.name)
    show(draw_thought_budget(evaluation.summary))
if not budgets:
    print(f"No evaluation `thought_budget` in {EVALUATIONS}.")
