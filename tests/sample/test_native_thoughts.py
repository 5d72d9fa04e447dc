"""Completions of models that think by themselves, by an engine that writes what such a model would."""

import datetime
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from chat_templates import CHATML, OWN, TEMPLATES, with_template
from conftest import make_model
from test_completions import SETTINGS, make_prompts

from tpo.config.fields import setting
from tpo.config.thought import DIRECT, STRIPPED, ThoughtFormat
from tpo.evaluate.interventions import write_interventions
from tpo.model.asked import AskError
from tpo.model.chat import Chat, load_chat
from tpo.model.policy import Policy
from tpo.model.prepare import missing_files
from tpo.model.template_probe import read_conventions
from tpo.sample.completions import write_completions
from tpo.sample.decoding import Decoding, EngineSettings, Generation, Request, Sample
from tpo.sample.engines.torch import TorchEngineConfig
from tpo.sample.sources.synthetic import SyntheticPrompts
from tpo.sample.synthetic import write_candidates
from tpo.store.records import Completion, read_records

THINK = ThoughtFormat("{instruction}", enforce="switch", thinking="on", name="think")
SECRET, ANSWER = "a planted secret", "The answer."
BUDGETS = {**SETTINGS, "num_samples": 1, "max_thought_tokens": 100, "max_response_tokens": 100}


@dataclass
class Scripted(EngineSettings):
    """An engine that writes texts in turn, each up to an end token or the token budget."""

    kind: str = setting("scripted")
    texts: Sequence[str] = ()
    stop_after: int = 1000  # samples, after which it is killed

    def make(self, policy: Policy, *, chat: Chat, max_len: int, seed: int) -> Any:
        return _Engine(self, chat)


class _Engine:
    uses_seeds = True

    def __init__(self, settings: Scripted, chat: Chat) -> None:
        self.settings, self.chat, self.number = settings, chat, 0

    def stream(self, requests: Iterable[Request], *, decoding: Decoding) -> Iterator[Sample]:
        for request in requests:
            for index in request.seeds:
                if self.number == self.settings.stop_after:
                    raise KeyboardInterrupt
                text = self.settings.texts[self.number % len(self.settings.texts)]
                self.number += 1
                ids = self.chat.tokenizer.encode(text, add_special_tokens=False)
                stop = next((at + 1 for at, token in enumerate(ids) if token in self.chat.end_ids), None)
                limit = decoding.max_tokens + decoding.max_response_tokens
                reason = "stop" if stop is not None and stop <= limit else "length"
                yield Sample(request.key, index, Generation(ids[: min(stop or limit, limit)], reason))

    def close(self) -> None:
        pass


def make_policy(tiny_model: Path, path: Path, template: str, *, eos: str | None = None, **arguments: Any) -> Policy:
    """The tiny model with another template; its EOS is not what the template ends turns with, unless it is given."""
    tokenizer = with_template(template, eos=eos)
    tokenizer.save_pretrained(path)
    found = read_conventions(tokenizer, template_arguments=arguments, date="2037-02-28")
    return Policy(str(tiny_model), None, str(path), "float32", 4096, None, conventions=found)


def write(
    path: Path, policy: Policy, form: ThoughtFormat, *texts: str, settings: dict[str, Any] = BUDGETS, **changes: Any
) -> tuple[list[Completion], dict[str, Any]]:
    path.mkdir(exist_ok=True)
    engine = Scripted(texts=texts, **changes)
    prompts = make_prompts()
    metrics = write_completions(path, prompts, policy, form, settings=settings, engine_settings=engine, seed=0)
    return list(read_records(path / "rows.jsonl", Completion)), metrics


def context(policy: Policy, row: Completion) -> str:
    return load_chat(policy).decode(row.prompt_ids)


# --- M1: thoughts in formats that ask for none ------------------------------------------------------------------


