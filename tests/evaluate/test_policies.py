"""What `policy=` may name."""

import json
from pathlib import Path
from typing import Any

import pytest

from tpo.config.schema import ModelConfig, SampleConfig
from tpo.config.thought import DIRECT, ThoughtFormat
from tpo.evaluate.policies import PolicyError, resolve

MODEL = ModelConfig(source="embedded", name="small", quantization="nf4", max_model_len=64)
SAMPLE = SampleConfig(num_samples=2, temperature=1.0, top_p=1.0, max_thought_tokens=3, max_response_tokens=4)
FORM = ThoughtFormat("Think. {instruction}", "T:", "R:", "switch")


def found(text: str | Path, *, form: ThoughtFormat = FORM, artifacts_dir: Path = Path("artifacts")) -> Any:
    return resolve(str(text), model=MODEL, form=form, sample=SAMPLE, artifacts_dir=artifacts_dir)


def make_adapter(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text("{}")
    (path / "adapter_model.safetensors").write_bytes(b"0")
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of two iterations with the specific thought prompt on another model."""
    for epoch in (1, 2):
        make_adapter(tmp_path / "artifacts" / "train-b" / f"epoch-{epoch}")
    make_adapter(tmp_path / "artifacts" / "train-a" / "epoch-1")
    path = tmp_path / "runs" / "big-0123"
    path.mkdir(parents=True)
    config = {
        "artifacts_dir": str(tmp_path / "artifacts"),
        "model": {**vars(MODEL), "name": "big"},
        "thought": {
            "name": "specific",
            "prompt": "Draft. {instruction}",
            "thought_delimiter": None,
            "response_delimiter": "<R>",
            "enforce": "none",
        },
        "sample": {**vars(SAMPLE), "max_thought_tokens": 99},
    }
    adapters = [None, "train-a/epoch-1", "train-b/epoch-2"]
    iterations = [{"iteration": number, "adapter": adapter} for number, adapter in enumerate(adapters)]
    (path / "config.json").write_text(json.dumps(config))
    (path / "summary.json").write_text(json.dumps({"iterations": iterations}))
    return path


def test_seed_is_the_configured_model() -> None:
    policy = found("seed")
    assert (policy.model, policy.form, policy.sample, policy.adapter) == (MODEL, FORM, SAMPLE, None)
    assert policy.name == "small, with a thought"
    assert found("seed", form=DIRECT).name == "small, direct"


@pytest.mark.parametrize(
    ("suffix", "adapter", "name"),
    [
        ("", "train-b/epoch-2", "big-0123@2"),
        ("@2", "train-b/epoch-2", "big-0123@2"),
        ("@1", "train-a/epoch-1", "big-0123@1"),
        ("@0", None, "big-0123@0"),
    ],
)
def test_run_brings_its_own_model_and_format(run: Path, suffix: str, adapter: str | None, name: str) -> None:
    policy = found(f"{run}{suffix}")
    assert policy.name == name
    assert policy.adapter == (None if adapter is None else run.parents[1] / "artifacts" / adapter)
    assert policy.model.name == "big"
    assert policy.form == ThoughtFormat("Draft. {instruction}", None, "<R>", "none")
    assert policy.sample.max_thought_tokens == 99


def test_adapter_of_a_moved_run_is_looked_for_in_the_configured_artifacts(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    (tmp_path / "artifacts").rename(moved)
    assert found(run, artifacts_dir=moved).adapter == moved / "train-b" / "epoch-2"
    with pytest.raises(PolicyError, match="train-b/epoch-2 is neither in .*; set artifacts_dir"):
        found(run)


def test_adapter_is_on_the_configured_model(tmp_path: Path) -> None:
    path = make_adapter(tmp_path / "my-adapter")
    policy = found(path)
    assert (policy.model, policy.adapter, policy.form) == (MODEL, path, FORM)


def test_other_models_are_pretrained_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name in (str(tmp_path), "Qwen/Qwen3-0.6B"):
        policy = found(name)
        assert (policy.model.source, policy.model.name, policy.adapter) == ("pretrained", name, None)
        assert policy.model.quantization == MODEL.quantization


def test_what_does_not_exist_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        f"{run}@7": r"has iterations \[0, 1, 2\]",
        str(tmp_path / "nowhere"): "there is no such directory",
        "runs/nowhere": "there is no such directory",
        str(tmp_path / "empty"): "no run, adapter or model",
        str(tmp_path / "artifacts" / "train-b"): "name one of its epoch-1, epoch-2",
    }
    for text, message in cases.items():
        with pytest.raises(PolicyError, match=message):
            found(text)
    (run / "config.json").unlink()
    with pytest.raises(PolicyError, match="config.json: not the folder of a run that was finished"):
        found(run)
    (run / "config.json").write_text("{")
    with pytest.raises(PolicyError, match="damaged"):
        found(run)
    (run / "config.json").write_text("{}")
    with pytest.raises(PolicyError, match="not the summary of a run"):
        found(run)
