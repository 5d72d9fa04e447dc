"""The doctor's findings: against hand-made machines, closed forms, and the reading of the paper's preset on an H100."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from test_imports import HEAVY
from test_torch_engine import make_adapter

from tpo.config.compose import compose_config
from tpo.config.schema import Config
from tpo.model import disk
from tpo.model.architecture import KNOWN, LLAMA_8B, Architecture, find_architecture
from tpo.model.disk import GIB, PROMPT, USED, disk_parts, rooms, warn_of_full_disk
from tpo.model.exported import RECORD
from tpo.plan import doctor, host, machine
from tpo.plan.cards import CARDS, CLASSES, Card, known, of_gpu, parse
from tpo.plan.doctor import examine, main
from tpo.plan.host import host_needs
from tpo.plan.hours import TRAINING, Range, decoding_seconds, seconds_at, training_operations
from tpo.plan.machine import DRIVERS, machine_checks, require_gpus
from tpo.plan.memory import FRAGMENTATION, Pair, training_bytes
from tpo.plan.needs import memory_needs
from tpo.store.errors import TpoError
from tpo.store.files import write_json
from tpo.store.gpus import Gpu

REPOSITORY = Path(__file__).parents[2]
# Peaks of a quickstart with 24 training instructions on two cores: all processes, shared pages once.
SAMPLED_GIB, TRAINED_GIB = 4.9, 3.4
H100 = Gpu("0", "GPU-0", "NVIDIA H100 80GB HBM3", "580.65.06", 79.6, 79.1)


@pytest.fixture(autouse=True)
def nothing_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No GPU, no model in the Hub's cache, a disk with room."""
    monkeypatch.setattr(doctor, "visible_gpus", lambda: [])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)


def config_of(*overrides: str) -> Config:
    return compose_config(Config, overrides)


def needs_of(memory: float, *overrides: str) -> dict[str, Any]:
    return {need.stage: need for need in memory_needs(config_of(*overrides), memory) or []}


# --- sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "weights"),
    [  # as published: the number of parameters on each model's page
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8_030_261_248),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-1.7B", 1_720_574_976),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("HuggingFaceTB/SmolLM3-3B", 3_075_098_624),
        ("smollm2-135m-instruct", 134_515_008),
    ],
)
def test_published_sizes(name: str, weights: int) -> None:
    assert KNOWN[name].num_linear + KNOWN[name].num_other == weights


def test_every_model_of_conf_has_known_sizes() -> None:
    names = [
        config_of(f"model={path.stem}").model.name
        for path in sorted((REPOSITORY / "conf/model").glob("*.yaml"))
        if path.stem != "pretrained"
    ]
    assert all(find_architecture(name) for name in names) and len(names) >= 6


def test_sizes_of_a_directory(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    assert find_architecture(str(tiny_model)) == Architecture.of(AutoConfig.from_pretrained(tiny_model))
    assert find_architecture(str(tmp_path / "nothing")) is None and find_architecture("who/knows") is None
    for number, text in enumerate(("{", "{}", json.dumps({**vars(LLAMA_8B), "num_experts": 8}))):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "config.json").write_text(text)
        assert find_architecture(str(tmp_path / str(number))) is None


# --- cards ------------------------------------------------------------------------------------------------------


def test_cards_by_hand() -> None:
    assert parse("24gb") == CLASSES["24gb"] == CARDS["RTX 4090"]
    assert parse("rtx 3090") == CARDS["RTX 3090"]
    assert parse("memory=32,tflops=200,bandwidth=1000") == Card("32 GiB", 32, 200, 1000)
    assert parse("name=H100,memory=70") == Card("H100", 70, 989, 3350)
    assert parse("memory=16").tflops is None
    assert (known("NVIDIA A10G"), known("NVIDIA H100 PCIe"), known("NVIDIA L40S")) == (
        CARDS["A10G"],
        CARDS["H100 PCIe"],
        CARDS["L40S"],
    )
    assert known("NVIDIA A100-SXM4-80GB") == CARDS["A100"] and known("Something 5") is None
    assert of_gpu(H100) == Card(H100.name, 79.6, 989, 3350)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("24gib", "did you mean 24gb"),
        ("memory=much", "memory=much is no number above 0"),
        ("memory=-1", "memory=-1 is no number above 0"),
        ("tflops=100", "give its memory in GiB"),
        ("memory=24,speed=3", "there is no speed"),
        ("memory=inf", "memory=inf is no number above 0"),
        ("memory=24,memory=25", "a key stands there twice"),
    ],
)
def test_a_wrong_card_is_a_sentence(text: str, message: str) -> None:
    with pytest.raises(TpoError, match=message):
        parse(text)


