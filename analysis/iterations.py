# %% [markdown]
# # What changes over iterations, and is it the thoughts?
#
# First the headline of every arm, trained minus untrained on the same instructions. Then its rates over iterations with
# intervals: the checked rate where runs have checks, and the win rate. Of TPO, and of the direct baseline
# (`thought=none`), which is trained in the same way without thoughts.
#
# Reads: finished runs. As committed: the quickstart on five seeds with thoughts and without, and on three with length
# control and without the likelihood term (`experiments/paper_claims`).

# %% tags=["parameters"]
# Folders or patterns from the repository's root, such as "runs/*"; W&B's offline runs: "runs/*/wandb/offline-run-*";
# W&B itself: "wandb:entity/project", or "wandb:entity/project/quickstart-*" for the runs with such ids.
RUNS = ["experiments/paper_claims/kept/*"]
OVER = "seed"  # runs that differ in this setting only are averaged; None: every run by itself

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from tpo.results.figures import draw_changes, draw_iterations, show
from tpo.results.read import read_folders
from tpo.results.table import summaries_by_label

# %%
runs = read_folders(RUNS).runs
if runs:
    summaries = summaries_by_label(runs, over=OVER)
    show(draw_changes(summaries))
    show(draw_iterations(summaries))
else:
    print(f"No finished run in {RUNS}: `make quickstart` makes one.")
