"""Arena-Hard: its files in, its files out, and a score that two other fits and the closed form agree on."""

import gzip
import importlib.util
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tpo.evaluate.benchmarks import Benchmark
from tpo.evaluate.benchmarks.arena_hard import (
    HUB_NAME,
    HUB_REVISION,
    ArenaHardError,
    load,
    read_answers,
    write_answers,
    write_judgements,
)
from tpo.evaluate.benchmarks.arena_score import ArenaScore, arena_score, arena_score_v2, complete_verdicts, pair_games
from tpo.judge.rating import bradley_terry, count_wins
from tpo.sample.prompts import UNCATEGORIZED, prompt_id
from tpo.store.records import Prompt, Response, Verdict

REPOSITORY = Path(__file__).parents[2]
SHARED = Path(os.environ.get("TPO_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")) / "arena_hard"


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("arena_hard_check", REPOSITORY / "experiments/arena_hard_check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load_script()


# --- reading --------------------------------------------------------------------------------------------------------


def question(uid: str, text: str, **fields: Any) -> dict[str, Any]:
    return {"uid": uid, "category": "arena-hard-v0.1", "cluster": "Knots", "prompt": text} | fields


def answer(uid: str, text: str, model: str = "gpt-4-0314") -> dict[str, Any]:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": {"answer": text}}]
    return {"uid": uid, "model": model, "messages": messages}


def old_question(uid: str, text: str) -> dict[str, Any]:
    return {"question_id": uid, "category": "arena-hard-v0.1", "cluster": "Knots", "turns": [{"content": text}]}


def old_answer(uid: str, text: str, model: str = "gpt-4-0314") -> dict[str, Any]:
    return {"question_id": uid, "model_id": model, "choices": [{"index": 0, "turns": [{"content": text}]}]}


def write(path: Path, rows: list[Any]) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def load_rows(
    folder: Path,
    questions: list[Any],
    answers: list[Any],
    *,
    version: str = "v0.1",
    baseline: str = "gpt-4-0314",
    suffix: str = "",
) -> Benchmark:
    return load(
        write(folder / f"question.jsonl{suffix}", questions),
        answers_path=write(folder / f"answer.jsonl{suffix}", answers),
        baseline=baseline,
        version=version,
    )


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("make_question", "make_answer"), [(question, answer), (old_question, old_answer)])
def test_both_published_layouts_are_read(tmp_path: Path, make_question: Any, make_answer: Any, suffix: str) -> None:
    # Answers come in an order of their own, and white space at the ends of a question stays.
    rows = [make_question("u1", "Tie a bowline. "), make_question("u2", "Tie a clove hitch.")]
    answers = [make_answer("u2", "Twice around."), make_answer("u3", "Not asked."), make_answer("u1", "Rabbit, tree.")]
    benchmark = load_rows(tmp_path, rows, answers, suffix=suffix)
    first, second = prompt_id("Tie a bowline. "), prompt_id("Tie a clove hitch.")
    assert benchmark.prompts == [
        Prompt(first, "Tie a bowline. ", "Knots", "arena-hard-v0.1", "test", (), first),
        Prompt(second, "Tie a clove hitch.", "Knots", "arena-hard-v0.1", "test", (), second),
    ]
    assert benchmark.baseline == [
        Response(first, 0, "Rabbit, tree.", None),
        Response(second, 0, "Twice around.", None),
    ]
    assert benchmark.keys == {
        first: {"uid": "u1", "category": "arena-hard-v0.1", "cluster": "Knots"},
        second: {"uid": "u2", "category": "arena-hard-v0.1", "cluster": "Knots"},
    }