# --- hours ------------------------------------------------------------------------------------------------------


def test_operations_of_a_training_by_hand() -> None:
    """Two weights' operations a token, half the matrix of attention: all of it for a model of one layer, by hand."""
    one = Architecture(hidden=2, layers=1, heads=1, kv_heads=1, head_dim=2, intermediate=3, vocabulary=5)
    linear = 4 * 2 * 2 + 3 * 2 * 3
    depths = list(range(1, PROMPT + 4 + 1)) + list(range(PROMPT + 1, PROMPT + 4 + 1))
    forward = 2 * linear * (PROMPT + 8) + 2 * 2 * 5 * 8 + 4 * 2 * sum(depths)
    given: dict[str, Any] = {"num_pairs": 7, "completion": 4, "num_epochs": 3}
    for is_checkpointed, is_full, passes in ((False, False, 2), (True, False, 3), (False, True, 3), (True, True, 4)):
        found = training_operations(one, is_checkpointed=is_checkpointed, is_full=is_full, **given)
        assert found == 7 * forward * (3 * passes + 1)


def test_decoding_is_bound_by_memory_or_by_arithmetic() -> None:
    given: dict[str, Any] = {"num_sequences": 100, "completion": 50, "share": Range(1, 0.5)}
    slow_memory = Card("", 80, 1e9, 1e-3)
    read = LLAMA_8B.step_bytes + 10 * (PROMPT + 25) * LLAMA_8B.kv_bytes
    low, high = decoding_seconds(LLAMA_8B, slow_memory, at_once=10, **given)
    assert low == pytest.approx(read / 1e6 * 100 * 50 / 10) and high == 2 * low
    slow_arithmetic = Card("", 80, 1e-3, 1e9)
    operations = 10 * (LLAMA_8B.step_bytes + LLAMA_8B.attention_operations * (PROMPT + 25))
    assert decoding_seconds(LLAMA_8B, slow_arithmetic, at_once=10, **given).low == pytest.approx(operations / 1e9 * 500)
    both = [decoding_seconds(LLAMA_8B, CARDS["H100"], at_once=count, **given).low for count in (1, 10, 100, 1000)]
    assert both[0] > both[1] > both[2] == both[3], "more at once are faster until there are no more"


def test_the_papers_preset_on_an_h100_takes_what_a_reading_of_it_found() -> None:
    """Reckoned by another way, line by line: 4 to 7 hours an iteration to train with checkpointing, at 200 to 350
    TFLOP/s, 3 to 4.5 without; 45 to 60 minutes to sample 40,000 completions; 4.5 to 9 hours an iteration in all."""
    found = examine(config_of("experiment=tpo_llama3_8b"), card=CARDS["H100"])
    hours = {row["stage"]: [part / 3600 for part in row["seconds"] or ()] for row in found["stages"]}
    low, high = (part / 4 for part in hours["train"])
    assert low < 4 < 7 > high > low
    low, high = (part / 4 for part in hours["sample"])  # validation and test answers with it
    assert low < 1 < high < 2
    low, high = (part / 4 for part in found["hours"])
    assert 4 < low < 4.5 and 8 < high < 10
    assert found["unknown"] == []
    without = examine(config_of("experiment=tpo_llama3_8b", "hardware=80gb"), card=CARDS["H100"])
    (faster,) = [row["seconds"] for row in without["stages"] if row["stage"] == "train"]
    assert faster[0] / 3600 / 4 < 3 and faster[1] / 3600 / 4 < 4.5
    assert seconds_at(10, TRAINING) == (25, 50)


def test_what_is_not_known_is_said() -> None:
    found = examine(config_of("experiment=tpo_llama3_8b", "judge=llm_pairwise"), card=CARDS["H100"])
    assert found["unknown"] == ["verdicts"]
    assert "unknown" in doctor.notes(found)[0]
    found = examine(config_of("model=pretrained", "model.name=who/knows"), card=CARDS["H100"])
    assert found["memory"] is None and any("sizes are unknown" in line for line in doctor.notes(found))
    found = examine(config_of("experiment=tpo_llama3_8b"), card=Card("mine", 24, None, None))
    assert found["hours"] is None and found["memory"] is not None


def test_dollars_are_hours_by_cards_and_price() -> None:
    found = examine(config_of("experiment=tpo_llama3_8b_full"), card=CARDS["H100"], price=2.0)
    assert found["num_cards"] == 8
    assert found["dollars"] == pytest.approx([16 * hours for hours in found["hours"]])


