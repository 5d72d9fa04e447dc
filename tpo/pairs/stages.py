"""The stage "pairs" and its request: everything that pairs depend on."""

from tpo.config.fields import identity
from tpo.config.groups import PairsConfig
from tpo.store.artifacts import Artifact
from tpo.store.stage import Stage
from tpo.store.store import Store

PAIRS = Stage("pairs", version=3, work="tpo.pairs.build:work")


def make_pairs(store: Store, completions: Artifact, scores: Artifact, *, settings: PairsConfig) -> Artifact:
    """Return the pairs of all instructions that were sampled from."""
    inputs = {"completions": completions, "scores": scores}
    sampled = completions.budget
    budget = None if sampled is None else sampled._replace(tokens=0)
    return store.request(PAIRS, identity(settings), inputs, budget=budget)
