# %% [markdown]
# # How does the win rate move over iterations, and is it the thoughts?
#
# Win rates with intervals, as they are and controlled for length, of every finished run: TPO, and the direct baseline
# (`thought=none`), which is trained in the same way without thoughts.
#
# Reads: folders of finished runs.

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from tpo.results.figures import draw_iterations, show
from tpo.results.read import read_folders
from tpo.results.table import label_runs

# %% tags=["parameters"]
RUNS = ["runs/*"]  # glob patterns from the repository's root; TPO_RUNS_DIR takes the place of runs/

# %%
runs = label_runs(read_folders(RUNS).runs)
if runs:
    show(draw_iterations({label: run.summary for label, run in runs.items()}))
else:
    print(f"No finished run in {RUNS}: `make quickstart` makes one.")