# --- memory -----------------------------------------------------------------------------------------------------


def test_memory_by_part_sums_to_the_memory_model() -> None:
    need = needs_of(24, "experiment=tpo_llama3_8b")["train"]
    taken = training_bytes(LLAMA_8B, [Pair(PROMPT, 2048, 2048)] * 2, quantization="nf4", is_checkpointed=True)
    assert need.total * GIB == pytest.approx(taken + GIB) and need.fits


@pytest.mark.parametrize(
    ("memory", "overrides", "not_fitting"),
    [
        (24, ["experiment=tpo_llama3_8b"], set()),
        (24, ["experiment=tpo_llama3_8b", "train.gradient_checkpointing=false"], {"train"}),
        (80, ["experiment=tpo_llama3_8b", "hardware=80gb"], set()),
        (16, ["experiment=tpo_llama3_8b", "engine.quantization=bitsandbytes"], {"model", "judge"}),
        (48, ["experiment=tpo_llama3_8b", "hardware=48gb"], set()),
        (16, ["experiment=tpo_llama3_8b"], {"model", "sample", "judge"}),
        (24, ["experiment=tpo_small_gpu"], set()),
        (4, ["experiment=tpo_small_gpu", "eval.judge.batch_tokens=4096"], {"train", "eval.judge"}),
        (22.4, ["experiment=tpo_small_gpu"], set()),
        (80, ["experiment=tpo_llama3_8b_full"], set()),
        (16, ["experiment=tpo_llama3_8b_full"], {"sample", "judge", "train"}),
        (8 * 0.9, ["experiment=tpo_qwen3_1_7b", "hardware=laptop", "sample=paper", "pairs.max_tokens=2348"], set()),
    ],
)
def test_what_fits(memory: float, overrides: list[str], not_fitting: set[str]) -> None:
    found = needs_of(memory, *overrides)
    assert {stage for stage, need in found.items() if not need.fits} == not_fitting
    assert all(need.advice for need in found.values())
    assert all(need.total <= memory for stage, need in found.items() if stage not in not_fitting)
    assert FRAGMENTATION == 0.05


def test_the_small_preset_takes_hours_and_not_days_on_24_gib() -> None:
    found = examine(config_of("experiment=tpo_small_gpu"), card=parse("24gb"), price=0.5)
    assert found["is_ready"] and found["hours"][1] < 12 and found["dollars"][1] < 6
    assert examine(config_of("experiment=tpo_small_gpu"), card=parse("L4"))["hours"][1] < 24


# --- disk -------------------------------------------------------------------------------------------------------


def test_disk_by_part() -> None:
    parts = {part.name: part.size for part in disk_parts(config_of("experiment=tpo_llama3_8b"))}
    weights = 2 * 8_030_261_248
    assert parts["meta-llama/Meta-Llama-3-8B-Instruct, from the Hub"] == weights
    assert parts["seed model as it is sampled from"] == weights
    assert parts["adapters after each epoch"] == 2 * 41_943_040 * 10 * 4
    completions = 4 * 5000 * 8 + 4 * 500 * 10 + 1000 * (5 + 4)  # of the baseline
    assert parts["completions"] == pytest.approx(14 * completions * (PROMPT + USED * 2048))
    full = {part.name: part.size for part in disk_parts(config_of("experiment=tpo_llama3_8b_full"))}
    assert full["models after each epoch"] == weights * 10 * 4


def test_a_full_disk_is_warned_of_before_a_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    config = config_of("experiment=tpo_llama3_8b", f"artifacts_dir={tmp_path}/a/b")
    (room,) = rooms(disk_parts(config))
    for free, is_warned in ((room.needed + 1, False), (room.needed - 1, True)):
        caplog.clear()
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        warn_of_full_disk(config)
        assert bool(caplog.records) is is_warned
    assert "make room, or move artifacts_dir" in caplog.text


# --- the machine ------------------------------------------------------------------------------------------------


def checks_of(*overrides: str, gpus: list[Gpu]) -> dict[str, Any]:
    return {item.what: item for item in machine_checks(config_of(*overrides), gpus)}


@pytest.mark.parametrize(
    ("driver", "cuda", "state"),
    [
        ("580.65.06", "13.0", "ok"),
        ("570.133.20", "13.0", "missing"),
        ("535.1", "12.8", "ok"),
        ("535.1", None, "missing"),
    ],
)
def test_driver_and_torch(monkeypatch: pytest.MonkeyPatch, driver: str, cuda: str | None, state: str) -> None:
    monkeypatch.setattr(machine, "torch_version", lambda: ("2.13.0", cuda))
    found = checks_of("experiment=quickstart", gpus=[H100._replace(driver=driver)])
    (check,) = [item for name, item in found.items() if name.startswith("torch")]
    assert check.state == state
    if cuda == "13.0":
        assert driver in check.found and (state == "ok" or str(DRIVERS["13"]) in check.how)


