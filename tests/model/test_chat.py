import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import CHAT_TEMPLATE, make_tokenizer

from tpo.config.thought import DIRECT, ThoughtFormat
from tpo.model.asked import ask
from tpo.model.chat import Chat, ChatError, chat_ids, end_ids, load_tokenizer, save_tokenizer
from tpo.model.conventions import Conventions

GENERIC = ThoughtFormat("Think first. {instruction}", "Here is my thought process:", "Here is my response:", "switch")
SPECIFIC = ThoughtFormat("Think first. {instruction}", None, "<R>", "switch")


@pytest.fixture
def bos_adding_tokenizer(tokenizer: Any) -> Any:
    """A tokenizer that puts BOS before every text, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    adding = copy.deepcopy(tokenizer)
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    assert adding.encode("a")[0] == tokenizer.bos_token_id
    return adding


@pytest.mark.parametrize("form", [GENERIC, SPECIFIC, DIRECT], ids=["generic", "specific", "direct"])
@pytest.mark.parametrize("kind", ["tokenizer", "bos_adding_tokenizer"])
def test_rendering_is_the_template_text_with_one_bos(
    kind: str, form: ThoughtFormat, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(kind)
    ids = ask(form, Conventions()).context(tokenizer, "Why is {x} blue? naïve 🙂")
    # Chat templates drop the line break after a block tag, so none stands before the assistant's marker.
    text = f"<bos><|user|>\n{form.user_turn('Why is {x} blue? naïve 🙂')}<|assistant|>\n"
    expected = tokenizer.encode(text, add_special_tokens=False)
    prefill = tokenizer.encode(form.prefill, add_special_tokens=False) if form.prefill else []
    assert ids == expected + prefill
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id not in ids


def test_template_with_another_marker_is_the_one_used(tokenizer: Any) -> None:
    other = copy.deepcopy(tokenizer)
    other.chat_template = "{{ messages[0]['content'] }}{% if add_generation_prompt %} =>{% endif %}"
    assert other.decode(chat_ids(other, "hello", assistant=" A:")) == "hello => A:"


# --- tokenizers that cannot chat --------------------------------------------------------------------------------


def save_without(what: str, directory: Path) -> Path:
    tokenizer = make_tokenizer()
    setattr(tokenizer, what, None)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.parametrize(("missing", "named"), [("chat_template", "chat template"), ("eos_token", "EOS")])
def test_tokenizer_that_cannot_chat_is_refused(missing: str, named: str, tmp_path: Path) -> None:
    path = save_without(missing, tmp_path / "bad")
    with pytest.raises(ChatError, match=named) as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ChatError, match=named):
        save_tokenizer(path, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_given_chat_template_takes_the_place_of_a_missing_one(tmp_path: Path) -> None:
    path = save_without("chat_template", tmp_path / "bad")
    save_tokenizer(path, tmp_path / "saved", chat_template=CHAT_TEMPLATE)
    assert chat_ids(load_tokenizer(tmp_path / "saved"), "hi") == chat_ids(make_tokenizer(), "hi")


def test_missing_padding_token_becomes_eos(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_without("pad_token", tmp_path))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("configured", "expected"),
    [(None, {1}), (7, {1, 7}), (1, {1}), ([7, 9], {1, 7, 9}), ([1], {1}), ([], {1}), ([None, 7], {1, 7})],
    ids=str,
)
def test_end_ids(configured: Any, expected: set[int]) -> None:
    assert end_ids(SimpleNamespace(eos_token_id=1), SimpleNamespace(eos_token_id=configured)) == expected


@pytest.mark.parametrize(
    ("token_ids", "expected"),
    [([5, 6, 1], [5, 6]), ([5, 7], [5]), ([5, 6], [5, 6]), ([1, 5], [1, 5]), ([5, 1, 7], [5, 1]), ([1], []), ([], [])],
    ids=str,
)
def test_content_is_all_but_the_id_that_ended_it(token_ids: list[int], expected: list[int]) -> None:
    assert Chat(None, frozenset({1, 7})).content(token_ids) == expected