@pytest.mark.parametrize("eos", [None, "<|im_end|>"])
def test_the_direct_baseline_of_a_hybrid_model_does_not_think(
    tiny_model: Path, tmp_path: Path, eos: str | None
) -> None:
    policy = make_policy(tiny_model, tmp_path / "tokenizer", TEMPLATES["qwen3"], eos=eos)
    texts = (f"{ANSWER}<|im_end|>", f"<think>\n{SECRET}\n</think>\n\n{ANSWER}<|im_end|>", f"<think>\n{SECRET} " * 50)
    rows, metrics = write(tmp_path / "rows", policy, DIRECT, *texts)
    assert all(context(policy, row).endswith("assistant\n<think>\n\n</think>\n\n") for row in rows)
    assert [row.response for row in rows] == [ANSWER, ANSWER, None, ANSWER, ANSWER]
    assert [row.thought for row in rows] == [None, SECRET, None, None, SECRET]
    assert [row.split_error for row in rows] == [None, None, "thought_truncated", None, None]
    length = len(load_chat(policy).tokenizer.encode(ANSWER))
    assert {row.num_response_tokens for row in rows if row.response} == {length}, "a thought is no part of the length"
    assert metrics["mean_response_tokens"] == length
    assert metrics["cut_thought_rate"] == 1 / 5


def test_thoughts_of_the_model_are_the_formats(tiny_model: Path, tmp_path: Path) -> None:
    policy = make_policy(tiny_model, tmp_path / "tokenizer", TEMPLATES["qwen3"])
    texts = (f"{SECRET}\n</think>\n\n{ANSWER}<|im_end|>", f"\n</think>\n\n{ANSWER}<|im_end|>")
    rows, metrics = write(tmp_path / "rows", policy, THINK, *texts)
    assert all(context(policy, row).endswith("assistant\n<think>\n") and row.is_prefilled for row in rows)
    assert [row.thought for row in rows] == [SECRET, "", SECRET, "", SECRET]
    assert {row.response for row in rows} == {ANSWER}
    assert metrics["empty_thought_rate"] == 2 / 5 and metrics["parse_rate"] == 1 and metrics["cut_thought_rate"] == 0
    for row in rows:
        rest = load_chat(policy).decode(row.completion_ids[row.response_start :])
        assert rest.strip() == f"{ANSWER}<|im_end|>"
        assert (row.num_thought_tokens == 0) == (row.thought == "")


def test_a_real_engine_closes_thoughts_in_the_way_of_the_template(tmp_path: Path) -> None:
    tokenizer = with_template(TEMPLATES["qwen3"])
    model = make_model(tmp_path / "model", vocab_size=len(tokenizer))
    policy = make_policy(model, tmp_path / "tokenizer", TEMPLATES["qwen3"])
    (tmp_path / "rows").mkdir()
    settings = {**SETTINGS, "max_thought_tokens": 5, "max_response_tokens": 7}
    metrics = write_completions(
        tmp_path / "rows",
        make_prompts(),
        policy,
        THINK,
        settings=settings,
        engine_settings=TorchEngineConfig(max_sequences=4),
        seed=0,
    )
    rows = list(read_records(tmp_path / "rows" / "rows.jsonl", Completion))
    chat = load_chat(policy)
    forced = [row for row in rows if row.forced_start < row.forced_stop]
    assert len(forced) >= 10, "a random model does not write the tag"
    assert metrics["cut_thought_rate"] == len(forced) / len(rows)
    for row in forced:
        assert chat.decode(row.completion_ids[row.forced_start : row.forced_stop]) == "\n</think>\n\n"
        assert row.response is None or "</think>" not in row.response


def test_the_frame_of_answers_is_no_part_of_a_response(tiny_model: Path, tmp_path: Path) -> None:
    policy = make_policy(tiny_model, tmp_path / "tokenizer", OWN["hunyuan"])
    end = "\n</answer>"
    rows, _ = write(tmp_path / "direct", policy, DIRECT, f"{ANSWER}{end}")
    assert all(context(policy, row).endswith("<think>\n\n</think>\n<answer>\n") for row in rows)
    assert {(row.thought, row.response, row.finish_reason) for row in rows} == {(None, ANSWER, "stop")}
    texts = (f"{SECRET}\n</think>\n<answer>\n{ANSWER}{end}", f"{SECRET}\n</think>\n\n{ANSWER}{end}")
    rows, metrics = write(tmp_path / "think", policy, THINK, *texts)
    assert all(context(policy, row).endswith("assistant\n<think>\n") for row in rows)
    assert {(row.thought, row.response) for row in rows} == {(SECRET, ANSWER)}
    length = len(load_chat(policy).tokenizer.encode(ANSWER))
    assert metrics["mean_response_tokens"] == length and metrics["parse_rate"] == 1


