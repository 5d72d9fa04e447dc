# %% [markdown]
# # Which setting matters?
#
# One figure and one table of all finished runs: the settings in which they differ are its columns, found from the runs'
# configs, beside what changed since the untrained policy, the last iteration's rates with intervals, n and lengths. Win
# rates of runs with different judges or baselines do not compare; these have a column where they differ.
#
# `python -m tpo.results` prints the same table and writes it as CSV, Markdown and LaTeX.
#
# Reads: finished runs. Narrow `RUNS` to one sweep, so that only what it sweeps becomes a column. As committed: the
# quickstart's arms, each compared with the one that has thoughts and nothing else changed.

# %% tags=["parameters"]
# Folders or patterns from the repository's root, such as "runs/*"; W&B's offline runs: "runs/*/wandb/offline-run-*";
# W&B itself: "wandb:entity/project", or "wandb:entity/project/quickstart-*" for the runs with such ids.
RUNS = ["experiments/paper_claims/kept/*"]
OVER = "seed"  # runs that differ in this setting only are averaged; None: every run by itself
ITERATION = "last"  # of each run, its last one; "all", or a number
# What the others are compared with: a run's folder, of averaged runs any one's, or "key=value" such as "thought=none".
# None: nothing.
AGAINST = "experiments/paper_claims/kept/quickstart-39810693e7e8"

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from IPython.display import Markdown, display

from tpo.results.figures import draw_changes, show
from tpo.results.read import read_folders
from tpo.results.table import results_table, summaries_by_label, to_latex, to_markdown

# %%
runs = read_folders(RUNS).runs
if runs:
    show(draw_changes(summaries_by_label(runs, over=OVER)))
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
