"""Asking a chat model: the cache, and the client against a real HTTP server that misbehaves on purpose."""

import gzip
import hashlib
import json
import logging
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openai._base_client
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tpo.model.connection
from tpo.config.fields import restore
from tpo.judge.llm.ask import LLM, load_llm
from tpo.judge.llm.cache import AnswerCache, Asked
from tpo.judge.llm.question import FIRST_TOKEN, TOO_LONG, UNANSWERED, Answer, Question, Watched, find_watched
from tpo.judge.llm.settings import LLMConfig
from tpo.store.errors import TpoError

REPOSITORY = Path(__file__).parents[2]
QUESTION = Question("Be brief.", "What is 2 + 2?", 0.0, 16)
KEY = "sk-very-secret-0123456789"


def make_questions(count: int) -> list[Question]:
    return [replace(QUESTION, user=f"Question {number}") for number in range(count)]


# The cache, over a fake model


class FakeBackend:
    """Answers with the number of the call, `room` questions at a time, that at `first` next; can die at a call."""

    def __init__(self, *, model: str = "fake", dies_at: int | None = None, room: int = 4, first: int = -1) -> None:
        self.model, self.dies_at, self.room, self.first = model, dies_at, room, first
        self.asked: list[Question] = []
        self.peak = self.num_streams = 0
        self.is_closed = False

    def identity(self) -> dict[str, Any]:
        return {"model": self.model, "revision": None}

    def stream(self, questions: Iterable[tuple[str, Question]]) -> Iterator[tuple[str, Answer]]:
        self.num_streams += 1
        left, under_way = iter(questions), list[tuple[str, Question]]()
        try:
            while True:
                under_way += islice(left, self.room - len(under_way))
                if not under_way:
                    return
                self.peak = max(self.peak, len(under_way))
                assert len(dict(under_way)) == len(under_way), "a question is under way twice"
                yield self.answer(*under_way.pop(self.first))
        finally:
            self.is_closed = True

    def answer(self, key: str, question: Question) -> tuple[str, Answer]:
        if len(self.asked) == self.dies_at:
            raise RuntimeError("killed")
        self.asked.append(question)
        watched = (Watched(3, {"4": -0.5, " 4": -2.0}),) if question.watch else ()
        too_long = "too long" in question.user
        return key, TOO_LONG if too_long else Answer(f"re: {question.user}", "stop", len(self.asked), watched)


def open_fake(path: Path, *, max_calls: int | None = None, **settings: Any) -> tuple[LLM, FakeBackend]:
    backend = FakeBackend(**settings)
    return LLM(backend, path / "answers.sqlite", max_calls=max_calls), backend


def test_answers_are_in_the_order_of_the_questions(tmp_path: Path) -> None:
    llm, _ = open_fake(tmp_path)
    questions = make_questions(5)
    assert [answer.text for answer in llm.ask(questions)] == [f"re: {question.user}" for question in questions]
    assert list(llm.ask([])) == []


def test_a_second_run_asks_nothing_and_reads_the_same(tmp_path: Path) -> None:
    questions = [*make_questions(4), replace(QUESTION, watch=("4",))]
    first, _ = open_fake(tmp_path)
    answers = list(first.ask(questions))
    assert answers[-1].watched == (Watched(3, {"4": -0.5, " 4": -2.0}),)
    second, backend = open_fake(tmp_path)
    assert list(second.ask(questions)) == answers
    assert backend.asked == []


def test_equal_questions_are_asked_once(tmp_path: Path) -> None:
    llm, backend = open_fake(tmp_path)
    answers = list(llm.ask([QUESTION, *make_questions(2), QUESTION, replace(QUESTION)]))
    assert len(backend.asked) == 3
    assert answers[0] == answers[3] == answers[4]


def test_an_endless_stream_of_questions_is_taken_as_needed(tmp_path: Path) -> None:
    llm, backend = open_fake(tmp_path, room=5, first=0)
    taken = []

    def endless() -> Iterator[Question]:
        for number in count():
            taken.append(number)
            yield replace(QUESTION, user=f"Question {number}")

    answers = llm.ask(endless())
    assert taken == [] and backend.num_streams == 0
    for number in range(40):
        assert next(answers).text == f"re: Question {number}"
        assert len(taken) <= len(backend.asked) + 5
    assert backend.peak == 5 and backend.num_streams == 1, "never drained between"
    answers.close()  # type: ignore[attr-defined]
    assert backend.is_closed


def test_cached_answers_come_at_once_and_start_no_model(tmp_path: Path) -> None:
    first, _ = open_fake(tmp_path)
    list(first.ask(make_questions(6)))
    llm, backend = open_fake(tmp_path)
    answers = llm.ask([*make_questions(6), QUESTION])
    assert [next(answers).text for _ in range(6)] == [f"re: Question {number}" for number in range(6)]
    assert backend.num_streams == 0
    assert next(answers).text == f"re: {QUESTION.user}" and backend.num_streams == 1


@pytest.mark.parametrize("room", [1, 3, 50])
def test_order_is_kept_among_cached_repeated_and_unfitting_questions(tmp_path: Path, room: int) -> None:
    first, _ = open_fake(tmp_path)
    list(first.ask(make_questions(30)[::3]))
    order = [number * 7 % 30 for number in range(90)]
    questions = [replace(QUESTION, user=f"Question {at}" + " too long" * (at == 11)) for at in order]
    llm, backend = open_fake(tmp_path, room=room)
    expected = ["" if at == 11 else f"re: Question {at}" for at in order]
    assert [answer.text for answer in llm.ask(questions)] == expected
    assert len({question.user for question in backend.asked}) == 20
    assert sum("too long" not in question.user for question in backend.asked) == 19, "each once"


def test_a_question_that_takes_long_holds_back_only_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tpo.judge.llm.ask.LOOK_AHEAD", 10)
    llm, backend = open_fake(tmp_path, room=2)  # the last first: question 0 comes when no more are taken
    found = []
    most = 0
    for answer in llm.ask(make_questions(35)):
        most = max(most, len(backend.asked) - len(found))
        found.append(answer.text)
    assert found == [f"re: Question {number}" for number in range(35)]
    assert most == 10 and len(backend.asked) == 35


