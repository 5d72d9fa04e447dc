"""The benchmark of a GPU at its tiny size, so that it is known to work before a card is paid for."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.bench import gpu
from experiments.bench.gpu_models import random_pairs
from tpo.plan.memory import Pair, training_bytes

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.parametrize("part", ["sdpa", "judge8b", "sample"])
def test_a_part_runs_at_its_tiny_size(part: str, tmp_path: Path) -> None:
    assert gpu.main([part, "--tiny", "--out", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["parts"]) == [part]
    require_green(found)


def require_green(found: dict[str, Any]) -> None:
    assert found["machine"]["cpu"] and found["packages"]["torch"]
    for result in found["parts"].values():
        assert result["checks"] and all(check["holds"] for check in result["checks"])
        numbers = [value for value in result["numbers"].values() if isinstance(value, int | float)]
        assert numbers and all(math.isfinite(value) and value >= 0 for value in numbers)


@pytest.mark.long
@pytest.mark.slow
def test_the_command_runs_all_parts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.bench.gpu", "--tiny", "--out", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["parts"]) == list(gpu.PARTS)
    require_green(found)
    assert any(name.startswith("stock trl") for name in found["parts"]["train8b"]["numbers"])
    assert found["parts"]["train8b"]["numbers"]["NF4 values that are those of a CPU's quantizer"] == 1


def test_what_must_not_run_is_found_by_its_name() -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    some = torch.randn(1, 2, 8, 16)
    for backend, names in (
        (SDPBackend.MATH, ["aten::_scaled_dot_product_attention_math"]),
        (SDPBackend.FLASH_ATTENTION, []),
    ):
        with sdpa_kernel(backend):
            assert gpu.slow_kernels(gpu.kernel_names(lambda: scaled_dot_product_attention(some, some, some))) == names


def test_the_benchmarks_process_is_prepared_as_a_steps_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    seen: list[bool] = []
    monkeypatch.setattr(gpu, "PARTS", {"a": lambda _: seen.append(torch.backends.cuda.cudnn_sdp_enabled())})
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        gpu.run_parts(["a"], is_tiny=True)
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
    assert seen == [False]


def test_what_fails_is_said_and_the_other_parts_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(report: gpu.Report) -> None:
        raise RuntimeError("no such kernel")

    def checks(report: gpu.Report) -> None:
        report.check("it holds", False, 3)

    monkeypatch.setattr(gpu, "PARTS", {"a": breaks, "b": checks})
    found = gpu.run_parts(["a", "b"], is_tiny=True)
    assert found["parts"]["a"]["checks"] == [
        {"what": "the part runs to its end", "holds": False, "found": "RuntimeError: no such kernel"}
    ]
    assert found["parts"]["b"]["checks"][0]["found"] == 3
    assert gpu.main(["b"]) == 1
    assert "FAILED it holds: 3" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        gpu.main(["c"])


def test_a_peak_off_by_more_than_15_percent_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pairs = [Pair(300, 850, 850)]
    expected = training_bytes(gpu.LLAMA_8B, pairs, quantization="nf4", is_checkpointed=True)
    for factor, holds in ((1.0, True), (1.14, True), (1.2, False), (0.8, False)):
        report = gpu.Report("cuda", False, tmp_path)
        monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda factor=factor: expected * factor)
        gpu._check_peak(report, "x", gpu.LLAMA_8B, pairs, True)
        assert [check["holds"] for check in report.checks] == [holds]


def test_pairs_have_the_sizes_that_were_asked_for() -> None:
    pairs: list[Any] = random_pairs(3, prompt=4, completion=6, vocabulary=50)
    assert [(len(pair.prompt_ids), len(pair.chosen_ids), len(pair.rejected_ids)) for pair in pairs] == [(4, 6, 6)] * 3
    assert len({pair.prompt_id for pair in pairs}) == 3
    assert all(5 <= number < 50 for pair in pairs for number in pair.chosen_ids)
