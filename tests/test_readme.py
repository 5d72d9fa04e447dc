"""Every command that is printed anywhere composes, and the README's tree is the repository's."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from plugins import marks

from tpo.config.schema import register

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()
register()


def documented_commands() -> list[str]:
    texts = [README]
    texts += [path.read_text() for path in sorted((REPOSITORY / "conf").rglob("*.yaml"))]
    texts += [path.read_text() for path in sorted((REPOSITORY / "experiments").rglob("*.md"))]
    found = [
        match.group(1).split(" #")[0].split("  ")[0].strip()
        for text in texts
        for match in re.finditer(r"python -m tpo\.((?:run|plan|agreement|evaluate) [^`\n]+)", text)
    ]
    return sorted({command.replace("<Hub name or directory>", "some/model") for command in found})


def first_job(command: str) -> list[str]:
    """The overrides of a command's first job, without flags."""
    words = shlex.split(command)
    overrides = [word for word in words if not word.startswith("-") and "=" in word]
    return [re.sub(r",.*", "", word) if "-m" in words else word for word in overrides]


def test_commands_are_found() -> None:
    commands = documented_commands()
    assert len(commands) >= 12
    assert any("-m" in shlex.split(command) for command in commands)


@pytest.mark.parametrize(
    "command", [pytest.param(command, marks=marks(first_job(command))) for command in documented_commands()]
)
def test_documented_command_composes(command: str) -> None:
    entry = {"run": "config", "plan": "config"}.get(command.split()[0], command.split()[0])
    with initialize_config_dir(config_dir=str(REPOSITORY / "conf"), version_base="1.3"):
        composed = compose(entry, overrides=first_job(command))
    assert composed.seed == (1 if "seed=1" in command else 0)


def test_presets_name_their_command() -> None:
    for path in (REPOSITORY / "conf" / "experiment").glob("*.yaml"):
        assert f"experiment={path.stem}" in path.read_text(), f"{path.name} does not say how to run it"


def test_make_targets_in_the_readme_exist() -> None:
    listed = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    targets = {line.split()[0] for line in listed.splitlines()}
    named = {word for match in re.finditer(r"make ((?:[a-z-]+ ?)+)(?=`|  )", README) for word in match.group(1).split()}
    assert {"quickstart", "test", "setup", "resolve"} <= named <= targets


def test_tree_names_every_module() -> None:
    tree = README.split("## Layout")[1].split("```")[1]
    for path in (REPOSITORY / "tpo").iterdir():
        if path.name.startswith("__"):
            continue
        name = f"tpo/{path.name}" + ("/" if path.is_dir() else "")
        assert name in tree, f"{name} is missing in the README's layout"
    for name in re.findall(r"(?:tpo|conf|tests|experiments)/[\w/.]*", tree):
        assert (REPOSITORY / name).exists(), f"{name} in the README's layout does not exist"
