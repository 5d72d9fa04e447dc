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
    "tpo.store.errors",
    "tpo.store.records",
    "tpo.store.seeds",
    "tpo.sample.thought",
    "tpo.sample.prompts",
    "tpo.pairs",
    "tpo.pairs.build",
    "tpo.pairs.length",
    "tpo.pairs.rule",
    "tpo.pairs.stages",
    "tpo.pairs.rules.best_worst",
    "tpo.pairs.rules.mean_minus_2sd",
    "tpo.judge.select",
    "tpo.evaluate.agreement.labelled",
    "tpo.judge.rating",
    "tpo.results.stats",
    "tpo.judge.verdicts",
]
NEEDS_TORCH = {
    "tpo.train.dpo",
    "tpo.sample.engines.torch.nucleus",
    "tpo.sample.engines.torch.cache",
    "tpo.sample.engines.torch.prefill",
    "tpo.sample.engines.torch.prompts",
    "tpo.sample.engines.torch.rows",
    "tpo.sample.engines.torch.engine",
    "tpo.train.callbacks",
    "tpo.train.checkpoints",
    "tpo.judge.judges.armorm.network",
    "tpo.model.logits",
    "tpo.model.lora",
    "tpo.train.optimizer",
    "tpo.model.frozen",
    "tpo.model.onednn",
    "tpo.model.packed",
    "tpo.model.probe",
    "tpo.train.pair_trees",
    "tpo.train.reference",
    "tpo.model.states",
    "tpo.train.trainer",
    "tpo.model.trees",
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
    assert len(MODULES) > 25 and {*PURE, "tpo.results.winrate", "tpo.evaluate.length_control", *NEEDS_TORCH} <= set(
        MODULES
    )


@pytest.mark.parametrize("module", [*PURE, "tpo.results.winrate", "tpo.evaluate.length_control"])
def test_pure_modules_import_nothing_heavy(module: str) -> None:
    assert heavy_imports(module) == set()


@pytest.mark.parametrize("module", sorted({*MODULES} - NEEDS_TORCH - {*PURE}))
def test_other_modules_import_where_the_heavy_packages_are_absent(module: str) -> None:
    absent = tuple(name for name in HEAVY if name != "hydra")
    assert heavy_imports(module, absent=absent) <= {"hydra"}


def test_stages_need_no_hydra() -> None:
    assert "hydra" not in heavy_imports("tpo.store.execute", absent=("hydra", "omegaconf"))
