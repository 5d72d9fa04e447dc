"""What a run says: lines and bars of made-up stages, and the command on a real terminal, interrupted and continued."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.table import Table

from tpo.config.streams import console, say
from tpo.results.terminal import Running, Terminal, stage_text
from tpo.results.text_table import TextTable, print_tables
from tpo.store.progress import State
from tpo.store.stage import Budget, Step
from tpo.store.text import one_line, printable

REPOSITORY = Path(__file__).parents[2]
SAMPLED = Step("sample", 1, {"split": "train-1"}, budget=Budget(1, num_prompts=64, num_samples=8))
MANIFEST = {"seconds": 41.0, "metrics": {"tokens_per_second": 1020.0}}


def test_a_line_a_stage_and_reused_ones_in_one(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal() as terminal:
        terminal.rows({"model": "tiny", "W&B": None})
        for name in ("model", "prompts"):
            terminal.end(Step(name, 1, {}), {}, is_reused=True)
        terminal.enter("iteration 1/2")
        for _ in range(2):  # one that was asked for twice is told once
            terminal.end(Step("model", 1, {}), {}, is_reused=True)
        terminal.begin(SAMPLED)
        terminal.end(SAMPLED, MANIFEST, is_reused=False)
        terminal.end(Step("judge", 1, {}, seed=1), {}, is_reused=True)
        terminal.end(Step("judge", 1, {}, seed=2), {}, is_reused=True)
        elsewhere = Step("pairs", 1, {})
        terminal.begin(elsewhere)
        terminal.end(elsewhere, {"seconds": 1.0, "metrics": {"num_pairs": 1}}, is_reused=True)
    out, err = capsys.readouterr()
    assert out == "", "standard output is for results"
    assert [line.split() for line in err.splitlines()] == [
        ["model", "tiny"],
        ["reused:", "model,", "prompts"],
        ["iteration", "1/2", "-", "sample", "64", "x", "8", "-", "41", "s", "-", "1,020", "tokens/s"],
        ["iteration", "1/2", "-", "reused:", "2", "x", "judge"],
        ["iteration", "1/2", "-", "pairs", "-", "1", "s", "-", "1", "pair", "-", "by", "another", "process"],
    ]


def test_without_a_terminal_a_long_stage_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Terminal() as terminal:
        terminal.begin(SAMPLED)
        for seconds, done in ((0, 112), (59, 150), (60, 212), (90, 300)):
            now[0] = seconds
            terminal.progressed(SAMPLED, State(done, 512, "completion", "", 1020.4))
    # 100 in 60 s of this attempt, so that the other 300 take three times as long.
    assert capsys.readouterr().err == "sample 64 x 8 - 212 of 512 completions, 1,020 tokens/s, 3.0 min left\n"


def test_the_time_left_is_estimated_from_a_tenth_or_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def said(*seen: tuple[float, int]) -> str:
        """The last of what is said of a stage of 520 units, 20 of which were there when it began."""
        running, told = Running("sample", is_quiet=False), ""
        monkeypatch.setattr("tpo.results.terminal.say", lambda text: None)
        for now[0], done in ((0.0, 20), *seen):
            running.show(state := State(done, 520, "completion", ""))
            told = ", ".join(running._speed(now[0], state))
        return told

    assert said((5.0, 21)) == said((29.0, 69)) == "", "one of 500 in 5 s would be 42 min"
    assert said((5.0, 21), (10.0, 70)) == "1.5 min left", "a tenth: 50 in 10 s, 450 are left"
    assert said((30.0, 21)) == "4.2 h left", "half a minute"
    assert said((30.0, 520)) == said((30.0, 20)) == ""


def test_a_job_of_a_sweep_keeps_to_its_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal(is_short=True) as terminal:
        terminal.rows({"model": "tiny"})
        terminal.end(Step("model", 1, {}), {}, is_reused=True)
        terminal.begin(SAMPLED)
        terminal.warned(SAMPLED, "slow")
        terminal.end(SAMPLED, MANIFEST, is_reused=False)
    assert capsys.readouterr().err == "warning: slow\n"


def test_what_a_stage_is_about() -> None:
    assert stage_text(SAMPLED) == "sample 64 x 8"
    for form, said in (({}, " without thoughts"), ({"response_delimiter": "x"}, ""), ({"thinking": "on"}, "")):
        test = Step("sample", 1, {"split": "test", "thought": form}, budget=Budget(1, 400, 4))
        assert stage_text(test) == f"sample test 400 x 4{said}"
    assert stage_text(Step("sample", 1, {"split": "validation", "epoch": 3})) == "sample validation epoch=3"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("[/x] [bold]", "[/x] [bold]"),
        ("maths [hard]", "maths [hard]"),
        ("lone \ud800", "lone \\ud800"),
        ("\u202eright to left", "\\u202eright to left"),
        ("\x9b31m", "\\x9b31m"),
        (":smile: ☕", ":smile: ☕"),
    ],
)
def test_text_of_others_steers_no_terminal(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(text) == shown
    say(text)
    assert capsys.readouterr().err == shown + "\n"
    print_tables(TextTable(text, [text, "n"], [[text, "1"]], [text]))
    table = Table(text, title=text)
    table.add_row(text)
    console("stdout").print(table)
    out = capsys.readouterr().out
    assert out.count(shown) == 7 and not re.search(r"[\x1b\x07\x9b\ud800\u202e]", out)


def test_running_text_keeps_its_spaces_and_joiners_and_names_show_them() -> None:
    text = "prix\u00a0: 3\u202f€\n\tन\u200dम"
    assert printable(text) == text
    assert one_line(text) == "prix\\xa0: 3\\u202f€\\x0a\\x09न\\u200dम"


DIVERTED = """
import logging, os, subprocess, sys
from pathlib import Path
from tpo.config.streams import ToUser, diverted, say, stream
logging.getLogger().addHandler(ToUser())
with diverted(Path(sys.argv[1])):
    print("printed")
    os.write(2, b"written\\n")
    subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
    logging.getLogger("transformers").warning("noise")
    logging.getLogger("tpo.x").warning("of ours")
    say("said")
    print("result", file=stream("stdout"))
