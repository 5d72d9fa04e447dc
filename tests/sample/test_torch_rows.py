"""The cache of rows, and attention over a prompt, shared or not, and a row of one's own, against plain attention."""

import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tpo.sample.decoding import Decoding
from tpo.sample.engines.torch import cache as cache_module
from tpo.sample.engines.torch.cache import Layer, Prefix, RowCache
from tpo.sample.engines.torch.draft import Draft, Prompt
from tpo.sample.engines.torch.rows import DecodingStep, Sharing, row_attention
from tpo.store.errors import TpoError

HEADS, KV_HEADS, DIM = 4, 2, 8
DECODING = Decoding(temperature=1, top_p=1, max_tokens=100)
LAYER = SimpleNamespace(layer_idx=0)


class Run:
    """A cache of one layer beside the keys and values that each draft should attend to."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.cache = RowCache()
        self.expected: dict[Draft, Tensor] = {}  # (2, kv_heads, tokens, head_dim)

    def some(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def add(self, length: int, num_samples: int) -> None:
        """Add a prompt and its samples."""
        stored = self.some(2, KV_HEADS, length, DIM)
        # As prefill leaves it: a trunk of two tokens, what belongs to another prompt, and the branch.
        laid = torch.cat([stored[:, :, :2], self.some(2, KV_HEADS, 5, DIM), stored[:, :, 2:]], dim=2)
        prompt = Prompt("key", length, num_samples)
        self.cache.begin_prefill()
        self.cache.add_prompt(prompt, Prefix([Layer(laid[:1], laid[1:])], ((0, 2), (7, 5 + length))))
        drafts = [Draft.begin(prompt, index, seed=0, decoding=DECODING) for index in range(num_samples)]
        self.cache.add(drafts)
        self.expected |= dict.fromkeys(drafts, stored)

    def step(self) -> None:
        """Decode a token of each row and compare."""
        self.cache.begin_decoding()
        drafts = self.cache.active
        step = DecodingStep(self.cache, dtype=torch.float32)
        assert step.positions.tolist() == [self.expected[draft].shape[2] for draft in drafts]
        query, key, value = self.some(len(drafts), HEADS, 1, DIM), *self.some(2, len(drafts), KV_HEADS, 1, DIM)
        self.cache.update(key, value, 0)
        out, _ = row_attention(LAYER, query, key, value, None, step=step, scaling=0.3)
        assert out.shape == (len(drafts), 1, HEADS, DIM)
        for row, draft in enumerate(drafts):
            new = torch.stack([key[row], value[row]])
            self.expected[draft] = torch.cat([self.expected[draft], new], dim=2)
            keys, values = self.expected[draft]
            plain = scaled_dot_product_attention(query[row], keys, values, scale=0.3, enable_gqa=True)
            torch.testing.assert_close(out[row, 0], plain[:, 0])
            draft.length += 1

    def end(self, drafts: list[Draft]) -> None:
        """Finish drafts."""
        for draft in drafts:
            draft.finish_reason = "stop"
        assert set(self.cache.retire()) == set(drafts)
        assert not set(self.cache.active) & set(drafts)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_a_step_attends_to_the_prompt_and_to_the_row(seed: int) -> None:
    choose = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        # So that a few rows of a few tokens make several blocks, which grow, and prompts of both kinds.
        patch.setattr(cache_module, "BLOCK_ROWS", 3)
        patch.setattr(cache_module, "STEP", 4)
        patch.setattr(cache_module, "SHARED_TOKENS", 6)
        run = Run(seed)
        for _ in range(12):
            while len(run.cache.active) < 8:
                run.add(choose.randint(3, 14), choose.randint(1, 4))
            for _ in range(choose.randint(1, 3)):
                run.step()
            active = run.cache.active
            run.end(choose.sample(active, choose.randint(0, len(active) - 1)))
        for prompt in run.cache.prompts.used:
            assert prompt.num_unfinished == sum(draft.prompt is prompt for draft in run.cache.active)
        run.end(run.cache.active)
        assert not run.cache.prompts.used


def test_rows_of_similar_length_share_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "BLOCK_ROWS", 4)
    run = Run(0)
    for length in (200, 20, 130, 50, 90, 10, 170, 40) * 2:
        run.add(length, 1)
    run.cache._sort([])
    assert [block.window for block in run.cache.blocks] == [224, 160, 64, 32]
    run.step()
    copies = [part for block in run.cache.blocks for layer in block.layers for part in layer]
    assert all(part.is_contiguous() for part in copies), "a matrix product would copy them"


@given(slots=st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_rows_come_back_from_their_slots(slots: list[int]) -> None:
    sharing = Sharing([], slots, torch.zeros(max(slots) + 1, 1))
    rows = torch.arange(len(slots) * 2 * 3 * 5).view(len(slots), 2, 3, 5).float()
    of_slots = sharing.to_slots(rows)
    assert torch.equal(sharing.to_rows(of_slots), rows)
    for slot in set(slots):  # what a slot holds first are its first rows, in order, next to each other
        members = [row for row, of in enumerate(slots) if of == slot]
        assert torch.equal(of_slots[slot, :, : 3 * len(members)], rows[members].transpose(0, 1).flatten(1, 2))


@pytest.mark.parametrize("name", ["softcap", "s_aux"])
def test_other_attention_is_refused(name: str) -> None:
    query = torch.zeros(1, HEADS, 1, DIM)
    with pytest.raises(TpoError, match=name):
        row_attention(None, query, query, query, None, **{name: 30.0})
