# %% [markdown]
# # Which kinds of instructions profit from thinking?
#
# First the paper's figure, from evaluations: the gain over 50 % in each category, with intervals for one category and
# for all at once, and a test corrected for the number of categories. Then each run's own figure: the win rate before
# training and after it, without a test, on the run's held-out instructions. Categories of fewer than ten instructions
# are left out.
#
# Reads: evaluations `categories` of `python -m tpo.evaluate`, and folders of finished runs.

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from tpo.results.figures import draw_categories, draw_category_gains, show
from tpo.results.read import read_folders
from tpo.results.run_tables import large_categories

# %% tags=["parameters"]
EVALUATIONS = ["runs/evaluate-*"]  # glob patterns from the repository's root; TPO_RUNS_DIR takes the place of runs/
RUNS = ["runs/*"]

# %%
evaluations = [found for found in read_folders(EVALUATIONS).evaluations if found.kind == "categories"]
for evaluation in evaluations:
    print(evaluation.path.name)
    show(draw_category_gains(evaluation.summary))
if not evaluations:
    print(f"No evaluation `categories` in {EVALUATIONS}.")

# %%
runs = read_folders(RUNS).runs
for run in runs:
    print(run.path.name)
    if large_categories(run.summary):
        show(draw_categories(run.summary))
if not runs:
    print(f"No finished run in {RUNS}: `make quickstart` makes one.")