@pytest.mark.parametrize(
    ("baseline", "uids", "category"),
    [
        ("o3-mini-2025-01-31", ["u1", "u3"], "hard_prompt"),
        ("gemini-2.0-flash-001", ["u2"], "creative_writing"),
    ],
)
def test_v2_is_split_by_baseline(tmp_path: Path, baseline: str, uids: list[str], category: str) -> None:
    questions = [
        question("u1", "a", category="hard_prompt", subcategory="coding", cluster="no"),
        question("u2", "b", category="creative_writing", subcategory="creative_writing"),
        question("u3", "c", category="hard_prompt", subcategory="math"),
    ]
    for row in questions:
        del row["cluster"]
    answers = [answer(uid, "text", model=baseline) for uid in ("u1", "u2", "u3")]
    benchmark = load_rows(tmp_path, questions, answers, version="v2.0", baseline=baseline)
    assert [row["uid"] for row in benchmark.keys.values()] == uids
    assert {prompt.category for prompt in benchmark.prompts} == {category}
    assert {prompt.source for prompt in benchmark.prompts} == {"arena-hard-v2.0"}
    assert [row["cluster"] for row in benchmark.keys.values()] == [
        row["subcategory"] for row in questions if row["uid"] in uids
    ]


def test_an_empty_answer_of_the_baseline_is_no_text(tmp_path: Path) -> None:
    benchmark = load_rows(tmp_path, [question("u1", "a")], [answer("u1", " \n")])
    assert benchmark.baseline == [Response(prompt_id("a"), 0, None, "empty")]


def test_a_question_without_a_cluster_is_uncategorized(tmp_path: Path) -> None:
    (prompt,) = load_rows(tmp_path, [question("u1", "a", cluster=None)], [answer("u1", "x")]).prompts
    assert prompt.category == UNCATEGORIZED


@pytest.mark.parametrize(
    ("questions", "answers", "changes", "message"),
    [
        ([], [], {"version": "v3"}, "v3 is not compared with gpt-4-0314.*v2.0 gemini-2.0-flash-001/o3-mini-2025"),
        ([], [], {"baseline": "o3-mini-2025-01-31"}, "v0.1 is not compared with o3-mini-2025-01-31"),
        ([], [], {"version": "v2.0"}, "v2.0 is not compared with gpt-4-0314"),
        ([], [], {}, "question.jsonl: no question that is compared"),
        ([question("u1", "a", category="hard_prompt")], [], {}, "line 1: the category is 'hard_prompt'.*v0.1 has"),
        ([{"uid": "u1", "category": "arena-hard-v0.1"}], [], {}, "question.jsonl, line 1: the question is not where"),
        ([old_question("u1", "a") | {"turns": [{"content": "a"}, {"content": "b"}]}], [], {}, "the question is not"),
        ([question("", "a") | {"uid": 7}], [answer("u1", "x")], {}, "line 1: the uid is not where"),
        ([question("u1", "a")], [answer("u2", "x")], {}, "line 1: gpt-4-0314 has no answer to question u1"),
        ([question("u1", "a")], [answer("u1", "x", model="gpt-5")], {}, "answer.jsonl, line 1: .* 'gpt-5'; expected"),
        ([question("u1", "a")], [answer("u1", "x"), answer("u1", "y")], {}, "line 2: a second, different answer"),
        ([question("u1", "a")], [answer("u1", "x") | {"messages": []}], {}, "line 1: the answer is not where"),
        ([question(u, "a") for u in ("u1", "u2")], [answer(u, "x") for u in ("u1", "u2")], {}, "u2 .* of question u1"),
        (["{"], [], {}, "question.jsonl, line 1: not JSON"),
        ([question("u1", "a")], ["[]"], {}, "answer.jsonl, line 1: expected an object"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, questions: list[Any], answers: list[Any], changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ArenaHardError, match=message):
        load_rows(tmp_path, questions, answers, **changes)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArenaHardError, match="no file .*answers.jsonl"):
        read_answers(tmp_path / "answers.jsonl", model="m")
    path = tmp_path / "answers.jsonl.gz"
    path.write_bytes(b"not gzipped")
    with pytest.raises(ArenaHardError, match=r"answers.jsonl.gz: the gzipped file is damaged"):
        read_answers(path, model="m")


def test_repeated_equal_answers_are_one(tmp_path: Path) -> None:
    path = write(tmp_path / "answers.jsonl", [answer("u1", "x"), answer("u1", "x")])
    assert read_answers(path, model="gpt-4-0314") == {"u1": "x"}


def test_without_paths_the_hub_is_asked_for_a_fixed_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, name: str, **settings: str) -> str:
        asked.append((repository, name, settings))
        row = question("u1", "a", category="hard_prompt")
        rows = [row] if name.endswith("question.jsonl") else [answer("u1", "x", model="o3-mini-2025-01-31")]
        return str(write(tmp_path / f"{len(asked)}.jsonl", rows))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    benchmark = load(None, answers_path=None, baseline="o3-mini-2025-01-31", version="v2.0")
    assert len(benchmark.prompts) == 1
    settings = {"repo_type": "dataset", "revision": HUB_REVISION}
    assert sorted(asked) == [
        (HUB_NAME, "data/arena-hard-v2.0/model_answer/o3-mini-2025-01-31.jsonl", settings),
        (HUB_NAME, "data/arena-hard-v2.0/question.jsonl", settings),
    ]


