import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "trl", "peft", "vllm", "wandb", "hydra", "datasets", "bitsandbytes", "matplotlib")
PURE = [
    "tpo",
    "tpo.errors",
    "tpo.records",
    "tpo.seeds",
    "tpo.thought",
    "tpo.prompts",
    "tpo.pairs",
    "tpo.select",
    "tpo.contrast",
    "tpo.labelled",
    "tpo.rating",
    "tpo.stats",
    "tpo.judges.verdicts",
]
NEEDS_TORCH = {
    "tpo.dpo",
    "tpo.engines.nucleus",
    "tpo.engines.rows",
    "tpo.engines.torch_engine",
    "tpo.checkpoints",
    "tpo.judges.armorm",
    "tpo.judges.likelihood",
    "tpo.judges.reward_model",
    "tpo.judges.self_rating",
    "tpo.judges.self_taught",
    "tpo.lora",
    "tpo.norms",
    "tpo.optimizer",
    "tpo.packed",
    "tpo.pair_trees",
    "tpo.reference",
    "tpo.reward_training",
    "tpo.states",
    "tpo.train",
    "tpo.trees",
}
MODULES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    for path in (REPOSITORY / "tpo").rglob("*.py")
)

# Imports one module with the named packages absent and prints which heavy packages came along.
SCRIPT = """
import importlib, json, sys

module, absent, heavy = json.loads(sys.argv[1])

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent)
importlib.import_module(module)
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


@functools.cache
def heavy_imports(module: str, *, absent: tuple[str, ...] = ()) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([module, absent, HEAVY])],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_lists_name_modules_that_exist() -> None:
    assert len(MODULES) > 25 and {*PURE, "tpo.winrate", "tpo.length_control", *NEEDS_TORCH} <= set(MODULES)


@pytest.mark.parametrize("module", [*PURE, "tpo.winrate", "tpo.length_control"])
def test_pure_modules_import_nothing_heavy(module: str) -> None:
    assert heavy_imports(module) == set()


@pytest.mark.parametrize("module", sorted({*MODULES} - NEEDS_TORCH - {*PURE}))
def test_other_modules_import_where_the_heavy_packages_are_absent(module: str) -> None:
    absent = tuple(name for name in HEAVY if name != "hydra")
    assert heavy_imports(module, absent=absent) <= {"hydra"}


def test_stages_need_no_hydra() -> None:
    assert "hydra" not in heavy_imports("tpo.stage", absent=("hydra", "omegaconf"))
