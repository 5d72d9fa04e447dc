"""The torch engine with the embedded model against transformers: greedy ids and exact distributions of tokens."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from test_torch_engine import assert_drawn_from, generate, make_engine, nucleus, softmax

from tpo.model.chat import load_tokenizer
from tpo.model.load import load_model
from tpo.sample.decoding import Decoding
from tpo.sample.sources.builtin import load_builtin

pytestmark = [pytest.mark.slow, pytest.mark.long]

NO_TOKEN = -1  # the sample ended before
NUM_SAMPLES = 5_000


@pytest.fixture(scope="module")
def model(embedded_model: Path) -> Any:
    return load_model(embedded_model, revision=None, dtype="float32")


def prompts_of(path: Path, count: int) -> list[list[int]]:
    tokenizer = load_tokenizer(path)
    chats = [[{"role": "user", "content": prompt.text}] for prompt in load_builtin()[:count]]
    return [tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in chats]


def test_greedy_ids_are_the_models_likeliest_on_50_prompts(embedded_model: Path, model: Any) -> None:
    """Which is what `generate` gives; one forward pass shows it of all tokens of a completion at once."""
    engine = make_engine(embedded_model, max_sequences=50)
    prompts = prompts_of(embedded_model, 50)
    decoding = Decoding(temperature=0, top_p=1, max_tokens=32)
    groups = generate(engine, prompts, seeds=[[0]] * 50, decoding=decoding)
    for prompt, (generation,) in zip(prompts, groups, strict=True):
        ids = generation.token_ids
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*prompt, *ids]]), logits_to_keep=len(ids) + 1).logits[0, :-1]
        assert ids == logits.argmax(-1).tolist()
        ends = [token in engine.end_ids for token in ids]
        assert ends == [False] * (len(ids) - 1) + [generation.finish_reason == "stop"]
        assert len(ids) == 32 or ends[-1]


def next_nuclei(model: Any, prompt: list[int], starts: list[tuple[int, ...]]) -> list[dict[int, float]]:
    """Exact distributions of the token after the prompt and each start, all of one length; T = 0.8, top-p 0.9."""
    with torch.inference_mode():
        if not starts[0]:
            return [nucleus(softmax(model(input_ids=torch.tensor([prompt])).logits[0, -1], 0.8), 0.9)]
        cache = model(input_ids=torch.tensor([prompt]), use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(starts))
        logits = model(input_ids=torch.tensor(starts), past_key_values=cache).logits[:, -1]
    return [nucleus(softmax(row, 0.8), 0.9) for row in logits]


def exact_third_tokens(model: Any, prompt: list[int], end_ids: frozenset[int]) -> dict[int, float]:
    """Exact probabilities of the third token, by every way to get there."""
    paths: dict[tuple[int, ...], float] = {(): 1.0}
    ended = 0.0
    for _ in range(2):
        grown: dict[tuple[int, ...], float] = {}
        for start, following in zip(paths, next_nuclei(model, prompt, list(paths)), strict=True):
            for token, probability in following.items():
                if token in end_ids:
                    ended += paths[start] * probability
                else:
                    grown[*start, token] = paths[start] * probability
        paths = grown
    third: dict[int, float] = defaultdict(float)
    for start, following in zip(paths, next_nuclei(model, prompt, list(paths)), strict=True):
        for token, probability in following.items():
            third[token] += paths[start] * probability
    assert sum(third.values()) + ended == pytest.approx(1)
    return dict(third) | ({NO_TOKEN: ended} if ended else {})


def test_first_and_third_tokens_have_their_exact_frequencies(embedded_model: Path, model: Any) -> None:
    engine = make_engine(embedded_model, max_sequences=512)
    # The prompt with the fewest ways to begin that still leaves something to tell: each way is computed.
    prompts = prompts_of(embedded_model, 40)
    nuclei = [next_nuclei(model, prompt, [()])[0] for prompt in prompts]
    chosen = min((index for index in range(40) if len(nuclei[index]) >= 8), key=lambda index: len(nuclei[index]))
    decoding = Decoding(temperature=0.8, top_p=0.9, max_tokens=3)
    (group,) = generate(engine, [prompts[chosen]], seeds=[list(range(NUM_SAMPLES))], decoding=decoding)
    assert_drawn_from([row.token_ids[0] for row in group], nuclei[chosen])
    third = [row.token_ids[2] if len(row.token_ids) == 3 else NO_TOKEN for row in group]
    assert_drawn_from(third, exact_third_tokens(model, prompts[chosen], engine.end_ids))
