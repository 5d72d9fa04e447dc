# %% [markdown]
# # Do thoughts and responses grow over iterations?
#
# A judge that likes length teaches length, so a win rate is to be read beside the lengths. Means over answers that hold
# a response. Intervals are Student's t over instructions, where the artifacts with the answers are still there; a
# summary and a W&B export hold the means only.
#
# Reads: folders of finished runs, their artifacts where these exist, and CSV files exported from W&B (see
# `iterations.py`) of `eval/mean_thought_tokens` and `eval/mean_response_tokens`.

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from tpo.results.figures import draw_lengths, find_exports, read_exports, show
from tpo.results.table import Run, find, label_runs, with_length_intervals

# %% tags=["parameters"]
RUNS = ["runs/*"]  # glob patterns from the repository's root; TPO_RUNS_DIR takes the place of runs/
EXPORTS = ["runs/*.csv", "runs/wandb_exports/*.csv"]

# %%
runs = label_runs(find(RUNS, Run))
if runs:
    show(draw_lengths({label: with_length_intervals(run) for label, run in runs.items()}))
else:
    print(f"No finished run in {RUNS}: `make quickstart` makes one.")

# %%
exported = read_exports(find_exports(EXPORTS))
if exported:
    show(draw_lengths(exported))
else:
    print(f"No W&B export in {EXPORTS}.")
