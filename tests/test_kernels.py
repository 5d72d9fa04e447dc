"""The script that times our kernels: both sides compute the same, and the clock is read as it should be."""

from collections.abc import Callable

import pytest
import torch

from experiments import kernels
from experiments.bench.results import Spread
from experiments.kernels import CASES, Case, Sides, Sizes
from tpo.model.architecture import Architecture

TINY = Sizes(
    Architecture(hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocabulary=300, is_tied=True),
    num_pairs=2,
    prompt=5,
    completion=7,
    num_rows=16,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_sides_compute_the_same(case: Case) -> None:
    torch.manual_seed(0)
    replaced, ours = case.make(TINY)
    expected, found = replaced().float(), ours().float()
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, atol=0.02 * float(expected.abs().max()), rtol=0.02)
    torch.testing.assert_close(ours().float(), found)  # a call leaves nothing behind that the next one meets


def test_a_line_for_each_replacement() -> None:
    first, second, *lines = kernels.report(TINY, seconds=0)
    assert "2 pairs, 16 rows, prompt 5 tokens, completions 7" in first
    assert "replaced" in second
    assert [line[:32].strip() for line in lines] == [case.name for case in CASES]
    for line, case in zip(lines, CASES, strict=True):
        assert line.endswith(f"n = {kernels.MIN_ROUNDS}, of {case.replaces}")


def test_rounds_alternate_and_go_on_for_the_time_given(monkeypatch: pytest.MonkeyPatch) -> None:
    now, called = 0.0, ""

    def step(name: str, seconds: float) -> Callable[[], torch.Tensor]:
        def work() -> torch.Tensor:
            nonlocal now, called
            now, called = now + seconds, called + name
            return torch.zeros(())

        return work

    monkeypatch.setattr(kernels.time, "perf_counter", lambda: now)
    found = kernels.measure(Sides(step("r", 1 / 32), step("o", 1 / 128)), seconds=0.4)
    # Twice each to begin with. Ours takes three calls to fill 20 ms, so a round takes 0.117 s.
    assert called == "rroo" + "ooorrr" + "rrrooo" + "ooorrr" + "rrrooo"
    assert found.replaced == Spread(1 / 32, 1 / 32, 1 / 32, 4)
    assert found.ours == Spread(1 / 128, 1 / 128, 1 / 128, 4)
    assert found.ratio == Spread(4.0, 4.0, 4.0, 4)
