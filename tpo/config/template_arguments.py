"""The arguments of a chat template that a user may set, such as `enable_thinking` or `reasoning_effort`."""

from collections.abc import Mapping
from typing import Any

from tpo.config.fields import ConfigError

# What `apply_chat_template` takes beside the template's own arguments (transformers 5), and what every template reads.
TAKEN = frozenset(
    {
        *("add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents"),
        *("max_length", "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors"),
        *("tokenize", "tokenizer_kwargs", "tools", "truncation"),
    }
)


def check_template_arguments(key: str, arguments: Mapping[str, Any]) -> None:
    """Check that arguments are the template's own.

    Args:
        key: Where they stand, such as `judge.template_arguments`.
        arguments: By name.

    Raises:
        ConfigError: Naming the key.
    """
    for name in arguments:
        if name in TAKEN:
            raise ConfigError(f"{key}.{name} is no setting of a chat template: it says how chats are rendered here")
