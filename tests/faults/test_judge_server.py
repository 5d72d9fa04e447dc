"""The judge's client against a server that misbehaves: once, at any of the questions, or always.

Whatever the server does, asking ends soon, with the very answers of a good server or with one sentence; and once the
server is mended the same questions are answered as by a good one: nothing that was wrong has been kept.
"""

import math
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import openai._base_client
import pytest
import scripted_server as scripted
from scripted_server import GradingServer, Misbehave, changed, drips, grade

import tpo.model.connection
from tpo.config.compose import compose_config
from tpo.config.schema import Config
from tpo.judge.protocol import Candidates
from tpo.store.errors import TpoError

RETRIES, TIMEOUT_S = 2, 3.0
QUESTIONS = [Candidates(f"What is {number}?", (f"a {number}", f"b {number}")) for number in range(4)]


def choice(name: str, value: Any) -> Misbehave:
    """Put something else into the only choice of an answer."""
    return changed(lambda answer: answer["choices"][0].update({name: value}))


def message(**values: Any) -> Misbehave:
    return changed(lambda answer: answer["choices"][0]["message"].update(values))


def token(**values: Any) -> Misbehave:
    """Change the token that holds the grade."""
    return changed(lambda answer: answer["choices"][0]["logprobs"]["content"][2].update(values))


CASES: dict[str, Misbehave] = {
    **{
        f"status_{number}": scripted.status(number)
        for number in (400, 401, 404, 408, 409, 418, 500, 501, 502, 503, 504)
    },
    "429": scripted.status(429, **{"Retry-After": "0"}),
    "429_in_an_hour": scripted.status(429, **{"Retry-After": "3600"}),
    "redirects_to_itself": scripted.status(302, Location="/v1/chat/completions"),
    "no_content": scripted.body(b"", status=204),
    "half_of_the_json": scripted.half,
    "hangs_up_in_the_answer": scripted.hangs_up_early,
    "says_less_than_it_sends": scripted.says_less,
    "resets": scripted.resets,
    "resets_in_the_answer": scripted.resets_in_answer,
    "hangs_up": scripted.hangs_up,
    "drips": drips(seconds=60),
    "silent": drips(seconds=60, every_s=60),
    "huge": scripted.body(b" " * 40_000_000 + b"{}"),
    "empty": scripted.body(b""),
    "null": scripted.body(b"null"),
    "a_list": scripted.body(b"[]"),
    "a_number": scripted.body(b"3"),
    "nothing_in_it": scripted.body(b"{}"),
    "bad_utf8": scripted.body(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "a_page": scripted.body(b"<html>Welcome</html>", headers={"Content-Type": "text/html"}),
    "not_gzip": scripted.body(b"{}", headers={"Content-Encoding": "gzip"}),
    "deep": scripted.body(b"[" * 100_000),
    "a_long_number": scripted.body(b'{"choices": ' + b"9" * 5_000 + b"}"),
    "no_choice": changed(lambda answer: answer.update(choices=[])),
    "null_choices": changed(lambda answer: answer.update(choices=None)),
    "choices_of_numbers": changed(lambda answer: answer.update(choices=[1, 2])),
    "null_usage": changed(lambda answer: answer.update(usage=None)),
    "usage_of_words": changed(lambda answer: answer.update(usage={"total_tokens": "many"})),
    "null_message": choice("message", None),
    "a_text_as_message": choice("message", "Score: [[3]]"),
    "no_text": message(content=None),
    "empty_text": message(content=""),
    "blank_text": message(content=" \n"),
    "parts_without_text": message(content=[{"type": "image", "url": "x"}]),
    "a_number_as_text": message(content=3),
    "refused": message(content=None, refusal="I cannot help with that."),
    "finished_with_error": choice("finish_reason", "error"),
    "filtered": choice("finish_reason", "content_filter"),
    "finish_reason_is_a_number": choice("finish_reason", 7),
    "no_logprobs": choice("logprobs", None),
    "logprobs_of_words": choice("logprobs", {"content": ["Score"]}),
    "null_logprob": token(top_logprobs=[{"token": "3", "logprob": None, "bytes": None}]),
    "logprob_of_a_million": token(top_logprobs=[{"token": "3", "logprob": 1e6, "bytes": None}]),
    "logprob_is_text": token(top_logprobs=[{"token": "3", "logprob": "high", "bytes": None}]),
    "null_token": token(token=None),
}
SLOW = {"drips", "silent", "huge", "429_in_an_hour"}  # these end by a limit on time or size


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpo.model.connection, "POLL_S", 0.02)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.002)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.02)


@pytest.fixture
def serve() -> Iterator[Callable[..., GradingServer]]:
    servers: list[GradingServer] = []

    def start(*arguments: Any, **settings: Any) -> GradingServer:
        servers.append(GradingServer(*arguments, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def judge_settings() -> Any:
    prompt = "judge.prompt='{instruction}|{response}'"
    return compose_config(Config, ["experiment=smoke", "judge=llm_pointwise", "judge.name=fake-model", prompt]).judge


def ask(settings: Any, server: GradingServer, cache: Path) -> list[list[float | None]]:
    """The scores of all responses, by a judge that has this server."""
    settings.server.base_url, settings.server.max_concurrency = server.url, 2
    settings.server.max_retries, settings.server.timeout_s, settings.server.patience_s = RETRIES, TIMEOUT_S, 0.5
    judge = settings.make(policy=None, answers_path=cache)
    return [[judgement.value for judgement in judged] for judged in judge.score(QUESTIONS)]


def expected() -> list[list[float]]:
    """The expected grades by hand, from the likelihoods that the server gives."""
    return [[expected_grade(f"{item.instruction}|{response}") for response in item.responses] for item in QUESTIONS]


def expected_grade(text: str) -> float:
    _, answer = grade(text)
    likely = answer["choices"][0]["logprobs"]["content"][2]["top_logprobs"]
    weights = {int(entry["token"]): math.exp(entry["logprob"]) for entry in likely}
    return sum(number * weight for number, weight in weights.items()) / sum(weights.values())


def check_sentence(error: TpoError) -> None:
    text = str(error)
    assert len(text.splitlines()) == 1 and len(text) < 1200 and "Traceback" not in text, text
    assert "Error:" not in text.partition(":")[0], text


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES]
)
@pytest.mark.parametrize("position", [0, 5, "always"])
def test_misbehaviour(
    name: str, position: int | str, judge_settings: Any, serve: Callable[..., GradingServer], tmp_path: Path
) -> None:
    good, cache = expected(), tmp_path / "answers.sqlite"
    script, always = ([], CASES[name]) if position == "always" else ([*[None] * int(position), CASES[name]], None)
    server = serve(script, always=always)
    started = time.monotonic()
    try:
        scores = ask(judge_settings, server, cache)
    except TpoError as error:
        check_sentence(error)
        scores = None
    assert time.monotonic() - started < 15 + 10 * TIMEOUT_S * (RETRIES + 1), "there is no end to it"
    assert server.num_requests < 200
    server.always = None
    server.script.clear()
    assert ask(judge_settings, server, cache) == [pytest.approx(item) for item in good], "something wrong was kept"
    for found, value in zip(chain(*scores or []), chain(*good), strict=False):
        assert found is None or found == pytest.approx(value), "a wrong score"
