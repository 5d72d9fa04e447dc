"""Conventions of chat templates: what is read of each, and what a model is asked with and split by in each format."""

import datetime
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from chat_templates import CHATML, OWN, TEMPLATES, with_template

from tpo.config.thought import DIRECT, STRIPPED, ThoughtFormat
from tpo.model.asked import Asked, AskError, ask, ask_directly
from tpo.model.chat import ChatError, chat_ids, end_ids
from tpo.model.conventions import Conventions, State, Tags
from tpo.model.template_probe import read_conventions, state_of

DATE = "2037-02-28"
THINK = ThoughtFormat("{instruction}", enforce="switch", thinking="on", name="think")
THINK_FREELY = replace(THINK, enforce="none")
GENERIC = ThoughtFormat("Think. {instruction}", "My thought is:", "My response is:", "switch", name="generic")
LOOSE = replace(GENERIC, enforce="none")
FORMS = [THINK, THINK_FREELY, DIRECT, STRIPPED, GENERIC, LOOSE]
INSTRUCTION, SECRET, ANSWER = "Why is the sky blue?", "a planted secret", "The answer."
EVERY = {**TEMPLATES, **OWN}


@cache
def read(name: str, **arguments: Any) -> tuple[Any, Conventions]:
    tokenizer = with_template(EVERY[name])
    return tokenizer, read_conventions(tokenizer, template_arguments=arguments, date=DATE)


def test_all_templates_of_the_pinned_trl_are_there() -> None:
    assert len(TEMPLATES) == 72


THINK_TAGS = ("<think>", "</think>")
GPT_OSS = ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")
OFF, ON = {"enable_thinking": False}, {"enable_thinking": True}


@pytest.mark.parametrize(
    ("name", "tags", "default", "on", "off", "switch"),
    [
        # of the turn by default and with thinking on; what switches it off; what stands before a response
        ("qwen3", THINK_TAGS, "untagged", "untagged", OFF, "\n</think>\n\n"),
        ("qwen3_5_think", THINK_TAGS, "open", "open", OFF, "\n</think>\n\n"),
        ("qwen3_5_nothink", THINK_TAGS, "empty", "open", OFF, "\n</think>\n\n"),
        ("qwen3_8", THINK_TAGS, "open", "open", OFF, "\n</think>\n\n"),
        ("nemotron_3_nano", THINK_TAGS, "open", "open", OFF, "\n</think>\n"),
        ("glm4moe", THINK_TAGS, "untagged", "untagged", OFF, "</think>\n"),
        ("deepseek_r1_distill", THINK_TAGS, "open", "open", None, "\n</think>\n\n"),
        ("lfm2_2_5", THINK_TAGS, "untagged", "untagged", None, "</think>"),
        ("gemma4", ("<|channel>thought", "<channel|>"), "untagged", "untagged", OFF, "\n<channel|>"),
        ("gemma4_v5", ("<|channel>thought", "<channel|>"), "untagged", "untagged", OFF, "\n<channel|>"),
        ("gptoss", GPT_OSS, "untagged", "untagged", {}, GPT_OSS[1]),
        ("old_r1", THINK_TAGS, "untagged", "untagged", None, "\n</think>\n\n"),
        ("closes_only", THINK_TAGS, "empty", "open", {"thinking": False}, "\n</think>\n\n"),
        ("smollm3", THINK_TAGS, "untagged", "untagged", OFF, "\n</think>\n\n"),
        (
            "granite",
            ("Here is my thought process:", "Here is my response:"),
            *("untagged", "untagged", {"thinking": False}, "\n\nHere is my response:\n"),
        ),
        ("magistral", ("[THINK]", "[/THINK]"), "untagged", "untagged", None, "[/THINK]"),
        (
            "budget",
            ("<seed:think>", "</seed:think>"),
            *("untagged", "untagged", {"thinking_budget": False}, "</seed:think>"),
        ),
        ("negative", THINK_TAGS, "open", "open", {"skip_thinking": True}, "\n</think>\n\n"),
        ("hunyuan", THINK_TAGS, "untagged", "untagged", OFF, "\n</think>\n<answer>\n"),
        ("hunyuan_without_role", THINK_TAGS, "untagged", "untagged", OFF, "\n</think>\n<answer>\n"),
        ("ernie", THINK_TAGS, "open", "open", OFF, "\n</think>\n\n<response>\n"),
        (
            "command_a",
            ("<|START_THINKING|>", "<|END_THINKING|>"),
            *("open", "open", {"reasoning": False}, "<|END_THINKING|><|START_RESPONSE|>"),
        ),
        ("opens_only", THINK_TAGS, "open", "open", None, "\n</think>\n\n"),
        ("in_pieces", THINK_TAGS, "untagged", "untagged", OFF, "\n</think>\n\n"),
        ("always", THINK_TAGS, "open", "open", None, "\n</think>\n\n"),
        ("other_field", ("<cot>", "</cot>"), "open", "open", None, "</cot>"),
        ("effort", THINK_TAGS, "open", "open", {"reasoning_effort": "none"}, "\n</think>\n\n"),
        ("effort_opens", THINK_TAGS, "untagged", "open", {}, "\n</think>\n\n"),
        ("effort_named", THINK_TAGS, "open", "open", {"reasoning_effort": "none"}, "\n</think>\n\n"),
        ("mode", THINK_TAGS, "untagged", "untagged", {"thinking_mode": "off"}, "\n</think>\n\n"),
        ("disable", THINK_TAGS, "untagged", "untagged", {"disable_thinking": True}, "\n</think>\n\n"),
        ("kind", THINK_TAGS, "untagged", "untagged", {"thinking": {"type": "disabled"}}, "\n</think>\n\n"),
        ("printed", THINK_TAGS, "untagged", "untagged", OFF, "\n</think>\n\n"),
        ("header_alone", None, "untagged", None, {}, None),
        ("unknown_tags", ("<|inner|>", "<|outer|>"), "open", "open", {"thinks": False}, "<|outer|>"),
        ("llama3_2", None, "untagged", None, {}, None),
        ("qwen3_instruct_2507", None, "untagged", None, {}, None),
    ],
)
def test_tags_and_switch(
    name: str, tags: tuple[str, str] | None, default: State, on: State | None, off: dict[str, Any] | None, switch: str
) -> None:
    found = read(name)[1]
    assert (found.tags and (found.tags.opening, found.tags.closing)) == tags
    assert found.tags is None or found.tags.switch_text == switch
    assert (found.default.state, found.on and found.on.state) == (default, on)
    assert (found.off and found.off.arguments) == off


