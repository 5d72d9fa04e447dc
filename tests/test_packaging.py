"""The package as it is installed: nothing of tpo/ is left out, and it works from any folder."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parent.parent


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    listed = run("git", "ls-files", "pyproject.toml", "README.md", "LICENSE", "tpo", cwd=REPOSITORY).split()
    for name in listed:  # a copy, so that the build leaves nothing in the repository
        copy = tmp_path / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((REPOSITORY / name).read_bytes())
    build = ["pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", "."]
    run(sys.executable, "-m", *build, "./source", cwd=tmp_path)
    [wheel] = tmp_path.glob("tpo-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    code = {name for name in listed if name.startswith("tpo/") and not name.endswith(".md")}
    assert len(code) > 100
    assert code <= packed
    assert not [name for name in packed - code if not name.startswith("tpo-")]
    assert [name for name in packed if name.endswith("licenses/LICENSE")]


def test_installation_forces_no_dependency() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert "dependencies" not in project and "dynamic" not in project


def test_run_from_another_folder_finds_the_configuration(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tpo.run", "experiment=quickstart", "--cfg", "job"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["prompts"]["num_train"] == 160
    assert not list(tmp_path.iterdir())


def pins(*names: str) -> dict[str, str]:
    """Versions that are asked for, by the package."""
    lines = [line for name in names for line in (REPOSITORY / name).read_text().splitlines()]
    found = [re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==([^\s;\\]+)", line) for line in lines]
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


def test_lock_has_each_requirement_with_its_version_and_hashes() -> None:
    text = (REPOSITORY / "requirements-cpu.lock").read_text()
    locked, plain = pins("requirements-cpu.lock"), (REPOSITORY / "requirements-cpu.txt").read_text().splitlines()
    wanted = {name: pins("requirements.txt")[name] for name in plain if name and name[0] not in "#-"}
    wanted |= pins("requirements-dev.txt", "requirements-embedded.txt")
    assert len(wanted) > 40 and {name: locked.get(name) for name in wanted} == wanted, "make lock"
    blocks = re.split(r"\n(?=[a-zA-Z0-9])", text)[1:]
    assert len(blocks) >= len(locked) > 150  # a package may have a version for each Python
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert "://" not in text and "index-url" not in text, "any index has these files"


def test_locked_setup_installs_by_hash_and_the_usual_one_by_version() -> None:
    recipe = run("make", "--dry-run", "--always-make", "setup-locked", "VENV=.venv", cwd=REPOSITORY)
    assert ".venv/bin/pip install --quiet --no-deps --require-hashes -r requirements-cpu.lock\n" in recipe
    assert "requirements-dev.txt" not in recipe
    recipe = run("make", "--dry-run", "--always-make", "setup", "REQUIREMENTS=requirements-cpu.txt", cwd=REPOSITORY)
    assert "-r requirements-cpu.txt -r requirements-dev.txt" in recipe and "--require-hashes" not in recipe


def test_hooks_are_the_commands_of_make_lint() -> None:
    recipe = run("make", "--dry-run", "--always-make", "lint", "VENV=.venv", cwd=REPOSITORY).splitlines()
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    linted = [line for line in recipe if line.startswith(".venv/bin/") and not line.startswith(".venv/bin/pip ")]
    assert [hook["entry"] for hook in hooks] == linted


def test_workflow_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())
    [job] = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == [".ci/run"]
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)


def test_citation_names_the_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    [paper] = citation["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2410.10630"
