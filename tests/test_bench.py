"""The benchmark: its arithmetic against hand values and torch's own counter, its processes, and what it writes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import make_model
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from experiments.bench import process, run, sampling
from experiments.bench.figure import bars, draw_benchmark, write_figure
from experiments.bench.floors import (
    Floor,
    Load,
    distinct_depths,
    floor,
    sampling_load,
    scoring_load,
    training_load,
)
from experiments.bench.machine import file_name, instruction_sets, limits
from experiments.bench.parts import Options
from experiments.bench.process import REPOSITORY, Request, overlap, run_contenders, spinning
from experiments.bench.processors import table
from experiments.bench.report import number_text, part_text
from experiments.bench.results import (
    Spread,
    compare_values,
    kept_speed,
    speedup,
    spread,
    summarize_condition,
    value_of_rounds,
)
from experiments.bench.workload import Work, order_of_use
from tpo.model.architecture import Architecture
from tpo.store.files import write_json
from tpo.store.records import Prompt, write_records

# --- medians, ratios, ranges ------------------------------------------------------------------------------------


def test_spread_by_hand() -> None:
    assert spread([3.0, 1.0, 2.5]) == Spread(2.5, 1.0, 3.0, 3)
    assert spread([1.0, 2.0]) == Spread(1.5, 1.0, 2.0, 2)
    assert spread([]) is None


def test_speedup_of_rates_is_ours_over_the_other() -> None:
    found = speedup({0: 400.0, 1: 300.0, 2: 500.0}, {0: 100.0, 1: 60.0, 2: 200.0}, is_rate=True)
    assert found == Spread(4.0, 2.5, 5.0, 3)


def test_speedup_of_seconds_is_the_other_over_ours() -> None:
    found = speedup({0: 10.0, 1: 20.0, 2: 10.0}, {0: 30.0, 1: 40.0, 2: 50.0}, is_rate=False)
    assert found == Spread(4.0, 2.0, 5.0, 3)


def test_speedup_takes_the_rounds_that_both_have() -> None:
    assert speedup({0: 2.0, 1: 8.0}, {1: 4.0, 2: 1.0}, is_rate=True) == Spread(2.0, 2.0, 2.0, 1)
    assert speedup({0: 2.0}, {1: 4.0}, is_rate=True) is None


@given(
    st.dictionaries(st.integers(0, 5), st.floats(0.1, 1e3)),
    st.dictionaries(st.integers(0, 5), st.floats(0.1, 1e3)),
    st.booleans(),
)
def test_speedup_turns_over_with_its_arguments(ours: dict[int, float], other: dict[int, float], is_rate: bool) -> None:
    there, back = speedup(ours, other, is_rate=is_rate), speedup(other, ours, is_rate=is_rate)
    assert (there is None) == (back is None)
    if there is not None and back is not None:
        assert there.median == pytest.approx(1 / back.median)
        assert (there.low, there.high) == pytest.approx((1 / back.high, 1 / back.low))


def entry(number: int, value: float, seconds: float = 2.0, host: float = 100.0, **details: Any) -> dict[str, Any]:
    return {
        "round": number,
        "status": "ok",
        "value": value,
        "seconds": seconds,
        "startup_s": 1.0,
        "peak_memory_mib": {"host": host},
        "details": details,
    }


QUIET: dict[str, list[dict[str, Any]]] = {
    "generate": [entry(0, 50.0), entry(1, 40.0, host=120.0)],
    "vllm": [{"round": 0, "status": "not installed: vllm"}],
    "ours": [entry(0, 200.0, operations=4e12, bytes_read=1e9), entry(1, 240.0, operations=9e12, bytes_read=1e9)],
}
RUNS: run.Runs = {
    "quiet": QUIET,
    "busy": {
        "generate": [entry(0, 10.0), entry(1, 20.0)],
        "vllm": [{"round": 0, "status": "not installed: vllm"}],
        "ours": [entry(0, 100.0), entry(1, 120.0)],
    },
    "two": {"ours": [entry(0, 90.0), entry(0, 80.0), entry(1, 110.0), entry(1, 120.0)]},
}


def test_the_slower_of_two_at_once_counts() -> None:
    assert value_of_rounds(RUNS["two"]["ours"], is_rate=True) == {0: 80.0, 1: 110.0}
    assert value_of_rounds(RUNS["two"]["ours"], is_rate=False) == {0: 90.0, 1: 120.0}


def test_kept_speed_is_the_share_of_the_quiet_one() -> None:
    found = kept_speed(QUIET, RUNS["busy"], is_rate=True)
    assert found.keys() == {"generate", "ours"}
    assert found["generate"] == Spread(15 / 45, 0.2, 0.5, 2)._asdict()
    assert found["ours"] == Spread(0.5, 0.5, 0.5, 2)._asdict()
    seconds = kept_speed({"ours": [entry(0, 10.0)]}, {"ours": [entry(0, 20.0), entry(0, 40.0)]}, is_rate=False)
    assert seconds["ours"]["median"] == 0.25


def test_part_counts_what_ran_and_names_what_did_not() -> None:
    found = summarize_condition(QUIET, [("ours", "generate"), ("ours", "vllm")], is_rate=True)
    contenders = found["contenders"]
    assert contenders["generate"]["value"] == {"median": 45.0, "low": 40.0, "high": 50.0, "num": 2}
    assert contenders["generate"]["peak_memory_mib"] == {"host": 120.0}
    assert contenders["vllm"]["status"] == "not installed: vllm"
    assert contenders["vllm"]["value"] == {}
    (ratio,) = found["speedups"]
    assert (ratio["ours"], ratio["other"], ratio["num"]) == ("ours", "generate", 2)
    assert (ratio["median"], ratio["low"], ratio["high"]) == pytest.approx((220 / 45, 4.0, 6.0))


def test_values_are_compared_one_by_one() -> None:
    found = compare_values([1.0, 2.0, 3.0], [1.0, 2.5, 2.9])
    assert found["num_values"] == 3
    assert found["max_abs_difference"] == 0.5
    assert found["standard_deviation"] == pytest.approx((2 / 3) ** 0.5)
    with pytest.raises(ValueError, match="zip"):
        compare_values([1.0], [1.0, 2.0])


# --- floors -----------------------------------------------------------------------------------------------------

# One layer: q 2x2, k and v 2x1, o 2x2, gate and up 2x3, down 3x2, 30 weights; output embedding 2x5.
SMALL = Architecture(hidden=2, layers=1, heads=2, kv_heads=1, head_dim=1, intermediate=3, vocabulary=5)


def test_sizes_by_hand() -> None:
    assert SMALL.num_linear == 4 + 2 + 2 + 4 + 6 + 6 + 6
    assert SMALL.num_head == 10
    assert SMALL.step_bytes == 80
    assert SMALL.kv_bytes == 2 * 1 * 2
    assert SMALL.num_adapter(1) == 4 + 3 + 3 + 4 + 5 + 5 + 5


def test_forward_by_hand() -> None:
    # three tokens: 3 x 2 x 30; depths 1 + 2 + 3, each 4 x 2; one row of logits: 2 x 10
    assert SMALL.forward_operations([1, 2, 3], num_logits=1) == 180 + 48 + 20


def test_sampling_by_hand() -> None:
    # Prompts "1 2" and "1 3" share a token. Of 3 + 1 + 2 completion tokens, 2 + 0 + 1 are fed: depths 3, 4 and 3.
    found = sampling_load(SMALL, [[1, 2], [1, 3]], [[3, 1], [2]], num_rows=8)
    prompts = 60 * 3 + 8 * (1 + 2 + 2) + 20 * 2
    assert found.operations == prompts + 60 * 3 + 8 * (3 + 4 + 3) + 20 * 3
    # The longest completion takes two steps after the prompts' one. Own positions: 1 + 2 of the first, 1 of the last;
    # a prompt's two are read in each of its steps: 2 x 2 + 2 x 1.
    assert found.bytes_read == 3 * 80 + (3 + 1 + 6) * 4
    assert sampling_load(SMALL, [[1, 2], [1, 3]], [[3, 1], [2]], num_rows=1).bytes_read == 4 * 80 + 10 * 4


def test_scoring_by_hand() -> None:
    assert scoring_load(SMALL, [[[1, 2], [1, 3]], [[1]]]) == Load(60 * 4 + 8 * (1 + 2 + 2 + 1), 60)


def test_training_by_hand() -> None:
    # Last tokens are not fed: sequences "1 2" and "1", of which "1" is shared.
    found = training_load(SMALL, [([1], [2, 3], [4])], num_epochs=10, rank=1)
    forward = 60 * 2 + 8 * 3 + 20 * 3
    assert found.operations == forward + 10 * (2 * forward + 8 * 3 + 3 * 2 * 29 * 2)
    assert found.bytes_read == 21 * 80


def test_floor_is_the_larger_limit() -> None:
    found = floor(Load(6e12, 3e9), operations_per_s=2e12, bytes_per_s=1e10)
    assert found == Floor(3.0, 0.3)
    assert found.seconds == 3.0


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=8))
def test_distinct_depths_are_those_of_all_beginnings(sequences: list[list[int]]) -> None:
    beginnings = {tuple(found[:stop]) for found in sequences for stop in range(1, len(found) + 1)}
    assert sorted(distinct_depths(sequences)) == sorted(map(len, beginnings))


def tiny_llama(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager")


def test_operations_of_a_forward_pass_are_those_that_torch_counts(tiny_model: Path) -> None:
    model = tiny_llama(tiny_model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(12)[None], logits_to_keep=5)
    # Torch computes the scores of positions that the mask then hides.
    assert counter.get_total_flops() == Architecture.of(model.config).forward_operations([12] * 12, num_logits=5)


def test_operations_of_training_are_those_that_torch_counts(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_llama(tiny_model), LoraConfig(r=4, target_modules="all-linear"))
    model.enable_input_require_grads()
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(12)[None]).logits.sum().backward()
    # One pair, each of whose tokens stands for one of the sequence: 12 fed, 12 with logits, all 12 attended to.
    monkeypatch.setattr("experiments.bench.floors.distinct_depths", lambda _: [12] * 12)
    sizes, pair = Architecture.of(model.config), ([0], [0] * 6, [0] * 6)
    both, reference = (training_load(sizes, [pair], num_epochs=number, rank=4).operations for number in (1, 0))
    # The gradient of attention's second product with the frozen values' layer is part of both counts.
    assert counter.get_total_flops() == both - reference


# --- processes --------------------------------------------------------------------------------------------------

CONTENDER = """
import time
from experiments.bench.parts import Timed
from experiments.bench.process import serve, start_clock