def completions(asked: Asked, tags: Tags, context: str) -> list[str]:
    """What the model may write with a secret in its thought: where it has to open one, with the opening and without."""
    after = f"{SECRET}{tags.switch_text}"
    if asked.is_open and asked.is_native or state_of(context, tags, user=INSTRUCTION) == "open":
        return [after]
    return [f"{tags.opening_text}{after}"]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("form", FORMS, ids=["think", "freely", "direct", "stripped", "generic", "loose"])
def test_a_thought_is_opened_once_and_is_in_no_response(name: str, form: ThoughtFormat) -> None:
    tokenizer, found = read(name)
    tags = found.tags
    try:
        asked = ask(form, found)
    except AskError as error:
        assert "\n" not in str(error) and f"thought={form.name}" in str(error)
        reasons = {
            "think": tags is None,
            "none": found.off is None,
            "generic": found.off is None and found.default.state == "open" and form.enforce != "none",
        }
        assert reasons[form.name]
        return
    ids = asked.context(tokenizer, INSTRUCTION)
    context = tokenizer.decode(ids, skip_special_tokens=False)
    tail = context.rpartition(INSTRUCTION)[2]
    if form.thinking == "off" and found.off is not None:
        assert tags is None or state_of(context, tags, user=INSTRUCTION) != "open", (
            "a direct answer is none of a thought"
        )
    own = "" if form.response_delimiter is None else f" {SECRET} {form.response_delimiter} "
    if form.response_delimiter is not None and form.enforce == "none":
        own = f"{form.thought_delimiter}{own}"
    direct = f"{own}{ANSWER}"
    if tags is None:
        assert asked.split(direct, finish_reason="stop").response == ANSWER
        return
    for thought in completions(asked, tags, context):
        written = f"{thought}{direct}"
        is_switched_off = asked.start.state == "empty" or (form.thinking == "off" and found.off is not None)
        assert is_switched_off or (tail + written).count(tags.opening) == 1, "nothing is opened twice"
        parts = asked.split(written, finish_reason="stop")
        assert parts.response == ANSWER and parts.error is None
        assert SECRET in (parts.thought or "") and written[slice(*parts.response_span)] == ANSWER
        cut = asked.split(thought[: -len(tags.switch_text)], finish_reason="length")
        assert (cut.response, cut.error) == (None, "thought_truncated"), "an unclosed thought is no response"
        again = asked.split(f"{written} {tags.opening_text}{SECRET}", finish_reason="stop")
        assert again.response is None, "nor is one that thinks again"
        upper = asked.split(f"{written} {tags.closing.upper()} {SECRET}", finish_reason="stop")
        assert upper.response is None
        if form.enforce == "switch":
            assert asked.switch is not None
            forced = asked.split(f"{SECRET} and {asked.switch}{ANSWER}", finish_reason="stop")
            assert (forced.response, SECRET in (forced.thought or "")) == (ANSWER, True)
    if asked.is_native:
        empty = asked.split(
            f"{'' if asked.is_open else tags.opening_text}{tags.switch_text}{ANSWER}", finish_reason="stop"
        )
        assert (empty.thought, empty.response, empty.error) == ("", ANSWER, None), "an empty thought is allowed"
    if not asked.is_open:  # the model may answer at once
        at_once = asked.split(f"{found.default.header}{direct}", finish_reason="stop")
        assert at_once.response == ANSWER


