"""What comes with a model: its code is never run, its pickles are never read, and other files are noticed."""

import ast
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from conftest import make_model
from safetensors.torch import load_file

from tpo.model.chat import ChatError, load_tokenizer
from tpo.model.load import (
    ModelError,
    check_weights,
    find_commit,
    fingerprint,
    load_adapter,
    load_model,
    require_unchanged,
)
from tpo.model.targets import make_skeleton

PACKAGE = Path(__file__).parents[2] / "tpo"
NO_CODE_IS_LOADED_BY = {"GenerationConfig", "PeftConfig", "PeftModel"}  # they read JSON and tensors


def loaders() -> dict[str, ast.Call]:
    """Every call in the package that could run code of a model."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = getattr(getattr(node.func, "value", None), "id", "")
            is_vllm = name == "LLM" and path.name == "vllm.py"
            if (name in ("from_pretrained", "from_config") and owner not in NO_CODE_IS_LOADED_BY) or is_vllm:
                found[f"{path.relative_to(PACKAGE)}:{node.lineno}"] = node
    return found


def test_everything_that_loads_a_model_says_that_no_code_is_trusted() -> None:
    found = loaders()
    assert len(found) >= 12, "of AutoConfig, AutoTokenizer, models and vLLM"
    for place, call in found.items():
        given = {word.arg: word.value for word in call.keywords}
        value = given.get("trust_remote_code")
        assert isinstance(value, ast.Constant) and value.value is False, place


@pytest.fixture
def with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with Python files that leave a mark where they are run."""
    path = make_model(tmp_path / "model")
    code = f"open({str(tmp_path / 'was_run')!r}, 'w').close()\n"
    for name in ("configuration_mine", "modeling_mine", "tokenization_mine"):
        (path / f"{name}.py").write_text(code)
    config = json.loads((path / "config.json").read_text())
    own = {"AutoConfig": "configuration_mine.Mine", "AutoModelForCausalLM": "modeling_mine.Mine"}
    (path / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": own}))
    of_tokenizer = json.loads((path / "tokenizer_config.json").read_text())
    of_tokenizer |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["tokenization_mine.Mine", None]}}
    (path / "tokenizer_config.json").write_text(json.dumps(of_tokenizer))

    def answer(*_: Any) -> str:
        raise AssertionError("nobody is asked")

    monkeypatch.setattr("builtins.input", answer)
    return path


@pytest.mark.parametrize("load", ["check", "model", "skeleton", "tokenizer"])
def test_code_that_comes_with_a_model_is_not_run_and_nobody_is_asked(with_code: Path, load: str) -> None:
    with pytest.raises((ModelError, ChatError, ValueError)) as caught:
        if load == "check":
            check_weights(with_code, revision=None)
        elif load == "model":
            load_model(with_code, revision=None, dtype="float32")
        elif load == "skeleton":
            make_skeleton(str(with_code), revision=None)
        else:
            load_tokenizer(with_code)
    assert not (with_code.parent / "was_run").exists()
    if load in ("check", "model"):
        assert "Python code of its own" in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_pickled_weights_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    path = make_model(tmp_path / "model")
    check_weights(path, revision=None)
    weights = load_file(path / "model.safetensors")
    torch.save(weights, path / "pytorch_model.bin")
    check_weights(path, revision=None)  # the others are read
    (path / "model.safetensors").unlink()
    for refuse in (check_weights, partial(load_model, dtype="float32")):
        with pytest.raises(ModelError, match=r"weights are pickled.*save them as safetensors") as caught:
            refuse(path, revision=None)
        assert len(str(caught.value).splitlines()) == 1


def test_a_pickled_adapter_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    torch.save({}, tmp_path / "adapter_model.bin")
    model = load_model(tiny_model, revision=None, dtype="float32")
    with pytest.raises(ModelError, match="weights are pickled"):
        load_adapter(model, tmp_path)


def test_a_model_that_changes_during_a_run_is_named(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(tiny_model, path)
    expected = fingerprint(str(path))
    require_unchanged(str(path), expected)
    require_unchanged("some/model", None)
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ModelError, match="files of the model have changed"):
        require_unchanged(str(path), expected)
    shutil.rmtree(path)
    with pytest.raises(ModelError, match="or are gone"):
        require_unchanged(str(path), expected)


def test_a_branch_is_pinned_to_the_commit_that_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    cache = tmp_path / "models--some--model"
    for commit in ("a" * 40, "b" * 40):
        (cache / "snapshots" / commit).mkdir(parents=True)
        (cache / "snapshots" / commit / "config.json").write_text("{}")
    (cache / "refs").mkdir()
    for commit in ("a" * 40, "b" * 40):
        (cache / "refs" / "main").write_text(commit)
        assert find_commit("some/model", revision=None) == commit
    assert find_commit("some/model", revision="a" * 40) == "a" * 40
    assert find_commit("another/model", revision=None) is None
