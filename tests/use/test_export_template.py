"""A chat template that carries a thought format asks as the format itself does, for every template that trl ships."""

from typing import Any

import pytest
from chat_templates import CHATML, with_template
from test_conventions import EVERY, FORMS, read

from tpo.config.thought import ThoughtFormat
from tpo.model.asked import AskError, ask
from tpo.model.chat import ChatError
from tpo.model.conventions import Conventions
from tpo.use.export_template import carrying_template

ODD = ThoughtFormat(
    'Say "hm\\n" {{ x }} {% raw %} ü 😀\t\u2028 twice: {instruction} / {instruction}\n',
    "T:\n",
    'R "{%"',
    "switch",
    name="odd",
)


def rendered(tokenizer: Any, template: str, messages: list[dict[str, Any]], **given: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **given))


@pytest.mark.parametrize("name", sorted(EVERY))
def test_an_instruction_is_asked_as_in_training(name: str) -> None:
    try:
        tokenizer, conventions = read(name)
    except ChatError:  # a template without a user turn, or of training alone
        return
    source, count = tokenizer.get_chat_template(), 0
    for form in (*FORMS, ODD):
        try:
            asked = ask(form, conventions)
        except AskError:
            continue
        template = carrying_template(source, asked)
        for text in ("Why is the sky blue?", "{{ bos_token }} {% if %}\n\ntwo   lines"):
            message = {"role": "user", "content": text}
            found = rendered(tokenizer, template, [message], add_generation_prompt=True)
            ids = tokenizer.encode(found, add_special_tokens=False)
            expected = asked.context(tokenizer, text)
            assert tokenizer.decode(ids) == tokenizer.decode(expected), form.name
            count += 1
    assert count >= 4


def plain(form: ThoughtFormat, source: str = CHATML) -> tuple[Any, str]:
    tokenizer = with_template(source)
    return tokenizer, carrying_template(source, ask(form, Conventions()))


GENERIC = ThoughtFormat("Think. {instruction}", "T:", "R:", "switch", name="generic")


def test_a_direct_format_leaves_the_template_as_it_is() -> None:
    assert plain(ThoughtFormat("{instruction}", name="none"))[1] == CHATML


def test_the_last_user_turn_is_asked_and_earlier_thoughts_are_not_shown() -> None:
    tokenizer, template = plain(GENERIC)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "T: a secret\n\nR:\nfirst"},
        {"role": "user", "content": "two"},
    ]
    asked = rendered(tokenizer, template, messages, add_generation_prompt=True)
    turns = ["system\nBe brief.", "user\none", "assistant\nfirst", "user\nThink. two"]
    expected = "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns)
    assert asked == expected + "<|im_start|>assistant\nT:"
    answered = rendered(tokenizer, template, [*messages, {"role": "assistant", "content": "T: hm\n\nR:\nsecond"}])
    assert answered == expected + "<|im_start|>assistant\nT: hm\n\nR:\nsecond<|im_end|>\n", "trained on whole"


def test_parts_of_a_message_are_read_as_their_text() -> None:
    tokenizer, template = plain(GENERIC)
    parts = [{"type": "text", "text": "two "}, {"type": "text", "text": "halves"}]
    found = rendered(tokenizer, template, [{"role": "user", "content": parts}])
    assert found == "<|im_start|>user\nThink. two halves<|im_end|>\n"


def test_an_argument_of_the_template_is_a_default_that_a_user_may_change() -> None:
    tokenizer, conventions = read("qwen3")
    direct = ThoughtFormat("{instruction}", name="none")
    template = carrying_template(tokenizer.get_chat_template(), ask(direct, conventions))
    message = [{"role": "user", "content": "x"}]
    off, on = (
        rendered(tokenizer, template, message, add_generation_prompt=True, **given)
        for given in ({}, {"enable_thinking": True})
    )
    assert "</think>" in off and "</think>" not in on


def test_the_clock_shows_the_date_of_the_training() -> None:
    tokenizer, conventions = read("smollm3")
    direct = ThoughtFormat("{instruction}", name="none")
    template = carrying_template(tokenizer.get_chat_template(), ask(direct, conventions))
    assert "strftime_now" not in template
    assert "Today: 28 February 2037." in rendered(tokenizer, template, [{"role": "user", "content": "x"}])