@pytest.mark.parametrize("name", EVERY)
def test_responses_after_given_thoughts_start_outside_of_them(name: str) -> None:
    tokenizer, found = read(name)
    if found.tags is None:
        return
    asked = ask(THINK, found)
    after = tokenizer.decode(asked.context_after(tokenizer, INSTRUCTION, SECRET), skip_special_tokens=False)
    plain = tokenizer.decode(asked.context(tokenizer, INSTRUCTION), skip_special_tokens=False)
    assert after.endswith(f"{SECRET}{found.tags.switch_text}")
    assert after.rpartition(INSTRUCTION)[2].count(found.tags.opening) == 1
    assert after.startswith(plain), "the thought stands where a sampled one would"


@pytest.mark.parametrize(
    ("name", "direct", "header", "tail"),
    [  # how a direct answer is asked for, and what stands around every answer
        ("hunyuan", "<think>\n\n</think>\n<answer>\n", "<answer>", "</answer>"),
        ("hunyuan_without_role", "<think>\n\n</think>\n<answer>\n", "<answer>", "</answer>"),
        ("ernie", "<think>\n\n</think>\n\n<response>\n", "<response>", "</response>"),
        ("command_a", "<|START_THINKING|><|END_THINKING|><|START_RESPONSE|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        ("header_alone", "assistant<|final|>", "<|final|>", ""),
    ],
)
def test_the_frame_of_an_answer_is_prefilled_and_taken_off(name: str, direct: str, header: str, tail: str) -> None:
    tokenizer = plain(EVERY[name])
    found = read_conventions(tokenizer, template_arguments={}, date=DATE)
    for asked in (ask(DIRECT, found), ask_directly(found, what="judge=likelihood")):
        context = tokenizer.decode(asked.context(tokenizer, INSTRUCTION), skip_special_tokens=False)
        assert context.endswith(direct) and context.count(header) == 1
    for form in FORMS:
        if found.tags is None and form.thinking == "on":
            continue
        asked = ask(form, found)
        thought = "" if found.tags is None else f"{SECRET}{found.tags.closing}"
        for text in (ANSWER, f"{header}\n{ANSWER}\n{tail}", f"{ANSWER}\n{tail}", f"\n\n{ANSWER}"):
            own = (f" {SECRET} ", form.response_delimiter) if form.response_delimiter is not None else ()
            opening = form.thought_delimiter if own and form.enforce == "none" else ""
            parts = asked.split(f"{thought}{opening}{''.join(own)}{text}", finish_reason="stop")
            if own and text.startswith(header):
                continue  # the frame stands around the format's delimiters
            assert (parts.response, parts.error) == (ANSWER, None)
    assert asked.split_response(f"{ANSWER}\n{tail}").response == ANSWER
    twice = ask(DIRECT, found).split(f"{ANSWER}{tail}\n{header}{SECRET}", finish_reason="stop")
    assert twice.response is None, "a second answer is none of the first"


def test_the_frame_of_an_answer_that_a_template_only_names_is_taken_off() -> None:
    whole = f"<|START_THINKING|>{SECRET}<|END_THINKING|><|START_RESPONSE|>{ANSWER}<|END_RESPONSE|>"
    parts = ask(DIRECT, read("cohere2")[1]).split(whole, finish_reason="stop")
    assert (parts.thought, parts.response) == (SECRET, ANSWER)
    assert whole[slice(*parts.response_span)] == ANSWER
    granite = "{% if thinking %}Think in <think></think>, answer in <response></response>.{% endif %}" + CHATML
    found = read_conventions(with_template(granite), template_arguments={}, date=DATE)
    for text in (f"<response>\n{ANSWER}\n</response>", ANSWER):
        assert ask(THINK, found).split(f"{SECRET}</think>\n{text}", finish_reason="stop").response == ANSWER


@pytest.mark.parametrize(
    "text",
    [
        "{0}<|channel|>commentary<|message|>{1}",
        "{0}<|end|><|start|>assistant<|channel|>commentary<|message|>{1}",
        "<|channel|>analysis <|message|>{1}",
        "<|channel|>analysis to=python<|message|>{1}",
        "<|channel|>commentary<|message|>{1}",
    ],
)
def test_what_is_said_in_another_channel_is_no_response(text: str) -> None:
    for reason in ("stop", "length"):
        asked = ask(DIRECT, read("gptoss")[1])
        assert asked.split(text.format(ANSWER, SECRET), finish_reason=reason).response is None


def plain(template: str) -> Any:
    """The tiny tokenizer, of whose markers only those of ChatML and Cohere are tokens; its EOS is none of them."""
    from tokenizers import AddedToken

    tokenizer = with_template(template, are_added=False, eos="<|endoftext|>")
    tokenizer.add_tokens([AddedToken(f"<|{name}|>", special=True) for name in ("im_start", "im_end", "END_OF_TURN")])
    return tokenizer


# --- thoughts in tags that the model is not known to have -------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "gptoss", "cohere2", "old_r1", "header_alone"])
@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<thinking>", "</thinking>"),
        ("[THINK]", "[/THINK]"),
        ("<Thinking >", "</ thinking>"),
        ("＜thought＞", "＜/thought＞"),
        ("<|reasoning|>", "<|/reasoning|>"),
        ("<think>", "</think>"),
        ("< think >", "</ think >"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
    ],
)
def test_a_thought_in_any_tags_is_in_no_response(name: str, opening: str, closing: str) -> None:
    found = read(name)[1]
    is_own = found.tags is not None and opening.strip("< >") == "think" and found.tags.opening == "<think>"
    for form in (DIRECT, STRIPPED, LOOSE, GENERIC):
        try:
            asked = ask(form, found)
        except AskError:
            continue
        own = f"{form.thought_delimiter} so {form.response_delimiter}" if form is LOOSE else ""
        own = f" so {form.response_delimiter}" if form is GENERIC else own
        parts = asked.split(f"{opening}{SECRET}{closing}\n{own}{ANSWER}", finish_reason="stop")
        assert parts.response == ANSWER or (is_own and opening == "< think >" and parts.response is None)
        assert parts.response is None or SECRET in (parts.thought or "")
        for text in (f"{opening}{SECRET}", f"{own}{ANSWER} {opening}{SECRET}", f"{SECRET}{closing}\n{own}{ANSWER}"):
            for reason in ("stop", "length"):
                response = asked.split(text, finish_reason=reason).response
                assert response is None or SECRET not in response


