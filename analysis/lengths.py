# %% [markdown]
# # Do thoughts and responses grow over iterations?
#
# A judge that likes length teaches length, so a win rate is to be read beside the lengths. Means over answers that hold
# a response. Intervals are Student's t: over runs where these are averaged, else over instructions, where the artifacts
# with the answers are still there; a summary holds the means only.
#
# Reads: finished runs, and their artifacts where these exist. As committed: the quickstart's arms, of which one has
# length control (`pairs.length_penalty=0.25`).

# %% tags=["parameters"]
# Folders or patterns from the repository's root, such as "runs/*"; W&B's offline runs: "runs/*/wandb/offline-run-*";
# W&B itself: "wandb:entity/project", or "wandb:entity/project/quickstart-*" for the runs with such ids.
RUNS = ["experiments/paper_claims/kept/*"]
OVER = "seed"  # runs that differ in this setting only are averaged; None: every run by itself

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from tpo.results.figures import draw_lengths, show, with_length_intervals
from tpo.results.read import read_folders
from tpo.results.table import average_runs, label_runs

# %%
runs = read_folders(RUNS).runs
if runs and OVER:
    show(draw_lengths(average_runs(runs, over=OVER)))
elif runs:
    show(draw_lengths({label: with_length_intervals(run) for label, run in label_runs(runs).items()}))
else:
    print(f"No finished run in {RUNS}: `make quickstart` makes one.")
