import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent
HEAVY = (
    *("torch", "transformers", "trl", "peft", "vllm", "wandb", "hydra", "datasets", "bitsandbytes", "matplotlib"),
    "scipy",
)
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
    "tpo.train.rehearsal",
    "tpo.sample.engines.torch.live",
    "tpo.model.targets",
    "tpo.train.dpo",
    "tpo.sample.engines.torch.nucleus",
    "tpo.sample.engines.torch.cache",
    "tpo.sample.engines.torch.prefill",
    "tpo.sample.engines.torch.prompts",
    "tpo.sample.engines.torch.rows",
    "tpo.sample.engines.torch.engine",
    "tpo.train.callbacks",
    "tpo.train.micro_batches",
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

# Imports each module in a fork of its own, with the named packages absent; prints which heavy packages came along, or
# the traceback. The light packages that all modules need are imported once, before the forks.
SCRIPT = """
import gc, importlib, json, os, sys, traceback

modules, absent, light, heavy = json.loads(sys.argv[1])
for name in light:
    importlib.import_module(name)

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent)
gc.disable()
gc.freeze()
found = {}
for module in modules:
    ours, theirs = os.pipe()
    if os.fork() == 0:
        try:
            importlib.import_module(module)
            result = [name for name in heavy if name in sys.modules]
        except BaseException:
            result = traceback.format_exc()
        os.write(theirs, json.dumps(result).encode()[:60_000])
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as stream:
        found[module] = json.loads(stream.read())
    os.wait()
print(json.dumps(found))
"""
LIGHT = ("numpy", "omegaconf", "msgspec", "importlib.metadata", "asyncio", "concurrent.futures")


@functools.cache
def heavy_imports(modules: tuple[str, ...], *, absent: tuple[str, ...] = (), light: tuple[str, ...] = LIGHT) -> Any:
    """By module: the heavy packages that it imports, or a traceback."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([modules, absent, light, HEAVY])],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_lists_name_modules_that_exist() -> None:
    assert len(MODULES) > 25 and {*PURE, "tpo.results.winrate", "tpo.evaluate.length_control", *NEEDS_TORCH} <= set(
        MODULES
    )


LIGHTEST = (*PURE, "tpo.results.winrate", "tpo.evaluate.length_control")
OTHERS = tuple(sorted({*MODULES} - NEEDS_TORCH - {*PURE}))


@pytest.mark.parametrize("module", LIGHTEST)
def test_pure_modules_import_nothing_heavy(module: str) -> None:
    assert heavy_imports(LIGHTEST)[module] == []


@pytest.mark.parametrize("module", OTHERS)
def test_other_modules_import_where_the_heavy_packages_are_absent(module: str) -> None:
    absent = tuple(name for name in HEAVY if name != "hydra")
    assert heavy_imports(OTHERS, absent=absent, light=(*LIGHT, "hydra"))[module] in ([], ["hydra"])


def test_stages_need_no_hydra() -> None:
    found = heavy_imports(("tpo.store.execute",), absent=("hydra", "omegaconf"), light=())
    assert "hydra" not in found["tpo.store.execute"] and isinstance(found["tpo.store.execute"], list)


def test_a_heavy_import_and_a_failing_one_are_seen() -> None:
    found = heavy_imports(("wandb", "tpo.no_such_module"), absent=("torch",))
    assert "wandb" in found["wandb"] and "ModuleNotFoundError" in found["tpo.no_such_module"]