@pytest.mark.parametrize(
    "text",
    [
        "Models write `<think>` first and `</think>` last.",
        'The tag "</think>" ends it.',
        "```xml\n<thinking>a</thinking>\n```\nis how it looks.",
        "In HTML, <b>bold</b> and <answer> are tags; so is <channel>.",
        "Here is my response: yes.",
        "I think [that] a < b > c.",
    ],
)
def test_a_text_that_speaks_of_tags_is_a_response_where_the_model_has_none(text: str) -> None:
    for form in (DIRECT, STRIPPED):
        assert ask(form, read("qwen2_5")[1]).split(text, finish_reason="stop").response == text


def test_a_format_may_have_tags_for_delimiters_where_the_model_has_none() -> None:
    form = ThoughtFormat("Use <think> and </think>. {instruction}", "<think>", "</think>", "prefill")
    asked = ask(form, read("qwen2_5")[1])
    parts = asked.split(f"{SECRET}</think>{ANSWER}", finish_reason="stop")
    assert (parts.thought, parts.response) == (SECRET, ANSWER)
    assert asked.split(f"{SECRET}</think>{ANSWER} < think >{SECRET}", finish_reason="stop").response is None


def test_what_is_said_before_a_thought_makes_the_response_a_guess() -> None:
    for form in (DIRECT, STRIPPED, THINK_FREELY):
        parts = ask(form, read("qwen3")[1]).split(f"{ANSWER} <think>{SECRET}</think> and", finish_reason="stop")
        assert parts.error == "repeated_delimiter"


