"""Secrets planted in the environment: nothing that a run, a sweep, an evaluation, a server or an error writes has one.

Every byte is searched: files (databases, W&B's, pickles of launchers, gzipped ones), standard output and error, and the
command lines of all processes while they run.
"""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_run import REPOSITORY, tiny_overrides

#: What is planted, by the variable; each secret is one that nothing else holds.
PLANTED = {
    "OPENAI_API_KEY": "sk-proj-Pl4nted0openai0aB3dE6gH9",
    "VLLM_API_KEY": "Pl4nted-vllm-7c1e",
    "HF_TOKEN": "hf_Pl4nted0hub0aB3dE6gH9jK2mN5",
    "WANDB_API_KEY": "9e14ed000badc0de9e14ed000badc0de9e14ed00",
    "GITHUB_PAT": "ghp_Pl4nted0github0aB3dE6gH9jK2mN5",
    "AWS_SECRET_ACCESS_KEY": "Pl4nted/aws/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "DB_PASSWORD": "Pl4nted-database-5f0a",
    "TPO_API_KEY": "Pl4nted-server-88d2",
}
PROXY = "Pl4nted-proxy-31b7"  # the password in the addresses of proxies
SECRETS = (*PLANTED.values(), PROXY)


def planted(variables: Mapping[str, str]) -> dict[str, str]:
    """An environment with keys, behind a proxy that wants a password; without what tests set."""
    proxy = f"http://me:{PROXY}@127.0.0.1:9"
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"), proxy)
    unset = {name: text for name, text in variables.items() if name != "WANDB_MODE"}
    here = {"PYTHONPATH": str(REPOSITORY), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return {**unset, **proxies, **PLANTED, **here}


def environment() -> dict[str, str]:
    """This process's, with keys."""
    return planted(os.environ)


def assert_unseen(text: bytes, where: object) -> None:
    for secret in SECRETS:
        assert secret.encode() not in text, f"{where} holds {secret}"


def assert_no_file_has_one(root: Path) -> int:
    """Search all files below a folder, and return how many there were."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    for path in paths:
        content = path.read_bytes()
        assert_unseen(content, path)
        assert_unseen(str(path).encode(), "a name")
        if content[:2] == b"\x1f\x8b":
            assert_unseen(gzip.decompress(content), path)
    return len(paths)


@contextmanager
def watching() -> Iterator[set[bytes]]:
    """Collect the command lines of this process's descendants while the context is open."""
    found: set[bytes] = set()
    is_over = threading.Event()

    def watch() -> None:
        ours = {os.getpid()}
        while not is_over.wait(0.02):
            for place in Path("/proc").glob("[0-9]*"):
                try:
                    parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                    if int(place.name) in ours or parent in ours:
                        ours.add(int(place.name))
                        found.add((place / "cmdline").read_bytes())
                except (OSError, ValueError):
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()
        for line in found:
            assert_unseen(line, "the command line of a process")


def run(*command: str, cwd: Path, env: Mapping[str, str] | None = None, status: int = 0) -> str:
    """Run a command of the package, look into all it says, and return that."""
    with watching() as lines:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            **{"cwd": cwd, "env": env or environment(), "capture_output": True, "check": False, "timeout": 1200},
        )
    said = done.stdout + done.stderr
    assert_unseen(said, "what is printed")
    assert done.returncode == status, said.decode()
    assert any(command[0].encode() in line for line in lines), "nothing was watched"
    return said.decode()


