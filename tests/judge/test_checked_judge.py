from pathlib import Path

from tpo.judge.judges.checked import CheckedJudge
from tpo.judge.protocol import Candidates
from tpo.store.records import Check

CHECKS = (
    Check("punctuation:no_comma", {}),
    Check("keywords:existence", {"keywords": ["yeast"]}),
    Check("floor:different_words", {"count": 5}),
)
RESPONSES = (
    "The dough rises because of yeast",  # both
    "The dough, it rises because of yeast",  # one
    "The dough, it rises because of gas",  # none
    "yeast yeast yeast yeast yeast yeast",  # below the floor
)


def scores(*items: Candidates) -> list[list[float | None]]:
    judge = CheckedJudge().make(policy=None, answers_path=Path("unused"))
    return [[judgement.value for judgement in judged] for judged in judge.score(items)]


def test_the_score_is_the_share_of_checks_passed_and_0_below_the_floor() -> None:
    assert scores(Candidates("Why?", RESPONSES, CHECKS)) == [[1.0, 0.5, 0.0, 0.0]]


def test_an_instruction_without_checks_is_unscored() -> None:
    judge = CheckedJudge()
    for checks in ((), CHECKS[2:]):
        [[judgement]] = judge.score([Candidates("Why?", ("Because.",), checks)])
        assert judgement.value is None and judgement.unscored_reason == "no_checks"