def test_a_format_takes_both_of_the_models_tags_or_neither() -> None:
    for delimiters in (("<scratch>", "</think>"), ("<think>", "My response is:")):
        with pytest.raises(AskError, match="take both tags, or neither"):
            ask(ThoughtFormat("{instruction}", *delimiters, "prefill", name="mine"), read("qwen3")[1])


def test_a_format_that_names_the_models_tags_asks_for_its_thoughts() -> None:
    form = ThoughtFormat("{instruction}", "<think>", "</think>", "prefill")
    for name in ("qwen3", "qwen3_5_think", "qwen3_5_nothink", "deepseek_r1_distill", "glm4moe"):
        tokenizer, found = read(name)
        context = tokenizer.decode(ask(form, found).context(tokenizer, INSTRUCTION), skip_special_tokens=False)
        assert context.count("<think>") == 1 and "</think>" not in context


def test_a_format_without_thoughts_of_its_own_class_is_split_by_it_after_the_models_thought() -> None:
    class LastWord(ThoughtFormat):
        def split(self, completion: str, *, is_prefilled: bool, finish_reason: str) -> Any:
            start = completion.rindex(" ") + 1
            parts = DIRECT.split(completion[start:], is_prefilled=False, finish_reason=finish_reason)
            return parts._replace(response_span=(start, len(completion)))

    asked = ask(LastWord("{instruction}"), read("qwen3")[1])
    found = asked.split("<think>no word</think> of a last", finish_reason="stop")
    assert (found.thought, found.response) == ("no word", "last")
    assert asked.split("<think>no word of a last", finish_reason="stop").response is None


# --- end of turn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[(name, "<|im_end|>") for name in ("qwen3", "qwen2_5", "lfm2", "nemotron_3_nano", "smollm3")],
        *[("llama3", "<|eot_id|>"), ("gemma3", "<end_of_turn>"), ("phi3", "<|end|>"), ("gemma4", "<turn|>")],
        *[("cohere", "<|END_OF_TURN_TOKEN|>"), ("cohere2", "<|END_RESPONSE|>"), ("gptoss", "<|return|>")],
        *[("deepseekv3", "<｜end▁of▁sentence｜>"), ("idefics3", "<end_of_utterance>"), ("muse_glimmer", "<|eot|>")],
        ("glm4moe", "<|user|>"),  # writes nothing: the next turn begins
        ("unknown_tags", "<|im_end|>"),
    ],
)
def test_the_token_after_an_answer_ends_a_completion(name: str, expected: str) -> None:
    tokenizer, found = read(name)
    assert found.end_of_turn_id == tokenizer.convert_tokens_to_ids(expected)

    class Configured:
        eos_token_id = 7

    ends = end_ids(tokenizer, Configured, template_end=found.end_of_turn_id)
    assert ends == {tokenizer.eos_token_id, 7, found.end_of_turn_id}


@pytest.mark.parametrize("after", ["\n</answer>", "\n[done]", " ~"])
def test_the_token_behind_a_text_after_an_answer_ends_a_completion(after: str) -> None:
    tokenizer = plain(CHATML.replace("{{ message.content }}", "{{ message.content }}" + after))
    found = read_conventions(tokenizer, template_arguments={}, date=DATE)
    assert found.end_of_turn_id == tokenizer.convert_tokens_to_ids("<|im_end|>") != tokenizer.eos_token_id
    assert ask(DIRECT, found).split(f"{ANSWER}{after}", finish_reason="stop").response == ANSWER


