"""The torch engine against transformers' `generate`, exact top-p probabilities and scripted samples."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare
from torch import Tensor

from tpo.config.kinds import load_settings
from tpo.model.chat import Chat, load_tokenizer
from tpo.model.load import load_model
from tpo.model.onednn import has_kernels
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, EngineSettings, Generation, Request
from tpo.sample.engines.torch import TorchEngineConfig
from tpo.sample.engines.torch.cache import RowCache
from tpo.sample.engines.torch.engine import TorchEngine
from tpo.sample.engines.torch.nucleus import CHUNK, NUM_CANDIDATES, largest, sample_tokens
from tpo.store.errors import TpoError

GREEDY = Decoding(temperature=0, top_p=1, max_tokens=24)
DELIMITER = "Here is my response:"
PROMPT_LENGTHS = (1, 2, 5, 9, 17, 30, 40, 62, 63, 64, 65, 140)  # around and across the cache's steps


def make_engine(
    path: Path,
    *,
    adapter_path: Path | None = None,
    end_ids: Sequence[int] = (),
    max_sequences: int = 5,
    max_len: int = 256,
    dtype: str = "float32",
) -> TorchEngine:
    tokenizer = load_tokenizer(path)
    return TorchEngine(
        Policy(str(path), None, str(path), dtype, 1024, adapter_path),
        tokenizer=tokenizer,
        end_ids=frozenset({tokenizer.eos_token_id, *end_ids}),
        max_sequences=max_sequences,
        max_len=max_len,
    )


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TorchEngine:
    return make_engine(tiny_model)


def generate(
    engine: TorchEngine, prompts: Sequence[Sequence[int]], *, seeds: Sequence[Sequence[int]], decoding: Decoding
) -> list[list[Generation]]:
    """Return for each prompt one generation a seed, in order, of a stream that yields them in any order."""
    requests = (
        Request(str(index), prompt, dict(enumerate(group)))
        for index, (prompt, group) in enumerate(zip(prompts, seeds, strict=True))
    )
    found = {
        (sample.key, sample.sample_index): sample.generation for sample in engine.stream(requests, decoding=decoding)
    }
    assert len(found) == sum(map(len, seeds))
    return [[found[str(index), position] for position in range(len(group))] for index, group in enumerate(seeds)]


def random_prompts(seed: int, lengths: Sequence[int] = PROMPT_LENGTHS) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(5, 500, size=length).tolist() for length in lengths]


def generate_greedily(model: Any, prompt: list[int], *, end_ids: Sequence[int], max_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        found = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=list(end_ids),
            pad_token_id=0,
        )
    return found[0, len(prompt) :].tolist()


def assert_greedy_equal(engine: TorchEngine, model: Any, prompts: list[list[int]]) -> set[str]:
    """Compare with `generate`, two samples a prompt; return the finish reasons that occurred."""
    groups = generate(engine, prompts, seeds=[[0, 1]] * len(prompts), decoding=GREEDY)
    reasons = set()
    for prompt, group in zip(prompts, groups, strict=True):
        expected = generate_greedily(model, prompt, end_ids=sorted(engine.end_ids), max_tokens=GREEDY.max_tokens)
        for generation in group:
            assert generation.token_ids == expected
            assert (generation.finish_reason == "stop") == (expected[-1] in engine.end_ids)
            reasons.add(generation.finish_reason)
    return reasons


def test_greedy_equals_generate_while_rows_are_reused(tiny_model: Path) -> None:
    # Many end tokens, so that sequences finish at different times and 24 of them pass through 5 rows.
    end_ids = np.random.default_rng(3).choice(np.arange(5, 500), size=30, replace=False).tolist()
    engine = make_engine(tiny_model, end_ids=end_ids)
    model = load_model(tiny_model, revision=None, dtype="float32")
    assert assert_greedy_equal(engine, model, random_prompts(0)) == {"stop", "length"}


def test_greedy_equals_generate_behind_a_trunk(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tpo.sample.engines.torch.engine.PREFILL_TOKENS", 300)  # the first batch has four prompts
    end_ids = np.random.default_rng(3).choice(np.arange(5, 500), size=30, replace=False).tolist()
    engine = make_engine(tiny_model, end_ids=end_ids, max_sequences=9)
    model = load_model(tiny_model, revision=None, dtype="float32")
    template, *rests = random_prompts(9, lengths=(70, 3, 20, 90, 1, 9, 33, 5, 130))
    prompts = [template + rest for rest in rests]
    # The trunk itself, less of it, a part with something else behind, and a prompt that begins otherwise.
    prompts += [template, template[:40], [*template[:66], 7, 8, 9], [*template[:30], 7], [7, *template]]
    trunks = []
    prefill = engine.prefill

    def spy(requests: list[Request], cache: RowCache, decoding: Decoding) -> Iterator[Any]:
        yield from prefill(requests, cache, decoding)
        trunks.append(cache.trunk and cache.trunk.token_ids)

    monkeypatch.setattr(engine, "prefill", spy)
    assert assert_greedy_equal(engine, model, prompts) == {"stop", "length"}
    assert trunks[0] == trunks[-1] == template
    seeds = [[0]] * len(prompts)  # one sample each: the trunk is what rows attend to
    assert generate(engine, prompts, seeds=seeds, decoding=GREEDY) == [
        group[:1] for group in generate(engine, prompts, seeds=[[0] * 12] * len(prompts), decoding=GREEDY)
    ]


def make_decoder(kind: str, directory: Path) -> Path:
    """Save a tiny decoder of another family, with the tests' tokenizer."""
    from transformers import (
        AutoModelForCausalLM,
        Gemma2Config,
        GemmaConfig,
        GptOssConfig,
        MistralConfig,
        Phi3Config,
        Qwen2Config,
        Qwen3Config,
    )

    tokenizer = make_tokenizer()
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    configs: dict[str, Callable[[], Any]] = {
        "qwen2": lambda: Qwen2Config(**shared),
        "qwen2_window": lambda: Qwen2Config(
            **shared, use_sliding_window=True, sliding_window=16, layer_types=["sliding_attention"] * 2
        ),
        "qwen3": lambda: Qwen3Config(**shared, head_dim=32),
        "gemma": lambda: GemmaConfig(**{**shared, "num_key_value_heads": 1}, head_dim=32),
        "phi3": lambda: Phi3Config(**shared),
        "mistral": lambda: MistralConfig(**shared, sliding_window=16),
        "softcap": lambda: Gemma2Config(**shared, head_dim=32, attn_logit_softcapping=0.1),
        "sinks": lambda: GptOssConfig(**shared, head_dim=32, num_local_experts=4, num_experts_per_tok=2),
    }
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(configs[kind]())
    for name, parameter in model.named_parameters():
        if "sinks" in name:
            torch.nn.init.normal_(parameter, mean=3.0)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma", "phi3"])