def test_a_model_that_is_not_known_to_think_is_not_judged_by_its_thoughts(tiny_model: Path, tmp_path: Path) -> None:
    policy = make_policy(tiny_model, tmp_path / "tokenizer", CHATML)
    assert policy.conventions.tags is None
    texts = (
        f"<think>\n{SECRET}\n</think>\n\n{ANSWER}<|im_end|>",
        f"< think >{SECRET} " * 40,
        f"[THINK]{SECRET}<|im_end|>",
        f"{ANSWER} <thinking>{SECRET}</thinking><|im_end|>",
        f"{ANSWER}<|im_end|>",
    )
    rows, metrics = write(tmp_path / "rows", policy, DIRECT, *texts)
    assert [(row.thought, row.response) for row in rows] == [
        *((SECRET, ANSWER), (None, None), (None, None), (None, None), (None, ANSWER))
    ]
    assert [row.split_error for row in rows] == [
        *(None, "thought_truncated", "no_response_delimiter", "repeated_delimiter", None)
    ]
    assert metrics["parse_rate"] == 2 / 5
    assert load_chat(policy).decode(rows[0].completion_ids[rows[0].response_start :]).strip() == f"{ANSWER}<|im_end|>"


def test_a_formats_word_that_opens_a_thought_is_looked_at(tiny_model: Path, tmp_path: Path) -> None:
    policy = make_policy(tiny_model, tmp_path / "tokenizer", OWN["effort_opens"])
    high = {"reasoning_effort": "high"}
    rows, _ = write(tmp_path / "think", policy, replace(THINK, template_arguments=high), f"{SECRET} cut " * 50)
    assert all(context(policy, row).count("<think>") == 1 for row in rows)
    assert {(row.response, row.split_error) for row in rows} == {(None, "thought_truncated")}
    with pytest.raises(AskError, match='thought.template_arguments reasoning_effort="high"'):
        write(tmp_path / "direct", policy, replace(DIRECT, template_arguments=high), ANSWER)


# --- M2: the template opens the thought -------------------------------------------------------------------------


def test_a_model_that_cannot_be_switched_off_gives_no_direct_answers_but_stripped_ones(
    tiny_model: Path, tmp_path: Path
) -> None:
    policy = make_policy(tiny_model, tmp_path / "tokenizer", TEMPLATES["deepseek_r1_distill"])
    text = f"{SECRET}\n</think>\n\n{ANSWER}<｜end▁of▁sentence｜>"
    with pytest.raises(AskError, match=r"model.direct_answers=stripped") as error:
        write(tmp_path / "direct", policy, DIRECT, text)
    assert "\n" not in str(error.value)
    rows, _ = write(tmp_path / "rows", policy, STRIPPED, text, f"{SECRET} " * 200)
    assert context(policy, rows[0]).endswith("<think>\n")
    assert [row.response for row in rows] == [ANSWER, None, ANSWER, None, ANSWER]
    assert rows[0].thought == SECRET and rows[1].split_error == "thought_truncated"


def test_generated_instructions_do_not_stand_in_a_thought(tiny_model: Path, tmp_path: Path) -> None:
    settings = SyntheticPrompts(num_train=1, num_validation=0, num_test=1, num_candidates=2)
    for name, is_asked in (("qwen3_5_think", True), ("deepseek_r1_distill", False)):
        policy = make_policy(tiny_model, tmp_path / name, TEMPLATES[name])
        (tmp_path / f"{name}_rows").mkdir()
        engine = Scripted(texts=[" Name a colour.\n"])
        if is_asked:
            write_candidates(tmp_path / f"{name}_rows", policy, settings=settings, engine_settings=engine, seed=0)
            continue
        with pytest.raises(AskError):
            write_candidates(tmp_path / f"{name}_rows", policy, settings=settings, engine_settings=engine, seed=0)


def answers_after_secret(path: Path, policy: Policy, texts: Sequence[str]) -> list[Completion]:
    """The rows of responses after one given thought, which an engine writes in turn."""
    prompts = make_prompts()
    path.mkdir()
    write_interventions(
        path,
        prompts,
        {(prompt.prompt_id, 0): SECRET for prompt in prompts},
        policy,
        THINK,
        settings={"temperature": 1.0, "top_p": 1.0, "max_response_tokens": 50},
        engine_settings=Scripted(texts=texts),
        seed=0,
    )
    return list(read_records(path / "rows.jsonl", Completion))


