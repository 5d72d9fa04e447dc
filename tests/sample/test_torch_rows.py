"""The cache of rows and slots, and attention over a shared prompt and a row of one's own, against plain attention."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from tpo.sample.engines.torch.rows import WINDOW_STEP, Prefix, RowCache, Sharing, row_attention
from tpo.store.errors import TpoError

HEADS, KV_HEADS, DIM = 4, 2, 8


@settings(deadline=None, max_examples=40)
@given(slots=st.lists(st.integers(0, 4), min_size=1, max_size=9), seed=st.integers(0, 1000))
def test_a_step_attends_to_the_prompt_and_to_the_row(slots: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    prompts = [some(2, KV_HEADS, 3 + 40 * slot, DIM) for slot in range(max(slots) + 1)]  # keys and values
    cache = RowCache()
    for slot, (keys, values) in enumerate(prompts):
        # As prefill leaves it: a trunk of two tokens, what belongs to another prompt, and the branch.
        other = some(KV_HEADS, 5, DIM)
        laid = [torch.cat([part[:, :2], other, part[:, 2:]], dim=1)[None] for part in (keys, values)]
        cache.put_prompt(slot, Prefix([(laid[0], laid[1])], ((0, 2), (7, 5 + keys.shape[1]))))
    own = [[] for _ in slots]  # type: list[list[tuple[torch.Tensor, torch.Tensor]]]
    for step in range(3):
        query, key, value = some(len(slots), HEADS, 1, DIM), *some(2, len(slots), KV_HEADS, 1, DIM)
        lengths = torch.full((len(slots),), step)
        cache.begin_decoding(lengths, step)
        keys, values = cache.update(key, value, 0)
        before = torch.tensor([prompts[slot].shape[2] for slot in slots])
        seen = [
            torch.arange(cache.prompts.window) < before[:, None],
            torch.arange(cache.own.window) <= lengths[:, None],
        ]
        mask = torch.zeros(len(slots), 1, 1, cache.prompts.window + cache.own.window)
        mask = mask.masked_fill(~torch.cat(seen, dim=1)[:, None, None], -torch.inf)
        sharing = cache.sharing(slots)
        layer = SimpleNamespace(layer_idx=0)
        out, _ = row_attention(layer, query, keys, values, mask, sharing=sharing, scaling=0.3)
        assert out.shape == (len(slots), 1, HEADS, DIM)
        for row, slot in enumerate(slots):
            own[row].append((key[row], value[row]))
            all_keys, all_values = (
                torch.cat([prompts[slot][part], *(pair[part] for pair in own[row])], dim=1) for part in (0, 1)
            )
            expected = scaled_dot_product_attention(query[row], all_keys, all_values, scale=0.3, enable_gqa=True)
            torch.testing.assert_close(out[row, 0], expected[:, 0])


@given(slots=st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_rows_come_back_from_their_slots(slots: list[int]) -> None:
    sharing = Sharing([], slots, device="cpu")
    rows = torch.arange(len(slots) * 2 * 3 * 5).view(len(slots), 2, 3, 5).float()
    of_slots = sharing.to_slots(rows)
    assert torch.equal(sharing.to_rows(of_slots), rows)
    for slot in set(slots):  # what a slot holds first are its first rows, in order, next to each other
        members = [row for row, of in enumerate(slots) if of == slot]
        assert torch.equal(of_slots[slot, :, : 3 * len(members)], rows[members].transpose(0, 1).flatten(1, 2))


def test_a_cache_grows_and_moves_without_losing_anything() -> None:
    cache = RowCache()
    stored = torch.randn(2 * WINDOW_STEP + 5, 2, 3, KV_HEADS, 1, DIM)
    for length, (key, value) in enumerate(stored):
        cache.begin_decoding(torch.full((3,), length), length)
        keys, values = cache.update(key, value, 0)
    assert keys.shape[2] == 3 * WINDOW_STEP
    assert keys.is_contiguous()
    expected = stored[:, :, :, :, 0].permute(1, 2, 3, 0, 4)  # keys and values, rows, kv_heads, positions, head_dim
    assert torch.equal(torch.stack([keys, values])[:, :, :, : len(stored)], expected)
    cache.own.move(2, 0, 70)
    cache.begin_decoding(torch.tensor([70, 71]), 71)
    keys, values = cache.own.layers[0]
    assert keys.shape[2] == 2 * WINDOW_STEP
    assert torch.equal(keys[0, :, :70], expected[0, 2, :, :70])
    assert torch.equal(values[1, :, :71], expected[1, 1, :, :71])


@pytest.mark.parametrize("name", ["softcap", "s_aux"])
def test_other_attention_is_refused(name: str) -> None:
    query = torch.zeros(1, HEADS, 1, DIM)
    with pytest.raises(TpoError, match=name):
        row_attention(None, query, query, query, None, **{name: 30.0})
