# %% [markdown]
# # What changes over iterations, and is it the thoughts?
#
# First the headline of every finished run, trained minus untrained on the same instructions. Then its rates over
# iterations with intervals: the checked rate where runs have checks, and the win rate. Of TPO, and of the direct
# baseline (`thought=none`), which is trained in the same way without thoughts.
#
# Reads: folders of finished runs.

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from tpo.results.figures import draw_changes, draw_iterations, show
from tpo.results.read import read_folders
from tpo.results.table import label_runs

# %% tags=["parameters"]
RUNS = ["runs/*"]  # glob patterns from the repository's root; TPO_RUNS_DIR takes the place of runs/

# %%
runs = label_runs(read_folders(RUNS).runs)
if runs:
    summaries = {label: run.summary for label, run in runs.items()}
    show(draw_changes(summaries))
    show(draw_iterations(summaries))
else:
    print(f"No finished run in {RUNS}: `make quickstart` makes one.")
