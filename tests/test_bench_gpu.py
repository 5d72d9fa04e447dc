"""The benchmark of a GPU at its tiny size, so that it is known to work before a card is paid for."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from experiments.bench import gpu
from experiments.bench.gpu_models import random_pairs
from tpo.plan.memory import Pair, training_bytes


@pytest.mark.parametrize(
    "part",
    ["sdpa", "judge8b", "sample", *(pytest.param(name, marks=pytest.mark.slow) for name in ("train8b", "loop"))],
)
def test_a_part_runs_at_its_tiny_size(part: str, tmp_path: Path) -> None:
    assert gpu.main([part, "--tiny", "--out", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["parts"]) == [part]
    assert found["machine"]["cpu"] and found["packages"]["torch"]
    result = found["parts"][part]
    assert result["checks"] and all(check["holds"] for check in result["checks"])
    numbers = [value for value in result["numbers"].values() if isinstance(value, int | float)]
    assert numbers and all(math.isfinite(value) and value >= 0 for value in numbers)
    if part == "train8b":
        assert any(name.startswith("stock trl") for name in result["numbers"])


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
