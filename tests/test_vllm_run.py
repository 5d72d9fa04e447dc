"""The whole loop through vLLM: stages that follow each other and want the same share one start of it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from test_run import REPOSITORY

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]


def test_the_loop_runs_through_vllm(wide_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    overrides = (
        *("experiment=smoke_vllm", f"artifacts_dir={tmp_path}/artifacts", f"runs_dir={tmp_path}/runs"),
        *("model=pretrained", f"model.name={wide_model}", "model.max_model_len=1024"),
        *("judge.positive=' Yes'", "judge.negative=' No'", "engine.gpu_memory_utilization=0.1"),
        "train.select=validation",
    )
    command = [sys.executable, "-m", "tpo.run", *overrides]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    path = Path(done.stdout.splitlines()[-1])
    before, after = json.loads((path / "summary.json").read_text())["iterations"]
    assert after["num_pairs"] > 0 and after["win_rate"]["num_prompts"] == 4
    assert after["training"]["first_loss"] == pytest.approx(math.log(2), abs=1e-3)
    requests = [json.loads(file.read_text()) for file in tmp_path.glob("artifacts/sample-*/manifest.json")]
    assert [request["config"]["engine"]["kind"] for request in requests] == ["vllm"] * 6
    assert [request["inputs"].get("adapter") for request in requests].count(after["artifacts"]["train"]) == 3
    # The seed model's answers with and without thoughts, and its samples; after the training the answers of two epochs;
    # after the judge, which needs the memory that vLLM holds, the selected one's.
    [log] = (tmp_path / "runs").glob("hydra/*/tpo.log")
    assert log.read_text().count("starting vLLM with") == 3
    answers = [(tmp_path / "artifacts" / entry["artifacts"]["answers"] / "rows.jsonl") for entry in (before, after)]
    assert answers[0].read_bytes() != answers[1].read_bytes()
