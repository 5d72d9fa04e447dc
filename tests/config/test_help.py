"""`python -m tpo.run --help`."""

import subprocess
import sys
from pathlib import Path

from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tpo.run", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_help_lists_the_groups_and_shows_the_composed_config() -> None:
    overrides = ("experiment=quickstart", "seed=7")
    helped, composed = run_cli(*overrides, "--help"), run_cli(*overrides, "--cfg", "job")
    assert helped.returncode == composed.returncode == 0, helped.stderr
    head, config = helped.stdout.split("== Config ==\n")
    assert OmegaConf.create(config) == OmegaConf.create(composed.stdout)
    lines = dict(line.split(": ", 1) for line in head.split("==\n")[1].strip().splitlines())
    folders = {path.parent.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*/*.yaml")}
    assert lines.keys() == folders
    assert lines["thought"] == "generic, none, specific"
    assert "schema" not in helped.stdout


def test_overrides_that_do_not_compose_are_one_line_of_error() -> None:
    done = run_cli("experimen=quickstart", "-h")
    assert done.returncode == 1
    assert "Could not override 'experimen'" in done.stderr
    assert "Traceback" not in done.stderr