def test_answers_before_the_budget_s_end_are_yielded(tmp_path: Path) -> None:
    llm, _ = open_fake(tmp_path, max_calls=3)
    answers = llm.ask(make_questions(5))
    assert [next(answers).text for _ in range(3)] == [f"re: Question {number}" for number in range(3)]
    with pytest.raises(TpoError, match="budget is spent: 3 calls"):
        next(answers)


def test_what_was_answered_before_a_crash_is_kept(tmp_path: Path) -> None:
    questions = make_questions(6)
    llm, first = open_fake(tmp_path, dies_at=4)
    with pytest.raises(RuntimeError):
        list(llm.ask(questions))
    llm, second = open_fake(tmp_path)
    assert [answer.text for answer in llm.ask(questions)] == [f"re: {question.user}" for question in questions]
    assert len(first.asked) == 4 and len(second.asked) == 2
    assert not set(first.asked) & set(second.asked)


CHANGES: dict[str, dict[str, Any]] = {
    "system": {"system": "Be long."},
    "no_system": {"system": None},
    "empty_system": {"system": ""},
    "user": {"user": "What is 2 + 3?"},
    "temperature": {"temperature": 0.7},
    "max_tokens": {"max_tokens": 17},
    "watch": {"watch": ("1",)},
    "sample": {"sample": 1},
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_setting_is_another_question(tmp_path: Path, name: str) -> None:
    llm, backend = open_fake(tmp_path)
    list(llm.ask([QUESTION, replace(QUESTION, **CHANGES[name])]))
    assert len(backend.asked) == 2


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()), st.lists, max_leaves=3
)
ODD_ANSWERS = st.builds(
    Answer,
    text=st.text() | st.text(st.characters(categories=["Cs"])) | st.binary() | JSON_VALUES,
    finish_reason=st.sampled_from(["stop", "length"]) | JSON_VALUES,
    num_tokens=st.integers() | st.floats() | JSON_VALUES,
    watched=st.lists(
        st.builds(Watched, st.integers() | st.floats(), st.dictionaries(st.text(), st.floats() | JSON_VALUES)),
        max_size=2,
    ).map(tuple)
    | JSON_VALUES,
    error=st.none() | JSON_VALUES,
    has_logprobs=st.booleans() | JSON_VALUES,
)


@given(ODD_ANSWERS)
@example(Answer("x", "stop", 11.5))  # type: ignore[arg-type]
@example(Answer("x", "stop", 11.0))  # type: ignore[arg-type]
@example(Answer("x", "stop", True))
@example(Answer("x", "stop", -5))
@example(Answer("x", "stop", 2**70))
@example(Answer("\ud83d", "stop", 1))
@example(Answer("x\0\u2028", "stop", 1))
@example(Answer(b"x", "stop", 1))  # type: ignore[arg-type]
@example(Answer("x", "stop", 1, (Watched(0, {"4": float("nan")}),)))
@example(Answer("x", "stop", 1, (Watched(-1, {"4": -1.0}),)))
@example(Answer("x", "stop", 1, (Watched(0, {"\udc00": -1.0}),)))
def test_what_is_kept_can_be_read(answer: Answer) -> None:
    with TemporaryDirectory() as folder:
        cache = AnswerCache(Path(folder) / "answers.sqlite")
        asked = Asked({"model": "m"}, QUESTION)
        try:
            cache.put(asked, answer)
        except TpoError as error:
            assert len(str(error).splitlines()) == 1 and "an answer of m has a form that cannot be kept" in str(error)
            assert cache.find(asked) is None and cache.count(asked.model) == 0
        else:
            assert cache.find(asked) == (answer if answer.is_whole(QUESTION) else None)
            assert type(answer.num_tokens) is int and answer.num_tokens >= 0


def test_another_model_is_asked_anew(tmp_path: Path) -> None:
    for model in ("one", "two"):
        llm, backend = open_fake(tmp_path, model=model)
        list(llm.ask([QUESTION]))
        assert len(backend.asked) == 1
    assert Asked({"model": "a", "revision": None}, QUESTION).key != Asked({"model": "a", "revision": "b"}, QUESTION).key


def test_a_question_that_does_not_fit_is_asked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    questions = [QUESTION, replace(QUESTION, user="too long")]
    for num_asked in (2, 1):
        llm, backend = open_fake(tmp_path)
        assert [answer.error for answer in llm.ask(questions)] == [None, "too_long"]
        assert len(backend.asked) == num_asked
    assert "1 of 2 questions have no answer: 1 too_long" in caplog.text


@pytest.mark.parametrize("look_ahead", [3, 8192])
def test_behind_an_unanswered_question_the_others_are_asked_and_none_is_yielded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look_ahead: int
) -> None:
    monkeypatch.setattr("tpo.judge.llm.ask.LOOK_AHEAD", look_ahead)
    llm, backend = open_fake(tmp_path, room=1)
    answer = backend.answer
    silent = {"Question 2", "Question 7"}

    def answer_some(key: str, question: Question) -> tuple[str, Answer]:
        return (key, UNANSWERED) if question.user in silent else answer(key, question)

    monkeypatch.setattr(backend, "answer", answer_some)
    found = []
    with pytest.raises(TpoError, match=r"^2 of 10 questions were answered with nothing, .* which asks these again"):
        found.extend(llm.ask(make_questions(10)))  # keeps what came before the error
    assert [answer.text for answer in found] == ["re: Question 0", "re: Question 1"]
    assert len(backend.asked) == 8
    again, backend = open_fake(tmp_path)
    assert all(answer.error is None for answer in again.ask(make_questions(10)))
    assert {question.user for question in backend.asked} == silent


def test_budget_is_over_all_runs_and_raising_it_goes_on(tmp_path: Path) -> None:
    questions = make_questions(5)
    llm, _ = open_fake(tmp_path, max_calls=2)
    assert len(list(llm.ask(questions[:1]))) == 1
    with pytest.raises(TpoError, match=r"2 calls were made, judge.max_calls=2, and questions are still open.*raise"):
        list(llm.ask(questions))
    llm, backend = open_fake(tmp_path, max_calls=2)
    with pytest.raises(TpoError, match="budget is spent"):
        list(llm.ask(questions))
    assert backend.asked == []
    assert len(list(llm.ask(questions[:1]))) == 1, "what is there costs nothing"
    other, _ = open_fake(tmp_path, max_calls=2, model="another")
    assert len(list(other.ask(questions[:2]))) == 2, "another model has a budget of its own"
    llm, backend = open_fake(tmp_path, max_calls=5)
    assert len(list(llm.ask(questions))) == 5
    assert len(backend.asked) == 3


