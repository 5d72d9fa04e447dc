"""One vLLM at most in a process, and what happens when its engine dies; the engine itself is in test_vllm_engine.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from tpo.store.processes import vllm as vllm_process
from tpo.store.processes.vllm import OccupiedError, cached_engine


def test_a_process_keeps_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_process, "_cached", None)
    made = [
        cached_engine({"model": "a", "revision": None}, object),
        cached_engine({"revision": None, "model": "a"}, object),
    ]
    assert made[0] is made[1]
    with pytest.raises(OccupiedError):
        cached_engine({"model": "b", "revision": None}, object)
    assert cached_engine({"model": "a", "revision": None}, object) is made[0], "still there"


SCRIPT = """
import sys, threading, time
import tpo.store.processes.vllm as process
from types import SimpleNamespace
process.POLL_S = process.GRACE_S = 0.05
class Client:
    resources = SimpleNamespace(engine_dead=False)
client = Client()
thread = threading.Thread(target=process._watch, args=(client,), daemon=True)
thread.start()
time.sleep(0.2)
assert thread.is_alive()
if sys.argv[1] == "dead":
    client.resources.engine_dead = True
    time.sleep(30)
"""


@pytest.mark.parametrize(("case", "code"), [("dead", 1), ("alive", 0)])
def test_a_process_ends_with_its_engine(case: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, case],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert ("run the same command again" in done.stderr) == (case == "dead")
