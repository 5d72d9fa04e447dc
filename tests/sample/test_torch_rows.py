"""The cache of rows, and attention over a prompt, shared or not, and a row of one's own, against plain attention."""

import ctypes
import mmap
import random
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tpo.sample.decoding import Decoding
from tpo.sample.engines.torch import cache as cache_module
from tpo.sample.engines.torch import prefill as prefill_module
from tpo.sample.engines.torch import prompts as prompts_module
from tpo.sample.engines.torch.cache import RowCache
from tpo.sample.engines.torch.draft import Draft, Rules
from tpo.sample.engines.torch.prefill import Prefill
from tpo.sample.engines.torch.prompts import Layer, Prefix, Prompt, Trunk
from tpo.sample.engines.torch.rows import DecodingStep, SharedSlots, row_attention

HEADS, KV_HEADS, DIM = 4, 2, 8
RULES = Rules(Decoding(temperature=1, top_p=1, max_tokens=100), frozenset(), None)
LAYER = SimpleNamespace(layer_idx=0)


class Run:
    """A cache of one layer beside the keys and values that each draft should attend to."""

    def __init__(self, seed: int, *, num_trunk: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.cache = RowCache()
        self.expected: dict[Draft, Tensor] = {}  # (2, kv_heads, tokens, head_dim)
        self.trunk = self.some(2, KV_HEADS, num_trunk, DIM)
        if num_trunk:
            self.cache.trunk = Trunk(list(range(num_trunk)), [Layer(self.trunk[:1], self.trunk[1:])])

    def some(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def add(self, length: int, num_samples: int, *, num_common: int = 0) -> None:
        """Add a prompt, `length` tokens after those that it has in common with the trunk, and its samples."""
        laid = self.some(2, KV_HEADS, length + 7, DIM)  # as prefill leaves it, among other prompts
        own = Prefix([Layer(laid[:1], laid[1:])], 5, 5 + length)
        prompt = Prompt("key", num_common + length, num_samples)
        self.cache.begin_prefill()
        self.cache.add_prompt(prompt, own)
        drafts = [Draft.begin(prompt, index, seed=0, rules=RULES) for index in range(num_samples)]
        self.cache.add(drafts)
        stored = torch.cat([self.trunk[:, :, :num_common], laid[:, :, 5 : 5 + length]], dim=2)
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
        # So that a few rows of a few tokens make several blocks, which grow, and prompts of all kinds.
        patch.setattr(cache_module, "BLOCK_ROWS", 3)
        for module in (cache_module, prompts_module):
            patch.setattr(module, "STEP", 4)
        patch.setattr(cache_module, "SHARED_TOKENS", 6)
        num_trunk = choose.choice([0, 3, 9])
        run = Run(seed, num_trunk=num_trunk)
        for _ in range(12):
            while len(run.cache.active) < 8:
                num_common = choose.choice([0, num_trunk // 2, num_trunk, num_trunk])
                run.add(choose.randint(1, 14), choose.randint(1, 4), num_common=num_common)
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
    assert [(len(block.drafts), block.window) for block in run.cache.blocks] == [(4, 224), (4, 160), (6, 64), (2, 32)]
    run.step()
    copies = [part for block in run.cache.blocks for layer in block.layers for part in layer]
    assert all(part.is_contiguous() for part in copies), "a matrix product would copy them"


def test_rows_of_the_same_length_are_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "BLOCK_ROWS", 4)
    run = Run(0)
    for length in (40, 41, 42, 43, 44, 45, 9):
        run.add(length, 1)
    run.cache._sort([])
    assert [(len(block.drafts), block.capacity) for block in run.cache.blocks] == [(6, 6), (1, 5)]


def test_a_prompt_stands_where_a_step_reads_least_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "SHARED_TOKENS", 6)
    run = Run(0, num_trunk=8)

    def places(length: int, num_samples: int, num_common: int) -> tuple[int, int, int]:
        run.add(length, num_samples, num_common=num_common)
        draft = run.cache.active[-1]
        found = (draft.prompt.num_trunk, draft.prompt.length if draft.prompt.slot >= 0 else 0, draft.length)
        run.end(run.cache.active)
        return found

    assert places(length=2, num_samples=1, num_common=8) == (8, 0, 2)
    assert places(length=2, num_samples=5, num_common=8) == (8, 0, 2)  # five times two are no more than ten
    assert places(length=2, num_samples=6, num_common=8) == (0, 10, 0)
    assert places(length=9, num_samples=1, num_common=5) == (0, 0, 14)  # too little to be attended to apart
    assert places(length=9, num_samples=2, num_common=0) == (0, 9, 0)
    assert places(length=5, num_samples=9, num_common=0) == (0, 0, 5)


@given(slots=st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_rows_come_back_from_their_slots(slots: list[int]) -> None:
    sharing = SharedSlots([], slots, torch.zeros(max(slots) + 1, 1))
    rows = torch.arange(len(slots) * 2 * 3 * 5).view(len(slots), 2, 3, 5).float()
    of_slots = sharing.to_slots(rows)
    assert torch.equal(sharing.to_rows(of_slots), rows)
    for slot in set(slots):  # what a slot holds first are its first rows, in order, next to each other
        members = [row for row, of in enumerate(slots) if of == slot]
        assert torch.equal(of_slots[slot, :, : 3 * len(members)], rows[members].transpose(0, 1).flatten(1, 2))


@pytest.mark.parametrize("name", ["softcap", "s_aux"])
def test_other_attention_is_refused(name: str) -> None:
    query = torch.zeros(1, HEADS, 1, DIM)
    step = Prefill([[7]], None, device=torch.device("cpu"))
    with pytest.raises(TypeError, match=name):
        row_attention(LAYER, query, query, query, None, step=step, **{name: 30.0})


@given(
    lengths=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), min_size=1, max_size=5),
    scaling=st.sampled_from([None, 0.3]),
    dense_tokens=st.sampled_from([0, 3, 512]),
)
def test_prefill_attends_to_the_trunk_and_within_each_prompt(
    lengths: list[tuple[int, int]], scaling: float | None, dense_tokens: int
) -> None:
    torch.manual_seed(0)
    trunk_ids = list(range(6))
    trunk = torch.randn(2, KV_HEADS, 6, DIM)
    prompts = [[*trunk_ids[:common], *range(100, 100 + own)] for common, own in lengths]
    step = Prefill(prompts, Trunk(trunk_ids, [Layer(trunk[:1], trunk[1:])]), device=torch.device("cpu"))
    num_tokens = sum(own for _, own in lengths)
    assert step.inputs["input_ids"].tolist() == [[token for ids in prompts for token in ids if token >= 100]]
    assert step.inputs["position_ids"].tolist() == [[common + at for common, own in lengths for at in range(own)]]
    query = torch.randn(1, HEADS, num_tokens, DIM)
    key, value = torch.randn(2, 1, KV_HEADS, num_tokens, DIM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefill_module, "DENSE_TOKENS", dense_tokens)
        out, _ = row_attention(LAYER, query, key, value, None, step=step, scaling=scaling)
    assert out.shape == (1, num_tokens, HEADS, DIM)
    start = 0
    for (common, own), last in zip(lengths, step.inputs["logits_to_keep"].tolist(), strict=True):
        rows = slice(start, start + own)
        start += own
        assert last == start - 1
        keys, values = (
            torch.cat([before[None, :, :common], part[:, :, rows]], dim=2)
            for before, part in zip(trunk, (key, value), strict=True)
        )
        whole = torch.cat([torch.zeros(1, HEADS, common, DIM), query[:, :, rows]], dim=2)
        plain = scaled_dot_product_attention(whole, keys, values, is_causal=True, scale=scaling, enable_gqa=True)
        torch.testing.assert_close(out[:, rows], plain[:, :, common:].transpose(1, 2))


def test_a_trunk_leaves_a_prompt_its_last_token() -> None:
    trunk = Trunk([3, 4, 5], [])
    assert [trunk.common(ids) for ids in ([3, 4, 5, 6], [3, 4, 5], [3, 4], [3], [4, 4], [3, 5, 5])] == [
        3,
        2,
        1,
        0,
        0,
        1,
    ]


# --- memory -----------------------------------------------------------------------------------------------------


class Counted:
    """Bytes of the tensors that the cache allocates, now and at most."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        allocate = prompts_module.zeros

        def counting(like: Tensor, *shape: int) -> Tensor:
            made = allocate(like, *shape)
            self.now += made.nbytes
            self.most = max(self.most, self.now)
            weakref.finalize(made, self.free, made.nbytes)
            return made

        patch.setattr(prompts_module, "zeros", counting)

    def free(self, size: int) -> None:
        self.now -= size


@pytest.mark.parametrize("slots", [False, True])
def test_growing_takes_one_layer_more_and_no_second_cache(slots: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 layers: the whole cache was there twice whenever it grew or was sorted."""
    counted, num_layers = Counted(monkeypatch), 20
    cache, made = RowCache(), Run(0)
    for _ in range(3):
        for number in range(10):
            layers = [Layer(*made.some(2, KV_HEADS, 70, DIM).split(1)) for _ in range(num_layers)]
            prompt = Prompt(str(number), 70, num_unfinished=2 if slots else 1)
            cache.begin_prefill()
            cache.add_prompt(prompt, Prefix(layers, 0, 70))
            assert (prompt.slot >= 0) is slots
            cache.add([Draft.begin(prompt, index, seed=0, rules=RULES) for index in range(prompt.num_unfinished)])
        for _ in range(40):
            cache.begin_decoding()
            for draft in cache.active:
                draft.length += 1
        cache._sort([])
    held = [part for layers in (cache.prompts.layers, *(block.layers for block in cache.blocks)) for part in layers]
    assert counted.most <= sum(part.nbytes for layer in held for part in layer) * (1 + 2 / num_layers)


def test_what_was_prefilled_is_forgotten_once_all_samples_have_it() -> None:
    run = Run(0)
    laid = run.some(2, KV_HEADS, 9, DIM)
    prompt = Prompt("key", 9, num_unfinished=3)
    run.cache.begin_prefill()
    run.cache.add_prompt(prompt, Prefix([Layer(laid[:1], laid[1:])], 0, 9))
    drafts = [Draft.begin(prompt, index, seed=0, rules=RULES) for index in range(3)]
    run.cache.add(drafts[:1])  # sorts
    assert prompt.copied
    run.cache.add(drafts[1:])  # into the last block
    assert not prompt.copied
    run.expected = dict.fromkeys(drafts, laid)
    run.step()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_large_zeros_take_memory_where_something_is_written_and_as_long_as_they_live() -> None:
    like = torch.zeros(1, dtype=torch.bfloat16)
    large = prompts_module.zeros(like, 64, 2**20)
    address, size = large.data_ptr(), large.nbytes

    def resident() -> int | None:
        """How many bytes of the zeros' pages are in memory; None if there are no such pages."""
        pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
        if ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages) == 0:
            return sum(page & 1 for page in pages) * mmap.PAGESIZE
        return None

    assert (large.shape, large.dtype, large.is_contiguous()) == ((64, 2**20), torch.bfloat16, True)
    assert resident() == 0
    large[:32] = 1
    assert resident() == size // 2
    assert not large[32:].any()
    view = large[3:4, 7]
    del large
    assert view.item() == 1, "the pages live as long as a view"
    del view
    assert resident() is None
    assert torch.equal(prompts_module.zeros(like, 3, 0), like.new_zeros(3, 0))