def test_people_can_read_what_was_asked(tmp_path: Path) -> None:
    llm, _ = open_fake(tmp_path)
    list(llm.ask([replace(QUESTION, user="Was heißt 例?")]))
    with sqlite3.connect(tmp_path / "answers.sqlite") as database:
        ((model, request, answer),) = database.execute("SELECT model, request, answer FROM answers").fetchall()
    assert "fake" in model and "Was heißt 例?" in request and "re: Was heißt 例?" in answer


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite").write_text("no database at all, but long enough to look at" * 50)
    llm, _ = open_fake(tmp_path)
    with pytest.raises(TpoError, match=r"answers\.sqlite.*not a database"):
        list(llm.ask([QUESTION]))


# Watched tokens


@pytest.mark.parametrize(
    ("tokens", "text", "positions"),
    [
        (["Score", ":", " [[", "4", "]]"], "Score: [[4]]", [9]),
        (["4", " or", " 4", "<eos>"], "4 or 4", [0, 5]),
        (["\ufffd", "\ufffd", "4"], "é4", [1]),  # two tokens that make one character
        ([" The", " 4", " 14", " The", " 4"], "The 4 14 The 4", [4, 13]),  # the first space is left out of the text
        (["44", "4"], "444", [2]),
        (["[[4", "]]"], "[[4]]", []),  # not a token of its own
        ([], "4", []),
    ],
)
def test_watched_tokens_are_found_in_the_text(tokens: list[str], text: str, positions: list[int]) -> None:
    found = find_watched(((token, {token: -0.1, "x": float("-inf")}) for token in tokens), text, ("4", "5"))
    assert [entry.position for entry in found] == positions
    assert all(text[position] == "4" for position in positions)
    assert all(set(entry.alternatives.values()) == {-0.1} for entry in found), "infinities are no JSON"


@pytest.mark.parametrize(
    ("tokens", "text", "positions"),
    [
        (["m"], "m", [0]),
        (["Both"], "Both", [0]),
        (["<eos>"], "", [0]),  # in the text or not
        (["\n", "m", "m"], "\nmm", [0]),  # no other token, white space or not
        (["a", "\n", "4"], "a\n4", [0, 2]),  # beside those watched by name
        ([], "", []),
    ],
)
def test_first_token_can_be_watched_whatever_it_is(tokens: list[str], text: str, positions: list[int]) -> None:
    found = find_watched(((token, {token: -0.1, "x": float("-inf")}) for token in tokens), text, (FIRST_TOKEN, "4"))
    assert [entry.position for entry in found] == positions
    assert [entry.alternatives for entry in found[:1]] == [{token: -0.1} for token in tokens[:1]]


# The client, against a real server


class FakeServer:
    """An HTTP server on a loopback port that follows a script: one reply per request, then good ones."""

    def __init__(self, script: list[Any] | None = None, *, port: int = 0, seconds: float = 0.0) -> None:
        self.script, self.seconds = list(script or []), seconds
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.num_open = self.peak = 0
        self.lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.handle(self, body)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *arguments: Any) -> None:  # clients that were killed
                pass

        self.http = Server(("127.0.0.1", port), Handler)
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self.lock:
            self.requests.append(body)
            self.keys.append(handler.headers.get("Authorization", ""))
            self.num_open += 1
            self.peak = max(self.peak, self.num_open)
            reply = self.script.pop(0) if self.script else None
        time.sleep(self.seconds)
        with self.lock:
            self.num_open -= 1
        match reply:
            case None:
                self.reply(handler, 200, completion(f"re: {body['messages'][-1]['content']}"))
            case "hang_up":
                handler.connection.shutdown(socket.SHUT_RDWR)
                handler.close_connection = True
            case ("slow", seconds):
                time.sleep(seconds)
                handler.close_connection = True
            case ("drip", seconds):  # a body without an end, byte by byte
                handler.send_response(200)
                handler.send_header("Content-Type", "application/json")
                handler.end_headers()
                handler.close_connection = True
                while True:
                    handler.wfile.write(b" ")
                    time.sleep(seconds)
            case (int(status), payload, *headers):
                self.reply(handler, status, payload, *headers)
            case payload:
                self.reply(handler, 200, payload)

    def reply(
        self, handler: BaseHTTPRequestHandler, status: int, payload: Any, headers: dict[str, str] | None = None
    ) -> None:
        text = payload if isinstance(payload, str | bytes) else json.dumps(payload)
        content = text if isinstance(text, bytes) else text.encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "text/html" if isinstance(payload, str) else "application/json")
        handler.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def completion(
    text: str | None, *, finish_reason: str = "stop", tokens: list[tuple[str, dict[str, float]]] | None = None
) -> Any:
    logprobs = None
    if tokens is not None:
        entries = [
            {
                "token": token,
                "logprob": 0.0,
                "bytes": None,
                "top_logprobs": [{"token": name, "logprob": value, "bytes": None} for name, value in likely.items()],
            }
            for token, likely in tokens
        ]
        logprobs = {"content": entries}
    choice = {"index": 0, "finish_reason": finish_reason, "logprobs": logprobs}
    choice["message"] = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake-model",
        "choices": [choice],
        "usage": usage,
    }


