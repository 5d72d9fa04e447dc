# %% [markdown]
# # Which kinds of instructions profit from thinking?
#
# First the paper's figure, from evaluations: the gain over 50 % in each category, with intervals for one category and
# for all at once, and a test corrected for the number of categories. Then what runs say of themselves, on their own
# held-out instructions: the change of the checked rate by type of request where a program checks these, and the win
# rate before training and after it by category, without a test. Categories of fewer than ten instructions are left out.
#
# Reads: evaluations `categories` of `python -m tpo.evaluate`, and finished runs. As committed: the quickstart, whose
# instructions are sorted by what is asked of the response; the policy of one seed against the untrained model's direct
# answers (`experiments/evaluations`), then each arm's change. Types in vermilion are in no training instruction.

# %% tags=["parameters"]
# Folders or patterns from the repository's root, such as "runs/*"; W&B's offline runs: "runs/*/wandb/offline-run-*";
# W&B itself: "wandb:entity/project", or "wandb:entity/project/quickstart-*" for the runs with such ids.
EVALUATIONS = ["experiments/*/evaluate-categories-*"]
RUNS = ["experiments/paper_claims/kept/*"]
OVER = "seed"  # runs that differ in this setting only are averaged; None: every run by itself

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from tpo.results.figures import draw_categories, draw_category_gains, draw_types, has_types, show
from tpo.results.read import read_folders
from tpo.results.run_tables import large_categories
from tpo.results.table import summaries_by_label

# %%
evaluations = [found for found in read_folders(EVALUATIONS).evaluations if found.kind == "categories"]
for evaluation in evaluations:
    print(evaluation.path.name)
    show(draw_category_gains(evaluation.summary))
if not evaluations:
    print(f"No evaluation `categories` in {EVALUATIONS}.")

# %%
runs = read_folders(RUNS).runs
for label, summary in summaries_by_label(runs, over=OVER).items() if runs else ():
    print(label)
    if has_types(summary):
        show(draw_types(summary))
    if large_categories(summary):
        show(draw_categories(summary))
if not runs:
    print(f"No finished run in {RUNS}: `make quickstart` makes one.")
