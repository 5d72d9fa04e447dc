# %% [markdown]
# # Which setting matters?
#
# One table of all finished runs: the settings in which they differ are its columns, found from the runs' configs,
# beside the last iteration's win rate with its interval, n and lengths. Win rates of runs with different judges or
# baselines do not compare; these have a column where they differ.
#
# Reads: folders of finished runs. Narrow `RUNS` to one sweep, so that only what it sweeps becomes a column.

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from IPython.display import Markdown, display

from tpo.figures import Run, ablation_table, find, to_latex, to_markdown

# %% tags=["parameters"]
RUNS = ["runs/*"]  # glob patterns from the repository's root; TPO_RUNS_DIR takes the place of runs/
ITERATION = None  # which iteration is compared; None: the last one of each run

# %%
runs = find(RUNS, Run)
table = ablation_table(runs, iteration=ITERATION)  # a pandas DataFrame: numbers, fractions, one row for each run
if len(table):
    display(Markdown(to_markdown(table)))
else:
    print(f"No finished run in {RUNS}: `make quickstart` makes one.")

# %% [markdown]
# For a paper (the package booktabs):

# %%
if len(table):
    print(to_latex(table))
