"""The stage that prepares a seed model: what it finds out of the chat template, before anything is sampled."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from chat_templates import TEMPLATES, with_template
from conftest import make_model

from tpo.config.groups import ModelConfig
from tpo.config.thought import DIRECT, STRIPPED
from tpo.model.asked import AskError
from tpo.model.chat import ChatError
from tpo.model.policy import open_policy
from tpo.model.prepare import work
from tpo.model.stages import prepare_model, require_askable
from tpo.store.artifacts import Artifact, finish
from tpo.store.job import Job
from tpo.store.store import Store


def prepare(model: Path, root: Path, **changes: Any) -> Artifact:
    def execute(path: Path) -> None:
        finish(path, metrics=work(Job(path, json.loads((path / "request.json").read_text())["config"], {})), started=0)

    settings = ModelConfig(**{"source": "pretrained", "name": str(model), "quantization": "none", "max_model_len": 64})
    for name, value in changes.items():
        setattr(settings, name, value)
    return prepare_model(Store(root, execute=execute), settings)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny R1 distill: its template opens every answer with a thought."""
    path = make_model(tmp_path_factory.mktemp("thinker"))
    with_template(TEMPLATES["deepseek_r1_distill"]).save_pretrained(path)
    return path


def test_conventions_lie_with_the_model_and_reach_the_policy(
    thinker: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = prepare(thinker, tmp_path, template_date="2037-02-28")
    policy = open_policy({"dtype": "float32", "max_model_len": 64, "epoch": 0}, {"model": model})
    assert policy.conventions.tags is not None and policy.conventions.date == "2037-02-28"
    with caplog.at_level(logging.INFO):
        require_askable(model, [STRIPPED])
    assert "thoughts: <think> ... </think>, opened by the template; direct answers: thinking cannot be" in caplog.text
    with pytest.raises(AskError, match="model.direct_answers=stripped"):
        require_askable(model, [STRIPPED, DIRECT])


def test_arguments_that_the_template_does_not_know_are_refused(thinker: Path, tmp_path: Path) -> None:
    with pytest.raises(ChatError, match="model.template_arguments.enable_thinking: .* no such variable"):
        prepare(thinker, tmp_path, template_arguments={"enable_thinking": False})


def test_a_file_that_is_missing_is_told(thinker: Path, tmp_path: Path) -> None:
    (thinker / "generation_config.json").rename(tmp_path / "elsewhere.json")
    try:
        model = prepare(thinker, tmp_path)
    finally:
        (tmp_path / "elsewhere.json").rename(thinker / "generation_config.json")
    assert model.metrics["conventions"]["missing_files"] == ["generation_config.json"]


def test_a_chat_template_in_another_encoding_is_named(thinker: Path, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_bytes("Caf\u00e9 {{ messages }}".encode("latin-1"))
    with pytest.raises(ChatError, match=r"model\.chat_template=.*template\.jinja is not a text in UTF-8 .*save it as"):
        prepare(thinker, tmp_path, chat_template=str(file))


def test_a_broken_generation_config_is_found_before_anything_is_sampled(thinker: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(thinker, copy)
    (copy / "generation_config.json").write_text('{"eos_token_id": "<eos>"}')
    with pytest.raises(ChatError, match="eos_token_id"):
        prepare(copy, tmp_path / "artifacts")
