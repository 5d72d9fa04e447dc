import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import given
from hypothesis import strategies as st

from tpo.config.fields import ConfigError
from tpo.config.schema import register
from tpo.config.sweep import Job, grids, refuse_secrets, summary

REPOSITORY = Path(__file__).parents[2]
CONFIG = """
defaults: [_self_]
x: 0
y: 0
fail: []
kill: []
hydra:
  run: {dir: out}
  sweep: {dir: out, subdir: "job-${hydra.job.num}"}
  output_subdir: null
  callbacks: {sweep_report: {_target_: tpo.config.sweep.SweepReport}}
"""
# The exception is one that pickles but cannot be unpickled, as those of HTTP clients are.
APP = """
import os, signal
from pathlib import Path
import hydra

class OddError(Exception):
    def __init__(self, text, *, code):
        super().__init__(text)

@hydra.main(config_path=".", config_name="config", version_base="1.3")
def main(config):
    if config.x in config.kill:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.x in config.fail:
        raise OddError(f"no {config.x} today", code=3)
    Path(f"done-{config.x}-{config.y}").touch()

main()
"""


def app(folder: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit status, standard error and the finished jobs of a run of the little app."""
    (folder / "app.py").write_text(APP)
    (folder / "config.yaml").write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "app.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stderr, sorted(path.name for path in folder.glob("done-*"))


LAUNCHERS = [
    pytest.param([], id="basic"),
    pytest.param(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], id="joblib", marks=pytest.mark.launchers),
    pytest.param(["hydra/launcher=submitit_local"], id="submitit", marks=pytest.mark.launchers),
]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_failed_jobs_stop_no_other_and_their_command_repeats_only_them(launcher: list[str], tmp_path: Path) -> None:
    status, said, done = app(tmp_path, "-m", *launcher, "x=1,2,3,4", "y=5", "fail=[2,3]")
    assert status == 1
    assert done == ["done-1-5", "done-4-5"]
    report = said[said.index("sweep of 4 jobs") :]
    assert report.startswith("sweep of 4 jobs: 2 completed, 2 failed\n")
    assert "#1 failed: x=2 y=5" in report and "OddError: no 2 today" in report and "#2 failed: x=3 y=5" in report
    command = shlex.split(report.splitlines()[-1])
    assert command[:2] == ["python", "app.py"]
    assert command[2:] == ["-m", *launcher, "x=2,3", "y=5", "fail=[2,3]"]
    status, said, done = app(tmp_path, *command[2:-1], "fail=[]")
    assert status == 0
    assert done == ["done-1-5", "done-2-5", "done-3-5", "done-4-5"]
    assert said.rstrip().endswith("sweep of 2 jobs: 2 completed")


def test_records_of_a_killed_sweep_do_not_count_for_the_next(tmp_path: Path) -> None:
    # SIGKILL leaves no chance to report; the records of the killed sweep must not count for the one after it.
    status, said, done = app(tmp_path, "-m", "x=1,2,3", "kill=[2]")
    assert status == -9 and "sweep of" not in said and done == ["done-1-0"]
    [folder] = (tmp_path / "out").glob("sweep-*/jobs")
    assert {path.name for path in folder.iterdir()} == {"0.json", "1.json"}
    status, said, _ = app(tmp_path, "-m", "x=1,2,3", "kill=[]")
    assert status == 0 and "sweep of 3 jobs: 3 completed" in said


@pytest.mark.launchers
def test_lost_job_is_reported(tmp_path: Path) -> None:
    status, said, done = app(tmp_path, "-m", "hydra/launcher=submitit_local", "x=1,2,3", "kill=[2]")
    assert status != 0 and done == ["done-1-0", "done-3-0"]
    report = said[said.index("sweep of 3 jobs") :]
    assert "2 completed, 1 did not end" in report and "#1 did not end" in report
    assert report.rstrip().endswith("-m hydra/launcher=submitit_local x=2 'kill=[2]'")


def test_each_sweep_has_a_folder_with_the_logs_of_its_jobs(tmp_path: Path) -> None:
    folder = tmp_path / "it's [a=b], \\"
    folder.mkdir()
    found: dict[str, set[str]] = {}
    for x in ("1,2", "3,4", "1,2"):
        status, said, _ = app(folder, "-m", f"x={x}", "fail=[2]")
        assert status == (x == "1,2")
        for path in (folder / "out").glob("sweep-*"):
            found.setdefault(path.name, set()).add(x)
    names = {"job-0/app.log", "job-1/app.log", "jobs/0.json", "jobs/1.json", "multirun.yaml", ".lock"}
    assert len(found) == 2, "the same sweep has the same folder"
    for name in found:
        root = folder / "out" / name
        assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == names
    assert {path.name for path in (folder / "out").iterdir()} == set(found), "what sweeps would share"
    record = json.loads((next(iter((folder / "out").glob("*/job-1/*.log"))).parents[1] / "jobs" / "1.json").read_text())
    assert Path(record["output_dir"]).name == "job-1" and Path(record["output_dir"]).parents[1] == folder / "out"
    failed = [path for path in (folder / "out").glob("*/job-1/app.log") if "job 1 failed" in path.read_text()]
    assert len(failed) == 1 and f"log in {failed[0].parent}" in said
    assert "hydra.sweep" not in said, "the folder is not among the overrides of the command"


ADDRESS = "https://me:planted-1234@example.org/v1"


@pytest.mark.parametrize(
    "override",
    [
        pytest.param(f"+url={ADDRESS}", id="fixed"),
        pytest.param(f"+url=http://h/v1,{ADDRESS}", id="swept"),
        pytest.param(f"+url=choice(http://h/v1,'{ADDRESS}')", id="choice"),
        pytest.param(f"+urls=[http://h/v1,'{ADDRESS}']", id="list"),
        pytest.param(f"+urls=[http://h/v1],['{ADDRESS}']", id="swept_lists"),
        pytest.param(f"+server={{name:x,url:'{ADDRESS}'}}", id="dictionary"),
        pytest.param("+server.api_key_env=planted-1234", id="key_where_its_name_belongs"),
        pytest.param("+name=x,a-planted-1234", id="value_of_a_variable"),
        pytest.param("+hydra.job.env_set.MY_KEY=planted-1234", id="of_hydra"),
    ],
)
def test_secret_among_the_settings_of_a_sweep_is_refused(override: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "planted-1234")
    with pytest.raises(ConfigError, match="(url|server|name|MY_KEY).* hold|api_key_env: expected") as caught:
        refuse(override)
    assert "planted" not in str(caught.value)


def test_secret_that_a_preset_sweeps_is_refused() -> None:
    with pytest.raises(ConfigError, match="url holds a user name"):
        refuse(params={"url": f"http://h/v1,{ADDRESS}"})


def test_settings_without_a_secret_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "planted-1234")
    refuse(
        "+urls=[http://h:80/v1/a@b],[]", "+x.api_key_env='MY_API_KEY'", "+text='mail me@example.org'", "seed=range(3)"
    )
    refuse("thought=glob(*)", "+z=interval(0,1)", params={"seed": "1,2", "sample.temperature": "interval(0, 1)"})


def refuse(*overrides: str, params: dict[str, str] | None = None) -> None:
    register()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        composed = loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)
    composed.hydra.sweeper.params = params
    refuse_secrets(composed, [])


def test_secret_of_a_sweep_is_written_nowhere(tmp_path: Path) -> None:
    status, said, done = app(tmp_path, "-m", "x=1,2", f"+url=http://h/v1,{ADDRESS}")
    assert status == 1 and done == [] and "error: url holds a user name or a password" in said
    assert "planted" not in said and not (tmp_path / "out").exists()


def test_single_run_is_left_alone(tmp_path: Path) -> None:
    status, said, done = app(tmp_path, "x=1")
    assert status == 0 and done == ["done-1-0"] and "sweep" not in said
    status, said, _ = app(tmp_path, "x=1", "fail=[1]")
    assert status == 1 and "OddError: no 1 today" in said and "sweep of" not in said


def jobs_of(sweeps: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """What Hydra makes of sweeps whose values hold no commas: the product of each one's values."""
    spread = [[[f"{key}={value}" for value in values.split(",")] for key, values in map(_split, s)] for s in sweeps]
    return [job for keys in spread for job in product(*keys)]


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key, value


@given(st.sets(st.tuples(st.sampled_from("abc"), st.sampled_from("de"), st.sampled_from("fgh")), min_size=1))
def test_grids_have_exactly_the_jobs(chosen: set[tuple[str, str, str]]) -> None:
    jobs = [(f"x={x}", f"y={y}", f"z={z}") for x, y, z in sorted(chosen)]
    assert sorted(jobs_of(grids(jobs))) == jobs


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        pytest.param([["x=1", "y=2"]], [["x=1", "y=2"]], id="one"),
        pytest.param([["x=1", "y=2"], ["x=3", "y=2"]], [["x=1,3", "y=2"]], id="one_key"),
        pytest.param([["x=1", "y=1"], ["x=2", "y=2"]], [["x=1", "y=1"], ["x=2", "y=2"]], id="diagonal"),
        pytest.param([["x=[1,2]"], ["x=[3]"]], [["x=[1,2],[3]"]], id="lists"),
        pytest.param([["x=a=b"], ["x=c"]], [["x=a=b,c"]], id="equals_sign_in_a_value"),
    ],
)
def test_grids(jobs: list[list[str]], expected: list[list[str]]) -> None:
    assert grids(jobs) == expected


def test_trials_of_a_search_are_repeated_one_by_one() -> None:
    jobs = [Job(0, ["x=0.5"], "completed"), Job(1, ["x=0.25", "a=b c"], "failed", "OSError: disk\nfull", "/out/job-1")]
    assert summary(jobs, program="python -m tpo.run", hydra_overrides=["hydra/sweeper=tpe"], is_grid=False) == (
        "sweep of 2 jobs: 1 completed, 1 failed\n"
        "  #1 failed: x=0.25 a=b c\n"
        "     OSError: disk\n"
        "     full\n"
        "     log in /out/job-1\n"
        "only these again:\n"
        "  python -m tpo.run x=0.25 'a=b c'"
    )
