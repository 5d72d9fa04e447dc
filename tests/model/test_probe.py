"""Where a model computes otherwise, by its configuration, and when values are the same."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from tpo.model.probe import agrees, reach

LONG = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48, "rope_theta": 1e4}
SHORT = {"max_position_embeddings": 77}


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("llama", {}, None),
        ("mistral", {"sliding_window": 77}, (77, "sliding_window")),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", {"sliding_window": 77, "use_sliding_window": False}, None),
        ("llama4_text", {"attention_chunk_size": 99}, (99, "attention_chunk_size")),
        ("doge", {"keep_window_size": 55}, (55, "keep_window_size")),
        ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 128}, (128, "rope_type")),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}, **SHORT}, (77, "rope_type")),
        ("gemma3", {"text_config": {"sliding_window": 33}}, (33, "sliding_window")),
    ],
)
def test_reach(family: str, changes: dict[str, Any], expected: tuple[int, str] | None) -> None:
    assert reach(AutoConfig.for_model(family, **changes)) == expected


def test_values_agree_up_to_rounding() -> None:
    expected = torch.eye(5) * 100
    for dtype, allowed, refused in ((torch.float32, 0.09, 0.11), (torch.bfloat16, 4.0, 6.0)):
        assert agrees(expected + allowed * torch.eye(5), expected, dtype=dtype)
        assert not agrees(expected + refused * torch.eye(5), expected, dtype=dtype)
        assert not agrees(expected * torch.nan, expected, dtype=dtype)
    one_off = expected.clone()
    one_off[0] = 0  # an occasional position, in 16 bits
    assert agrees(one_off, expected, dtype=torch.bfloat16)
    assert not agrees(one_off, expected, dtype=torch.float32)