def test_greedy_equals_generate_of_other_decoders(kind: str, tmp_path: Path) -> None:
    path = make_decoder(kind, tmp_path)
    model = load_model(path, revision=None, dtype="float32")
    assert_greedy_equal(make_engine(path), model, random_prompts(1, lengths=(2, 7, 64, 70)))


@pytest.mark.parametrize(("kind", "said"), [("softcap", "softcap"), ("sinks", "s_aux")])
def test_attention_of_another_kind_is_refused_when_the_engine_loads(kind: str, said: str, tmp_path: Path) -> None:
    # These models hand more to the attention function than queries, keys and values.
    path = make_decoder(kind, tmp_path)
    with pytest.raises(TpoError, match=rf"the family (gemma2|gpt_oss) .*attention with {said}\): use engine=vllm"):
        make_engine(path, max_len=96)


@pytest.mark.skipif(not has_kernels(), reason="this CPU has no bfloat16 kernels")
def test_layers_stay_unpacked_where_packing_changes_what_is_computed(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_it(model: Any, *, num_rows: int) -> bool:
        model.model.layers[0].mlp.gate_proj.weight.data.neg_()
        return True

    monkeypatch.setattr("tpo.sample.engines.torch.engine.pack", break_it)
    engine = make_engine(tiny_model, dtype="bfloat16")
    assert not engine.is_packed
    assert f"llama: {engine.slow_path}" in caplog.text and "(its logits differ)" in str(engine.slow_path)


@pytest.mark.parametrize("kind", ["mistral", "qwen2_window"])
def test_sliding_window_shorter_than_the_longest_sequence_is_refused(kind: str, tmp_path: Path) -> None:
    path = make_decoder(kind, tmp_path)
    with pytest.raises(
        (TpoError, ValueError),
        match=r"computes otherwise beyond 16 tokens \(sliding_window in its configuration\), and 17 may be needed",
    ):
        make_engine(path, max_len=17)
    make_engine(path, max_len=16)  # a window that is never left is no obstacle


def test_prompt_that_leaves_no_room_is_refused(engine: TorchEngine) -> None:
    decoding = Decoding(temperature=0, top_p=1, max_tokens=57)
    assert len(generate(engine, [[7] * 199], seeds=[[0]], decoding=decoding)[0]) == 1
    with pytest.raises(ValueError, match="may take 257 tokens; the engine has 256"):
        generate(engine, [[7] * 200], seeds=[[0]], decoding=decoding)


def test_settings_make_the_engine_that_is_asked_for(tiny_model: Path) -> None:
    policy = Policy(str(tiny_model), None, str(tiny_model), "float32", 1024, None)
    chat = Chat(load_tokenizer(tiny_model), frozenset({1}))
    shared = {"chat": chat, "max_len": 99, "seed": 0}
    engine = TorchEngineConfig(max_sequences=3, num_workers=1).make(policy, **shared)
    assert isinstance(engine, TorchEngine)
    assert (engine.max_sequences, engine.max_len, engine.uses_seeds) == (3, 99, True)
    with pytest.raises(ValueError, match=r"engine\.kind=jax"):
        load_settings(EngineSettings, {"kind": "jax"})


def make_adapter(model_path: Path, directory: Path, *, seed: int = 5) -> Path:
    """Save a LoRA adapter whose B matrices are not zero, so that it changes what is generated."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    model = get_peft_model(load_model(model_path, revision=None, dtype="float32"), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(directory)
    return directory


def test_unmerged_adapter_generates_what_peft_generates(tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    adapter_path = make_adapter(tiny_model, tmp_path)
    engine = make_engine(tiny_model, adapter_path=adapter_path)
    base = load_model(tiny_model, revision=None, dtype="float32")
    prompts = random_prompts(2, lengths=(3, 20, 66))
    without = [generate_greedily(base, prompt, end_ids=[1], max_tokens=24) for prompt in prompts]
    assert_greedy_equal(engine, PeftModel.from_pretrained(base, str(adapter_path)).eval(), prompts)
    groups = generate(engine, prompts, seeds=[[0]] * len(prompts), decoding=GREEDY)
    assert [group[0].token_ids for group in groups] != without, "an adapter without effect tests nothing"
    names = [name for name, _ in engine.model.named_parameters()]
    assert any(name.endswith("q_proj.down") for name in names), "the adapter was merged"


def test_sample_does_not_depend_on_its_batch_neighbours(engine: TorchEngine) -> None:
    decoding = Decoding(temperature=1.0, top_p=0.95, max_tokens=20)
    prompts = random_prompts(4, lengths=(4, 60, 31))
    seeds = [[100 * position + index for index in range(3)] for position in range(len(prompts))]
    together = generate(engine, prompts, seeds=seeds, decoding=decoding)
    for prompt, group_seeds, group in zip(prompts, seeds, together, strict=True):
        for seed, generation in zip(group_seeds, group, strict=True):
            assert generate(engine, [prompt], seeds=[[seed]], decoding=decoding) == [[generation]]
    backwards = generate(engine, prompts[::-1], seeds=seeds[::-1], decoding=decoding)
    assert backwards[::-1] == together
    assert len({tuple(generation.token_ids) for generation in together[0]}) == 3, "seeds must make a difference"


def test_requests_are_taken_as_rows_become_free_and_rows_never_drain(tiny_model: Path) -> None:
    # Many end tokens, so that samples end at different times.
    end_ids = np.random.default_rng(3).choice(np.arange(5, 500), size=30, replace=False).tolist()
    engine = make_engine(tiny_model, end_ids=end_ids, max_sequences=6)
    prompts = random_prompts(5, lengths=[3, 30, 7, 12, 60, 2, 9, 25] * 3)
    num_samples, taken, finished = 2, 0, 0
    num_open = []  # samples that were taken and not finished, when the next request was taken

    def requests() -> Iterator[Request]:
        nonlocal taken
        for index, prompt in enumerate(prompts):
            num_open.append(taken * num_samples - finished)
            taken += 1
            yield Request(str(index), prompt, dict.fromkeys(range(num_samples), index))

    taken_at = []
    for _ in engine.stream(requests(), decoding=GREEDY):
        finished += 1
        taken_at.append(taken)
    assert finished == len(prompts) * num_samples
    assert max(num_open) < 6, "a request was taken while all rows were in use"
    assert min(num_open[3:]) > 0, "the engine drained before it took the next request"
    assert taken_at[0] < len(prompts) // 2, "the first sample came only after most requests were taken"


def test_a_stream_without_samples_ends(engine: TorchEngine) -> None:
    assert list(engine.stream([], decoding=GREEDY)) == []
    assert list(engine.stream([Request("none", [7, 8], {})], decoding=GREEDY)) == []


def test_a_stream_that_is_left_does_not_disturb_the_next(engine: TorchEngine) -> None:
    (prompt,) = random_prompts(8, lengths=(9,))
    ((expected,),) = generate(engine, [prompt], seeds=[[3]], decoding=GREEDY)
    left = engine.stream((Request(str(index), prompt, {0: index}) for index in range(20)), decoding=GREEDY)
    next(left)
    assert generate(engine, [prompt], seeds=[[3]], decoding=GREEDY) == [[expected]]
    assert len(list(left)) == 19


# The sampler


def nucleus(probabilities: NDArray[np.float64], top_p: float) -> dict[int, float]:
    """Token -> probability in the renormalised nucleus, by a full sort in plain Python."""
    kept: dict[int, float] = {}
    for token in sorted(range(len(probabilities)), key=lambda token: (-probabilities[token], token)):
        if kept and sum(kept.values()) >= top_p:
            break
        kept[token] = float(probabilities[token])
    total = sum(kept.values())
    return {token: probability / total for token, probability in kept.items()}


def softmax(logits: Tensor, temperature: float = 1.0) -> NDArray[np.float64]:
    return torch.softmax(logits.float() / temperature, dim=-1).double().numpy()


def assert_drawn_from(tokens: Sequence[int], expected: dict[int, float]) -> None:
    """Chi-square test of the counts; tokens expected fewer than five times share one cell."""
    assert set(tokens) <= set(expected), "a token from outside the nucleus"
    counts = {token: list(tokens).count(token) for token in expected}
    common = [token for token in expected if expected[token] * len(tokens) >= 5]
    rare = [token for token in expected if token not in common]
    observed = [counts[token] for token in common] + ([sum(counts[token] for token in rare)] if rare else [])
    mean = [expected[token] for token in common] + ([sum(expected[token] for token in rare)] if rare else [])
    assert len(observed) > 5, "too few cells to tell anything"
    assert chisquare(observed, np.array(mean) * len(tokens)).pvalue > 1e-3


@pytest.mark.parametrize("tiny", [1e-6, 1e-38, 1e-40, 1e-300])
def test_a_temperature_that_float32_cannot_divide_by_is_greedy(tiny: float) -> None:
    logits = torch.randn(5, 600, generator=torch.Generator().manual_seed(0)) * 30
    for top_p in (0.9, 1.0):
        assert torch.equal(sample_tokens(logits, torch.full((5,), 0.99), tiny, top_p), logits.argmax(dim=-1))


@pytest.mark.parametrize(
    ("temperature", "top_p", "spread"),
    [(1.0, 0.9, 2.0), (0.7, 0.8, 2.0), (1.5, 1.0, 1.0), (1.0, 0.999, 0.3)],
    ids=["usual", "cold", "no_nucleus", "nucleus_larger_than_candidates"],
)
def test_sample_tokens_has_top_p_frequencies(temperature: float, top_p: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(7)
    logits = spread * torch.randn(600, generator=generator)
    uniforms = torch.rand(6000, generator=generator, dtype=torch.float64)
    tokens = sample_tokens(logits.expand(6000, -1), uniforms, temperature, top_p).tolist()
    expected = nucleus(softmax(logits, temperature), top_p)
    if spread <= 1:
        assert len(expected) > NUM_CANDIDATES[0]
    assert_drawn_from(tokens, expected)


def test_engine_first_tokens_have_top_p_frequencies(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, max_sequences=64)
    (prompt,) = random_prompts(11, lengths=(20,))
    model = load_model(tiny_model, revision=None, dtype="float32")
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    decoding = Decoding(temperature=0.8, top_p=0.9, max_tokens=1)
    (group,) = generate(engine, [prompt], seeds=[list(range(1200))], decoding=decoding)
    assert_drawn_from([row.token_ids[0] for row in group], nucleus(softmax(logits, 0.8), 0.9))


@pytest.mark.parametrize("num_chunks", [257, 300])
@pytest.mark.parametrize("count", [1, 64])
def test_largest_of_chunks_are_the_largest_of_all(num_chunks: int, count: int) -> None:
    assert num_chunks > 4 * count, "chunks are not used"
    values = torch.rand(50, num_chunks * CHUNK, generator=torch.Generator().manual_seed(3))
    values[:10] = 0.5  # all tied
    values[10:20, :count] = 2.0  # all in one chunk
    values[20:30, ::CHUNK] = 2.0  # one in each chunk
    found, tokens = largest(values, count)
    assert torch.equal(found, values.topk(count).values)
    assert torch.equal(values.gather(1, tokens), found)
    assert all(len(set(row)) == count for row in tokens.tolist())


@settings(deadline=None, max_examples=60)
@example(seed=1391121, vocabulary=1024, spread=4.0, top_p=1.0, temperature=1.0)  # a step of 1e-6 beside a large one
@given(
    seed=st.integers(0, 2**32 - 1),
    vocabulary=st.sampled_from([2, 64, 65, 600, 1024, 1025, 4096]),
    spread=st.sampled_from([0.0, 0.01, 1.0, 4.0, 30.0]),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 1.0)),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
)
def test_nucleus_equals_the_one_by_full_sort(
    seed: int, vocabulary: int, spread: float, top_p: float, temperature: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(vocabulary, generator=generator)
    values = softmax(logits, temperature)
    kept = nucleus(values, top_p)
    uniforms = torch.linspace(1e-6, 1 - 1e-6, 400, dtype=torch.float64)
    tokens = sample_tokens(logits.expand(400, -1), uniforms, temperature, top_p).tolist()
    # Equal probabilities may be ordered either way, so values are compared: at each uniform the drawn token
    # is as probable as the one that inverts the distribution function, unless the uniform is at a step; the
    # sum of float32 probabilities misses 1 by about 1e-6, by which steps may move.
    order = sorted(kept, key=lambda token: (-values[token] if top_p < 1 else 0, token))  # nothing is sorted at 1
    steps = np.cumsum([kept[token] for token in order])
    for uniform, token in zip(uniforms.tolist(), tokens, strict=True):
        low, high = (int(np.searchsorted(steps, uniform + shift)) for shift in (-2e-6, 2e-6))
        candidates = order[min(low, len(order) - 1) : high + 1]  # several, where steps are smaller than that
        assert min(abs(values[token] - values[candidate]) for candidate in candidates) < 1e-6


@pytest.mark.parametrize(("top_p", "size"), [(1.0, 600), (0.5, 300), (1e-6, 1)])
def test_flat_distribution_draws_every_kept_token_once(top_p: float, size: int) -> None:
    uniforms = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    tokens = sample_tokens(torch.zeros(size, 600), uniforms, 1.0, top_p).tolist()
    assert len(set(tokens)) == size


def test_temperature_zero_takes_the_most_probable_token() -> None:
    logits = torch.randn(50, 600, generator=torch.Generator().manual_seed(0))
    drawn = sample_tokens(logits, torch.rand(50, dtype=torch.float64), 0, 0.5)
    assert drawn.tolist() == [int(np.argmax(row)) for row in logits.numpy()]


def test_rows_with_a_large_nucleus_do_not_disturb_the_others() -> None:
    flat, peaked = torch.zeros(600), torch.zeros(600)
    peaked[123] = 50.0
    drawn = sample_tokens(torch.stack([peaked, flat, peaked]), torch.tensor([0.9, 0.901, 0.1]).double(), 1.0, 0.9999)
    assert drawn[0] == drawn[2] == 123
    assert drawn[1] == 540  # a stable sort keeps flat tokens in order: 540.6 / 600 falls into token 540's step


# The forced switch


class ScriptedSampler:
    """Stands in for `sample_tokens`: at the k-th step of a lone sequence it draws the k-th token of the script."""

    def __init__(self, script: Sequence[int]) -> None:
        self.script, self.step = list(script), 0

    def __call__(self, logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
        token = self.script[self.step] if self.step < len(self.script) else 300
        self.step += 1
        return torch.tensor([token])


def generate_scripted(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, script: Sequence[int], decoding: Decoding
) -> Generation:
    monkeypatch.setattr("tpo.sample.engines.torch.engine.sample_tokens", ScriptedSampler(script))
    return generate(engine, [[0, 3, 20, 21]], seeds=[[0]], decoding=decoding)[0][0]


def switching(tokenizer: Any, *, thought: int, response: int) -> Decoding:
    switch = tuple(tokenizer.encode("\n" + DELIMITER, add_special_tokens=False))
    return Decoding(1.0, 1.0, thought, response, DELIMITER, switch)


@pytest.mark.parametrize(
    ("script", "thought", "response", "expected"),
    [
        # Scripts and results in letters: t thought, r response, E the EOS, D the forced switch, N the model's own.
        ("tttttrrE", 5, 4, "tttttD.rrE"),
        ("tttttrrrrrr", 5, 4, "tttttD.rrrr"),
        ("ttErrE", 5, 4, "ttD.rrE"),
        ("ErE", 5, 4, "D.rE"),
        ("ttNrrE", 60, 4, "ttN.rrE"),
        ("ttNrrrrr", 60, 4, "ttN.rrrr"),
        ("NrE", 60, 4, "N.rE"),
        ("ttNE", 60, 4, "ttN.E"),
        ("tttttE", 5, 4, "tttttD.E"),
        ("tttE", 3, 1, "tttD.E"),
    ],
    ids=[
        "budget",
        "both_budgets",
        "eos_in_the_thought_is_dropped",
        "eos_first",
        "own_delimiter",
        "own_delimiter_then_budget",
        "own_delimiter_first",
        "own_delimiter_then_eos",
        "eos_after_the_switch",
        "one_response_token",
    ],
)
def test_switch_from_thought_to_response(
    engine: TorchEngine,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    thought: int,
    response: int,
    expected: str,
) -> None:
    decoding = switching(tokenizer, thought=thought, response=response)
    assert decoding.switch_ids is not None
    own = tokenizer.encode(DELIMITER, add_special_tokens=False)
    letters = {"t": [200], "r": [210], "E": [tokenizer.eos_token_id], "N": own, "D": list(decoding.switch_ids)}

    def spell(text: str) -> list[int]:
        return [token for letter in text if letter != "." for token in letters[letter]]

    wanted = spell(expected)
    start = expected.index("D") if "D" in expected else 0
    stop = start + len(decoding.switch_ids) if "D" in expected else 0
    # While the switch is fed, the sampler's draws do not count, not even an EOS.
    steps = spell(script)
    if "D" in expected:
        swallowed = 1 if script[start : start + 1] == "E" and expected[start] == "D" and start < thought else 0
        ignored = [tokenizer.eos_token_id] * (len(decoding.switch_ids) - swallowed)
        steps = steps[: start + swallowed] + ignored + steps[start + swallowed :]
    found = generate_scripted(engine, monkeypatch, steps, decoding)
    assert found.token_ids == wanted
    assert (found.forced_start, found.forced_stop) == (start, stop)
    assert found.finish_reason == ("stop" if expected.endswith("E") else "length")


def test_delimiter_that_completes_on_the_last_thought_token_is_not_forced(
    engine: TorchEngine, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tokenizer.encode(DELIMITER, add_special_tokens=False)
    decoding = switching(tokenizer, thought=2 + len(own), response=3)
    found = generate_scripted(engine, monkeypatch, [200, 201, *own, 210, tokenizer.eos_token_id], decoding)
    assert found == Generation([200, 201, *own, 210, tokenizer.eos_token_id], "stop", 0, 0)


def test_delimiter_is_found_however_it_is_tokenized(
    engine: TorchEngine, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = [token for letter in DELIMITER for token in tokenizer.encode(letter, add_special_tokens=False)]
    assert len(letters) == len(DELIMITER) > len(tokenizer.encode(DELIMITER, add_special_tokens=False))
    script = [200, *letters, 210, tokenizer.eos_token_id]
    found = generate_scripted(engine, monkeypatch, script, switching(tokenizer, thought=100, response=3))
    assert found == Generation(script, "stop", 0, 0)


def test_without_a_switch_delimiter_and_budget_mean_nothing_special(
    engine: TorchEngine, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tokenizer.encode(DELIMITER, add_special_tokens=False)
    script = [200, *own, *range(210, 240)]
    decoding = Decoding(1.0, 1.0, max_tokens=len(own) + 9)
    found = generate_scripted(engine, monkeypatch, script, decoding)
    assert found == Generation(script[: decoding.max_tokens], "length", 0, 0)


def test_sampled_switches_keep_their_invariants(tiny_model: Path, tokenizer: Any) -> None:
    decoding = switching(tokenizer, thought=6, response=7)
    assert decoding.switch_ids is not None
    prompts = random_prompts(6, lengths=(3, 50, 10, 70))
    # Dozens of end tokens make some thoughts end early and some responses stop.
    engine = make_engine(tiny_model, end_ids=range(5, 60))
    groups = generate(engine, prompts, seeds=[list(range(12))] * 4, decoding=decoding)
    flat = [generation for group in groups for generation in group]
    for generation in flat:
        ids = generation.token_ids
        span = ids[generation.forced_start : generation.forced_stop]
        ends = [position for position, token in enumerate(ids) if token in engine.end_ids]
        outside = [position for position in ends if not generation.forced_start <= position < generation.forced_stop]
        assert tuple(span) == decoding.switch_ids
        assert generation.forced_start <= 6
        assert outside == ([len(ids) - 1] if generation.finish_reason == "stop" else [])
        response = ids[generation.forced_stop :]
        assert 1 <= len(response) <= 7
        assert generation.finish_reason == "stop" or len(response) == 7
    assert {generation.finish_reason for generation in flat} == {"stop", "length"}
    assert len({generation.forced_start for generation in flat}) > 2