def failed(status: int, message: str = "no", **fields: Any) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": "error", "code": None, **fields}}


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpo.model.connection, "POLL_S", 0.02)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.002)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.02)
    monkeypatch.setenv("FAKE_KEY", KEY)


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    servers: list[FakeServer] = []

    def start(*arguments: Any, **settings: Any) -> FakeServer:
        servers.append(FakeServer(*arguments, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def client_config(url: str, **server: Any) -> Any:
    reach = {"max_concurrency": 4, "max_retries": 3, "patience_s": 5.0, "timeout_s": 5.0, **server}
    return {
        "backend": "server",
        "name": "fake-model",
        "server": {"base_url": url, "api_key_env": "FAKE_KEY", **reach},
    }


def open_client(url: str, path: Path, **settings: Any) -> LLM:
    return load_llm(restore(LLMConfig, client_config(url, **settings)), policy=None, cache_path=path / "answers.sqlite")


def test_what_is_sent_is_what_was_asked(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    server = serve()
    answers = list(open_client(server.url, tmp_path).ask([QUESTION, replace(QUESTION, system=None, temperature=0.5)]))
    assert answers[0] == Answer("re: What is 2 + 2?", "stop", 11)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}]
    expected = {"model": "fake-model", "messages": turns, "temperature": 0.0, "max_tokens": 16}
    assert expected in server.requests
    assert {**expected, "messages": turns[1:], "temperature": 0.5} in server.requests


def test_probabilities_come_with_the_answer(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    likely = {"4": -0.1, "5": -2.5}
    server = serve([completion("So [[4]]", tokens=[("So", {"So": 0.0}), (" [[", {}), ("4", likely), ("]]", {})])])
    (answer,) = open_client(server.url, tmp_path).ask([replace(QUESTION, watch=("4", "5"))])
    assert answer.watched == (Watched(5, likely),)
    assert (server.requests[0]["logprobs"], server.requests[0]["top_logprobs"]) == (True, 20)


@pytest.mark.parametrize("reason", ["length", "max_tokens", "model_length"])
def test_an_answer_may_be_cut(serve: Callable[..., FakeServer], tmp_path: Path, reason: str) -> None:
    (cut,) = open_client(serve([completion("So", finish_reason=reason)]).url, tmp_path).ask([QUESTION])
    assert (cut.text, cut.finish_reason, cut.is_cut) == ("So", "length", True)


def test_arguments_of_the_template_are_sent_and_are_part_of_the_question(
    serve: Callable[..., FakeServer], tmp_path: Path
) -> None:
    server = serve()
    for arguments in ({}, {"enable_thinking": False}, {"enable_thinking": False}, {"reasoning_effort": "low"}):
        config = client_config(server.url) | {"template_arguments": arguments}
        list(load_llm(restore(LLMConfig, config), policy=None, cache_path=tmp_path / "answers.sqlite").ask([QUESTION]))
    sent = [body.get("chat_template_kwargs") for body in server.requests]
    assert sent == [None, {"enable_thinking": False}, {"reasoning_effort": "low"}], "equal ones are asked once"


def test_arguments_go_where_a_template_is_rendered() -> None:
    config = client_config("http://x/v1") | {"template_arguments": {"enable_thinking": False}}
    restore(LLMConfig, config).check("judge")
    with pytest.raises(TpoError, match=r"judge\.template_arguments: OpenAI's own server takes none"):
        restore(LLMConfig, config | {"server": {"base_url": None}}).check("judge")
    for name in ("tokenize", "add_generation_prompt", "tools"):
        with pytest.raises(TpoError, match=rf"judge\.template_arguments\.{name} is no setting of a chat template"):
            restore(LLMConfig, config | {"template_arguments": {name: True}}).check("judge")


IN_FIELDS = ["reasoning_content", "reasoning", "thinking"]


@pytest.mark.parametrize("field", IN_FIELDS)
def test_a_thought_in_a_field_of_its_own_is_not_read(
    serve: Callable[..., FakeServer], tmp_path: Path, field: str
) -> None:
    thinking, cut = completion("\n\n[[B]]"), completion(None, finish_reason="length")
    for reply in (thinking, cut):
        reply["choices"][0]["message"][field] = "At first A looks far better: [[A>>B]]"
    server = serve([thinking, cut])
    found = list(open_client(server.url, tmp_path, max_concurrency=1).ask(make_questions(2)))
    assert [(answer.text, answer.is_cut) for answer in found] == [("\n\n[[B]]", False), ("", True)]


def test_parts_of_a_message_that_are_thoughts_are_not_read(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "At first [[A>>B]]"}], "text": "[[A]]"},
        {"type": "text", "text": "So [[B]]"},
        {"type": "text", "text": "."},
    ]
    server = serve([completion(parts)])  # type: ignore[arg-type]  # as Mistral's servers do
    (answer,) = open_client(server.url, tmp_path).ask([QUESTION])
    assert answer.text == "So [[B]]."


FOUR, ONE = {"4": -0.1, "5": -2.5}, {"1": -0.1, "2": -2.5}
# The tokens of a thought that says "Score [[1]]" and of an answer that says "Score [[4]]".
APART: list[Any] = [("<think>", {}), ("Score [[", {}), ("1", ONE), ("]]", {}), ("</think>", {}), ("\n\n", {})]
SAID: list[Any] = [("Score [[", {}), ("4", FOUR), ("]]", {})]


@pytest.mark.parametrize(
    ("tokens", "text", "has_field", "watched"),
    [
        (APART + SAID, "Score [[4]]", True, (Watched(8, FOUR),)),
        (APART[1:] + SAID, "Score [[4]]", True, (Watched(8, FOUR),)),  # opened by the template
        (APART + SAID, "Score [[4]]", False, (Watched(8, FOUR),)),  # a server that keeps the thought to itself
        (SAID, "Score [[4]]", True, ()),  # whose tokens these are is not known
        (APART[1:4] + SAID, "Score [[4]]", True, ()),
        (APART[:3], "", True, ()),  # cut within the thought
        (SAID, "Score [[4]]", False, (Watched(8, FOUR),)),
        (APART + SAID, "<think>Score [[1]]</think>\n\nScore [[4]]", False, (Watched(15, ONE), Watched(36, FOUR))),
    ],
)
def test_probabilities_of_a_thought_are_not_the_answer_s(
    serve: Callable[..., FakeServer],
    tmp_path: Path,
    tokens: list[Any],
    text: str,
    has_field: bool,
    watched: tuple[Watched, ...],
) -> None:
    reply = completion(text, tokens=tokens)
    reply["choices"][0]["message"]["reasoning_content"] = "Score [[1]]" if has_field else None
    (answer,) = open_client(serve([reply]).url, tmp_path).ask([replace(QUESTION, watch=("1", "4", "5"))])
    assert answer.watched == watched


