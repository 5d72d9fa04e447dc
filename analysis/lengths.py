# %% [markdown]
# # Do thoughts and responses grow over iterations?
#
# A judge that likes length teaches length, so a win rate is to be read beside the lengths. Means over answers that hold
# a response. Intervals are Student's t over instructions, where the artifacts with the answers are still there; a
# summary holds the means only.
#
# Reads: folders of finished runs, and their artifacts where these exist.

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from tpo.results.figures import draw_lengths, show, with_length_intervals
from tpo.results.read import read_folders
from tpo.results.table import label_runs

# %% tags=["parameters"]
RUNS = ["runs/*"]  # glob patterns from the repository's root; TPO_RUNS_DIR takes the place of runs/

# %%
runs = label_runs(read_folders(RUNS).runs)
if runs:
    show(draw_lengths({label: with_length_intervals(run) for label, run in runs.items()}))
else:
    print(f"No finished run in {RUNS}: `make quickstart` makes one.")