def test_responses_after_given_thoughts_hold_none_of_the_models(tiny_model: Path, tmp_path: Path) -> None:
    policy = make_policy(tiny_model, tmp_path / "tokenizer", TEMPLATES["qwen3_5_think"])
    rows = answers_after_secret(
        tmp_path / "rows", policy, [f"{ANSWER}<|im_end|>", f"Wait. {SECRET}</think>{ANSWER}<|im_end|>"]
    )
    assert context(policy, rows[0]).endswith(f"<think>\n{SECRET}\n</think>\n\n")
    assert [row.response for row in rows[:2]] == [ANSWER, None]
    assert rows[1].split_error == "repeated_delimiter"


@pytest.mark.parametrize("name", ["hunyuan", "ernie"])
def test_responses_after_given_thoughts_have_no_frame(tiny_model: Path, tmp_path: Path, name: str) -> None:
    template = OWN[name].replace("{{ m.content }}", "{{ m.content }}~")
    policy = make_policy(tiny_model, tmp_path / "tokenizer", template)
    header, tags = policy.conventions.answer_header, policy.conventions.tags
    assert policy.conventions.answer_tail == "~" and tags is not None
    rows = answers_after_secret(tmp_path / "rows", policy, [f"{ANSWER}~\n{header.replace('<', '</')}"])
    assert context(policy, rows[0]).endswith(f"{SECRET}{tags.switch_text}")
    assert {row.response for row in rows} == {ANSWER}


# --- M6: what ends a turn ---------------------------------------------------------------------------------------


def test_a_turn_that_does_not_end_with_eos_ends(tiny_model: Path, tmp_path: Path) -> None:
    policy = make_policy(tiny_model, tmp_path / "tokenizer", CHATML, eos="<|endoftext|>")
    rows, metrics = write(tmp_path / "rows", policy, DIRECT, f"{ANSWER}<|im_end|>\n<|im_start|>user\nMore?")
    assert {(row.response, row.finish_reason) for row in rows} == {(ANSWER, "stop")}
    assert metrics["truncated_rate"] == 0
    found = load_chat(policy)
    assert found.tokenizer.eos_token == "<|endoftext|>"
    assert {found.tokenizer.convert_tokens_to_ids(name) for name in ("<|endoftext|>", "<|im_end|>")} < found.end_ids


def test_a_model_without_generation_config_ends_with_what_its_config_says(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", eos_token_id=[7, 9])
    assert missing_files(model, revision=None) == []
    (model / "generation_config.json").unlink()
    assert missing_files(model, revision=None) == ["generation_config.json"]
    policy = Policy(str(model), None, str(model), "float32", 512, None)
    assert load_chat(policy).end_ids == {1, 7, 9}


# --- M8: the clock ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [TEMPLATES["llama3_2"], OWN["smollm3"], TEMPLATES["gptoss"]])
def test_a_step_that_is_resumed_after_midnight_asks_all_on_one_date(
    template: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime.datetime):
        today_is = (1984, 4, 4)

        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls(*cls.today_is, 23, 59)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
    policy = make_policy(tiny_model, tmp_path / "tokenizer", template)
    form = DIRECT
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "rows", policy, form, ANSWER, stop_after=2)
    monkeypatch.setattr(Clock, "today_is", (1984, 4, 5))
    rows, _ = write(tmp_path / "rows", policy, form, ANSWER)
    texts = [context(policy, row) for row in rows]
    assert all("2037" in text and "1984" not in text for text in texts)
    heads = {text.partition(prompt.text)[0] for text, prompt in zip(texts, make_prompts(), strict=True)}
    assert len(heads) == 1


def test_template_arguments_of_model_and_format_are_rendered(tiny_model: Path, tmp_path: Path) -> None:
    policy = make_policy(tiny_model, tmp_path / "tokenizer", TEMPLATES["gptoss"], model_identity="You are Tiny.")
    form = replace(THINK, template_arguments={"reasoning_effort": "low"})
    rows, _ = write(
        tmp_path / "rows", policy, form, f"{SECRET}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}"
    )
    text = context(policy, rows[0])
    assert "You are Tiny." in text and "Reasoning: low" in text
    assert text.endswith("<|start|>assistant<|channel|>analysis<|message|>")
    assert (rows[0].thought, rows[0].response) == (SECRET, ANSWER)