# --- scores ---------------------------------------------------------------------------------------------------------

# Label for the response shown first -> outcome, weight.
OUTCOMES: dict[str | None, tuple[float | None, float]] = {
    ">>": (1.0, 3.0),
    ">": (1.0, 1.0),
    "=": (0.5, 1.0),
    "<": (0.0, 1.0),
    "<<": (0.0, 3.0),
    None: (None, 0.0),
}
MIRROR = {">>": "<<", ">": "<", "=": "=", "<": ">", "<<": ">>", None: None}


def play(games: list[tuple[str | None, str | None]]) -> list[Verdict]:
    """Two verdicts per question; labels as seen from the policy, the game that shows the baseline first, first."""
    rows = []
    for number, pair in enumerate(games):
        for first, label in zip((1, 0), pair, strict=True):
            outcome, weight = OUTCOMES[MIRROR[label] if first == 1 else label]
            reason = "no_verdict" if outcome is None else None
            rows.append(Verdict(f"p{number:04}", first, 1 - first, outcome, weight, reason, None, 0))
    return rows


def score(games: list[tuple[str | None, str | None]], **settings: Any) -> ArenaScore:
    return arena_score(play(games), seed=0, **({"num_resamples": 200} | settings))


@pytest.mark.parametrize(
    ("games", "expected", "num_prompts", "num_games", "num_unscored"),
    [
        ([(">", ">")], 1.0, 1, 2, 0),
        ([(">>", ">>"), (">", ">>")], 1.0, 2, 4, 0),
        ([("<", "<<")], 0.0, 1, 2, 0),
        ([("=", "=")], 0.5, 1, 2, 0),
        ([(">", "<")], 0.5, 1, 2, 0),  # a judge that likes one position
        ([(">>", "<")], 3 / 4, 1, 2, 0),
        ([(">", "="), ("<<", "=")], (1 + 0.5 + 0.5) / 6, 2, 4, 0),
        ([(">", None)], 1.0, 1, 1, 1),  # the other game counts
        ([(">", None), ("<", "<"), (None, None)], 1 / 3, 2, 3, 3),
        ([(None, None)], None, 0, 0, 2),
        ([], None, 0, 0, 0),
    ],
)
def test_score_by_hand(
    games: list[tuple[str | None, str | None]],
    expected: float | None,
    num_prompts: int,
    num_games: int,
    num_unscored: int,
) -> None:
    result = score(games)
    assert result.score.rate == (expected if expected is None else pytest.approx(expected, abs=1e-15))
    assert (result.score.num_prompts, result.score.num_rows, result.score.num_unscored) == (
        num_prompts,
        num_games,
        num_unscored,
    )
    assert result.unscored_reasons == ({"no_verdict": num_unscored} if num_unscored else {})
    assert (result.score.interval is None) == (num_prompts < 2)
    assert (result.version, result.baseline) == ("v0.1", "gpt-4-0314")


LABEL = st.sampled_from([*OUTCOMES])