print("afterwards")
"""


def test_what_libraries_write_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    done = subprocess.run(
        [sys.executable, "-c", DIVERTED, str(log)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("result\nafterwards\n", "warning: of ours\nsaid\n")
    assert sorted(log.read_text().splitlines()) == ["of a child", "printed", "written"]


# --- the command, on a terminal ---------------------------------------------------------------------------------


class OnTerminal:
    """The command with fake stages on a terminal of its own, as `script` and tmux make one."""

    def __init__(self, root: Path, *overrides: str, seconds: float) -> None:
        self.shown = ""
        places = [f"artifacts_dir={root}/artifacts", f"runs_dir={root}/runs"]
        given = ["experiment=smoke", "judge=length", "model.quantization=none", *places, *overrides]
        path = ":".join([str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "results")])
        environment = {**os.environ, "PYTHONPATH": path, "FAKE_SECONDS": str(seconds), "TERM": "xterm"}
        self.here, there = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "tests/run_with_fake_stages.py", *given],
            **{"cwd": REPOSITORY, "env": environment, "stdin": there, "stdout": there, "stderr": there},
            start_new_session=True,
        )
        os.close(there)

    def read(self, until: str = "") -> str:
        """Read until a text is shown, or to the end."""
        deadline = time.monotonic() + 400
        while not (until and until in self.shown):
            assert time.monotonic() < deadline, self.shown
            if select.select([self.here], [], [], 1)[0]:
                try:
                    self.shown += os.read(self.here, 65536).decode(errors="replace")
                except OSError:  # Linux says so when nobody has the terminal open
                    break
            elif self.process.poll() is not None:
                break
        assert until in self.shown, self.shown
        return self.shown

    def lines(self) -> list[str]:
        """Return what remains on the screen, without what is drawn over, and wait for the end."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.read().replace("\r\n", "\n"))
        self.process.wait()
        return [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_interrupted_in_sampling_and_in_training_and_continued(tmp_path: Path) -> None:
    first = OnTerminal(tmp_path, seconds=6)
    first.read(until="of 16 completions, ")
    os.killpg(first.process.pid, signal.SIGINT)  # what a terminal does at Ctrl-C
    *_, last = first.lines()
    assert first.process.returncode == 130
    found = re.fullmatch(
        r"interrupted: all finished stages and (\d+) of 16 completions of sample are kept; the same command continues",
        last,
    )
    assert found and int(found[1]) > 0, last
    assert "Traceback" not in first.shown and "fake stages" not in first.shown

    second = OnTerminal(tmp_path, seconds=1)
    second.read(until="train ")
    second.read(until="of 20 steps")
    second.process.send_signal(signal.SIGTERM)
    lines = second.lines()
    assert second.process.returncode == 143
    assert lines[-1] == (
        "terminated: all finished stages and 0 of 2 epochs of train are kept; the same command continues"
    )
    assert any(line.startswith("reused: model, prompts, preflight") for line in lines)

    third = OnTerminal(tmp_path, seconds=0)
    lines = third.lines()
    assert third.process.returncode == 0
    assert Path(lines[-1]).parent == tmp_path / "runs" and (Path(lines[-1]) / "report.html").is_file()
    for start in ("run ", "model ", "thought ", "judge ", "sizes ", "stages ", "conventions ", "page ", "next "):
        assert any(line.startswith(start) for line in lines), (start, lines)
    assert re.search(r"iteration 1/1 - train - \d+ s - 2 steps - loss 0.750 -> 0.500", "\n".join(lines))
    noise = ("library", "computing", "INFO")
    assert not [line for line in lines if any(word in line for word in noise)]
    log = (tmp_path / "runs" / "hydra" / "experiment=smoke" / "tpo.log").read_text()
    assert "a library prints" in log and "a library written in C" in log and ": computing" in log
    assert "KeyboardInterrupt" in log, "where it was, for whoever wants to know"
