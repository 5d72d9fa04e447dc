# %% [markdown]
# # How good are the judges?
#
# How often each judge prefers what the labels prefer: overall, where the two responses are about equally long, and
# where the preferred one is the shorter. A judge of length is right in the second as often as a coin and never in the
# third.
#
# Reads: folders of `python -m tpo.evaluate.agreement`, one for each file of labelled preferences; W&B has none.
# As committed: pairs of the quickstart, where a program says which response does what is asked
# (`experiments/evaluations`). `experiments/judges.md` has the same judges on AlpacaEval's annotations.

# %% tags=["parameters"]
AGREEMENTS = ["experiments/*/agreement-*"]  # folders or patterns from the repository's root, such as "runs/agreement-*"

# %%
import sys

sys.path.extend([".", ".."])  # the repository, whether Jupyter was started in it or here

from IPython.display import Markdown, display

from tpo.evaluate.agreement.statistics import agreement_markdown
from tpo.results.figures import draw_agreement, show
from tpo.results.read import read_folders

# %%
measured = read_folders(AGREEMENTS).judges
for found in measured:
    print(f"{found.path.name}: {found.judges[0]['data']}")
    show(draw_agreement(found.judges))
    display(Markdown(agreement_markdown(found.judges)))
if not measured:
    print(f"No measured judges in {AGREEMENTS}: `python -m tpo.evaluate.agreement judge=length data=...` measures one.")
