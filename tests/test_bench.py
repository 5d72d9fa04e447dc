"""The benchmark: its arithmetic against hand values and torch's own counter, its processes, and what it writes."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from experiments.architecture import Architecture
from experiments.bench import run, sampling
from experiments.bench.floors import (
    Floor,
    Load,
    distinct_depths,
    floor,
    sampling_load,
    scoring_load,
    training_load,
)
from experiments.bench.machine import file_name, limits
from experiments.bench.parts import Options
from experiments.bench.process import Request, run_contender
from experiments.bench.report import draw_benchmark, number_text, part_text, write_figure
from experiments.bench.results import Spread, compare_values, speedup, spread, summarize_part
from experiments.bench.workload import Work
from tpo.store.files import write_json

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


RUNS: dict[str, list[dict[str, Any]]] = {
    "generate": [entry(0, 50.0), entry(1, 40.0, host=120.0)],
    "vllm": [{"round": 0, "status": "not installed: vllm"}],
    "ours": [entry(0, 200.0, operations=4e12, bytes_read=1e9), entry(1, 240.0, operations=9e12, bytes_read=1e9)],
}


def test_part_counts_what_ran_and_names_what_did_not() -> None:
    found = summarize_part(RUNS, [("ours", "generate"), ("ours", "vllm")], is_rate=True)
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
from experiments.bench.process import serve

def measure(request):
    match request.contender:
        case "absent":
            import a_package_that_nobody_has
        case "broken":
            raise RuntimeError("no luck")
    held = bytearray(300 * 2**20)
    return Timed(value=request.seed, seconds=0.5, began=time.time(), details={"held": len(held)}, values=[1.5])

if __name__ == "__main__":
    serve(measure)
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    (tmp_path / "fake_contender.py").write_text(CONTENDER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    numbers = count()
    return lambda name: run_contender("fake_contender", Request(name, {}, 7, tmp_path / str(next(numbers))))


def test_contender_in_a_process_of_its_own(start: Callable[[str], dict[str, Any]]) -> None:
    found = start("good")
    assert (found["status"], found["value"], found["values"]) == ("ok", 7, [1.5])
    assert found["peak_memory_mib"]["host"] > 300
    assert 0 < found["startup_s"] < 60


def test_contender_that_lacks_a_package(start: Callable[[str], dict[str, Any]]) -> None:
    assert start("absent") == {"status": "not installed: a_package_that_nobody_has"}


def test_contender_that_fails_says_why(start: Callable[[str], dict[str, Any]]) -> None:
    assert start("broken") == {"status": "failed with 1: RuntimeError: no luck"}


# --- what is written --------------------------------------------------------------------------------------------


def made_result() -> dict[str, Any]:
    reaches = {
        "bfloat16_operations_per_s": 1e12,
        "float32_operations_per_s": 2e11,
        "memory_bytes_per_s": 1e10,
        "weights_bytes_per_s": 2e10,
    }
    told = run.read_arguments(["sampling", "--rounds", "2"])
    checks = {"reward": {"status": "ok", **compare_values([1.0, 2.0], [1.0, 2.25])}}
    part = run.summarize(sampling.PART, RUNS, checks, told=told, options=Options(), reaches=reaches)
    machine = {"cpu": "Some(R) CPU @ 2", "num_cores": 2, "memory_gib": 24.0, "gpu": None}
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
    for expected in ("45 [40, 50]", "not installed: vllm", "ours / generate: 4.889 [4, 6] times", "at most 0.25 apart"):
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


def test_figure_shows_medians_ranges_and_ratios(tmp_path: Path) -> None:
    figure = draw_benchmark(made_result())
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [45.0, 220.0]
    assert [list(line.get_xdata()) for line in axes.lines[:2]] == [[40.0, 50.0], [200.0, 240.0]]
    assert axes.lines[2].get_xdata()[0] == 100.0  # the floor
    assert [text.get_text() for text in axes.texts] == ["45   4.9 times", "220"]
    paths = write_figure(made_result(), tmp_path / "machine.json")
    assert sorted(path.name for path in paths) == ["machine.png", "machine.svg"]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_files_are_named_after_the_machine() -> None:
    assert (
        file_name({"cpu": "Intel(R) Xeon(R) Processor", "num_cores": 2, "gpu": None}) == "intel-xeon-processor-2-cores"
    )
    assert file_name({"cpu": "any", "num_cores": 16, "gpu": "NVIDIA H100 80GB HBM3"}) == "nvidia-h100-80gb-hbm3"


def test_a_contender_that_could_not_run_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(part: Any, contender: str, *_: Any, **__: Any) -> dict[str, Any]:
        asked.append(contender)
        return {"status": "not installed: vllm"} if contender == "vllm" else entry(0, 1.0)

    monkeypatch.setattr(run, "start", fake)
    part = run.chosen(sampling.PART, "vllm,ours")
    runs: run.Runs = {name: [] for name in part.contenders}
    for number in range(2):
        run.run_round(part, runs, {}, {}, folder=Path(), number=number)
    assert asked == ["vllm", "ours", "ours"]


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
    chat = load_chat(sampling.policy(work))
    prompts = [chat.tokenizer.encode(text) for text in ("Name a river.", "Why is the sky blue at noon?", "Hi")]
    generate = sampling.with_generate(work, chat, seed=0, num_rows=options.generate_rows)
    ours = sampling.with_ours(work, chat, seed=0, longest=max(map(len, prompts)), is_adapted=False)
    found = ours(prompts, options.max_tokens)
    assert [len(group) for group in found] == [2, 2, 2]
    assert found == generate(prompts, options.max_tokens)


@pytest.mark.slow
def test_whole_benchmark_on_a_tiny_model(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    contenders = "generate,ours,one_at_a_time,stock,losses_stock,losses_ours"
    sizes = ["--rounds=1", "--instructions=2", "--samples=3", "--max-tokens=8", "--pairs=8", "--epochs=1"]
    places = [f"--artifacts-dir={tmp_path / 'artifacts'}", f"--work={tmp_path / 'work'}", f"--out={tmp_path}"]
    parts = ["sampling", "scoring", "training"]
    run.main([*parts, f"--model={model}", f"--contenders={contenders}", "--name=here", *sizes, *places])
    result = json.loads((tmp_path / "here.json").read_text())
    assert list(result["parts"]) == parts
    for part in result["parts"].values():
        assert [entry["status"] for entry in part["contenders"].values()] == ["ok", "ok"]
        assert part["speedups"][0]["median"] > 0
        assert part["floors"]["ours"]["value"] > 0
    checks = {name: found for part in result["parts"].values() for name, found in part["checks"].items()}
    assert checks["reward, float32"]["max_abs_difference"] < 1e-5
    assert checks["loss of the first 10 steps, float32"]["max_abs_difference"] < 1e-4
    assert (tmp_path / "here.svg").exists()