def measure(request):
    match request.contender:
        case "absent":
            import a_package_that_nobody_has
        case "broken":
            raise RuntimeError("no luck")
        case "late":
            time.sleep(600)
    held = bytearray(300 * 2**20)
    time.sleep(request.work.get("warms_up_s", 0))
    clock = start_clock(request)
    time.sleep(0.5)
    return Timed(request.seed, clock.seconds, clock.began, {"held": len(held), "began": clock.began}, [1.5])

if __name__ == "__main__":
    serve(measure)
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    (tmp_path / "fake_contender.py").write_text(CONTENDER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    numbers = count()

    def run_them(*names: str, works: tuple[dict[str, Any], ...] = ({}, {}), **more: Any) -> list[dict[str, Any]]:
        requests = [
            Request(name, work, 7, tmp_path / str(next(numbers))) for name, work in zip(names, works, strict=False)
        ]
        return run_contenders("fake_contender", requests, **more)

    return run_them


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_contender_in_a_process_of_its_own(start: Callable[..., list[dict[str, Any]]]) -> None:
    (found,) = start("good")
    assert (found["status"], found["value"], found["values"]) == ("ok", 7, [1.5])
    assert found["peak_memory_mib"]["host"] > 300
    assert 0 < found["startup_s"] < 60
    assert not {"beside_cores", "overlap"} & found.keys()


def test_contender_that_lacks_a_package(start: Callable[..., list[dict[str, Any]]]) -> None:
    assert start("absent") == [{"status": "not installed: a_package_that_nobody_has"}]


@pytest.mark.parametrize("is_busy", [False, True])
def test_contender_that_fails_says_why(
    start: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, is_busy: bool
) -> None:
    spinners = watch_spinning(monkeypatch)
    (found,) = start("broken", is_busy=is_busy)
    assert found["status"] == "failed with 1: RuntimeError: no luck"
    assert len(spinners) == is_busy
    assert not any(map(is_alive, spinners))


def test_contender_that_takes_too_long_is_ended(
    start: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    spinners = watch_spinning(monkeypatch)
    (found,) = start("late", is_busy=True, limit_s=1)
    assert found["status"] == "took too long"
    assert not is_alive(spinners[0])


def watch_spinning(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the ids of the processes that spin."""
    pids: list[int] = []

    @contextmanager
    def watched() -> Iterator[psutil.Process]:
        with spinning() as beside:
            pids.append(beside.pid)
            yield beside

    monkeypatch.setattr(process, "spinning", watched)
    return pids


def test_something_spins_beside_a_busy_contender(
    start: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    spinners = watch_spinning(monkeypatch)
    (found,) = start("good", is_busy=True)
    assert found["status"] == "ok"
    assert found["beside_cores"] > 0.1  # of a core; what it gets depends on what else the machine does
    assert not is_alive(spinners[0])


def test_what_spins_ends_with_a_parent_that_is_killed() -> None:
    code = (
        "import time\n"
        "from experiments.bench.process import spinning\n"
        "with spinning() as beside:\n"
        "    print(beside.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        beside = int(parent.stdout.readline())
        assert is_alive(beside)
        os.kill(parent.pid, signal.SIGKILL)
    stop = time.monotonic() + 60
    while is_alive(beside) and time.monotonic() < stop:
        time.sleep(0.05)
    assert not is_alive(beside)


def test_two_at_once_begin_together(start: Callable[..., list[dict[str, Any]]]) -> None:
    first, second = start("good", "good", works=({}, {"warms_up_s": 1.5}))
    assert first["status"] == second["status"] == "ok"
    assert abs(first["details"]["began"] - second["details"]["began"]) < 0.3
    assert first["overlap"] == second["overlap"] > 0.3


def test_one_of_two_goes_on_where_the_other_fails(start: Callable[..., list[dict[str, Any]]]) -> None:
    first, second = start("broken", "good")
    assert (first["status"][:6], second["status"]) == ("failed", "ok")
    assert "overlap" not in second


def test_overlap_by_hand() -> None:
    assert overlap([(0.0, 4.0), (1.0, 3.0)]) == 0.5
    assert overlap([(0.0, 1.0), (2.0, 4.0)]) == 0.0
    assert overlap([(0.0, 2.0), (0.0, 2.0)]) == 1.0


# --- what is written --------------------------------------------------------------------------------------------


def made_result(runs: run.Runs = RUNS) -> dict[str, Any]:
    reaches = {
        "bfloat16_operations_per_s": 1e12,
        "float32_operations_per_s": 2e11,
        "memory_bytes_per_s": 1e10,
        "weights_bytes_per_s": 2e10,
    }
    told = run.read_arguments(["sampling", "--rounds", "2"])
    checks = {"reward": {"status": "ok", **compare_values([1.0, 2.0], [1.0, 2.25])}}
    part = run.summarize(sampling.PART, runs, checks, told=told, options=Options(), reaches=reaches)
    machine = {"cpu": "Some(R) CPU @ 2", "instruction_sets": [], "num_cores": 2, "memory_gib": 24.0, "gpu": None}
    return {"machine": machine, "reaches": reaches, "parts": {"sampling": part}}


def test_floor_of_a_part_in_its_own_unit() -> None:
    # The first run: 200 tokens a second for 2 s, 4 TFLOP on a machine of 1 TFLOP/s, 1 GB at 20 GB/s.
    found = made_result()["parts"]["sampling"]["floors"]["ours"]
    assert (found["arithmetic_s"], found["memory_s"], found["value"]) == (4.0, 0.05, 100.0)
    assert limits(made_result()["reaches"]) == {"operations_per_s": 1e12, "bytes_per_s": 2e10}


def test_result_survives_its_file(tmp_path: Path) -> None:
    result = made_result()
    write_json(tmp_path / "machine.json", result)
    loaded = json.loads((tmp_path / "machine.json").read_text())
    assert loaded == result
    text = part_text(loaded["parts"]["sampling"])
    for expected in (
        "45 [40, 50]",
        "not installed: vllm",
        "ours / generate: 4.889 [4, 6] times",
        "keeps 50 % [50, 50] of its quiet speed",
        "at most 0.25 apart",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (6726.9, 3, "6,730"),
        (999.7, 3, "1,000"),
        (197.4, 3, "197"),
        (45.0, 3, "45"),
        (4.8888, 4, "4.889"),
        (1162.7, 4, "1,163"),
        (1_234_567.0, 4, "1,235,000"),
        (0.0123, 2, "0.012"),
        (0.0, 3, "0"),
    ],
)
def test_numbers_as_people_write_them(value: float, digits: int, expected: str) -> None:
    assert number_text(value, digits) == expected


def test_figure_shows_medians_ranges_and_ratios_under_each_condition(tmp_path: Path) -> None:
    figure = draw_benchmark(made_result())
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [45.0, 15.0, 220.0, 110.0, 100.0]
    assert [list(line.get_xdata()) for line in axes.lines[:2]] == [[40.0, 50.0], [10.0, 20.0]]
    assert axes.lines[5].get_xdata()[0] == 100.0  # the floor
    assert [text.get_text() for text in axes.texts] == [
        "45; ours 4.89 times",
        "15; ours 7.33 times; keeps 33 %",
        "220",
        "110; keeps 50 %",
        "100; keeps 43 %",
    ]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [sampling.PART.contenders["generate"], "busy", "ours", "busy", "two"]
    paths = write_figure(made_result(), tmp_path / "machine.json")
    assert sorted(path.name for path in paths) == ["machine.png", "machine.svg"]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_bars_of_a_contender_stand_together() -> None:
    found = bars(made_result()["parts"]["sampling"])
    assert [bar.condition for bar in found] == ["quiet", "busy", "quiet", "busy", "two"]
    steps = [below.place - above.place for above, below in pairwise(found)]
    assert steps == pytest.approx([1, steps[1], 1, 1])
    assert steps[1] > 1.3


def test_processors_side_by_side() -> None:
    mine, other = made_result(), made_result()
    other["machine"] |= {"cpu": "Other CPU", "instruction_sets": ["amx_bf16"]}
    part = other["parts"]["sampling"]
    part |= {"date": "2020-02-02T00:00:00", "environment": {"git_commit": "abcdef0123"}, "num_rounds": 1}
    del part["conditions"]["busy"], part["conditions"]["two"], part["kept"]["busy"], part["kept"]["two"]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table([mine, other]).splitlines()]
    assert lines[0][1::3] == ["Some CPU @ 2, 2 cores", "Other CPU, AMX, 2 cores"]
    assert lines[2][0] == "**sampling (tokens/s)**"
    assert lines[2][4] == "2020-02-02, abcdef0, n = 1"
    by_name = {line[0]: line[1:] for line in lines[3:]}
    generate = by_name.pop(sampling.PART.contenders["generate"])
    assert generate == [
        "45; ours 4.89 [4, 6] times",
        "15; ours 7.33 [6, 10] times; keeps 33 % [20, 50]",
        "",
        "45; ours 4.89 [4, 6] times",
    ]
    assert by_name == {"ours": ["220", "110; keeps 50 % [50, 50]", "100; keeps 43 % [40, 46]", "220"]}


def test_of_two_files_with_the_same_work_the_later_counts() -> None:
    early, late = made_result(), made_result()
    early["parts"]["sampling"]["date"] = "2020-02-02T00:00:00"
    late["parts"]["sampling"]["conditions"]["quiet"]["contenders"]["ours"]["value"]["median"] = 230.0
    assert table([early, late]) == table([late, early]) == table([late])


def test_the_latest_file_names_and_orders_the_rows() -> None:
    early, late = made_result(), made_result()
    early["machine"] |= {"cpu": "Other CPU"}
    early["parts"]["sampling"]["date"] = "2020-02-02T00:00:00"
    early["parts"]["sampling"]["descriptions"] = {"ours": "we", "generate": "they"}
    rows = [line.split("|")[1].strip() for line in table([early, late]).splitlines()[3:]]
    assert rows == [sampling.PART.contenders["generate"], "ours"]


def test_answers_are_compared_with_several_samples_each() -> None:
    result = made_result({"quiet": {**QUIET, "answers_ours": [entry(0, 180.0), entry(1, 240.0)]}})
    (line,) = [line for line in table([result]).splitlines() if "one sample each" in line]
    assert line == "| ours, one sample each | 210; 95 % [90, 100] of ours |"


def test_documented_table_is_what_the_command_prints() -> None:
    text = (REPOSITORY / "experiments" / "README.md").read_text(encoding="utf-8")
    command = "python -m experiments.bench.report experiments/bench/*.json"
    assert command in text
    files = sorted((REPOSITORY / "experiments" / "bench").glob("*.json"))
    assert table([json.loads(path.read_text()) for path in files]) in text


def test_files_are_named_after_the_processor() -> None:
    intel = {"cpu": "Intel(R) Xeon(R) Processor", "instruction_sets": ["amx_bf16", "avx2"], "num_cores": 2, "gpu": None}
    assert file_name(intel) == "intel-xeon-processor-amx-2-cores"
    amd = {"cpu": "AMD EPYC", "instruction_sets": ["avx512_bf16"], "num_cores": 2, "gpu": None}
    assert file_name(amd) == "amd-epyc-avx-512-bf16-2-cores"
    assert file_name({"cpu": "any", "num_cores": 16, "gpu": "NVIDIA H100 80GB HBM3"}) == "nvidia-h100-80gb-hbm3"


def test_instruction_sets_are_whole_words_fastest_first() -> None:
    assert instruction_sets("fpu avx2 avx512f avx512_bf16 amx_bf16_x") == ["avx512_bf16", "avx512f", "avx2"]
    assert instruction_sets("sse2") == []


def test_what_could_not_run_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake_start(part: Any, contender: str, work: Any, condition: str, **_: Any) -> list[dict[str, Any]]:
        asked.append((contender, condition))
        fails = contender == "vllm" and condition == "busy"
        return [{"status": "took too long"} if fails else entry(0, 1.0)] * (2 if condition == "two" else 1)

    monkeypatch.setattr(run, "start", fake_start)
    part = run.chosen(sampling.PART, "vllm,ours")
    runs = run.empty_runs(part, ["quiet", "busy", "two"])
    for number in range(2):
        run.run_round(part, runs, {}, {}, folder=Path(), number=number, limit_s=1)
    always = [("vllm", "quiet"), ("ours", "quiet"), ("ours", "busy"), ("ours", "two")]
    assert asked == [*always[:1], ("vllm", "busy"), *always[1:], *always]
    assert [len(runs["two"]["ours"]), len(runs["busy"]["vllm"])] == [4, 1]
    assert "vllm" not in runs["two"]


def test_conditions_are_checked() -> None:
    assert run.read_arguments([]).conditions == ("quiet", "busy")
    assert run.read_arguments(["--conditions=quiet,two"]).conditions == ("quiet", "two")
    with pytest.raises(SystemExit):
        run.read_arguments(["--conditions=quiet,noisy"])


# --- sampling ---------------------------------------------------------------------------------------------------


def test_ids_count_up_to_the_end() -> None:
    ends = frozenset({9, 8})
    assert sampling.up_to_end([1, 9, 9, 9], ends) == [1, 9]
    assert sampling.up_to_end([1, 8, 2, 9], ends) == [1, 8]
    assert sampling.up_to_end([1, 2], ends) == [1, 2]
    assert sampling.up_to_end([], ends) == []


def test_generate_and_ours_do_the_same_work(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a nucleus of one token all samples are the greedy one, whoever samples."""
    from tpo.model.chat import load_chat

    in_16_bits = sampling.policy  # where two tokens can be as likely
    monkeypatch.setattr(sampling, "policy", lambda *args, **more: replace(in_16_bits(*args, **more), dtype="float32"))
    options = Options(num_samples=2, top_p=1e-6, max_tokens=10, rows=3, generate_rows=4)
    work = Work(str(tmp_path), str(tmp_path), str(tiny_model), str(tiny_model), asdict(options))
    policy = sampling.policy(work)
    chat = load_chat(policy)
    prompts = [chat.tokenizer.encode(text) for text in ("Name a river.", "Why is the sky blue at noon?", "Hi")]
    generate = sampling.with_generate(work, chat, options, seed=0, num_rows=options.generate_rows)
    with sampling.with_ours(work, chat, options, policy, seed=0, longest=max(map(len, prompts))) as ours:
        found = ours(prompts, options.max_tokens)
    assert [len(group) for group in found] == [2, 2, 2]
    assert found == generate(prompts, options.max_tokens)


def test_answers_are_to_different_instructions(tmp_path: Path) -> None:
    splits = ["test", "train-10", "train-2", "validation", "train-1", "train-2", "train-1"]
    prompts = [
        Prompt(str(number), f"text {number}", "any", "here", split, (), str(number))
        for number, split in enumerate(splits)
    ]
    write_records(tmp_path / "prompts.jsonl", sorted(prompts, key=order_of_use))
    options = Options(num_instructions=2, num_samples=3)
    work = Work(str(tmp_path), "", "", "", asdict(options))
    assert [prompt.prompt_id for prompt in work.prompts()] == ["4", "6"]
    assert [prompt.prompt_id for prompt in work.answer_prompts()] == ["4", "6", "2", "5", "1", "0"]


@pytest.mark.long
@pytest.mark.slow
def test_whole_benchmark_on_a_tiny_model(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    sizes = ["--rounds=1", "--instructions=2", "--samples=3", "--max-tokens=8", "--pairs=8", "--epochs=1"]
    places = [f"--artifacts-dir={tmp_path / 'artifacts'}", f"--work={tmp_path / 'work'}", f"--out={tmp_path}"]
    shared = [f"--model={model}", *sizes, *places]
    run.main(["sampling", "--conditions=quiet,busy,two", "--contenders=generate,ours", "--name=here", *shared])
    others = "--contenders=one_at_a_time,ours,stock,losses_stock,losses_ours"
    run.main(["scoring", "training", "--conditions=quiet", others, "--name=here", *shared])
    result = json.loads((tmp_path / "here.json").read_text())
    assert list(result["parts"]) == ["sampling", "scoring", "training"]
    for part in result["parts"].values():
        for entries in part["conditions"].values():
            assert {entry["status"] for entry in entries["contenders"].values()} == {"ok"}
        assert part["conditions"]["quiet"]["speedups"][0]["median"] > 0
        assert part["floors"]["ours"]["value"] > 0
    sampled = result["parts"]["sampling"]
    assert sampled["kept"]["busy"].keys() == sampled["conditions"]["quiet"]["contenders"].keys()
    assert sampled["kept"]["two"].keys() == {"ours"}
    [work] = tmp_path.glob("work/*/work.json")
    answers = sampling.measure(Request("answers_ours", json.loads(work.read_text()), seed=0, folder=tmp_path))
    assert (answers.details["num_prompts"], answers.details["num_completions"]) == (6, 6)
    checks = {name: found for part in result["parts"].values() for name, found in part["checks"].items()}
    assert checks["reward, float32"]["max_abs_difference"] < 1e-5
    assert checks["loss of the first 10 steps, float32"]["max_abs_difference"] < 1e-4
    assert (tmp_path / "here.svg").exists()
