from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpo.model.decoder import Decoder
from tpo.sample.thought import num_tokens_within

KINDS = ("byte_level", "sentencepiece", "metaspace", "wordpiece", "no_decoder")
SPECIAL = ["<s>", "</s>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["▁", "▁▁", "▁a", "▁the", "e", "a", "b", "c", "▁é", "é", "🙂", "▁我", "我想", "\n", "\ufffd", "b\ufffd", "<0x"]


def make(kind: str, byte_level: Any) -> Any:
    """A tokenizer of a family, with special tokens; `byte_level` is the tiny model's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if kind == "byte_level":
        return byte_level
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *BYTES, *PIECES, "##a", "##b"])}
    model, pre, decoder = {
        "sentencepiece": (
            models.BPE(vocabulary, [("▁", "a"), ("▁", "▁")], unk_token="<unk>", byte_fallback=True, fuse_unk=True),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            ),
        ),
        "metaspace": (
            models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>"),
            pre_tokenizers.Metaspace(),
            decoders.Metaspace(),
        ),
        "wordpiece": (
            models.WordPiece(vocabulary, unk_token="<unk>"),
            pre_tokenizers.Whitespace(),
            decoders.WordPiece(),
        ),
        "no_decoder": (models.WordLevel(vocabulary, unk_token="<unk>"), pre_tokenizers.Whitespace(), None),
    }[kind]
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", clean_up_tokenization_spaces=False)


@pytest.fixture(scope="module")
def decoders(tokenizer: Any) -> dict[str, Decoder]:
    return {kind: Decoder(make(kind, tokenizer)) for kind in KINDS}


def count_by_decoding(token_ids: Sequence[int], span: tuple[int, int], decode: Decoder) -> int:
    """What `num_tokens_within` counts, by its definition: a binary search that decodes every prefix it asks about."""

    def before(position: int) -> int:
        low, high = 0, len(token_ids)
        while low < high:
            middle = (low + high) // 2
            if len(decode(token_ids[:middle]).rstrip("\ufffd")) < position:
                low = middle + 1
            else:
                high = middle
        return low

    return before(span[1]) - before(span[0])


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_prefix_lengths_are_those_of_the_decoded_prefixes(kind: str, decoders: dict[str, Decoder], data: Any) -> None:
    decode = decoders[kind]
    size = 600 if kind == "byte_level" else len(SPECIAL) + len(BYTES) + len(PIECES) + 2
    ids = data.draw(st.lists(st.integers(0, size - 1) | st.integers(size - 24, size - 1) | st.integers(0, 8)))
    length = decode.prefix_lengths(ids)
    assert [length(stop) for stop in range(len(ids) + 1)] == [
        len(decode(ids[:stop]).rstrip("\ufffd")) for stop in range(len(ids) + 1)
    ]
    edges = st.integers(0, len(decode(ids)) + 1)
    span = (data.draw(edges), data.draw(edges))
    assert num_tokens_within(ids, span, decode=decode) == count_by_decoding(ids, span, decode)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from("ab ▁🙂我é\n\ufffd")), st.data())
def test_counts_in_any_text_are_those_of_the_decoded_prefixes(
    kind: str, decoders: dict[str, Decoder], text: str, data: Any
) -> None:
    decode = decoders[kind]
    ids = decode._tokenizer.encode(text, add_special_tokens=False)
    edges = st.integers(0, len(decode(ids)))
    span = (data.draw(edges), data.draw(edges))
    assert num_tokens_within(ids, span, decode=decode) == count_by_decoding(ids, span, decode)


@pytest.mark.parametrize(("kind", "is_additive"), zip(KINDS, (True, True, True, False, False), strict=True), ids=KINDS)
def test_only_families_whose_tokens_add_up_are_not_decoded_prefix_by_prefix(
    kind: str, is_additive: bool, decoders: dict[str, Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = decoders[kind]
    ids = decode._tokenizer.encode("a", add_special_tokens=False) * 200
    decode.prefix_lengths(ids)(1)  # looks at the token
    longest = 0

    def counted(decoder: Decoder, token_ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(token_ids))
        return str(decoder._tokenizer.decode(token_ids))

    monkeypatch.setattr(Decoder, "__call__", counted)
    length = decode.prefix_lengths(ids)
    for stop in range(len(ids)):
        length(stop)
    assert longest == (1 if is_additive else 199)
