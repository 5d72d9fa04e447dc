"""A talk: what each policy is told, the one-shot form, and the terminal, a real one."""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from served import FakeLive, fake_policy
from test_split_stream import form

from tpo.config.compose import compose_config
from tpo.config.schema import ChatConfig
from tpo.config.streams import plain_console
from tpo.store.errors import TpoError
from tpo.use import opened
from tpo.use.chat import ChatError, Exchange, Speaker, Talk
from tpo.use.chat_terminal import Terminal
from tpo.use.loaded import TooLongError

REPOSITORY = Path(__file__).parents[2]
TEXT = "I count.\n\nHere is my response:\nFour."


def say(talk: Talk, words: str) -> Exchange:
    """One exchange, to its end."""
    exchange = Exchange(words)
    for speaker in talk.speakers:
        for _ in talk.answer(speaker, talk.begin(speaker, exchange), exchange):
            pass
    talk.keep(exchange)
    return exchange


def speaker(name: str, *texts: str, thought: str = "prefilled") -> Speaker:
    return Speaker(name, fake_policy(form(thought), *texts))


def prompts(one: Speaker) -> list[str]:
    engine = one.policy.engine
    assert isinstance(engine, FakeLive)
    return [one.policy.chat.decode(request.prompt_ids) for request, _ in engine.asked]


def test_history_has_the_answers_and_not_the_thoughts() -> None:
    talk = Talk(speaker("trained", TEXT, "So.\nHere is my response: Two."), seed=0)
    assert say(talk, "How many socks?").replies["trained"].thought == "I count."
    say(talk, "And shoes?")
    *_, last = prompts(talk.speakers[0])
    assert "Four." in last and "I count" not in last
    assert last.index("How many socks?") < last.index("Four.") < last.index("And shoes?")


def test_two_policies_are_asked_the_same_words_and_told_their_own_answers() -> None:
    talk = Talk(speaker("trained", TEXT), seed=0)
    say(talk, "How many socks?")
    talk.speakers.append(speaker("seed", "A.\nHere is my response: Nine.", "B.\nHere is my response: Ten."))
    say(talk, "And shoes?")
    exchange = say(talk, "And hats?")
    assert {name: reply.response for name, reply in exchange.replies.items()} == {"trained": "Four.", "seed": "Ten."}
    trained, seed = (prompts(one)[-1] for one in talk.speakers)
    assert trained.count("Four.") == 2 and "Nine." not in trained
    assert seed.count("Four.") == 1 and seed.count("Nine.") == 1, "where it had no answer it is told the other's"


def test_what_gave_no_answer_is_not_told_again() -> None:
    talk = Talk(speaker("trained", "a thought without an end", TEXT), seed=0)
    talk.speakers[0].policy.asked = replace(talk.speakers[0].policy.asked, form=form("prefilled", enforce="prefill"))
    assert say(talk, "How many socks?").replies["trained"].response is None
    say(talk, "And shoes?")
    assert "How many socks?" not in prompts(talk.speakers[0])[1]


def test_budget_and_direct_answers() -> None:
    talk = Talk(speaker("trained", TEXT), seed=0)
    talk.max_thought_tokens = 7
    say(talk, "x")
    talk.is_direct = True
    say(talk, "x")
    engine = talk.speakers[0].policy.engine
    assert isinstance(engine, FakeLive)
    (_, first), (_, second) = engine.asked
    assert (first.max_tokens, first.switch_ids is None) == (7, False)
    assert (second.max_tokens, second.switch_ids) == (100, None)


def test_conversation_that_has_grown_too_long_is_told() -> None:
    talk = Talk(speaker("trained", TEXT), seed=0)
    with pytest.raises(TooLongError, match="model.max_model_len.* shorten it, or change the budgets"):
        talk.begin(talk.speakers[0], Exchange("socks " * 2000))


def test_saved_talk_holds_everything_and_overwrites_nothing(tmp_path: Path) -> None:
    talk = Talk(speaker("trained", TEXT), seed=0)
    say(talk, "How many socks?")
    talk.save(tmp_path / "talk.json")
    told = json.loads((tmp_path / "talk.json").read_text())
    assert told["policies"] == ["trained"]
    [exchange] = told["exchanges"]
    assert exchange["user"] == "How many socks?"
    assert exchange["replies"]["trained"]["thought"] == "I count."
    assert exchange["replies"]["trained"]["response"] == "Four."
    with pytest.raises(ChatError, match="is there already: give another name"):
        talk.save(tmp_path / "talk.json")
    with pytest.raises(TpoError, match="cannot be written"):
        talk.save(tmp_path / "nowhere" / "talk.json")


def test_a_model_cannot_move_the_cursor() -> None:
    shown = io.StringIO()
    talk = Talk(speaker("trained", TEXT), seed=0)
    terminal = Terminal(talk, lambda _: speaker("other", TEXT), console=plain_console(file=shown, soft_wrap=True))
    terminal._say("a\x1b[2Jb\r\nc\x07 \x9b31m \u202ed \ud800 [bold]:smile:")
    assert shown.getvalue() == "a\\x1b[2Jb\\x0d\nc\\x07 \\x9b31m \\u202ed \\ud800 [bold]:smile:\n"


