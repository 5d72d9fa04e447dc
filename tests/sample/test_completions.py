"""The sample stage: exactly K rows a prompt, ids untouched, budgets as configured."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tpo.config.thought import DIRECT, ThoughtFormat
from tpo.model.asked import ask
from tpo.model.chat import Chat
from tpo.model.conventions import Conventions
from tpo.model.policy import Policy
from tpo.sample.completions import make_completion, plan_decoding, summarize, write_completions
from tpo.sample.decoding import Decoding, Generation, Request, Sample
from tpo.sample.engines.torch import TorchEngineConfig
from tpo.sample.engines.torch.engine import TorchEngine
from tpo.sample.preflight import check_lengths
from tpo.sample.prompts import PromptError, make_prompt, require_all_fit
from tpo.store.records import Completion, Prompt, read_records

GENERIC_PROMPT = "Think, then answer.\nUser query: {instruction}"
SETTINGS = {"num_samples": 3, "temperature": 1.0, "top_p": 0.95, "max_thought_tokens": 5, "max_response_tokens": 7}
ENGINE = TorchEngineConfig(max_sequences=4)
TEXTS = ("Name a colour.", "What is 2 + 2?", "Write a haiku about rain.", "Who are you?", "List three rivers.")


def generic(enforce: str = "switch") -> ThoughtFormat:
    return ThoughtFormat(GENERIC_PROMPT, "Here is my thought process:", "Here is my response:", enforce)


def specific(enforce: str = "switch") -> ThoughtFormat:
    return ThoughtFormat(GENERIC_PROMPT, None, "<R>", enforce)


def make_prompts(texts: Sequence[str] = TEXTS) -> list[Prompt]:
    return [make_prompt(text, category=None, source="here", split="test", where="here") for text in texts]


def policy_of(path: Path, *, max_model_len: int = 512) -> Policy:
    return Policy(str(path), None, str(path), "float32", max_model_len, None)


def run_sample(path: Path, model: Path, **changes: Any) -> tuple[list[Completion], dict[str, Any]]:
    path.mkdir(exist_ok=True)
    arguments: dict[str, Any] = {
        "prompts": make_prompts(),
        "policy": policy_of(model),
        "form": generic(),
        "settings": SETTINGS,
        "engine_settings": ENGINE,
        "seed": 0,
        **changes,
    }
    prompts, policy, form = (arguments.pop(name) for name in ("prompts", "policy", "form"))
    metrics = write_completions(path, prompts, policy, form, **arguments)
    return list(read_records(path / "rows.jsonl", Completion)), metrics


def test_every_prompt_has_exactly_k_rows_in_order(tiny_model: Path, tmp_path: Path) -> None:
    rows, metrics = run_sample(tmp_path, tiny_model)
    assert [(row.prompt_id, row.sample_index) for row in rows] == [
        (prompt.prompt_id, index) for prompt in make_prompts() for index in range(3)
    ]
    assert metrics["num_completions"] == 15
    assert metrics["num_tokens"] == sum(len(row.completion_ids) for row in rows)
    assert len({row.seed for row in rows}) == 15, "every sample has a stream of its own"
    assert len({tuple(row.completion_ids) for row in rows}) == 15


def test_rows_do_not_depend_on_sequences_or_other_prompts(tiny_model: Path, tmp_path: Path) -> None:
    rows, _ = run_sample(tmp_path / "a", tiny_model)
    other = TorchEngineConfig(max_sequences=64)
    assert run_sample(tmp_path / "b", tiny_model, engine_settings=other)[0] == rows
    assert run_sample(tmp_path / "c", tiny_model, prompts=make_prompts(TEXTS[1:3]))[0] == rows[3:9]
    assert run_sample(tmp_path / "d", tiny_model, seed=1)[0] != rows


@pytest.mark.parametrize("form", [generic(), generic("prefill"), generic("none"), specific(), DIRECT])
def test_contexts_have_one_bos_and_end_with_the_prefill(
    tiny_model: Path, tokenizer: Any, tmp_path: Path, form: ThoughtFormat
) -> None:
    rows, _ = run_sample(tmp_path, tiny_model, form=form)
    for row in rows:
        text = tokenizer.decode(row.prompt_ids)
        assert row.prompt_ids.count(tokenizer.bos_token_id) == 1
        assert row.prompt_ids[0] == tokenizer.bos_token_id
        assert text.endswith("<|assistant|>\n" + (form.prefill or ""))
        assert row.is_prefilled == (form.prefill is not None)


class FixedEngine:
    """Stands in for an engine: the generations of each prompt are given, and finished last to first."""

    uses_seeds = False

    def __init__(self, generations: Sequence[Generation]) -> None:
        self.generations = list(generations)
        self.requests: list[Request] = []
        self.is_closed = False

    def stream(self, requests: Iterable[Request], *, decoding: Decoding) -> Iterator[Sample]:
        self.requests = list(requests)
        for request in reversed(self.requests):
            for index in reversed(request.seeds):
                yield Sample(request.key, index, self.generations[index])

    def close(self) -> None:
        self.is_closed = True


def test_sampled_ids_travel_unchanged(
    tiny_model: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One token a letter is not how the tokenizer would write it, so a decode and encode would be noticed.
    spelled = [token for letter in "a thought Here is my response: hello" for token in tokenizer.encode(letter)]
    assert tokenizer.encode(tokenizer.decode(spelled)) != spelled
    engine = FixedEngine(
        [
            Generation([*spelled, tokenizer.eos_token_id], "stop"),
            Generation([*spelled], "length"),
            Generation([*spelled[:9], *spelled], "length", 3, 9),
        ]
    )
    monkeypatch.setattr(TorchEngineConfig, "make", lambda *_, **__: engine)
    rows, _ = run_sample(tmp_path, tiny_model)
    for position, row in enumerate(rows):
        generation = engine.generations[position % 3]
        assert row.completion_ids == generation.token_ids
        assert (row.forced_start, row.forced_stop) == (generation.forced_start, generation.forced_stop)
        assert row.finish_reason == generation.finish_reason
        assert row.seed == -1, "this engine keeps a stream of its own"
        assert "<eos>" not in row.completion
    assert rows[0].completion == "a thought Here is my response: hello"
    assert (rows[0].thought, rows[0].response) == ("a thought", "hello")
    assert rows[0].num_response_tokens == len("hello"), "one token a letter, white space around it and EOS not counted"
    assert engine.is_closed
    assert [list(request.prompt_ids) for request in engine.requests] == [row.prompt_ids for row in rows[::3]]
    assert [request.key for request in engine.requests] == [prompt.prompt_id for prompt in make_prompts()]


def test_interrupted_sampling_asks_for_what_is_missing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = run_sample(tmp_path / "undisturbed", tiny_model)
    stream, asked, finished = TorchEngine.stream, [], []

    def failing(self: TorchEngine, requests: Iterable[Request], *, decoding: Decoding) -> Iterator[Sample]:
        requests = list(requests)
        asked.append({(request.key, index) for request in requests for index in request.seeds})
        for number, sample in enumerate(stream(self, requests, decoding=decoding)):
            if len(asked) == 1 and number == 7:
                raise KeyboardInterrupt
            finished.append((sample.key, sample.sample_index))
            yield sample

    monkeypatch.setattr(TorchEngine, "stream", failing)
    with pytest.raises(KeyboardInterrupt):
        run_sample(tmp_path / "killed", tiny_model)
    kept = set(finished)
    rows, metrics = run_sample(tmp_path / "killed", tiny_model)
    assert rows == expected
    assert len(kept) == 7 and asked[1] == asked[0] - kept, "what was finished is not sampled again"
    assert metrics["num_completions"] == 15, "counts cover the rows of both attempts"


def test_prompt_that_is_too_long_is_named(tiny_model: Path) -> None:
    prompts = make_prompts(["Short.", "A very long story: " + "blah " * 300])
    judge = {"kind": "self_rating", "positive": " Yes", "negative": " No"}

    def check(chosen: list[Prompt]) -> dict[str, Any]:
        forms = [generic(), DIRECT]
        return check_lengths(chosen, policy_of(tiny_model), forms, sample_settings=SETTINGS, judge_settings=judge)

    fitting = check(prompts[:1])
    assert fitting["longest"] < 512 and "too_long" not in fitting
    with pytest.raises(PromptError) as error:
        check(prompts)
    message = str(error.value)
    assert prompts[1].prompt_id in message
    assert "A very long story" in message
    assert "max_model_len is 512" in message
    assert "\n" not in message
    few = make_prompts(["Short.", "Shorter.", "Shortest.", prompts[1].text])
    found = check(few)
    assert found["longest"] == check(few[:3])["longest"] and [*found["too_long"]] == [few[3].prompt_id]
    assert found["too_long"][few[3].prompt_id] > 512
    with pytest.raises(PromptError, match=f"prompt {few[3].prompt_id} .*max_model_len is 512"):
        require_all_fit(few, found["too_long"], max_model_len=512)


@pytest.mark.parametrize(
    ("form", "max_tokens", "response_tokens", "has_switch"),
    [
        (DIRECT, 7, 0, False),
        (generic("switch"), 5, 7, True),
        (generic("prefill"), 12, 0, False),
        (generic("none"), 12, 0, False),
        (specific("switch"), 5, 7, True),
        (specific("none"), 12, 0, False),
    ],
    ids=["direct", "generic_switch", "generic_prefill", "generic", "specific_switch", "specific"],
)
def test_plan_decoding(
    tokenizer: Any, form: ThoughtFormat, max_tokens: int, response_tokens: int, has_switch: bool
) -> None:
    decoding = plan_decoding(tokenizer, ask(form, Conventions()), SETTINGS)
    assert (decoding.temperature, decoding.top_p) == (1.0, 0.95)
    assert (decoding.max_tokens, decoding.max_response_tokens) == (max_tokens, response_tokens)
    if has_switch:
        assert decoding.switch_ids is not None
        assert tokenizer.decode(decoding.switch_ids) == f"\n\n{form.response_delimiter}\n"
        assert tokenizer.bos_token_id not in decoding.switch_ids
        assert decoding.max_total == 12 + len(decoding.switch_ids)
    else:
        assert decoding.switch_ids is None
        assert decoding.max_total == max_tokens


@pytest.mark.parametrize("form", [generic(), specific(), generic("none"), DIRECT])
def test_budgets_are_respected(tiny_model: Path, tmp_path: Path, form: ThoughtFormat) -> None:
    rows, _ = run_sample(tmp_path, tiny_model, form=form)
    for row in rows:
        if form.switch is not None:
            assert row.forced_stop > row.forced_start, "a random model does not write the delimiter"
            assert row.forced_start <= 5
            assert len(row.completion_ids) - row.forced_stop <= 7
            assert row.response_start == (row.forced_stop if row.response else 0), "forced tokens are no response"
        else:
            assert len(row.completion_ids) <= (7 if form is DIRECT else 12)


def make_row(
    tokenizer: Any,
    text: str,
    *,
    forced: tuple[int, int] = (0, 0),
    reason: str = "stop",
    ids: list[int] | None = None,
) -> Completion:
    ids = tokenizer.encode(text, add_special_tokens=False) if ids is None else ids
    return make_completion(
        Chat(tokenizer, frozenset({tokenizer.eos_token_id})),
        ask(specific(), Conventions()),
        prompt_id="0",
        sample_index=0,
        prompt_ids=[0],
        generation=Generation(ids, reason, *forced),
        seed=0,
    )


def test_summarize_counts_by_hand(tokenizer: Any) -> None:
    rows = [
        make_row(tokenizer, "abc <R> xy"),
        make_row(tokenizer, "abcd <R> xyz", forced=(1, 2)),
        make_row(tokenizer, "no delimiter at all"),
        make_row(tokenizer, "cut in the tho", reason="length"),
        make_row(tokenizer, "empty <R>", forced=(1, 2), reason="length"),
    ]
    found = summarize(rows)
    parsed = rows[:2]
    assert found["num_completions"] == 5
    assert found["format_rate"] == 1 / 5, "forced delimiters are not the model's format"
    assert found["parse_rate"] == 2 / 5
    assert found["prefill_rate"] == 0
    assert found["truncated_rate"] == 2 / 5
    assert found["split_errors"] == {"empty_response": 1, "no_response_delimiter": 1, "thought_truncated": 1}
    assert found["mean_thought_tokens"] == sum(row.num_thought_tokens for row in parsed) / 2
    assert found["mean_response_tokens"] == sum(row.num_response_tokens for row in parsed) / 2
    assert found["mean_response_tokens"] == sum(len(tokenizer.encode(text)) for text in ("xy", "xyz")) / 2


def test_markup_of_a_delimiter_is_counted_to_neither_part(tokenizer: Any) -> None:
    parts = ["abc", "\n**", "<R>", "**", " xyz"]
    ids = [token for part in parts for token in tokenizer.encode(part, add_special_tokens=False)]
    row = make_row(tokenizer, "", ids=ids)
    assert (row.completion, row.thought, row.response) == ("abc\n**<R>** xyz", "abc", "xyz")
    assert row.num_thought_tokens == len(tokenizer.encode("abc", add_special_tokens=False))
    assert row.num_response_tokens == len(tokenizer.encode("xyz", add_special_tokens=False))


@pytest.mark.parametrize(
    ("form", "parts", "forced"),
    [
        pytest.param(specific(), [["ab", " c"], ["<R>"], [" xy"]], (0, 0), id="space_begins_the_response"),
        pytest.param(specific(), [["ab", " c"], ["<R"], [">xy"]], (0, 0), id="token_across_the_edge"),
        pytest.param(specific(), [["ab\n\n"], ["<", "R", ">"], ["\n", "x", "y", "\n"]], (0, 0), id="lines"),
        pytest.param(specific(), [["ab"], ["\n", "\n", "<R>", "\n"], ["xy"]], (1, 5), id="forced_with_its_lines"),
        pytest.param(generic(), [[" ab\n", "Here is", " my response", ":"], [], [" xy"]], (0, 0), id="prefilled"),
        pytest.param(DIRECT, [[], [], [" xy", " <R> z"]], (0, 0), id="direct"),
    ],
)
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_response_starts_after_the_delimiter(
    tokenizer: Any, form: ThoughtFormat, parts: list[list[str]], forced: tuple[int, int], reason: str
) -> None:
    """Thought, delimiter and response as the texts of tokens, each a token of its own; EOS is the response's."""
    tokens = Spelled(tokenizer)
    ids = [[tokens.id_of(text) for text in part] for part in parts]
    end = [tokenizer.eos_token_id] if reason == "stop" else []
    straddles = parts[2][0].startswith(">")  # it belongs to the side where it starts
    row = make_completion(
        tokens.chat,
        ask(form, Conventions()),
        prompt_id="0",
        sample_index=0,
        prompt_ids=[0],
        generation=Generation([*sum(ids, []), *end], reason, *forced),
        seed=0,
    )
    assert row.split_error is None
    assert row.response_start == len(ids[0]) + len(ids[1]) + straddles
    rest = tokens.chat.decode(tokens.chat.content(row.completion_ids)[row.response_start :])
    assert straddles or rest.strip() == row.response
    assert row.completion_ids[row.response_start :][-1:] == end or reason == "length"


class Spelled:
    """A chat whose tokens are whatever texts a test needs."""

    def __init__(self, tokenizer: Any) -> None:
        self.texts: list[str] = []
        self.eos_token_id = tokenizer.eos_token_id
        self.chat = Chat(self, frozenset({self.eos_token_id}))

    def id_of(self, text: str) -> int:
        self.texts.append(text)
        return 999 + len(self.texts)

    def decode(self, token_ids: Sequence[int], **_: Any) -> str:
        return "".join(self.texts[token - 1000] for token in token_ids)

    def encode(self, text: str, **_: Any) -> list[int]:
        return []  # nothing is known of its decoder, so every prefix is decoded


def test_no_response_starts_nowhere(tokenizer: Any) -> None:
    assert make_row(tokenizer, "no delimiter").response_start == 0
    assert make_row(tokenizer, "empty <R>", forced=(1, 2)).response_start == 0


def test_summarize_of_nothing_parsed_has_no_lengths(tokenizer: Any) -> None:
    found = summarize([make_row(tokenizer, "no delimiter")])
    assert (found["format_rate"], found["parse_rate"], found["mean_response_tokens"]) == (0, 0, 0)