def test_a_plain_text_after_an_answer_ends_nothing() -> None:
    for template in (CHATML, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"):
        tokenizer = with_template(template, are_added=False)
        assert read_conventions(tokenizer, template_arguments={}, date=DATE).end_of_turn_id is None


# --- arguments and clock ----------------------------------------------------------------------------------------


def test_template_arguments_reach_every_context() -> None:
    tokenizer, found = read("llama3_1", date_string="1 May 1999")
    for form in (DIRECT, GENERIC):
        assert "1 May 1999" in tokenizer.decode(ask(form, found).context(tokenizer, INSTRUCTION))
    own = replace(DIRECT, template_arguments={"date_string": "2 May 1999"})
    assert "2 May 1999" in tokenizer.decode(ask(own, found, tokenizer).context(tokenizer, INSTRUCTION))
    assert "Reasoning: low" in tokenizer.decode(
        chat_ids(tokenizer_of("gptoss"), "x", arguments={"reasoning_effort": "low"})
    )


def tokenizer_of(name: str) -> Any:
    return read(name)[0]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("qwen3", {"enable_thinkin": False}, "no such variable; did you mean enable_thinking"),
        ("qwen2_5", {"enable_thinking": False}, "model.template_arguments.enable_thinking"),
        ("qwen3", {"enable_thinking": False}, "whether the model thinks is its thought format's"),
        ("granite", {"thinking": True}, "whether the model thinks is its thought format's"),
    ],
)
def test_arguments_that_do_nothing_or_switch_thinking_are_refused(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ChatError, match=message) as error:
        read(name, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("qwen3", ("think", "system", "loop", "if", "message", "content", "reasoning_content", "messages", "ns")),
        ("gptoss", ("assistant", "tool_call", "browser")),
    ],
)
def test_words_of_a_template_that_are_no_variables_are_refused(name: str, words: tuple[str, ...]) -> None:
    for word in words:
        with pytest.raises(ChatError, match=f"{word}: the model's chat template has no such variable"):
            read(name, **{word: True})


def test_variables_that_a_template_sets_where_they_are_not_given_may_be_given() -> None:
    for name, arguments in {
        "llama3_1": {"date_string": "x", "bos_token": "<s>"},
        "gptoss": {"reasoning_effort": "low", "model_identity": "x"},
        "nemotron_3_super": {"low_effort": True},
    }.items():
        assert read(name, **arguments)[1].arguments == arguments


@pytest.mark.parametrize("value", [5, None])
def test_an_argument_that_a_template_fails_on_is_named(value: Any) -> None:
    expected = r"model.template_arguments.reasoning_effort=(5|null): with this value the model's chat template fails"
    with pytest.raises(ChatError, match=expected) as error:
        read("gptoss", model_identity="x", reasoning_effort=value)
    assert "\n" not in str(error.value) and "model.chat_template" not in str(error.value)
    form = replace(DIRECT, template_arguments={"reasoning_effort": value})
    with pytest.raises(ChatError, match="thought.template_arguments.reasoning_effort="):
        ask(form, read("gptoss")[1], tokenizer_of("gptoss"))


@pytest.mark.parametrize("name", ["effort", "effort_opens", "effort_named"])
def test_a_turn_starts_as_the_formats_own_arguments_make_it(name: str) -> None:
    tokenizer, found = read(name)
    for form in (THINK, DIRECT, STRIPPED, GENERIC):
        for effort in ("none", "high", "low"):
            given = replace(form, template_arguments={"reasoning_effort": effort})
            is_open = effort == "high" or (effort == "low" and name != "effort_opens")
            if is_open and form in (DIRECT, GENERIC):
                with pytest.raises(AskError):
                    ask(given, found, tokenizer)
                continue
            if effort == "none" and name != "effort_opens" and form is THINK:
                with pytest.raises(AskError, match='thought.template_arguments reasoning_effort="none"'):
                    ask(given, found, tokenizer)
                continue
            asked = ask(given, found, tokenizer)
            context = tokenizer.decode(asked.context(tokenizer, INSTRUCTION), skip_special_tokens=False)
            assert context.count("<think>") <= 1
            cut = asked.split(f"{SECRET} cut", finish_reason="length")
            is_thinking = context.rstrip().endswith("<think>")
            assert (cut.response is None) == (is_thinking or form is GENERIC)


def test_a_model_whose_word_is_given_has_the_start_of_that_word() -> None:
    tokenizer, found = read("effort", reasoning_effort="low")
    assert (found.on and found.on.state, found.off, found.switches) == ("open", None, ())
    assert read("effort", reasoning_effort="none")[1].on is None
    other = ask(replace(THINK, template_arguments={"reasoning_effort": "high"}), found, tokenizer)
    assert other.conventions.arguments == {"reasoning_effort": "high"}