def overrides(model: Path, root: Path, *more: str) -> list[str]:
    given = tiny_overrides(model, root, "prompts.num_test=3", "train.num_epochs=1", *more)
    return [word for word in given if word != "tracking=none"]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_run_what_comes_of_it_and_a_server(tiny_model: Path, tmp_path: Path) -> None:
    run("tpo.run", *overrides(tiny_model, tmp_path, "num_iterations=1"), cwd=tmp_path)
    path = next((tmp_path / "runs").glob("custom-*"))
    assert "offline" in json.loads((path / "tracking.json").read_text())["mode"], "a key, and no way to W&B"
    places = [f"artifacts_dir={tmp_path}/artifacts", f"runs_dir={tmp_path}/runs"]
    run("tpo.evaluate", f"policy={path}", "eval=thought_value", *places, cwd=tmp_path)
    run("tpo.results", str(path), "--page", cwd=tmp_path)
    run("tpo.export", f"policy={path}", f"out={tmp_path}/export", *places, cwd=tmp_path)
    serve(path, tmp_path, places)
    assert assert_no_file_has_one(tmp_path) > 40
    assert [*tmp_path.rglob("*.wandb")], "W&B wrote, and what it wrote was searched"


def serve(path: Path, root: Path, places: Sequence[str]) -> None:
    """Serve a policy, ask it with a right and with a wrong key, and end it."""
    command = [sys.executable, "-m", "tpo.serve", f"policy={path}", "port=0", *places]
    with watching(), (root / "said").open("wb") as said:
        server = subprocess.Popen(command, cwd=root, env=environment(), stdout=said, stderr=said)
        try:
            deadline, address = time.monotonic() + 300, ""
            while not address:
                assert time.monotonic() < deadline and server.poll() is None, (root / "said").read_text()
                words = [word for word in (root / "said").read_text().split() if word.startswith("http://")]
                address = words[0].rstrip(";") if words else ""
                time.sleep(0.1)
            assert ask(address, "wrong-key", f"{path.name}@1")[0] == 401
            status, answer = ask(address, PLANTED["TPO_API_KEY"], f"{path.name}@1")
            assert status == 200, answer
            assert_unseen(answer, "an answer")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)


def ask(address: str, key: str, model: str) -> tuple[int, bytes]:
    asked = {"model": model, "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 20}
    request = urllib.request.Request(
        f"{address}/chat/completions?api_key={key}",
        data=json.dumps(asked).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
            return int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


ERRORS: list[Any] = [
    pytest.param(["judge=llm_pairwise", "judge.backend=server", "judge.name=x", "judge.server.patience_s=0",
                  "judge.server.max_retries=0", "judge.server.base_url=http://127.0.0.1:9/v1"], id="judge_is_away"),
    pytest.param(["judge=llm_pairwise", "judge.backend=server", "judge.name=x", "judge.server.patience_s=0",
                  "judge.server.max_retries=0", "judge.server.base_url=http://judge.invalid/v1"], id="proxy_is_away"),
    pytest.param(["model.name=nobody/nothing"], id="hub_is_away"),
    pytest.param(["judge.no_such_key=1"], id="unknown_key"),
    pytest.param(["prompts=reasoning_gym", "prompts.num_test=-1"], id="setting"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("words", ERRORS)
def test_errors(words: list[str], tiny_model: Path, tmp_path: Path) -> None:
    said = run("tpo.run", *overrides(tiny_model, tmp_path, "num_iterations=0", *words), cwd=tmp_path, status=1)
    assert "error" in said.lower()
    assert_no_file_has_one(tmp_path)


REFUSED = [
    [f"judge.server.nokey={PLANTED['DB_PASSWORD']}"],
    [f"judge.server.base_url=http://u:{PROXY}@h/v1"],
    ["-m", "seed=0,1", f"+token={PLANTED['GITHUB_PAT']}"],
    ["-m", f"judge.name=a,{PLANTED['VLLM_API_KEY']}", "no=such key["],
]


@pytest.mark.slow
@pytest.mark.parametrize("words", REFUSED, ids=["unknown_key", "address", "sweep", "swept"])
def test_a_secret_that_is_typed_is_neither_printed_nor_written(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tpo.run", *words, f"runs_dir={tmp_path}/runs"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=False, timeout=300)
    assert done.returncode == 1 and b"settings are written down: take it out" in done.stderr
    assert_unseen(done.stdout + done.stderr, "what is printed")
    assert assert_no_file_has_one(tmp_path) == 0