def test_torch_of_this_environment_without_importing_it() -> None:
    import torch

    assert machine.torch_version() == (torch.__version__, torch.version.cuda)


def test_the_host_memory_of_a_run_on_a_cpu_by_hand() -> None:
    """By hand, in MiB: 0.9 to 1.7 GiB of programs, a GiB at most for each of two workers, weights, and the cache."""
    from tpo.model.frozen import MAX_PARAMETERS

    config = config_of("experiment=quickstart")
    model = KNOWN["smollm2-135m-instruct"]
    found = {need.step: need for need in host_needs(config, model, num_cores=2)}
    weights = 2 * 134_515_008
    token = 2 * 2 * 30 * 3 * 64  # keys and values of 30 layers, 3 heads of 64, 2 bytes
    assert found["sample"].high == pytest.approx(1.7 * GIB + 2 * GIB + 2 * weights + 256 * (300 + 144) * token)
    assert found["sample"].low == pytest.approx(0.9 * GIB + 0.6 * GIB + weights + 256 * (100 + 58) * token)
    assert host_needs(config, model, num_cores=8)[1].high == found["sample"].high + 6 * GIB
    few = replace(config, engine=replace(config.engine, max_sequences=16, num_workers=1))  # type: ignore[call-arg]
    assert host_needs(few, model, num_cores=8)[1].high < found["sample"].high / 1.5
    assert MAX_PARAMETERS == host.MAX_COPIED


@pytest.mark.parametrize(("step", "measured"), [("sample", SAMPLED_GIB), ("train", TRAINED_GIB)])
def test_the_quickstart_takes_what_the_doctor_says(step: str, measured: float) -> None:
    """Between the ends, which are at most a factor of 3 apart."""
    needs = host_needs(config_of("experiment=quickstart"), KNOWN["smollm2-135m-instruct"], num_cores=2)
    [need] = [need for need in needs if need.step == step]
    assert need.low <= measured * GIB <= need.high <= 3 * need.low


