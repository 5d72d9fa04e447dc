"""What the commands say of themselves: `--help` of each, and the experiments that there are."""

from pathlib import Path

import pytest
from commands import run_command
from omegaconf import OmegaConf

from tpo.config.compose import CONF
from tpo.config.help import experiments_text, meant
from tpo.config.schema import Config

OWN_FILES = {  # a group of each command, and a file of one's own for it
    **dict.fromkeys(("tpo.run", "tpo.evaluate", "tpo.evaluate.agreement", "tpo.plan"), ("judge", {"kind": "length"})),
    **dict.fromkeys(("tpo.chat", "tpo.serve"), ("engine", {"kind": "torch", "max_sequences": 4})),
}
ENTRIES = tuple(OWN_FILES)


def sections(text: str) -> dict[str, str]:
    """The parts of a help text by their title; that before the first is called about."""
    about, *others = text.split("\n== ")
    return {"about": about, **dict(part.split(" ==\n", 1) for part in others)}


def test_help_lists_the_groups_and_shows_the_composed_config(tmp_path: Path) -> None:
    overrides = ("experiment=smoke", "seed=7")
    helped = run_command("tpo.run", *overrides, "--help", cwd=tmp_path)
    composed = run_command("tpo.run", *overrides, "--cfg", "job", cwd=tmp_path)
    assert helped.returncode == composed.returncode == 0, helped.stderr
    parts = sections(helped.stdout)
    assert OmegaConf.create(parts["Config"]) == OmegaConf.create(composed.stdout)
    lines = dict(line.split(": ", 1) for line in parts["Groups (choose with group=option)"].strip().splitlines())
    folders = {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*/*.yaml")}
    assert lines.keys() == folders
    assert lines["thought"] == "custom, generic, no_think, none, prefilled, specific, stripped, think"
    assert "schema" not in helped.stdout


@pytest.mark.parametrize("module", ENTRIES)
def test_help_of_every_command_has_examples_and_finds_files_of_one_s_own(module: str, tmp_path: Path) -> None:
    group, settings = OWN_FILES[module]
    (tmp_path / "own" / group).mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(settings), tmp_path / "own" / group / "mine.yaml")
    done = run_command(module, "--config-dir", "own", f"{group}=mine", "-h", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parts = sections(done.stdout)
    assert parts["about"].count(f"\npython -m {module} ") >= 3
    assert "--config-dir" in parts["Options"]
    listed = parts["Groups (choose with group=option)"].splitlines()
    [options] = [line for line in listed if line.startswith(f"{group}:")]
    assert "mine" in options.removeprefix(f"{group}: ").split(", ")
    assert OmegaConf.create(parts["Config"])[group] == settings
    assert list(tmp_path.iterdir()) == [tmp_path / "own"], "nothing is started"


@pytest.mark.parametrize("module", ENTRIES)
def test_help_of_what_does_not_compose_is_one_line_of_error(module: str, tmp_path: Path) -> None:
    done = run_command(module, "modle=nothing", "-h", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: modle: there is no such key") and done.stderr.count("\n") == 1


def test_without_arguments_the_experiments_are_listed_and_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    mine = "# @package _global_\n# Does mine\n# work? It may.\nseed: 1\n"
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(mine)
    done = run_command("tpo.run", "--config-dir", "own", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  "))
    assert lines.keys() - {"python"} == {"mine", *(path.stem for path in (CONF / "experiment").glob("*.yaml"))}
    assert lines["mine"] == "Does mine work?"
    assert lines["quickstart"] == "Does the whole loop run, and does it work?"
    assert "python -m tpo.run experiment=quickstart" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_every_experiment_says_what_it_asks() -> None:
    lines = [line.split(maxsplit=1) for line in experiments_text().splitlines() if line.startswith("  ")]
    assert len(lines) > 10
    assert all(len(words) == 2 and words[1].endswith((".", "?")) for words in lines if words[0] != "python")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("sample.num_sample=8", "sample.num_samples"),
        ("num_iteration=3", "num_iterations"),
        ("judge.batch_token=1", "judge.batch_tokens"),
        ("judge.server.base_ulr=x", "judge.server.base_url"),
        ("thougt=none", "thought"),
        ("experimen=smoke", "experiment"),
        ("~sed", "seed"),
    ],
)
def test_the_key_that_is_meant_is_named(override: str, key: str) -> None:
    [sentence] = meant(Config, [override, "seed=1", "judge=mine", "hydra.job.num=1"])
    assert sentence.endswith(f"; did you mean {key}?")


def test_nothing_is_guessed_where_nothing_is_near() -> None:
    assert meant(Config, ["xyzzy=1", "sample.qwertz=2"]) == []
