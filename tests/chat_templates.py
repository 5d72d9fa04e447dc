"""Chat templates for the tests: those that trl ships, and small ones in the manner of families that it does not."""

import re
from pathlib import Path
from typing import Any

import trl
from conftest import make_tokenizer

TEMPLATES = {
    path.stem: path.read_text() for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IS_OFF = "{% if enable_thinking is defined and not enable_thinking %}"
EMPTY = f"{IS_OFF}<think>\n\n</think>\n\n{{% endif %}}"
OPEN_ELSE = "<think></think>{% else %}<think>\n{% endif %}"


def opens(text: str, template: str = CHATML) -> str:
    """A template that writes `text` where it opens the assistant's turn."""
    return template.replace("assistant\n{% endif %}", f"assistant\n{text}{{% endif %}}")


def frames(answer: tuple[str, str], between: str, opened: str, *, role: str = "<|im_start|>assistant\n") -> str:
    """A template that writes every answer between two tags, behind a thought if there is one."""
    said = f"{{% if m.reasoning_content %}}<think>\n{{{{ m.reasoning_content }}}}\n</think>{between}{{% endif %}}"
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        f"{role}{said}{answer[0]}\n{{{{ m.content }}}}\n{answer[1]}<|im_end|>\n"
        "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        f"{{% if add_generation_prompt %}}<|im_start|>assistant\n{opened}{{% endif %}}"
    )


OWN = {
    # The model opens its thoughts itself; history is cut, and nothing switches it off.
    "old_r1": CHATML.replace("{{ message.content }}", "{{ message.content.split('</think>')[-1] }}"),
    # Where it is switched off, the closing tag stands alone.
    "closes_only": CHATML.replace(
        "assistant\n{% endif %}", "assistant\n{{ '<think>' if thinking else '</think>' }}{% endif %}"
    ),
    "smollm3": "<|im_start|>system\nToday: {{ strftime_now('%d %B %Y') }}. /"
    "{{ 'think' if enable_thinking | default(true) else 'no_think' }}<|im_end|>\n"
    + CHATML.replace("assistant\n{% endif %}", f"assistant\n{EMPTY}{{% endif %}}"),
    # The paper's delimiters, asked for in the system turn.
    "granite": "{% if thinking %}<|im_start|>system\n"
    "Write 'Here is my thought process:' and then 'Here is my response:'.<|im_end|>\n{% endif %}" + CHATML,
    "magistral": "<s>[SYSTEM_PROMPT]Think within [THINK] and [/THINK].[/SYSTEM_PROMPT]"
    "{% for message in messages %}{% if message.role == 'user' %}[INST]{{ message.content }}[/INST]"
    "{% else %}{{ message.content }}</s>{% endif %}{% endfor %}",
    "budget": CHATML.replace(
        "assistant\n{% endif %}",
        "assistant\n{% if thinking_budget is defined and thinking_budget == 0 %}<seed:think></seed:think>{% endif %}"
        "{% endif %}",
    ).replace("<|im_end|>\n{% endfor", "<|im_end|>\n{# <seed:think> </seed:think> #}{% endfor"),
    "negative": CHATML.replace(
        "assistant\n{% endif %}", "assistant\n<think>\n{{ '</think>\n' if skip_thinking else '' }}{% endif %}"
    ),
    # Every answer stands between tags of its own; one that is not thought about starts with them.
    "hunyuan": frames(("<answer>", "</answer>"), "\n", EMPTY.replace("</think>\n\n", "</think>\n")),
    "hunyuan_without_role": frames(
        ("<answer>", "</answer>"), "\n", EMPTY.replace("</think>\n\n", "</think>\n"), role=""
    ),
    # The first of them stands in the prompt already.
    "ernie": frames(
        ("<response>", "</response>"),
        "\n\n",
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n<response>\n"
        "{% else %}<think>\n{% endif %}",
    ),
    "command_a": "{% for m in messages %}{% if m.role == 'assistant' %}<|CHATBOT|>{% if m.thinking %}<|START_THINKING|>"
    "{{ m.thinking }}<|END_THINKING|>{% endif %}<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|><|END_OF_TURN|>"
    "{% else %}<|USER|>{{ m.content }}<|END_OF_TURN|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|CHATBOT|>"
    "<|START_THINKING|>{{ '<|END_THINKING|>' if reasoning is defined and not reasoning }}{% endif %}",
    # A header before every answer, and no thoughts.
    "header_alone": "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant<|final|>{{ m.content }}"
    "<|im_end|>{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}",
    # The closing tag stands nowhere in the text.
    "opens_only": opens("<think>\n"),
    "in_pieces": opens(f"{{% set b = '<' %}}{IS_OFF}{{{{ b }}}}think>\n\n{{{{ b }}}}/think>\n\n{{% endif %}}"),
    "always": opens(f"{IS_OFF}{{{{ raise_exception('it always thinks') }}}}{{% endif %}}<think>\n"),
    # The thought has another name, and tags that no table knows.
    "other_field": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.thoughts %}<cot>{{ m.thoughts }}</cot>"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<cot>"
    "{% endif %}",
    # Words switch it, in the turn that is opened or in what the user says.
    "effort": opens("{% if reasoning_effort is defined and reasoning_effort == 'none' %}" + OPEN_ELSE),
    "effort_opens": opens("{% if reasoning_effort is defined and reasoning_effort == 'high' %}<think>\n{% endif %}"),
    "effort_named": "{% set effort = reasoning_effort | default('high') %}<|im_start|>system\n{{ effort }}<|im_end|>\n"
    + opens("{% if effort | lower in ['none', 'off'] %}" + OPEN_ELSE),
    "mode": "{% if thinking_mode == 'off' %}<|im_start|>system\n/no_think<|im_end|>\n{% endif %}"
    + CHATML
    + "{# </think> #}",
    "disable": "{% if disable_thinking %}<|im_start|>system\n/no_think<|im_end|>\n{% endif %}"
    + CHATML
    + "{# </think> #}",
    "kind": opens("{% if thinking is defined and thinking.type == 'disabled' %}<think></think>{% endif %}"),
    "printed": "<|im_start|>system\nthinking={{ enable_thinking | default(true) }}<|im_end|>\n" + opens(EMPTY),
    # A channel for every answer, as in gpt-oss, but with tags that no table knows.
    "unknown_tags": "{% for message in messages %}{% if message.role == 'assistant' and message.thinking %}"
    "<|im_start|>assistant\n<|inner|>{{ message.thinking }}<|outer|>{{ message.content }}<|im_end|>\n{% else %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ '' if thinks == false else '<|inner|>' }}{% endif %}",
}


def with_template(template: str, *, are_added: bool = True, eos: str | None = None) -> Any:
    """The tiny tokenizer with another chat template, whose markers are tokens of their own or plain text.

    Args:
        template: The template.
        are_added: Whether what looks like a control token is one.
        eos: EOS, in place of the tiny tokenizer's.
    """
    from tokenizers import AddedToken

    tokenizer = make_tokenizer()
    if are_added:
        markers = set(re.findall(r"<\|?/?[^<>\s'\"{}%\\]+\|?>", template)) - {"<think>", "</think>"}
        tokenizer.add_tokens([AddedToken(marker, special=True) for marker in sorted(markers)])
        tokenizer.add_tokens([AddedToken(tag, special=False) for tag in ("<think>", "</think>") if tag in template])
    if eos is not None:
        tokenizer.add_tokens([AddedToken(eos, special=True)])
        tokenizer.eos_token = eos
    tokenizer.chat_template = template
    return tokenizer
