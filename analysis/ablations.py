# %% [markdown]
# # Which setting matters?
#
# One table of all finished runs: the settings in which they differ are its columns, found from the runs' configs,
# beside what changed since the untrained policy, the last iteration's rates with intervals, n and lengths. Win rates of
# runs with different judges or baselines do not compare; these have a column where they differ.
#
# `python -m tpo.results` prints the same table and writes it as CSV, Markdown and LaTeX.
#
# Reads: folders of finished runs. Narrow `RUNS` to one sweep, so that only what it sweeps becomes a column.

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from IPython.display import Markdown, display

from tpo.results.read import read_folders
from tpo.results.table import results_table, to_latex, to_markdown

# %% tags=["parameters"]
RUNS = ["runs/*"]  # glob patterns from the repository's root; TPO_RUNS_DIR takes the place of runs/
ITERATION = "last"  # of each run, its last one; "all", or a number
OVER = None  # a setting such as "seed": runs that differ in it only are averaged
AGAINST = None  # a run's folder or "key=value" such as "thought=none": what the others are compared with

# %%
runs = read_folders(RUNS).runs
if runs:
    # Its `frame` is a pandas DataFrame of numbers, rates as fractions, `notes` say how to read it.
    table = results_table(runs, iteration=ITERATION, over=OVER, against=AGAINST)
    display(Markdown(to_markdown(table)))
else:
    print(f"No finished run in {RUNS}: `make quickstart` makes one.")

# %% [markdown]
# For a paper (the package booktabs):

# %%
if runs:
    print(to_latex(table))
