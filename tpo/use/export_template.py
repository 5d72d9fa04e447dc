"""A chat template that asks as the policy was trained: the thought prompt, the template's arguments, the turn's start.

Whoever renders an instruction with it, as vLLM's server and transformers do, gets the tokens that the policy's
completions were sampled after. The thought prompt is put around the last user turn; of earlier answers only what
follows the response delimiter is shown, as the templates of models that think by themselves do it. What a template
cannot do stays behind: control tokens that an instruction spells are not broken up, and a thought that uses up its
budget is not ended.
"""

import datetime
import json
import re
from typing import Any

from tpo.model.asked import Asked

CLOCK = re.compile(r"""strftime_now\(\s*(?:"([^"]*)"|'([^']*)')\s*\)""")


def carrying_template(source: str, asked: Asked) -> str:
    """Return a model's chat template, changed so that it asks in a thought format.

    Args:
        source: The model's template.
        asked: The format as the model is asked in it.
    """
    conventions, form = asked.conventions, asked.form
    arguments = {**conventions.arguments, **asked.start.arguments}
    head = "".join(
        f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(value)} %}}{{%- endif %}}"
        for name, value in arguments.items()
    )
    if form.prompt != "{instruction}" or conventions.takes_parts:
        delimiter = None if asked.is_native else form.response_delimiter
        head += _messages(form.prompt, delimiter=delimiter, takes_parts=conventions.takes_parts)
    body = source
    if conventions.has_clock:
        date = datetime.datetime.fromisoformat(conventions.date)
        body = CLOCK.sub(lambda found: _literal(date.strftime(found[1] if found[1] is not None else found[2])), body)
    if not asked.prefill:
        return head + body
    # Jinja drops one line break at the end of a template, which is no longer its end.
    start = f"{{% if add_generation_prompt %}}{{{{ {_literal(asked.prefill)} }}}}{{% endif %}}"
    return head + body.removesuffix("\n") + start


def _messages(prompt: str, *, delimiter: str | None, takes_parts: bool) -> str:
    """Return what puts the thought prompt around the last user turn.

    Args:
        prompt: With `{instruction}`.
        delimiter: After which the response of an earlier answer starts; None where answers are shown as they are.
        takes_parts: Whether the template takes a turn's content as a list of parts only.
    """
    content = "[{'type': 'text', 'text': carried.text}]" if takes_parts else "carried.text"
    earlier = (
        ""
        if delimiter is None
        else f"{{%- set carried.text = (carried.text.split({_literal(delimiter)}) | last) | trim %}}"
    )
    lines = [
        "{%- set carried = namespace(last=-1, messages=[], text='') %}",
        "{%- for message in messages %}",
        "{%- if message['role'] == 'user' %}{%- set carried.last = loop.index0 %}{%- endif %}",
        "{%- endfor %}",
        "{%- for message in messages %}",
        "{%- if message['content'] is not defined or message['content'] is none %}",
        "{%- set carried.messages = carried.messages + [message] %}",
        "{%- else %}",
        "{%- set carried.text = message['content'] if message['content'] is string else "
        "message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join %}",
        "{%- if loop.index0 == carried.last %}",
        f"{{%- set carried.text = {_literal(prompt.split('{instruction}'))} | join(carried.text | trim) %}}",
        "{%- elif message['role'] == 'assistant' and loop.index0 < carried.last %}",
        earlier,
        "{%- endif %}",
        f"{{%- set carried.messages = carried.messages + [dict(message, content={content})] %}}",
        "{%- endif %}",
        "{%- endfor %}",
        "{%- set messages = carried.messages %}",
    ]
    return "".join(lines)


def _literal(value: Any) -> str:
    """Return a value in JSON's types as Jinja reads it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
