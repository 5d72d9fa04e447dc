import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_workers import is_alive
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from test_locks import wait_until

from tpo.config.fields import ConfigError
from tpo.config.schema import register
from tpo.config.sweep import SweepJob, refuse_secrets, summary

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
    is_mended = Path("mended").exists()
    if config.x in config.kill and not is_mended:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.x in config.fail and not is_mended:
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
def test_failed_jobs_stop_no_other_and_the_sweep_says_which_and_why(launcher: list[str], tmp_path: Path) -> None:
    command = ["-m", *launcher, "x=1,2,3,4", "y=5"]
    status, said, done = app(tmp_path, *command, "fail=[2,3]")
    assert status == 1
    assert done == ["done-1-5", "done-4-5"]
    report = said[said.index("sweep of 4 jobs") :]
    assert report.startswith("sweep of 4 jobs: 2 completed\n")
    assert "#1 failed: x=2 y=5" in report and "OddError: no 2 today" in report
    assert "#2 failed: x=3 y=5" in report and "OddError: no 3 today" in report
    assert "#0" not in report and "#3" not in report
    status, said, done = app(tmp_path, *command, "fail=[]")
    assert status == 0
    assert done == ["done-1-5", "done-2-5", "done-3-5", "done-4-5"]
    assert said.rstrip().endswith("sweep of 4 jobs: 4 completed")


def test_what_a_killed_sweep_left_does_not_count_for_the_next(tmp_path: Path) -> None:
    # SIGKILL leaves no chance to report, nor to clean up.
    command = ("-m", "x=1,2,3", "fail=[1]", "kill=[2]")
    status, said, done = app(tmp_path, *command)
    assert status == -9 and "sweep of" not in said and done == []
    [left] = (tmp_path / "out").glob("sweep-*/ends-*")
    assert (left / "0.json").is_file()
    held = left.with_name("ends-held")  # of a start of the same sweep that still goes on
    held.mkdir()
    lock = os.open(held / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (tmp_path / "mended").touch()
    status, said, _ = app(tmp_path, *command)
    assert status == 0 and "sweep of 3 jobs: 3 completed" in said
    os.close(lock)
    assert [*left.parent.glob("ends-*"), *left.parent.glob("new-*")] == [held]


@pytest.mark.launchers
def test_lost_job_is_reported(tmp_path: Path) -> None:
    status, said, done = app(tmp_path, "-m", "hydra/launcher=submitit_local", "x=1,2,3", "kill=[2]")
    assert status != 0 and done == ["done-1-0", "done-3-0"]
    report = said[said.index("sweep of 3 jobs") :]
    assert "sweep of 3 jobs: 2 completed\n" in report and "#1 did not end (killed, or never started): x=2 " in report


def test_each_sweep_has_a_folder_with_the_logs_of_its_jobs(tmp_path: Path) -> None:
    folder = tmp_path / "it's [a=b], \\"
    folder.mkdir()
    found: dict[str, set[str]] = {}
    for x in ("1,2", "3,4", "1,2"):
        status, said, _ = app(folder, "-m", f"x={x}", "fail=[2]")
        assert status == (x == "1,2")
        for path in (folder / "out").glob("sweep-*"):
            found.setdefault(path.name, set()).add(x)
    names = {"job-0/app.log", "job-1/app.log", "multirun.yaml"}
    assert len(found) == 2, "the same sweep has the same folder"
    for name in found:
        root = folder / "out" / name
        assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == names
    assert {path.name for path in (folder / "out").iterdir()} == set(found), "what sweeps would share"
    failed = [path for path in (folder / "out").glob("*/job-1/app.log") if "job 1 failed" in path.read_text()]
    assert len(failed) == 1 and f"log in {failed[0].parent}" in said


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


def test_summary_tells_failed_jobs_from_those_that_left_no_word() -> None:
    jobs = [
        SweepJob(0, ["x=1"], ""),
        SweepJob(1, ["x=2", "a=b c"], "OSError: disk\nfull", "/out/job-1"),
        SweepJob(2, ["x=3"]),
    ]
    assert summary(jobs) == (
        "sweep of 3 jobs: 1 completed\n"
        "  #1 failed: x=2 a=b c\n"
        "     OSError: disk\n"
        "     full\n"
        "     log in /out/job-1\n"
        "  #2 did not end (killed, or never started): x=3\n"
        "the same command again reuses all stages that are finished"
    )
    assert summary(jobs[:1]) == "sweep of 1 job: 1 completed"


WORKER = """
import multiprocessing, os, time
from types import SimpleNamespace
from pathlib import Path

def work():
    command = os.getppid()
    Path("begun").write_text(str(os.getpid()))
    while os.getppid() == command:
        time.sleep(0.01)
    try:
        from tpo.config.sweep import SweepReport
        SweepReport().on_job_start(None)
        time.sleep(60)
    finally:  # not after a signal
        Path("ended").touch()

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work, name="LokyProcess-1").start()
    time.sleep(60)
"""


def test_a_worker_whose_command_was_killed_before_its_first_job_ends(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "worker.py"], cwd=tmp_path, env=environment) as command:
        wait_until(lambda: (tmp_path / "begun").exists())
        command.kill()
    pid = int((tmp_path / "begun").read_text())
    wait_until(lambda: not is_alive(pid), timeout_s=30)
    assert not (tmp_path / "ended").exists()
