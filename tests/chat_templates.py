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
EMPTY = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
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
