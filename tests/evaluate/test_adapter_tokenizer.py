"""A tokenizer that lies beside an adapter: the model's own, or refused."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tpo.evaluate.policies import PolicyError, check_tokenizer


def test_an_adapter_without_a_tokenizer_or_with_the_models_is_taken(tiny_model: Path, tmp_path: Path) -> None:
    check_tokenizer(tmp_path, tiny_model, name="tiny")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)  # as a training saves it once more
    check_tokenizer(tmp_path, tiny_model, name="tiny")


def test_other_tokens_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["<|thought|>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match=r"is not that of model\.name=tiny \(for example '<\|thought\|>'\)"):
        check_tokenizer(tmp_path, tiny_model, name="tiny")


def test_another_chat_template_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "adapter")
    template = tmp_path / "adapter" / "chat_template.jinja"
    template.write_text(template.read_text() + "{{ eos_token }}")
    with pytest.raises(PolicyError, match=r"take it, with model\.chat_template=.*chat_template\.jinja, or"):
        check_tokenizer(tmp_path / "adapter", tiny_model, name="tiny")
