"""The judge's client against a server that misbehaves: once, at any of the questions, or always.

Whatever the server does, asking ends soon, with the very answers of a good server or with one sentence; and once the
server is mended the same questions are answered as by a good one: nothing that was wrong has been kept.
"""

import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import openai._base_client
import pytest
import scripted_server as scripted
from made_rows import made_answers, made_prompts
from scripted_server import GradingServer, Misbehave, changed, drips, grade

import tpo.model.connection
from tpo.config.compose import compose_config
from tpo.config.schema import Config
from tpo.judge.protocol import Candidates
from tpo.judge.stages import Judging
from tpo.store.artifacts import Artifact
from tpo.store.errors import TpoError
from tpo.store.execute import execute
from tpo.store.records import Score
from tpo.store.store import Store

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
    "null_usage": scripted.uses(None),
    "usage_of_words": scripted.uses({"total_tokens": "many"}),
    "usage_is_a_number": scripted.uses(11),
    "usage_is_a_list": scripted.uses([11]),
    "usage_is_empty": scripted.uses({}),
    "usage_without_total": scripted.uses({"prompt_tokens": 7, "completion_tokens": 4}),
    "null_total": scripted.uses({"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": None}),
    **{
        f"usage_of_{number}": scripted.uses({"total_tokens": number})
        for number in (11.0, 11.5, True, -5, 2**70, 1e300, float("inf"), float("nan"), [11])
    },
    "null_message": choice("message", None),
    "a_text_as_message": choice("message", "Score: [[3]]"),
    "no_text": message(content=None),
    "empty_text": scripted.says_nothing,
    "empty_text_to_some": scripted.says_nothing_of_odd_ones,
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


@pytest.mark.parametrize("name", [name for name in CASES if "usage" in name or name == "null_total"])
def test_an_answer_is_good_whatever_is_said_of_its_tokens(
    name: str, judge_settings: Any, serve: Callable[..., GradingServer], tmp_path: Path
) -> None:
    server = serve(always=CASES[name])
    for _ in range(2):
        scores = ask(judge_settings, server, tmp_path / "answers.sqlite")
        assert scores == [pytest.approx(item) for item in expected()]
        assert server.num_requests == 2 * len(QUESTIONS), "each once, and read again"


# Judgements, which are kept for good

ANSWERS: dict[str, list[str | None]] = {
    f"What is {number}?": [f"{letter} {number}" for letter in "abc"] for number in range(3)
}
POINTWISE = ["judge=llm_pointwise", "judge.prompt='{instruction}|{response}'"]
PAIRWISE = ["judge=llm_pairwise", "judge.prompt='{instruction}|{first}|{second}'"]


def judge_in_store(path: Path, server: GradingServer, *overrides: str) -> Artifact:
    """What a command does: the scores of all responses as an artifact, made anew or found."""
    reach = [f"judge.server.{key}" for key in (f"base_url={server.url}", "max_concurrency=2", "max_retries=1")]
    words = ["experiment=smoke", *overrides, "judge.backend=server", "judge.name=fake-model", *reach]
    config = compose_config(Config, words)
    store = Store(path / "artifacts", execute=execute)
    inputs = {"prompts": made_prompts(store, list(ANSWERS)), "completions_0": made_answers(store, ANSWERS)}
    return Judging(store, config.judge, config.rating, model=config.model, seed=0).score(inputs)


@pytest.fixture
def quick_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpo.model.connection, "FIRST_DELAY_S", 0.001)


@pytest.mark.usefixtures("quick_repeats")
@pytest.mark.parametrize(
    ("judge", "mended"), [(POINTWISE, None), (PAIRWISE, message(content="[[A]]"))], ids=["pointwise", "pairwise"]
)
def test_what_a_server_left_unanswered_is_asked_again_once_it_is_mended(
    judge: list[str], mended: Misbehave | None, serve: Callable[..., GradingServer], tmp_path: Path
) -> None:
    server = serve(always=scripted.says_nothing_of_odd_ones)
    is_pairwise = judge is PAIRWISE
    num_questions = 3 * 3 * (2 if is_pairwise else 1)
    with pytest.raises(TpoError) as caught:
        judge_in_store(tmp_path, server, *judge)
    check_sentence(caught.value)
    found = re.match(rf"(\d+) of {num_questions} questions were answered with nothing", str(caught.value))
    assert found is not None and "judge.server.accepts_empty=true" in str(caught.value), caught.value
    num_empty = int(found[1])
    assert 0 < num_empty < num_questions
    assert server.num_requests == num_questions + num_empty, "each, and these twice"
    server.always, server.num_requests = mended, 0
    scores = judge_in_store(tmp_path, server, *judge)
    assert server.num_requests == num_empty, "these alone"
    if not is_pairwise:
        for row in scores.rows(Score):
            response = ANSWERS[row.prompt_id][row.sample_index]
            assert row.score == pytest.approx(expected_grade(f"{row.prompt_id}|{response}"))
    else:
        assert all(row.unscored_reason != "unanswered" for row in scores.rows(Score))


@pytest.mark.usefixtures("quick_repeats")
def test_empty_answers_are_unscored_where_that_is_accepted(
    serve: Callable[..., GradingServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpo.model.connection, "UNUSABLE_IN_A_ROW", 4)
    server = serve(always=scripted.says_nothing)
    with pytest.raises(
        TpoError, match=r"of the last \d answers none .*judge\.server\.accepts_empty=true.* 0 questions"
    ):
        judge_in_store(tmp_path, server, *POINTWISE)
    server.num_requests = 0
    scores = judge_in_store(tmp_path, server, *POINTWISE, "judge.server.accepts_empty=true")
    assert scores.metrics["unscored_reasons"] == {"empty": 9} and server.num_requests == 18, "each twice"
    assert judge_in_store(tmp_path, server, *POINTWISE).path == scores.path, "no part of what a judge is"


@pytest.mark.parametrize("reason", ["filtered", "too_long"])
def test_what_a_server_decided_is_kept_until_the_judgement_is_deleted(
    reason: str, serve: Callable[..., GradingServer], tmp_path: Path
) -> None:
    too_long = json.dumps({"error": {"message": "no", "code": "context_length_exceeded"}}).encode()
    decides = CASES["filtered"] if reason == "filtered" else scripted.body(too_long, status=400)
    server = serve([None, decides])
    scores = judge_in_store(tmp_path, server, *POINTWISE)
    assert scores.metrics["unscored_reasons"] == {reason: 1}
    server.num_requests = 0
    assert judge_in_store(tmp_path, server, *POINTWISE).metrics == scores.metrics and server.num_requests == 0
    shutil.rmtree(scores.path)
    assert judge_in_store(tmp_path, server, *POINTWISE).metrics["num_unscored"] == 0
    assert server.num_requests == 1, "the others' answers are kept"
