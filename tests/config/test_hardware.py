"""Settings by the memory of a card: computed here from the memory model, and chosen from what a driver says is free."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from hydra import compose
from hydra.errors import HydraException
from omegaconf import OmegaConf

from tpo.config import hardware
from tpo.config.check import check
from tpo.config.compose import CONF, compose_config, composing
from tpo.config.fields import ConfigError
from tpo.config.hardware import CARDS, FREE, preset_for, resolve_hardware
from tpo.config.schema import Config
from tpo.model.architecture import LLAMA_8B, QWEN3_1_7B
from tpo.model.disk import PROMPT, USED
from tpo.plan.__main__ import make_plan
from tpo.plan.cards import CLASSES
from tpo.plan.doctor import examine
from tpo.plan.memory import Pair, most_pairs, sequences_at_once
from tpo.store.files import content_hash
from tpo.store.gpus import Gpu, find_gpus, visible_gpus

REPOSITORY = Path(__file__).parents[2]
LINE = "{index}, GPU-{index}a2b3c4d, NVIDIA H100 80GB HBM3, 580.65.06, 81559, {free}"
Driver = Callable[..., None]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """A fake `nvidia-smi` that prints lines, first on PATH."""
    hardware._choose.cache_clear()
    find_gpus.cache_clear()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def prints(*lines: str, status: int = 0) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        quoted = "\n".join(f"echo '{line}'" for line in lines)
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{quoted}\nexit {status}\n")
        (folder / "nvidia-smi").chmod(0o755)
        find_gpus.cache_clear()
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    yield prints
    hardware._choose.cache_clear()
    find_gpus.cache_clear()


# --- the numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CARDS)
def test_numbers_follow_from_the_memory_model(name: str) -> None:
    sample = OmegaConf.load(CONF / "sample" / "paper.yaml")
    longest = sample.max_thought_tokens + sample.max_response_tokens
    model, quantization = (QWEN3_1_7B, "none") if name == "laptop" else (LLAMA_8B, "nf4")
    fits = {
        is_checkpointed: most_pairs(
            model,
            Pair(PROMPT, longest, longest),
            card=FREE * CARDS[name],
            quantization=quantization,
            is_checkpointed=is_checkpointed,
        )
        for is_checkpointed in (False, True)
    }
    count = fits[False] or fits[True]
    train = OmegaConf.load(CONF / "hardware" / f"{name}.yaml").train
    assert train.gradient_checkpointing is not bool(fits[False])
    assert train.micro_batch_size == 2 ** (count.bit_length() - 1) >= 1
    engine = OmegaConf.load(CONF / "hardware" / "engine" / f"{name}_vllm.yaml").engine
    # vLLM refuses to start where less than its share is free.
    assert engine.gpu_memory_utilization <= FREE
    # As tpo.plan.hours expects them: fewer, and the card would wait for its memory's half.
    tokens = PROMPT + int(USED * longest) // 2
    held = sequences_at_once(model, card=CARDS[name], utilization=engine.gpu_memory_utilization, tokens=tokens)
    assert engine.max_num_seqs == held // 8 * 8 > 0


@pytest.mark.parametrize("name", ["24gb", "48gb", "80gb"])
def test_a_preset_does_not_take_longer_than_none(name: str) -> None:
    given = ["experiment=tpo_llama3_8b"]
    hours = [
        examine(compose_config(Config, [*given, *more]), card=CLASSES[name])["hours"]
        for more in ([], [f"hardware={name}"])
    ]
    assert hours[1][0] <= 1.05 * hours[0][0] and hours[1][1] <= 1.05 * hours[0][1]


@pytest.mark.parametrize("name", CARDS)
def test_a_preset_composes_to_what_it_says_and_passes_the_check(name: str) -> None:
    config = compose_config(Config, ["experiment=smoke_vllm", f"hardware={name}", "train.batch_size=8"])
    for path in (f"{name}.yaml", f"engine/{name}_vllm.yaml"):
        written: Any = OmegaConf.to_container(OmegaConf.load(CONF / "hardware" / path))
        for group, values in written.items():
            found = dataclasses.asdict(getattr(config, group))
            assert {key: found[key] for key in values} == values
    torch = compose_config(Config, ["experiment=smoke", f"hardware={name}"])
    check(torch)
    assert "max_num_seqs" not in dataclasses.asdict(torch.engine)


def test_hardware_wins_over_an_experiment_and_the_command_line_over_both() -> None:
    assert compose_config(Config, ["experiment=tpo_qwen3_1_7b"]).train.micro_batch_size == 1
    assert compose_config(Config, ["experiment=tpo_qwen3_1_7b", "hardware=24gb"]).train.micro_batch_size == 4
    given = ["experiment=tpo_qwen3_1_7b", "hardware=24gb", "train.micro_batch_size=2"]
    assert compose_config(Config, given).train.micro_batch_size == 2


# --- auto -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free_gib", "expected"),
    [
        (140.0, "80gb"),
        (79.1, "80gb"),  # an H100 of 80 GB
        (71.9, "48gb"),
        (44.4, "48gb"),  # an L40S, whose ECC takes some
        (43.0, "24gb"),
        (22.4, "24gb"),  # an A10 or L4
        (15.8, "laptop"),
        (7.1, None),
    ],
)
def test_the_preset_for_what_is_free(free_gib: float, expected: str | None) -> None:
    assert preset_for(free_gib) == expected


def test_auto_is_the_option_itself_artifacts_included(driver: Driver, capsys: pytest.CaptureFixture[str]) -> None:
    driver(LINE.format(index=0, free=47104))
    assert resolve_hardware(["experiment=smoke", "hardware=auto", "seed=1"]) == [
        "experiment=smoke",
        "hardware=48gb",
        "seed=1",
    ]
    said = capsys.readouterr().err
    assert said == "hardware=auto: hardware=48gb, since NVIDIA H100 80GB HBM3 has 46.0 of 79.6 GiB free\n"
    auto, explicit, none = (
        [sorted(make_plan(["experiment=smoke", *words], is_sweep=False).stages)]
        for words in (["hardware=auto"], ["hardware=48gb"], [])
    )
    assert auto == explicit != none
    configs = [compose_config(Config, ["experiment=smoke", f"hardware={name}"]) for name in ("auto", "48gb")]
    assert len({content_hash(dataclasses.asdict(config)) for config in configs}) == 1
    assert capsys.readouterr().err == "", "it is said once"


def test_auto_is_replaced_by_the_command_itself(driver: Driver) -> None:
    driver(LINE.format(index=0, free=80000))
    done = run_command("tpo.run", "experiment=smoke", "hardware=auto", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert OmegaConf.create(done.stdout).train.gradient_checkpointing is False
    assert "hardware=80gb" in done.stderr


def test_auto_without_a_gpu_changes_nothing(driver: Driver, capsys: pytest.CaptureFixture[str]) -> None:
    driver(status=9)
    assert resolve_hardware(["experiment=smoke", "hardware=auto"]) == ["experiment=smoke"]
    assert "no GPU is visible" in capsys.readouterr().err


def test_auto_on_a_full_card_says_what_is_free(driver: Driver) -> None:
    driver(LINE.format(index=0, free=2048))
    with pytest.raises(ConfigError, match=r"has 2\.0 of 79\.6 GiB free, less than the 7\.2 that hardware=laptop"):
        resolve_hardware(["hardware=auto"])


def test_auto_that_nobody_replaced_does_not_compose() -> None:
    with composing(), pytest.raises(HydraException, match="(?s)hardware/auto.*micro_batch_size"):
        compose("config", overrides=["experiment=smoke", "hardware=auto"])


# --- what the driver says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [10, 20, 30]),
        ("", []),
        ("1", [20]),
        ("2,0", [30, 10]),
        ("GPU-1a2b", [20]),
        ("0,9,1", [10]),  # CUDA stops at the first that is not there
        ("NoDevFiles", []),
    ],
)
def test_visible_gpus(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[int]
) -> None:
    driver(*(LINE.format(index=index, free=1024 * 10 * (index + 1)) for index in range(3)))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.free_gib for gpu in visible_gpus()] == expected


def test_what_the_driver_does_not_say_is_no_gpu(driver: Driver) -> None:
    driver("0, GPU-0a, NVIDIA A100, 580.65.06, [N/A], [N/A]", "No devices were found", LINE.format(index=1, free=1024))
    assert visible_gpus() == [Gpu("1", "GPU-1a2b3c4d", "NVIDIA H100 80GB HBM3", "580.65.06", 81559 / 1024, 1.0)]
