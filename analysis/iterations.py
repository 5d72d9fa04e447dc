# %% [markdown]
# # How does the win rate move over iterations, and is it the thoughts?
#
# Win rates with intervals, as they are and controlled for length, of every finished run: TPO, and the direct baseline
# (`thought=none`), which is trained in the same way without thoughts.
#
# Reads: folders of finished runs, and CSV files exported from W&B. For the latter, put `eval/win_rate`,
# `eval/win_rate_low`, `eval/win_rate_high` and `eval/win_rate_num_prompts` (likewise
# `eval/win_rate_length_controlled...`) on line plots with the x axis `iteration`, and choose "Export CSV". Such a file
# has the column `iteration` and columns such as `quickstart-bdbd3c7e264f - eval/win_rate`.

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from tpo.results.figures import draw_iterations, find_exports, read_exports, show
from tpo.results.table import Run, find, label_runs

# %% tags=["parameters"]
RUNS = ["runs/*"]  # glob patterns from the repository's root; TPO_RUNS_DIR takes the place of runs/
EXPORTS = ["runs/*.csv", "runs/wandb_exports/*.csv"]

# %%
runs = label_runs(find(RUNS, Run))
if runs:
    show(draw_iterations({label: run.summary for label, run in runs.items()}))
else:
    print(f"No finished run in {RUNS}: `make quickstart` makes one.")

# %% [markdown]
# The same from W&B. A chart shows neither judge nor baseline, so the caption cannot name them.

# %%
exported = read_exports(find_exports(EXPORTS))
if exported:
    show(draw_iterations(exported))
else:
    print(f"No W&B export in {EXPORTS}.")