@pytest.mark.parametrize(("free", "state"), [(1, "missing"), (4, "note"), (9, "ok")])
def test_host_memory_is_a_range_on_a_cpu(free: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_free_host_bytes", lambda: free * GIB)
    monkeypatch.setattr(machine, "num_cores", lambda: 2)
    found = checks_of("experiment=quickstart", gpus=[])["host memory"]
    assert (found.state, found.found) == (state, f"{free}.0 GiB free, 2.6 to 6.6 needed (sample)")
    assert bool(found.how) is (state != "ok")


def test_what_is_missing_has_a_way_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr(machine, "has_wandb_key", lambda: False)
    monkeypatch.setattr(machine, "_free_host_bytes", lambda: GIB)
    found = checks_of("experiment=tpo_llama3_8b_full", gpus=[H100])
    assert {name for name, item in found.items() if item.state == "missing"} >= {
        "GPU",
        "C compiler",
        "Python.h",
        "host memory",
    }
    assert found["GPU"].how.startswith("the settings are for 8: lower train.num_processes")
    assert "hf auth login" in found["Hub login"].how and "wandb login" in found["W&B"].how
    assert all(item.how for item in found.values() if item.state != "ok")


@pytest.mark.parametrize(
    ("overrides", "missing"),
    [
        ([], []),
        (["engine.data_parallel_size=2"], ["GPU: 1 x NVIDIA H100", "the settings are for 2"]),
        (["train.num_processes=4"], ["the settings are for 4"]),
        (["train.num_processes=1"], []),
    ],
)
def test_a_run_ends_at_its_start_where_gpus_are_too_few(
    overrides: list[str], missing: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(machine, "_which", lambda name: f"/usr/bin/{name}")
    config = config_of("experiment=tpo_llama3_8b", *overrides)
    require_gpus(config, [])  # on a CPU, processes share what there is
    with pytest.raises(TpoError) if missing else nullcontext() as raised:
        require_gpus(config, [H100])
    assert all(part in str(raised.value) for part in missing) if raised else not missing


def test_a_run_ends_at_its_start_where_nothing_compiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(machine, "_which", lambda _: None)
    with pytest.raises(TpoError, match=r"C compiler: none \(apt install gcc\); Python.h: none .*tpo.doctor"):
        require_gpus(config_of("experiment=tpo_llama3_8b"), [H100])
    require_gpus(config_of("experiment=tpo_llama3_8b", "engine=torch"), [H100])
    sharded = ["engine=torch", "train.num_processes=2", "accelerate=deepspeed_zero2"]
    with pytest.raises(TpoError, match="nvcc: none .the CUDA toolkit of torch's CUDA version"):
        require_gpus(config_of("experiment=tpo_llama3_8b", *sharded), [H100, H100])


def test_the_header_of_a_run_asks_for_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from tpo.results.tracking.labels import Launch
    from tpo.run import header

    monkeypatch.setattr("tpo.store.gpus.visible_gpus", lambda: [H100])
    with pytest.raises(TpoError, match="the settings are for 8"):
        header(config_of("experiment=tpo_llama3_8b_full"), name="mine", launch=Launch())


def test_a_model_that_is_not_cached_is_missing_where_the_hub_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for offline, state in ((True, "missing"), (False, "note")):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        assert checks_of("experiment=tpo_qwen3_1_7b", gpus=[])["model Qwen/Qwen3-1.7B"].state == state
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: "/somewhere/model.safetensors")
    monkeypatch.setattr(machine, "find_architecture", lambda *_, **__: None)
    assert machine.has_weights("Qwen/Qwen3-1.7B", revision=None)


# --- the command ------------------------------------------------------------------------------------------------


def test_a_run_that_goes_on_has_the_sizes_of_the_model_under_it(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_adapter(tiny_model, tmp_path / "export")
    config = compose_config(Config, ["experiment=smoke", "model=pretrained", f"model.name={tiny_model}"])
    model = asdict(replace(config.model, dtype="float32", quantization="none", max_model_len=1024))
    groups = {"thought": asdict(config.thought), "sample": asdict(config.sample)}
    write_json(place / RECORD, {"kind": "adapter", "model": model, "training": None, **groups})
    asked = ["experiment=smoke", "train.lora_rank=4", "train.lora_alpha=8", f"artifacts_dir={tmp_path}/artifacts"]
    assert main([*asked, f"model.name={place}", "--card", "24gb"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "unknown" not in said and "the run fits this card" in said


def test_exit_status_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=tpo_llama3_8b", "--card", "80gb", "--price", "2", "--json", str(tmp_path / "found")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("settings: experiment=tpo_llama3_8b\n")
    assert (
        "time: " in said
        and "price: " in said
        and "not measured" in said
        and said.endswith("the run fits this card; this machine was not looked at\n")
    )
    found = json.loads((tmp_path / "found").read_text())
    assert found["is_ready"] and found["checks"] == [], "another machine's card says nothing of this one"
    for words, given in ([], ""), (["seed=1"], ", with seed=1"):
        main([*words, "--card", "80gb"])
        line = f"settings: the defaults of conf/config.yaml{given}; experiment=NAME takes those of an experiment"
        assert capsys.readouterr().out.splitlines()[0] == line
    assert main(["experiment=tpo_llama3_8b", "--card", "memory=16"]) == 1
    assert "does not fit" in capsys.readouterr().out
    assert main(["experiment=tpo_llama3_8b"]) == 1, "there is no GPU"
    assert "not ready" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=nonsense"], "nonsense"),
        (["train.betta=1"], "did you mean train.beta"),
        (["--card", "abacus"], "--card abacus: unknown"),
        (["sample.num_samples=1"], "needs at least 2 samples"),
        (["--price", "nan"], "--price nan: give dollars above 0"),
        (["--price", "-1"], "--price -1: give dollars above 0"),
        (["--json", "/proc/none/found.json"], "cannot be written"),
    ],
)
def test_wrong_settings_are_a_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said


def test_it_loads_nothing_heavy_and_writes_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, tpo.plan.doctor\n"
        "tpo.plan.doctor.main(['experiment=tpo_llama3_8b', '--card', '24gb'])\n"
        f"print('heavy:', sorted({set(HEAVY) - {'hydra', 'wandb'}!r} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert not list(tmp_path.iterdir())


def test_packages_are_no_error_for_the_doctor_alone() -> None:
    config = config_of("experiment=tpo_llama3_8b")
    assert asdict(config)["engine"]["kind"] == "vllm"
    from tpo.config.check import check

    check(config, with_packages=False)


def test_help_has_options_groups_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert said.count("\npython -m tpo.doctor ") >= 3
    assert all(part in said for part in ("--card", "--price", "hardware: 24gb, 48gb, 80gb, auto, laptop", "== Config"))
