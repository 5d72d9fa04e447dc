"""The torch engine for people who wait, against its own stream of the same requests."""

from pathlib import Path
from typing import Any

import pytest
from test_torch_engine import GREEDY, generate, make_engine, random_prompts, switching

from tpo.sample.decoding import Decoding, Generation, Request
from tpo.sample.engines.torch.engine import TorchEngine
from tpo.sample.engines.torch.live import TorchLive

WARM = Decoding(temperature=0.9, top_p=0.9, max_tokens=17)
HOT = Decoding(temperature=1.3, top_p=1, max_tokens=9)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TorchEngine:
    return make_engine(tiny_model)


def drain(live: TorchLive, told: dict[str, list[int]] | None = None) -> dict[str, Generation]:
    """Each request's generation, once what came piece by piece, after what was told, was found to be the whole."""
    pieces, found = told or {}, {}
    while len(live):
        for progress in live.step():
            pieces.setdefault(progress.key, []).extend(progress.token_ids)
            if progress.generation is not None:
                assert progress.key not in found
                found[progress.key] = progress.generation
                assert pieces[progress.key] == progress.generation.token_ids
    assert not live.step(), "nothing is left"
    return found


def test_requests_that_come_and_go_sample_what_a_stream_samples(engine: TorchEngine, tokenizer: Any) -> None:
    """Each with its own temperature, nucleus and budgets, with and without a switch, more than there are rows for."""
    decodings = [GREEDY, WARM, HOT, switching(tokenizer, thought=6, response=5)]
    prompts = random_prompts(3)[:12]
    live = TorchLive(engine)
    wanted, found = {}, {}
    for number, prompt in enumerate(prompts):
        decoding = decodings[number % len(decodings)]
        [[wanted[str(number)]]] = generate(engine, [prompt], seeds=[[number]], decoding=decoding)
        live.add(Request(str(number), prompt, {0: number}), decoding)
        if number % 3 == 0:  # others have begun meanwhile
            found |= {progress.key: progress.generation for progress in live.step() if progress.generation}
    assert len(live) == 12 - len(found)
    while len(live):
        found |= {progress.key: progress.generation for progress in live.step() if progress.generation}
    assert found == wanted


def test_pieces_add_up(engine: TorchEngine, tokenizer: Any) -> None:
    live = TorchLive(engine)
    for number, prompt in enumerate(random_prompts(4)[:7]):
        live.add(Request(str(number), prompt, {0: number}), switching(tokenizer, thought=6, response=5))
    found = drain(live)
    assert len(found) == 7
    assert all(generation.forced_stop <= len(generation.token_ids) for generation in found.values())


def test_what_is_cancelled_leaves_its_row_to_the_next_and_disturbs_nobody(engine: TorchEngine) -> None:
    prompts = random_prompts(5)[:9]
    [[wanted]] = generate(engine, [prompts[0]], seeds=[[0]], decoding=WARM)
    live = TorchLive(engine)
    for number, prompt in enumerate(prompts):
        live.add(Request(str(number), prompt, {0: number}), WARM)
    told: dict[str, list[int]] = {}
    for progress in [progress for _ in range(8) for progress in live.step()]:
        told.setdefault(progress.key, []).extend(progress.token_ids)
    assert len(live) == 9
    for number in range(1, 9):  # under way and waiting ones
        live.cancel(str(number))
    live.cancel("nobody")
    assert len(live) == 1
    assert drain(live, told) == {"0": wanted}


def test_no_more_decode_together_than_there_are_rows(engine: TorchEngine) -> None:
    live = TorchLive(engine)
    for number, prompt in enumerate(random_prompts(6)[:9]):
        live.add(Request(str(number), prompt, {0: number}), GREEDY)
    sizes = []
    while len(live):
        sizes.append(len(live.step()))
    assert max(sizes) == engine.max_sequences == 5
    assert sizes[:5] == [1, 2, 3, 4, 5], "each step begins one"
