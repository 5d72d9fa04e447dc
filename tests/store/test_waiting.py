"""OpenMP's threads sleep while they wait, in every process that imports the package before torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import tpo.store.errors
import os, subprocess, sys
print(os.environ["OMP_WAIT_POLICY"], flush=True)
subprocess.run([sys.executable, "-c", "import os; print(os.environ['OMP_WAIT_POLICY'])"], check=True)
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(("own", "policy"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_waits_sleep_unless_the_user_says_otherwise(own: dict[str, str], policy: str) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "OMP_WAIT_POLICY"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, env={**environment, **own}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [policy, policy]
