"""What `policy=` may name."""

import json
from pathlib import Path

import pytest

from tpo.config.groups import ModelConfig, SampleConfig
from tpo.config.thought import DIRECT, ThoughtFormat
from tpo.evaluate.policies import PolicyError, find_policy
from tpo.model.load import ModelError
from tpo.model.policy import PolicyRef
from tpo.plan.stages import PlanStore
from tpo.results.read import ResultError
from tpo.store.artifacts import finish
from tpo.store.files import write_json, write_sealed

MODEL = ModelConfig(source="embedded", name="small", quantization="nf4", max_model_len=64)
SAMPLE = SampleConfig(num_samples=2, temperature=1.0, top_p=1.0, max_thought_tokens=3, max_response_tokens=4)
FORM = ThoughtFormat("Think. {instruction}", "T:", "R:", "switch")


def found(text: str | Path, *, form: ThoughtFormat = FORM, artifacts_dir: Path = Path("artifacts")) -> PolicyRef:
    return find_policy(str(text), PlanStore(artifacts_dir), model=MODEL, form=form, sample=SAMPLE)


def make_adapter(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (path / "adapter_model.safetensors").write_bytes(b"0")
    return path


def make_training(root: Path, *, num_epochs: int) -> None:
    """An artifact of the stage "train" with an adapter for each epoch."""
    for epoch in range(1, num_epochs + 1):
        make_adapter(root / f"epoch-{epoch}")
    write_json(root / "request.json", {})
    finish(root, metrics={}, started=0)


def adapter_of(policy: PolicyRef) -> Path | None:
    return None if policy.adapter is None else policy.adapter.path / f"epoch-{policy.epoch}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of two iterations with the specific thought prompt on another model."""
    make_training(tmp_path / "artifacts" / "train-a", num_epochs=1)
    make_training(tmp_path / "artifacts" / "train-b", num_epochs=2)
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
    write_sealed(path / "summary.json", {"iterations": iterations})
    return path


def test_seed_is_the_configured_model() -> None:
    policy = found("seed")
    assert (policy.settings, policy.form, policy.sampling, policy.adapter) == (MODEL, FORM, SAMPLE, None)
    assert policy.model.manifest["config"]["name"] == "small"
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
    artifacts = run.parents[1] / "artifacts"
    policy = found(f"{run}{suffix}", artifacts_dir=artifacts)
    assert policy.name == name
    assert adapter_of(policy) == (None if adapter is None else artifacts / adapter)
    assert policy.settings.name == policy.model.manifest["config"]["name"] == "big"
    assert policy.form == ThoughtFormat("Draft. {instruction}", None, "<R>", "none")
    assert policy.sampling.max_thought_tokens == 99


def test_adapter_of_a_moved_run_is_looked_for_in_the_configured_artifacts(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    (tmp_path / "artifacts").rename(moved)
    assert adapter_of(found(run, artifacts_dir=moved)) == moved / "train-b" / "epoch-2"
    with pytest.raises(PolicyError, match="train-b/epoch-2 is neither in .*; set artifacts_dir"):
        found(run)


def test_adapter_is_on_the_configured_model(tmp_path: Path) -> None:
    path = make_adapter(tmp_path / "my-adapter")
    policy = found(path)
    assert (policy.settings, policy.epoch, policy.form) == (MODEL, 1, FORM)
    assert policy.adapter is not None and set(policy.adapter.manifest["config"]["files"]) == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_other_models_are_pretrained_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name in (str(tmp_path), "Qwen/Qwen3-0.6B"):
        policy = found(name)
        assert (policy.settings.source, policy.settings.name, policy.adapter) == ("pretrained", name, None)
        assert policy.settings.quantization == MODEL.quantization


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
    with pytest.raises(ResultError, match="config.json does not exist: give the folder of a finished run"):
        found(run)
    (run / "config.json").write_text("{")
    with pytest.raises(ResultError, match="config.json is damaged"):
        found(run)
    (run / "config.json").write_text("{}")
    with pytest.raises(ResultError, match="not those of a run"):
        found(run)


def test_an_adapter_that_no_engine_computes_is_refused_when_it_is_named(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "alora")
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "alora_invocation_tokens": [5, 6]}')
    with pytest.raises(ModelError, match="is an activated LoRA"):
        found(adapter)