@given(st.lists(st.tuples(LABEL, LABEL), min_size=1, max_size=30))
def test_score_is_the_bradley_terry_fit_of_the_rating_module(games: list[tuple[str | None, str | None]]) -> None:
    # With one game more for each side, so that there is a maximum.
    verdicts = play([*games, (">", "<")])
    wins = sum(
        count_wins([row for row in verdicts if row.prompt_id == key], sample_indices=[0, 1])
        for key in {row.prompt_id for row in verdicts}
    )
    policy, baseline = bradley_terry(np.asarray(wins), prior_precision=0.0)
    result = arena_score(verdicts, seed=0, num_resamples=2)
    assert result.score.rate == pytest.approx(1 / (1 + math.exp(baseline - policy)), abs=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_score_is_the_fit_of_other_libraries(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = [">>", ">", "=", "<", "<<", None]
    chances = generator.dirichlet(np.ones(6))
    verdicts = play([tuple(generator.choice(labels, size=2, p=chances)) for _ in range(300)])  # type: ignore[misc]
    battles = check.explode(verdicts)
    found = arena_score(verdicts, seed=0, num_resamples=2).score.rate
    assert found == pytest.approx(check.fit_sklearn(battles), abs=1e-6)
    assert found == pytest.approx(check.fit_scipy(battles), abs=1e-6)


@given(st.lists(st.tuples(LABEL, LABEL), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_score_mirrors_and_does_not_depend_on_the_order_of_the_rows(
    games: list[tuple[str | None, str | None]], generator: Any
) -> None:
    result = score(games)
    mirrored = score([(MIRROR[first], MIRROR[second]) for first, second in games])
    if result.score.rate is not None:
        assert mirrored.score.rate == pytest.approx(1 - result.score.rate, abs=1e-12)
    if result.score.interval is not None:
        low, high = result.score.interval
        assert 0 <= low <= high <= 1
        assert mirrored.score.interval == pytest.approx((1 - high, 1 - low), abs=1e-12)
    shuffled = play(games)
    generator.shuffle(shuffled)
    assert arena_score(shuffled, seed=0, num_resamples=200) == result


def random_games(count: int, *, agree: bool) -> list[tuple[str | None, str | None]]:
    generator = np.random.default_rng(1)
    labels = [">>", ">", "=", "<", "<<"]
    draws = [generator.choice(labels, size=2, p=[0.1, 0.2, 0.2, 0.3, 0.2]) for _ in range(count)]
    return [(str(first), str(first if agree else second)) for first, second in draws]


def test_interval_has_the_width_of_the_linearized_standard_error() -> None:
    # A ratio of sums over questions, r = P / W: var r = sum (p_i - r w_i)^2 / W^2.
    verdicts = play(random_games(400, agree=False))
    result = arena_score(verdicts, seed=0)
    assert result.score.rate is not None and result.score.interval is not None
    totals = np.zeros((400, 2))
    for row in verdicts:
        assert row.outcome is not None
        won = row.outcome if row.first_index == 0 else 1 - row.outcome
        totals[int(row.prompt_id[1:])] += [row.weight * won, row.weight]
    points, weights = totals.T
    error = np.sqrt(((points - result.score.rate * weights) ** 2).sum()) / weights.sum()
    assert result.score.interval[1] - result.score.interval[0] == pytest.approx(2 * 1.95996 * error, rel=0.03)
    assert sum(result.score.interval) / 2 == pytest.approx(result.score.rate, abs=0.1 * error)


def test_interval_is_seeded_and_widens_with_confidence() -> None:
    verdicts = play(random_games(100, agree=False))
    intervals = [
        arena_score(verdicts, seed=seed, confidence=confidence, num_resamples=500).score.interval
        for seed, confidence in ((0, 0.9), (0, 0.9), (1, 0.9), (0, 0.99))
    ]
    assert intervals[0] == intervals[1] != intervals[2]
    assert intervals[0] is not None and intervals[3] is not None
    assert intervals[3][0] < intervals[0][0] < intervals[0][1] < intervals[3][1]


def test_resampling_battles_is_too_sure_of_itself() -> None:
    # Where a question's two games agree they are one observation, and a strong verdict is one, not six battles.
    verdicts = play(random_games(400, agree=True))
    result = arena_score(verdicts, seed=0)
    low, high = check.resample_battles(check.explode(verdicts), seed=0)
    assert result.score.interval is not None
    assert result.score.interval[1] - result.score.interval[0] > math.sqrt(2) * (high - low)


def test_questions_that_agree_give_an_interval_of_width_zero() -> None:
    assert score([("=", "=")] * 9).score.interval == (0.5, 0.5)
    assert score([(">>", ">")] * 9).score.interval == (1.0, 1.0)


def test_v2_drops_the_other_game_and_has_a_name_of_its_own() -> None:
    verdicts = play([(">>", None), ("<", "="), (">", "<<")])
    settings: dict[str, Any] = {"seed": 0, "num_resamples": 200}
    result = arena_score_v2(verdicts, baseline="o3-mini-2025-01-31", **settings)
    assert result.score.rate == pytest.approx((0.5 + 1) / 6)
    assert (result.score.num_prompts, result.score.num_rows, result.score.num_unscored) == (2, 4, 2)
    assert result.unscored_reasons == {"no_verdict": 1, "other_game_unscored": 1}
    assert (result.version, result.baseline) == ("v2.0", "o3-mini-2025-01-31")
    old = arena_score(verdicts, **settings)
    assert old.score.rate == pytest.approx((3 + 0.5 + 1) / 9)
    assert (old.version, old.score.num_rows, old.score.num_unscored) == ("v0.1", 5, 1)
    assert old.score.estimator != result.score.estimator


def test_score_as_plain_json() -> None:
    result = score([(">", "="), ("<", None)])
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain == result.to_dict()
    assert plain["score"]["interval"] == list(result.score.interval or ())
    assert plain["unscored_reasons"] == {"no_verdict": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_index": 2}, "responses 2 and 0"),
        ({"second_index": 1}, "responses 1 and 1"),
        ({"first_index": 0, "second_index": 1}, "two verdicts in the same order"),
        ({"prompt_id": "other"}, "one order only"),
        ({"weight": 0.0}, "is no game"),
        ({"outcome": 1.5}, "is no game"),
    ],
)
def test_rows_that_are_not_two_games_are_refused(changes: dict[str, Any], message: str) -> None:
    first, second = play([(">", ">")])
    with pytest.raises(ValueError, match=message):
        pair_games([replace(first, **changes), second])


# --- games that no judge decides ------------------------------------------------------------------------------------


def make_benchmark(folder: Path, num_questions: int = 3) -> Benchmark:
    uids = [f"u{number}" for number in range(num_questions)]
    return load_rows(folder, [question(uid, f"ask {uid}") for uid in uids], [answer(uid, f"say {uid}") for uid in uids])


@pytest.mark.parametrize(
    ("policy", "baseline", "no_response", "expected"),
    [
        ("same", "same", "loss", (0.5, 1.0, None)),
        (None, "text", "loss", (0.0, 1.0, None)),
        (None, "text", "unscored", (None, 0.0, "no_delimiter")),
        ("text", None, "loss", (None, 0.0, "baseline: empty")),
        (None, None, "loss", (None, 0.0, "baseline: empty")),
    ],
)
def test_what_no_judge_was_asked(
    policy: str | None, baseline: str | None, no_response: Any, expected: tuple[float | None, float, str | None]
) -> None:
    prompt = Prompt("p", "ask", "c", "s", "test", (), "p")
    benchmark = Benchmark([prompt], [Response("p", 0, baseline, None if baseline else "empty")], {"p": {}})
    response = Response("p", 0, policy, None if policy else "no_delimiter")
    baseline_first, policy_first = pair_games(complete_verdicts([], benchmark, [response], no_response=no_response))[
        "p"
    ]
    win, weight, reason = expected
    assert (policy_first.outcome, policy_first.weight, policy_first.unscored_reason) == expected
    assert baseline_first.outcome == (None if win is None else 1 - win)
    assert (baseline_first.weight, baseline_first.unscored_reason) == (weight, reason)


def test_judged_questions_are_left_alone_and_gaps_are_refused(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, 1)
    key = benchmark.prompts[0].prompt_id
    judged = [Verdict(key, 1, 0, 1.0, 3.0, None, "why", 5), Verdict(key, 0, 1, 0.5, 1.0, None, "why", 5)]
    assert complete_verdicts(judged, benchmark, [Response(key, 0, "other", None)], no_response="loss") == judged
    with pytest.raises(ValueError, match="differ, but there is no verdict"):
        complete_verdicts([], benchmark, [Response(key, 0, "other", None)], no_response="loss")
    with pytest.raises(ValueError, match="no response row"):
        complete_verdicts([], benchmark, [], no_response="loss")


# --- writing --------------------------------------------------------------------------------------------------------


def official_scores(path: Path) -> pd.Series:
    """The points of all battles by model, read from a model_judgment file as show_result.py does."""
    points = {">>": [1.0] * 3, ">": [1.0], "=": [0.5], "<": [0.0], "<<": [0.0] * 3}
    of_first = {f"A{sign}B": value for sign, value in points.items()}
    of_first |= {"B>A": [0.0], "B>>A": [0.0] * 3}
    rows = pd.read_json(path, lines=True)
    rows = rows[[all(game["score"] is not None for game in games) for games in rows["games"]]]
    rows["points"] = [
        [1 - point for point in of_first[games[0]["score"]]] + of_first[games[1]["score"]] for games in rows["games"]
    ]
    battles = rows[["uid", "model", "category", "points"]].explode("points")
    means: pd.Series = battles.astype({"points": float}).groupby("model")["points"].mean()
    return means


def test_exported_answers_are_read_back(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path)
    texts = ["Größe \u2028 {1}", None, "two\nlines"]
    responses = [
        Response(prompt.prompt_id, 0, text, None if text else "empty")
        for prompt, text in zip(benchmark.prompts, texts, strict=True)
    ]
    path = tmp_path / "tpo.jsonl"
    assert write_answers(path, benchmark, responses[::-1], model="tpo") == 2
    assert read_answers(path, model="tpo") == {"u0": "Größe \u2028 {1}", "u2": "two\nlines"}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [list(row) for row in rows] == [["uid", "ans_id", "model", "messages"]] * 2
    assert rows[0]["messages"][0] == {"content": "ask u0", "role": "user"}
    assert len({row["ans_id"] for row in rows}) == 2
    with pytest.raises(ValueError, match="expected one to each"):
        write_answers(path, benchmark, responses[:2], model="tpo")


def test_exported_judgements_give_the_official_script_the_same_score(tmp_path: Path) -> None:
    uids = [f"u{number}" for number in range(200)]
    benchmark = load_rows(
        tmp_path, [question(uid, f"ask {uid}") for uid in uids], [answer(uid, f"say {uid}") for uid in uids]
    )
    generator = np.random.default_rng(3)
    labels = [">>", ">", "=", "<", "<<", None]
    games = [tuple(generator.choice(labels, size=2)) for _ in uids]
    keys = [prompt.prompt_id for prompt in benchmark.prompts]
    verdicts = [
        replace(row, prompt_id=keys[int(row.prompt_id[1:])])
        for row in play(games)  # type: ignore[arg-type]
    ]
    path = tmp_path / "judgement.jsonl"
    assert write_judgements(path, benchmark, verdicts, model="tpo", judge="rule") == 200
    found = official_scores(path)
    expected = arena_score_v2(verdicts, baseline="o3-mini-2025-01-31", seed=0, num_resamples=2)
    assert found["tpo"] == pytest.approx(expected.score.rate, abs=1e-12)


def test_exported_judgement_shows_the_baseline_first(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, 1)
    key = benchmark.prompts[0].prompt_id
    verdicts = [Verdict(key, 0, 1, 1.0, 3.0, None, "policy first", 0), Verdict(key, 1, 0, None, 0.0, "empty", None, 0)]
    path = tmp_path / "judgement.jsonl"
    write_judgements(path, benchmark, verdicts, model="tpo", judge="rule")
    assert json.loads(path.read_text()) == {
        "uid": "u0",
        "category": "arena-hard-v0.1",
        "judge": "rule",
        "model": "tpo",
        "baseline": "gpt-4-0314",
        "games": [
            {"score": None, "judgment": {"answer": ""}},
            {"score": "A>>B", "judgment": {"answer": "policy first"}},
        ],
    }


def test_judgements_that_the_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, 1)
    key = benchmark.prompts[0].prompt_id
    verdicts = [Verdict(key, 0, 1, 1.0, 2.0, None, None, 0), Verdict(key, 1, 0, 0.0, 1.0, None, None, 0)]
    with pytest.raises(ArenaHardError, match="weight 2 is not on the benchmark's menu.*strong_weight=3"):
        write_judgements(tmp_path / "x.jsonl", benchmark, verdicts, model="tpo", judge="rule")
    with pytest.raises(ValueError, match="verdicts on 0 prompts of 1"):
        write_judgements(tmp_path / "x.jsonl", benchmark, [], model="tpo", judge="rule")


# --- the published files --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> Benchmark:
    if not SHARED.is_dir():
        pytest.skip("without the benchmark's files (TPO_SHARED_DATA)")
    questions = SHARED / "arena-hard-v0.1.question.jsonl"
    answers = SHARED / "gpt-4-0314.model_answer.jsonl.gz"
    return load(questions, answers_path=answers, baseline="gpt-4-0314", version="v0.1")


def test_published_questions_are_500_different_ones(published: Benchmark) -> None:
    assert len(published.prompts) == len(published.baseline) == len(published.keys) == 500
    assert len({prompt.text.strip() for prompt in published.prompts}) == 500
    assert len({prompt.category for prompt in published.prompts}) == 250
    assert all(row.text for row in published.baseline)
    assert sum(prompt.text != prompt.text.strip() for prompt in published.prompts) == 72


def test_a_rule_on_published_answers_scores_what_other_fits_say(published: Benchmark, tmp_path: Path) -> None:
    model = "gpt-3.5-turbo-0125"
    verdicts = check.play(published, read_answers(SHARED / f"{model}.model_answer.jsonl.gz", model=model))
    result = arena_score(verdicts, seed=0)
    assert result.score.rate is not None and result.score.interval is not None
    assert (result.score.num_prompts, result.score.num_rows, result.score.num_unscored) == (500, 1000, 0)
    battles = check.explode(verdicts)
    assert set(battles) == {0.0, 0.5, 1.0} and len(battles) > 1000  # ties and strong verdicts are among them
    assert result.score.rate == pytest.approx(check.fit_sklearn(battles), abs=1e-6)
    assert result.score.rate == pytest.approx(check.fit_scipy(battles), abs=1e-6)
    low, high = check.resample_battles(battles, seed=0)
    assert result.score.interval[0] < low < result.score.rate < high < result.score.interval[1]
    path = tmp_path / "judgement.jsonl"
    write_judgements(path, published, verdicts, model=model, judge="rule")
    assert official_scores(path)[model] == pytest.approx(result.score.rate, abs=1e-12)


def test_a_copy_of_the_baseline_scores_one_half(published: Benchmark) -> None:
    model = "gpt-4-0314"
    verdicts = check.play(published, read_answers(SHARED / f"{model}.model_answer.jsonl.gz", model=model))
    result = arena_score(verdicts, seed=0)
    assert result.score.rate == 0.5
    assert result.score.interval is not None and result.score.interval[0] <= 0.5 <= result.score.interval[1]
    assert (result.score.num_prompts, result.score.num_rows, result.score.num_unscored) == (500, 1000, 0)


def test_a_copy_scores_one_half_even_if_a_judge_that_likes_the_first_position_is_asked(published: Benchmark) -> None:
    rows = []
    for prompt in published.prompts:
        for first in (0, 1):
            rows.append(Verdict(prompt.prompt_id, first, 1 - first, 1.0, 3.0, None, "[[A>>B]]", 0))
    result = arena_score(rows, seed=0)
    assert result.score.rate == 0.5
    assert result.score.interval == (0.5, 0.5)
