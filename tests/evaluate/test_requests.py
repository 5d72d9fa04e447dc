"""What judges are asked where a policy is compared with a baseline: each pair that counts, once an order, no other."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_rows import made_answers, made_prompts

from tpo.config.compose import compose_config
from tpo.config.schema import Config
from tpo.evaluate import stages
from tpo.evaluate.kinds.held_out import HeldOutEval
from tpo.judge.judges.ensemble import EnsembleJudge
from tpo.judge.judges.length import LengthJudge
from tpo.judge.judges.llm_pairwise import PairwiseLLMJudge
from tpo.judge.protocol import Candidates, Judgement
from tpo.judge.responses import take_apart
from tpo.judge.stages import Judging
from tpo.store.artifacts import Artifact
from tpo.store.execute import execute
from tpo.store.records import Comparison, Score, Verdict
from tpo.store.store import Store

POLICY: dict[str, list[str | None]] = {"Why?": ["aaaa", "bb", "c", "same"], "How?": ["dd", None, "eeeee", "f"]}
BASELINE: dict[str, list[str | None]] = {"Why?": ["xxx", "same"], "How?": ["yyy", "zzzz"]}


class LongerWins:
    """Prefers the longer of two responses, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def compare(self, pairs: Iterable[Candidates]) -> Iterator[Judgement]:
        for pair in pairs:
            self.asked.append((pair.instruction, tuple(pair.responses)))
            first, second = map(len, pair.responses)
            yield Judgement(0.5 + 0.5 * ((first > second) - (first < second)), None, "[[A]]")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> LongerWins:
    judge = LongerWins()
    monkeypatch.setattr(PairwiseLLMJudge, "make", lambda *_, **__: judge)
    return judge


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts", execute=execute)


def judging(store: Store, *overrides: str, judge: Any = None) -> Judging:
    config = compose_config(Config, ["experiment=smoke", *overrides])
    return Judging(store, judge or config.judge, config.rating, model=config.model, seed=0)


PAIRWISE = ["judge=llm_pairwise", "judge.name=x", "judge.backend=server", "judge.server.base_url=http://nowhere/v1"]


def compared(store: Store, judging: Judging) -> tuple[Artifact, dict[str, Comparison]]:
    prompts = made_prompts(store, list(POLICY))
    sides = made_answers(store, POLICY), made_answers(store, BASELINE)
    settings = HeldOutEval(num_samples=4, baseline_samples=2)
    found = stages.compare(judging, prompts, *sides, settings=settings, seed=0)
    return found, {row.prompt_id: row for row in found.rows(Comparison)}


@pytest.mark.parametrize("orders", ["both", "random"])
def test_a_judge_that_gives_verdicts_is_asked_once_about_each_matched_pair(
    store: Store, asked: LongerWins, orders: str
) -> None:
    artifact, rows = compared(store, judging(store, *PAIRWISE, f"judge.orders={orders}"))
    # Sample i meets i mod 2. Equal texts (Why? 3) are a tie, and a missing response (How? 1) a loss: nobody is asked.
    pairs = {
        "Why?": [("aaaa", "xxx"), ("bb", "same"), ("c", "xxx")],
        "How?": [("dd", "yyy"), ("eeeee", "yyy"), ("f", "zzzz")],
    }
    expected = [(prompt, frozenset(pair)) for prompt, found in pairs.items() for pair in found]
    times = 2 if orders == "both" else 1
    assert sorted((prompt, sorted(pair)) for prompt, pair in asked.asked) == sorted(
        (prompt, sorted(pair)) for prompt, pair in expected * times
    )
    if orders == "both":
        assert len(set(asked.asked)) == len(asked.asked), "each in both orders"
    assert {key: (row.win, row.num_pairs) for key, row in rows.items()} == {
        "Why?": ((1 + 0 + 0 + 0.5) / 4, 4),
        "How?": ((0 + 0 + 1 + 0) / 4, 4),
    }
    assert (artifact.metrics["num_answers"], artifact.metrics["num_no_response"]) == (8, 1)
    assert rows["How?"].win_answered == 1 / 3


def test_an_ensembles_pairwise_member_is_not_asked_about_one_sides_own_samples(store: Store, asked: LongerWins) -> None:
    pairwise = compose_config(Config, ["experiment=smoke", *PAIRWISE]).judge
    judge = EnsembleJudge(members={"a": pairwise, "b": LengthJudge()}, weights={"a": 1.0, "b": 1.0})
    _, rows = compared(store, judging(store, judge=judge))
    ours, theirs = (
        {prompt: {text for text in texts if text} for prompt, texts in side.items()} for side in (POLICY, BASELINE)
    )
    expected = {
        (prompt, order)
        for prompt in POLICY
        for a in ours[prompt]
        for b in theirs[prompt]
        for order in ((a, b), (b, a))
        if a != b
    }
    assert set(asked.asked) == expected and len(asked.asked) == len(expected)
    # Both members prefer the longer one. aaaa beats xxx and ties same, or the ensemble sees it otherwise; c loses all.
    assert rows["How?"].win == (0 + 0 + 0 + 0 + 1 + 1 + 0 + 0) / 8
    assert rows["How?"].num_pairs == 8


def test_judged_one_by_one_each_sample_meets_each(store: Store) -> None:
    artifact, rows = compared(store, judging(store, judge=LengthJudge()))
    # Lengths: 4, 2, 1, 4 ("same") against 3 and 4 ("same", a tie with itself and with aaaa).
    assert rows["Why?"].win == ((1 + 0.5) + 0 + 0 + (1 + 0.5)) / 8
    assert rows["How?"].win == (0 + 0 + (1 + 1) + 0) / 8
    assert artifact.metrics["win_rate"]["num_prompts"] == 2
    judged = [stage.artifact_id for stage in store.asked if stage.manifest["stage"] == "judge"]
    assert len(judged) == 2, "each side by itself, so that runs share the baseline's"


def test_scores_of_sets_of_different_sizes_come_apart(store: Store) -> None:
    # Epoch 1 is bad, epoch 2 good, two and three samples each; what is numbered on must not be taken for the epochs.
    prompts = made_prompts(store, ["Why?"])
    texts: list[list[str | None]] = [["b", "bb"], ["good", "better", None]]
    sets = [made_answers(store, {"Why?": own}) for own in texts]
    inputs = {"prompts": prompts, "completions_0": sets[0], "completions_1": sets[1]}
    scores = judging(store, judge=LengthJudge()).score(inputs)
    found = take_apart(scores.rows(Score), sets)
    assert [[(row.sample_index, row.score) for row in rows] for rows in found] == [
        [(0, 1.0), (1, 2.0)],
        [(0, 4.0), (1, 6.0), (2, None)],
    ]


def test_verdicts_on_all_pairs_of_a_training_set_are_as_before(store: Store, asked: LongerWins) -> None:
    inputs = {
        "prompts": made_prompts(store, ["Why?"]),
        "completions_0": made_answers(store, {"Why?": ["a", "bb", "a"]}),
    }
    found = judging(store, *PAIRWISE).verdicts(inputs)
    assert {(row.first_index, row.second_index) for row in found.rows(Verdict)} == {(0, 1), (1, 0)}
    assert len(asked.asked) == 2
