"""A judge in several processes says what it says in one."""

from pathlib import Path

import pytest

import tpo.judge.spread
from tpo.judge.judges.length import LengthJudge
from tpo.judge.judges.self_rating import SelfRatingJudge
from tpo.judge.protocol import BLOCK, Candidates, PointwiseJudgeConfig
from tpo.judge.spread import SpreadJudge, open_judge
from tpo.model.policy import Policy
from tpo.store.errors import TpoError
from tpo.store.processes import kept as kept_module

QUESTION = "{instruction} {response} Good?"
CANDIDATES = [
    Candidates(f"Say {number}.", tuple(f"{number} and {more}" for more in range(number % 4)))
    for number in range(3 * BLOCK + 5)
]


def judge(settings: PointwiseJudgeConfig, model: Path, path: Path) -> tuple[type, list[list[float | None]]]:
    policy = Policy(str(model), None, str(model), "float32", 512, None)
    with open_judge(settings, policy=policy, answers_path=path / "answers.sqlite") as opened:
        return type(opened), [[judgement.value for judgement in group] for group in opened.score(iter(CANDIDATES))]


def test_scores_and_their_order_do_not_depend_on_the_number_of_processes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SelfRatingJudge(question=QUESTION, positive=" Yes", negative=" No", batch_tokens=256)
    found = {}
    for count in (1, 2, 3):
        monkeypatch.setattr(tpo.judge.spread, "count_workers", lambda *_, count=count, **__: count)
        kind, found[count] = judge(settings, tiny_model, tmp_path)
        assert (kind is SpreadJudge) == (count > 1)
    assert found[1] == found[2] == found[3]
    assert list(map(len, found[1])) == [len(item.responses) for item in CANDIDATES]
    assert len({score for group in found[1] for score in group}) > BLOCK


def test_a_judge_without_a_model_stays_in_this_process(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpo.judge.spread, "count_workers", lambda *_, **__: 2)
    kind, scores = judge(LengthJudge(), tiny_model, tmp_path)
    assert kind is not SpreadJudge and len(scores) == len(CANDIDATES)


def test_what_is_wrong_with_a_judge_is_said(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpo.judge.spread, "count_workers", lambda *_, **__: 2)
    settings = SelfRatingJudge(question=QUESTION, positive="Absolutely", negative=" No", batch_tokens=256)
    with pytest.raises(TpoError, match=r"^judge.positive and judge.negative must be one token each; 'Absolutely' is"):
        judge(settings, tiny_model, tmp_path)


def test_a_process_that_keeps_models_loads_a_judge_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_module, "_kept", None)
    monkeypatch.setattr(tpo.judge.spread, "count_workers", lambda *_, **__: 2)
    settings = SelfRatingJudge(question=QUESTION, positive=" Yes", negative=" No", batch_tokens=256)
    policy = Policy(str(tiny_model), None, str(tiny_model), "float32", 512, None)

    def opened(identity: object, settings: PointwiseJudgeConfig = settings) -> object:
        with open_judge(settings, policy=policy, answers_path=tmp_path, identity=identity) as judge:
            return judge

    assert opened("a") is not opened("a") and kept_module.kept() is None, "no process that keeps models"
    monkeypatch.setattr(kept_module, "_is_keeper", True)
    first = opened("a")
    assert opened("a") is first is kept_module.kept()
    opened("length", LengthJudge())
    assert kept_module.kept() is first, "a judge without a model is made anew, and takes nothing"
    assert opened("b") is not first is not kept_module.kept()
    monkeypatch.setattr(kept_module, "_kept", kept_module.Kept("vLLM", object(), is_torch=False))
    with pytest.raises(kept_module.OccupiedError):
        opened("b")