def options(model: Path, path: Path) -> list[str]:
    return [
        *(f"policy={model}", "thought=prefilled", "model.quantization=none", "model.dtype=float32"),
        *("model.max_model_len=1024", "sample.max_thought_tokens=8", "sample.max_response_tokens=12"),
        *(f"artifacts_dir={path}/artifacts", f"runs_dir={path}/runs"),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def one_shot(*arguments: str, words: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryFile("w+") as typed:
        typed.write(words)
        typed.seek(0)
        return run_command("tpo.chat", *arguments, stdin=typed, loads_models=True)


@pytest.mark.parametrize("command", ["tpo.chat", "tpo.serve", "tpo.export"])
def test_what_is_loaded_is_said_before(command: str, tmp_path: Path) -> None:
    out = [f"out={tmp_path}/out"] if command == "tpo.export" else []
    done = run_command(command, "policy=runs/nowhere", f"artifacts_dir={tmp_path}", f"runs_dir={tmp_path}", *out)
    first, second = done.stderr.splitlines()
    assert first == "loading runs/nowhere ..." and second.startswith("error: ") and done.stdout == ""


@pytest.mark.slow
def test_one_shot_reads_an_instruction_and_writes_json(tiny_model: Path, tmp_path: Path) -> None:
    done = one_shot(*options(tiny_model, tmp_path), words="Name three rivers.\n")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["policy"] == str(tiny_model)
    assert told["finish_reason"] in ("stop", "length") and told["num_thought_tokens"] <= 8
    assert told.keys() >= {"thought", "response", "split_error", "num_tokens", "num_response_tokens"}
    for arguments, words, said in (
        (options(tiny_model, tmp_path), "", "standard input holds no instruction"),
        (["policy=runs/nowhere", f"runs_dir={tmp_path}"], "x", "there is no such directory"),
        ([*options(tiny_model, tmp_path), "engine.num_workers=3"], "x", "set it to 1 or auto"),
        ([*options(tiny_model, tmp_path), "engine=server"], "x", "chat and serve use engine=torch or engine=vllm"),
        ([*options(tiny_model, tmp_path), "thought=think"], "x", "wants the model's own thoughts"),
    ):
        failed = one_shot(*arguments, words=words)
        assert failed.returncode == 1 and said in failed.stderr and "Traceback" not in failed.stderr, failed.stderr
        assert failed.stdout == ""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_terminal_talks(tiny_model: Path, tmp_path: Path) -> None:
    """Everything that can be typed, in a real terminal; Ctrl-C ends an answer and not the talk."""
    pexpect: Any = pytest.importorskip("pexpect")
    child = pexpect.spawn(
        sys.executable,
        ["-m", "tpo.chat", *options(tiny_model, tmp_path), "sample.max_response_tokens=600"],
        env={**environment(), "TERM": "xterm", "NO_COLOR": "1"},
        cwd=str(REPOSITORY),
        encoding="utf-8",
        timeout=90,
        dimensions=(40, 200),
    )

    def typed(line: str, *said: str) -> str:
        child.expect("> ")
        child.sendline(line)
        text = ""
        for pattern in said:
            child.expect(pattern)
            text += child.before + child.after
        return text

    child.expect("is ready")
    typed("/help", "/thought.*the last thought", "/quit")
    typed("/nothing", "there is no such command")
    typed("/thought", "nothing was answered yet")
    typed("Name three rivers.")
    child.expect(r"tokens")  # it is thinking, or answers
    child.sendintr()
    child.expect(r"\[.*, \d+\.\d s\]")
    typed("/budget 5", "5 tokens")
    typed("/budget none", "a number of tokens")
    typed("/direct", "without a thought")
    typed("Hello?", r"\[.* s\]")
    typed("/direct", "own thought format")
    typed("/thought on", "shown as they come")
    typed("/seed model", "answer the same words")
    typed("Name a hill.", f"{re.escape(str(tiny_model))}:", r"\[.* s\]", "seed:", r"\[.* s\]")
    typed(f"/save {tmp_path}/talk.json", "saved to")
    typed(f"/save {tmp_path}/talk.json", "is there already")
    typed("/seed off", "answers alone")
    typed("/quit")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.before
    assert set(json.loads((tmp_path / "talk.json").read_text())["policies"]) == {str(tiny_model), "seed"}


@pytest.mark.parametrize(
    ("has_gpu", "engine", "expected"),
    [(True, "torch", ["prepare", "open"]), (True, "vllm", ["open"]), (False, "torch", ["open"])],
)
def test_a_process_that_loads_a_policy_on_a_gpu_is_prepared_first(
    has_gpu: bool, engine: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def open_store(*_: Any, **__: Any) -> Any:
        done.append("open")
        raise TpoError("enough")

    monkeypatch.setattr(opened, "find_gpus", lambda: ("a GPU",) * has_gpu)
    monkeypatch.setattr(opened, "prepare", lambda: done.append("prepare"))
    monkeypatch.setattr(opened, "open_store", open_store)
    config = compose_config(ChatConfig, ["policy=seed", f"engine={engine}"])
    with pytest.raises(TpoError, match="enough"), opened.open_policies(config):
        pass
    assert done == expected