def test_the_first_token_is_the_answer_s(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    reply = completion("m", tokens=[*APART, ("m", {"m": -0.1, "M": -2.0})])
    (answer,) = open_client(serve([reply]).url, tmp_path).ask([replace(QUESTION, watch=(FIRST_TOKEN,))])
    assert answer.watched == (Watched(0, {"m": -0.1, "M": -2.0}),)


def test_never_more_at_once_than_allowed(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    server = serve(seconds=0.02)
    questions = make_questions(20)
    answers = list(open_client(server.url, tmp_path, max_concurrency=3).ask(questions))
    assert [answer.text for answer in answers] == [f"re: {question.user}" for question in questions]
    assert server.peak == 3


@pytest.mark.parametrize(
    "script",
    [
        [failed(500), failed(500)],
        [failed(502), failed(503), failed(504)] * 2,  # more than max_retries: the server behind it is away
        [failed(408), failed(409), failed(429)],
        [(500, "<html>no JSON</html>")],
        ["hang_up", "hang_up"],
        [("slow", 0.6)],
    ],
    ids=["500", "gateway", "passing", "html", "hang_up", "timeout"],
)
def test_what_passes_is_tried_again(serve: Callable[..., FakeServer], tmp_path: Path, script: list[Any]) -> None:
    server = serve(script)
    (answer,) = open_client(server.url, tmp_path, timeout_s=0.3).ask([QUESTION])
    assert answer.text == "re: What is 2 + 2?"
    assert len(server.requests) == len(script) + 1


def test_a_server_that_asks_to_wait_is_given_the_time(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    server = serve([(*failed(429), {"Retry-After": "0.4"})])
    started = time.monotonic()
    list(open_client(server.url, tmp_path).ask([QUESTION]))
    assert time.monotonic() - started >= 0.4


def test_what_does_not_pass_ends_the_run_after_the_allowed_attempts(
    serve: Callable[..., FakeServer], tmp_path: Path
) -> None:
    server = serve([completion("fine"), *[failed(500, "out of memory")] * 4])
    llm = open_client(server.url, tmp_path, max_concurrency=1, max_retries=3)
    with pytest.raises(
        TpoError,
        match=r"max_retries=3 allows, .*HTTP 500: out of memory.* 1 questions are answered and kept, 5 requests were "
        "sent, at least 11 tokens used",
    ):
        list(llm.ask(make_questions(3)))
    assert len(server.requests) == 5
    assert [answer.text for answer in llm.ask(make_questions(1))] == ["fine"]
    assert len(server.requests) == 5


def test_what_was_spent_is_counted_when_all_under_way_have_ended(
    serve: Callable[..., FakeServer], tmp_path: Path
) -> None:
    server = serve([failed(400, "no"), *[("slow", 0.3)] * 3])  # these hang up then, and answer when asked again
    with pytest.raises(
        TpoError,
        match="HTTP 400: no.* 3 questions are answered .* 7 requests were sent, at least 33 tok",
    ):
        list(open_client(server.url, tmp_path, max_concurrency=4, timeout_s=9.0).ask(make_questions(9)))
    assert len(server.requests) == 7


def test_a_question_that_others_outlive_is_not_tried_for_ever(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    server = serve()
    ask = server.handle

    def handle(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if body["messages"][-1]["content"] == "Question 0":  # hangs up on this one, answers the others
            time.sleep(0.02)
            server.script.insert(0, "hang_up")
        ask(handler, body)

    server.handle = handle  # type: ignore[method-assign]
    with pytest.raises(TpoError, match="one question failed as often as judge.server.max_retries=2 allows"):
        list(open_client(server.url, tmp_path, max_concurrency=2, max_retries=2).ask(make_questions(400)))


REFUSALS = {
    "no_access": (failed(401, f"Incorrect API key provided: {KEY}"), "environment variable FAKE_KEY"),
    "forbidden": (failed(403), "environment variable FAKE_KEY"),
    "no_model": (
        failed(404, "The model `fake-model` does not exist."),
        "judge.name=fake-model.*does not exist|does not exist.*judge.name=fake-model",
    ),
    "bad_request": (failed(400, f"no logprobs here, {KEY}"), "HTTP 400: no logprobs here, <key>"),
    "no_credit": (failed(429, "You exceeded your quota", code="insufficient_quota"), "no credit left"),
    "no_completion": ((200, "<html>Welcome</html>"), "no chat completion: <html>Welcome.*base_url"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_pass_ends_the_run_at_once(serve: Callable[..., FakeServer], tmp_path: Path, name: str) -> None:
    reply, message = REFUSALS[name]
    server = serve([reply] * 4)
    with pytest.raises(TpoError, match=message) as caught:
        list(open_client(server.url, tmp_path, max_concurrency=1).ask(make_questions(3)))
    assert len(server.requests) == 1 + 3 * (name == "no_credit"), "a status that the client repeats"
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None, "their messages may hold the key"


@pytest.mark.parametrize(
    ("usage", "num_tokens"),
    [
        (
            {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 12},
            12,
        ),  # some count a thought in the total alone
        ({"total_tokens": 11.0}, 11),
        ({"prompt_tokens": 7, "completion_tokens": 4}, 11),
        ({"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": None}, 11),
        ({"prompt_tokens": 7, "completion_tokens": 4.0, "total_tokens": -5}, 11),
        ({"prompt_tokens": 7}, 7),
        ({"total_tokens": True}, 0),
        ({"total_tokens": 11.5}, 0),
        ({"total_tokens": "many"}, 0),
        ({"total_tokens": float("inf")}, 0),
        ({"total_tokens": 2**70}, 0),
        ({}, 0),
        ("many", 0),
        (None, 0),
    ],
)
def test_an_answer_is_kept_whatever_is_said_of_its_tokens(
    serve: Callable[..., FakeServer], tmp_path: Path, usage: Any, num_tokens: int
) -> None:
    server = serve([completion("x") | {"usage": usage}])
    (answer,) = open_client(server.url, tmp_path).ask([QUESTION])
    assert (answer.text, answer.num_tokens) == ("x", num_tokens)
    assert list(open_client(server.url, tmp_path).ask([QUESTION])) == [answer] and len(server.requests) == 1


# Answers that are not what was asked for


def with_choice(**changes: Any) -> dict[str, Any]:
    whole = completion("x")
    return whole | {"choices": [whole["choices"][0] | changes]}


def with_text(content: Any) -> dict[str, Any]:
    return with_choice(message={"role": "assistant", "content": content})


def with_logprobs(value: Any) -> Any:
    return completion("[[4]]", tokens=[("[[", {}), ("4", {"4": value}), ("]]", {})])


WATCHING = replace(QUESTION, watch=("4", "5"))
UNUSABLE: dict[str, Any] = {
    "half": b'{"id": "1", "choices": [{"mess',
    "no_body": b"",
    "no_utf_8": b'{"choices": [{"message": {"content": "\xff\xfe"}}]}',
    "null": b"null",
    "a_list": b"[1, 2]",
    "an_error": {"error": {"message": "upstream is gone"}},
    "deep": b"[" * 100_000,
    "many_digits": b'{"choices": ' + b"1" * 5000 + b"}",
    "no_choice": completion("x") | {"choices": []},
    "choices_are_no_list": completion("x") | {"choices": 5},
    "no_message": with_choice(message=None),
    "no_finish_reason": with_choice(finish_reason=None),
    "failed": with_choice(finish_reason="error"),
    "aborted": with_choice(finish_reason="abort"),
    "a_number": with_text(5),
    "parts_of_text": with_text(["So", "[[B]]"]),
    "half_a_pair": with_text("\ud83d"),
    "no_logprobs": completion("[[4]]"),
    "no_tokens": with_choice(logprobs={"content": []}),
    "null_token": with_choice(logprobs={"content": [None]}),
    "null_logprob": with_logprobs(None),
    "huge_logprob": with_logprobs(1e6),
    "nan_logprob": with_logprobs(float("nan")),
}


@pytest.fixture
def quick_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpo.model.connection, "FIRST_DELAY_S", 0.001)


@pytest.mark.usefixtures("quick_repeats")
@pytest.mark.parametrize("name", UNUSABLE)
def test_an_answer_that_cannot_be_used_is_asked_for_again_and_never_kept(
    serve: Callable[..., FakeServer], tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = with_logprobs(-0.1)
    server = serve([UNUSABLE[name], good])
    (answer,) = open_client(server.url, tmp_path / "once").ask([WATCHING])
    assert answer.watched == (Watched(2, {"4": -0.1}),) and len(server.requests) == 2
    server.script = [UNUSABLE[name]] * 3
    with pytest.raises(
        TpoError, match=r"cannot be used \(.*judge.server.max_retries=2.*3 requests were sent"
    ) as caught:
        list(open_client(server.url, tmp_path, max_retries=2).ask([WATCHING]))
    assert caught.value.__context__ is None and len(str(caught.value).splitlines()) == 1
    server.script = [good]
    assert list(open_client(server.url, tmp_path).ask([WATCHING])) == [answer], "asked again when the server is mended"
    assert len(server.requests) == 6


@pytest.mark.usefixtures("quick_repeats")
@pytest.mark.parametrize(
    ("reply", "error", "num_requests"),
    [
        (completion(None, finish_reason="content_filter"), "filtered", 1),
        (with_choice(message={"role": "assistant", "content": None, "refusal": "No."}), "filtered", 1),
        (failed(400, "flagged", code="content_filter"), "filtered", 1),
        (with_choice(message={"role": "assistant", "content": "", "reasoning_content": "Hm."}), "empty", 1),
    ],
)
def test_a_question_without_an_answer_leaves_the_others_and_is_asked_again(
    serve: Callable[..., FakeServer], tmp_path: Path, reply: Any, error: str, num_requests: int
) -> None:
    server = serve([reply] * num_requests)
    llm = open_client(server.url, tmp_path, max_concurrency=1)
    assert [answer.error for answer in llm.ask(make_questions(2))] == [error, None]
    assert len(server.requests) == num_requests + 1
    mended = open_client(server.url, tmp_path)
    assert [answer.error for answer in mended.ask(make_questions(2))] == [None, None]
    assert len(server.requests) == num_requests + 2, "only what had no answer"


@pytest.mark.usefixtures("quick_repeats")
@pytest.mark.parametrize("name", ["half", "failed"])
def test_a_server_that_answers_nothing_usable_ends_the_run_early(
    serve: Callable[..., FakeServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(tpo.model.connection, "UNUSABLE_IN_A_ROW", 10)
    server = serve([UNUSABLE[name]] * 500)
    tokens = "how many tokens were used is not known" if name == "half" else r"1\d\d tokens used"
    with pytest.raises(
        TpoError,
        match=rf"of the last 1\d answers none can be used \(.*0 questions are answered and kept, 1\d requests were "
        rf"sent, {tokens}: see to the server",
    ):
        list(open_client(server.url, tmp_path, max_concurrency=4, max_retries=9).ask(make_questions(40)))
    assert 10 <= len(server.requests) <= 14, "not 40 questions ten times each"


@pytest.mark.usefixtures("quick_repeats")
def test_a_filter_that_refuses_many_in_a_row_ends_nothing(
    serve: Callable[..., FakeServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tpo.model.connection, "UNUSABLE_IN_A_ROW", 4)
    refused = [completion(None, finish_reason="content_filter"), failed(400, "flagged", code="content_filter")]
    server = serve(refused * 10)
    llm = open_client(server.url, tmp_path, max_concurrency=1)
    assert [answer.error for answer in llm.ask(make_questions(21))] == ["filtered"] * 20 + [None]
    assert len(server.requests) == 21 and "20 of 21 questions have no answer: 20 filtered; they are" in caplog.text
    server.script = [refused[0], UNUSABLE["half"]] * 10
    other = open_client(server.url, tmp_path / "other", max_concurrency=1, max_retries=9)
    with pytest.raises(TpoError, match="of the last 4 answers none can be used"):  # which refusals do not hide
        list(other.ask(make_questions(21)))


@pytest.mark.usefixtures("quick_repeats")
def test_a_usable_answer_among_others_goes_on(
    serve: Callable[..., FakeServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpo.model.connection, "UNUSABLE_IN_A_ROW", 10)
    server = serve([*[UNUSABLE["half"]] * 3, completion("x")] * 20)
    answers = list(open_client(server.url, tmp_path, max_concurrency=4, max_retries=50).ask(make_questions(20)))
    assert len(answers) == 20 and len(server.requests) == 80


def test_an_answer_without_an_end_is_given_up(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    server = serve([("drip", 0.02)] * 2)
    started = time.monotonic()
    with pytest.raises(TpoError, match=r"max_retries=1 allows, at last with: no whole answer within 0\.2 s\."):
        list(open_client(server.url, tmp_path, timeout_s=0.2, max_retries=1).ask([QUESTION]))
    assert time.monotonic() - started < 2 and len(server.requests) == 2


@pytest.mark.usefixtures("quick_repeats")
@pytest.mark.parametrize(("size", "watch"), [(1.1, ()), (1.3, ("4",))])
def test_a_body_is_read_up_to_what_the_question_can_take(
    serve: Callable[..., FakeServer], tmp_path: Path, size: float, watch: tuple[str, ...]
) -> None:
    large = with_logprobs(-0.1)
    large["padding"] = "x" * int(size * 2**20)
    server = serve([large] * 2)
    with pytest.raises(TpoError, match=r"larger than 1\.[01] MiB"):
        list(open_client(server.url, tmp_path, max_retries=1).ask([replace(QUESTION, watch=watch)]))
    large["padding"] = "x" * 2**20
    server.script = [large]
    assert len(list(open_client(server.url, tmp_path).ask([replace(QUESTION, watch=watch)]))) == 1


@pytest.mark.usefixtures("quick_repeats")
def test_a_compressed_body_is_refused(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    small = gzip.compress(json.dumps(completion("x" * 2**24)).encode())
    server = serve([(200, small, {"Content-Encoding": "gzip"})] * 2)
    with pytest.raises(TpoError, match="compressed"):
        list(open_client(server.url, tmp_path, max_retries=1).ask([QUESTION]))


# Rows of the cache


def edit(path: Path, column: str, value: Any, *, is_sealed: bool = True) -> None:
    """Change the only row, with the digest that belongs to what it then holds where it `is_sealed`."""
    with sqlite3.connect(path / "answers.sqlite") as database:
        database.execute(f"UPDATE answers SET {column} = ?", (value,))
        ((key, answer),) = database.execute("SELECT key, answer FROM answers").fetchall()
        if is_sealed:
            digest = hashlib.sha256(
                f"{key} ".encode() + (answer.encode() if isinstance(answer, str) else b"")
            ).hexdigest()
            database.execute("UPDATE answers SET digest = ?", (digest,))


WHOLE: dict[str, Any] = {"text": "re", "finish_reason": "stop", "num_tokens": 1, "watched": [], "error": None}
DAMAGED: dict[str, tuple[str, Any]] = {
    "null": ("answer", None),
    "blob": ("answer", b"\xff\x00"),
    "half": ("answer", '{"text": "re'),
    "no_text": ("answer", json.dumps({"finish_reason": "stop", "num_tokens": 1})),
    "text_is_a_number": ("answer", json.dumps(WHOLE | {"text": 5})),
    "tokens_are_text": ("answer", json.dumps(WHOLE | {"num_tokens": "1"})),
    "fewer_than_none": ("answer", json.dumps(WHOLE | {"num_tokens": -1})),
    "nan": ("answer", json.dumps(WHOLE | {"watched": [[0, {"4": float("nan")}]]})),
    "watched": ("answer", json.dumps(WHOLE | {"watched": [[0]]})),
    "newer": ("answer", json.dumps(WHOLE | {"seconds": 1.0})),
    "another_question": ("request", json.dumps({"system": None, "user": "What is 2 + 3?"})),
    "another_model": ("model", json.dumps({"model": "another"})),
    "no_model": ("model", None),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_row_is_named(tmp_path: Path, name: str) -> None:
    llm, _ = open_fake(tmp_path)
    list(llm.ask([QUESTION]))
    edit(tmp_path, *DAMAGED[name])
    llm, backend = open_fake(tmp_path)
    key = Asked(backend.identity(), QUESTION).key
    with pytest.raises(TpoError, match=rf"answers\.sqlite: the row with the key {key} cannot be read \(") as caught:
        list(llm.ask([QUESTION]))
    assert len(str(caught.value).splitlines()) == 1 and backend.asked == []
    with sqlite3.connect(tmp_path / "answers.sqlite") as database:
        database.execute(f"DELETE FROM answers WHERE key = '{key}'")  # as the sentence says
    assert len(list(llm.ask([QUESTION]))) == 1 and len(backend.asked) == 1


def test_an_edited_answer_is_named(tmp_path: Path) -> None:
    llm, _ = open_fake(tmp_path)
    list(llm.ask([QUESTION]))
    edit(tmp_path, "answer", json.dumps(WHOLE | {"text": "another verdict"}), is_sealed=False)
    llm, backend = open_fake(tmp_path)
    with pytest.raises(TpoError, match=r"answers\.sqlite: the row with the key .* \(its answer was edited\)"):
        list(llm.ask([QUESTION]))
    assert backend.asked == []


@pytest.mark.parametrize(
    "changes",
    [
        {"finish_reason": "error"},
        {"finish_reason": "content_filter"},
        {"finish_reason": ""},
        {"text": ""},
        {"text": " \n"},
        {"watched": []},  # no log-probabilities came
        {"watched": [[0, {"4": 1e6}]]},
    ],
)
def test_what_earlier_versions_kept_and_is_not_whole_is_asked_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    question = replace(QUESTION, watch=("4",))
    llm, _ = open_fake(tmp_path)
    first = list(llm.ask([question]))
    edit(tmp_path, "answer", json.dumps(WHOLE | {"watched": [[3, {"4": -0.5}]]} | changes))
    for num_asked in (1, 0):
        llm, backend = open_fake(tmp_path)
        assert list(llm.ask([question])) == first
        assert len(backend.asked) == num_asked, "and what comes takes its place"


@pytest.mark.parametrize(
    "reply",
    [
        failed(
            400, "This model's maximum context length is 512 tokens. However, your prompt contains 600 input tokens"
        ),
        failed(400, "too big", code="context_length_exceeded"),
        failed(400, "the request exceeds the available context size"),
        failed(422, "`inputs` tokens + `max_new_tokens` must be <= 4096"),
        failed(400, "The input is longer than the model's context length"),
        failed(413, "prompt is too long: 9 tokens > 8 maximum"),
    ],
)
def test_a_question_that_does_not_fit_leaves_the_others(
    serve: Callable[..., FakeServer], tmp_path: Path, reply: Any
) -> None:
    server = serve([reply])
    llm = open_client(server.url, tmp_path, max_concurrency=1)
    assert [answer.error for answer in llm.ask(make_questions(2))] == ["too_long", None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_is_away_is_waited_for(
    serve: Callable[..., FakeServer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()

    def serve_later() -> None:
        while "waiting up to" not in caplog.text:
            time.sleep(0.01)
        time.sleep(0.2)
        serve(port=port)

    server = threading.Thread(target=serve_later, daemon=True)
    server.start()
    url = f"http://user:password@127.0.0.1:{port}/v1"
    answers = list(open_client(url, tmp_path, patience_s=60.0).ask(make_questions(8)))
    server.join()
    assert len(answers) == 8
    waits = [record.message for record in caplog.records if "waiting up to" in record.message]
    assert len(waits) == 1, "one line, however many questions wait"
    assert f"127.0.0.1:{port}" in waits[0] and "0 questions are answered and kept" in waits[0]
    assert "is back after" in caplog.text and "password" not in caplog.text


def test_patience_has_an_end_and_answers_are_kept(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    port = free_port()
    server = serve([completion("kept")], port=port)
    list(open_client(server.url, tmp_path).ask(make_questions(1)))
    server.close()
    with pytest.raises(
        TpoError,
        match=r"is away for .*no connection: All connection.*0 questions.*start the server again.*same command",
    ):
        list(open_client(server.url, tmp_path, patience_s=0.3).ask(make_questions(3)))
    again = serve(port=port)
    assert [answer.text for answer in open_client(again.url, tmp_path).ask(make_questions(3))][0] == "kept"
    assert len(again.requests) == 2


def test_patience_starts_anew_with_each_outage(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    server = serve(["hang_up", completion("one"), "hang_up", completion("two")])
    llm = open_client(server.url, tmp_path, patience_s=0.3, max_retries=0)
    for question in make_questions(2):
        list(llm.ask([question]))
        time.sleep(0.4)
    assert len(server.requests) == 4


def test_a_slow_server_is_not_away(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    server = serve([("slow", 0.5)] * 3)
    with pytest.raises(
        TpoError,
        match="one question failed as often as .*max_retries=1 allows, at last with: no whole answer within 0.1 s",
    ):
        list(open_client(server.url, tmp_path, timeout_s=0.1, max_retries=1).ask([QUESTION]))
    assert len(server.requests) == 2


def test_address_and_concurrency_are_no_part_of_a_question(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    list(open_client(serve().url, tmp_path).ask([QUESTION]))
    other = serve()
    list(open_client(other.url, tmp_path, max_concurrency=9, timeout_s=1.0, patience_s=1.0).ask([QUESTION]))
    assert other.requests == []


def test_the_key_is_sent_and_is_nowhere_else(
    serve: Callable[..., FakeServer], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("FAKE_KEY", f"{KEY}\n")  # as `$(cat file)` in quotes leaves it
    server = serve([failed(500, f"bad key {KEY}")])
    list(open_client(server.url, tmp_path).ask([QUESTION]))
    assert server.keys == [f"Bearer {KEY}"] * 2
    assert KEY not in caplog.text
    assert KEY.encode() not in (tmp_path / "answers.sqlite").read_bytes()


def test_a_key_that_is_none_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", "sk-\u2026")
    with pytest.raises(TpoError, match="FAKE_KEY holds no key") as caught:
        list(open_client("http://127.0.0.1:9/v1", tmp_path).ask([QUESTION]))
    assert "sk-" not in str(caught.value)


def test_no_key_is_needed_where_the_server_wants_none(
    serve: Callable[..., FakeServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAKE_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-someone-else")
    server = serve([failed(401)])
    with pytest.raises(TpoError, match="it is not set"):
        list(open_client(server.url, tmp_path).ask([QUESTION]))
    assert len(list(open_client(server.url, tmp_path).ask([QUESTION]))) == 1
    assert "sk-for-someone-else" not in "".join(server.keys)


# Processes

SCRIPT = """
import json, sys
from pathlib import Path
from tpo.config.fields import restore
from tpo.judge.llm.ask import load_llm
from tpo.judge.llm.question import Question
from tpo.judge.llm.settings import LLMConfig
config, users, path = json.loads(sys.argv[1])
llm = load_llm(restore(LLMConfig, config), policy=None, cache_path=Path(path))
answers = list(llm.ask([Question(None, user, 0.0, 8) for user in users]))
print(json.dumps([answer.text for answer in answers]))
"""


def start_asking(url: str, path: Path, users: list[str], **settings: Any) -> subprocess.Popen[str]:
    request = json.dumps([client_config(url, **settings), users, str(path / "answers.sqlite")])
    command = [sys.executable, "-c", SCRIPT, request]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_keeps_what_it_was_told(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    users = [f"Question {number}" for number in range(12)]
    server = serve(seconds=0.1)
    process = start_asking(server.url, tmp_path, users, max_concurrency=2)
    while len(server.requests) < 6:
        time.sleep(0.005)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with sqlite3.connect(tmp_path / "answers.sqlite") as database:
        (num_kept,) = database.execute("SELECT COUNT(*) FROM answers").fetchone()
    assert num_kept >= 3
    num_before = len(server.requests)
    answers = list(open_client(server.url, tmp_path).ask([Question(None, user, 0.0, 8) for user in users]))
    assert [answer.text for answer in answers] == [f"re: {user}" for user in users]
    assert len(server.requests) - num_before == len(users) - num_kept


def test_two_processes_at_once_end_with_the_same_answers(serve: Callable[..., FakeServer], tmp_path: Path) -> None:
    users = [f"Question {number}" for number in range(30)]
    server = serve([completion(f"reply {number}") for number in range(60)], seconds=0.01)  # never twice the same
    processes = [start_asking(server.url, tmp_path, order) for order in (users, users[::-1])]
    forward, backward = (json.loads(process.communicate(timeout=60)[0]) for process in processes)
    assert forward == backward[::-1]
    assert len(set(forward)) == 30