def test_what_a_template_opens_without_a_known_tag_is_refused() -> None:
    tokenizer = with_template(CHATML.replace("assistant\n{% endif %}", "assistant\n<cot>{% endif %}"))
    with pytest.raises(ChatError, match=r"opens the assistant's turn with '<cot>', which stands before no answer"):
        read_conventions(tokenizer, template_arguments={}, date=DATE)


def test_a_formats_own_arguments_do_not_switch_thinking_either() -> None:
    with pytest.raises(AskError, match="thought.template_arguments.enable_thinking"):
        ask(replace(DIRECT, template_arguments=ON), read("qwen3")[1])


@pytest.mark.parametrize("name", EVERY)
def test_the_clock_shows_the_configured_date(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls(1984, 4, 4)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
    tokenizer, found = read(name)
    context = tokenizer.decode(ask(STRIPPED, found).context(tokenizer, INSTRUCTION))
    has_clock = name in {"llama3_2", "gptoss", "gptoss_training", "muse_glimmer", "muse_glimmer_training", "smollm3"}
    assert found.has_clock == has_clock
    assert ("2037" in context) == has_clock
    assert "1984" not in context


@pytest.mark.parametrize(
    "part", ["%a", "%A", "%d", "%-d", "%m", "%B", "%b", "%y", "%Y", "%C", "%j", "%U", "%W", "%u", "%w"]
)
def test_a_clock_is_found_whatever_it_shows(part: str) -> None:
    template = f"{{{{ strftime_now('{part}') }}}}\n{CHATML}"
    assert read_conventions(with_template(template), template_arguments={}, date=DATE).has_clock


# --- templates that cannot be used ------------------------------------------------------------------------------


def test_templates_that_drop_text_unless_it_is_a_part_get_parts() -> None:
    for name in EVERY:
        tokenizer, found = read(name)
        assert found.takes_parts == name.startswith(("idefics", "smolvlm", "llava"))
        assert INSTRUCTION in tokenizer.decode(ask(STRIPPED, found).context(tokenizer, INSTRUCTION))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no user') }}", "fails on a user turn: no user"),
        ("{{ messages[0].text }}", "drops the user's text"),
        ("{% if %}", "fails on a user turn"),
        ({"tool_use": CHATML, "rag": CHATML}, "multiple chat templates"),
    ],
)
def test_templates_that_cannot_be_used_are_refused_in_a_sentence(template: Any, message: str) -> None:
    tokenizer = with_template(CHATML)
    tokenizer.chat_template = template
    with pytest.raises(ChatError, match=message):
        read_conventions(tokenizer, template_arguments={}, date=DATE)


def test_of_several_templates_the_default_one_counts() -> None:
    tokenizer = with_template(TEMPLATES["qwen3"])
    tokenizer.chat_template = {"tool_use": CHATML, "default": TEMPLATES["qwen3"]}
    assert read_conventions(tokenizer, template_arguments={}, date=DATE) == read("qwen3")[1]


def test_tags_that_only_the_vocabulary_knows_are_taken_off_but_need_no_switch() -> None:
    from tokenizers import AddedToken

    tokenizer = with_template(CHATML)
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    found = read_conventions(tokenizer, template_arguments={}, date=DATE)
    assert not found.is_tagged_by_template
    parts = ask(DIRECT, found).split("<think>\nhm\n</think>\n\nyes", finish_reason="stop")
    assert (parts.thought, parts.response) == ("hm", "yes")


# --- what is told and kept --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_conventions_survive_the_manifest(name: str) -> None:
    import json

    found = read(name)[1]
    assert Conventions.from_metrics(json.loads(json.dumps(found.to_metrics()))) == found
    assert "\n" not in found.describe()


def test_what_the_log_says() -> None:
    assert (
        read("qwen3_5_think")[1]
        .describe()
        .startswith(
            "thoughts: <think> ... </think>, opened by the template with enable_thinking=true; "
            "direct answers: enable_thinking=false"
        )
    )
    assert read("deepseek_r1_distill_training")[1].describe() == (
        "thoughts: <think> ... </think>, opened by the template; direct answers: thinking cannot be switched off"
    )
    assert read("llama3_2")[1].describe() == (
        f"thoughts: none of its own; direct answers: as they are; the template shows the date {DATE}"
    )
    assert not read("qwen3")[1].keeps_text and read("qwen2_5")[1].keeps_text
