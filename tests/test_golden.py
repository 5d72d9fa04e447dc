"""Golden runs: each file in golden/ holds its own settings and the rows that must come out, to the last digit shown.

A file says under "origin" how its expected values were found, which was not by running the code that it tests.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hydra import compose, initialize_config_dir

from tpo.config.build import to_config
from tpo.config.kinds import load_settings
from tpo.config.schema import Config, register
from tpo.config.thought import ThoughtFormat
from tpo.judge.rating import Rating, rate_responses
from tpo.judge.select import Selection, only_epoch
from tpo.loop import iterate
from tpo.model.policy import PolicyRef
from tpo.pairs.build import build_pairs, count_drops
from tpo.pairs.rules.best_worst import BestWorstPairs
from tpo.plan.stages import PlannedPipeline, PlanStore, distinct_steps, plan_job
from tpo.store.artifacts import Artifact
from tpo.store.records import Completion, Pair, Response, Score, Verdict

REPOSITORY = Path(__file__).parent.parent
GOLDEN = {path.stem: json.loads(path.read_text()) for path in (REPOSITORY / "tests" / "golden").glob("*.json")}

register()


def names(kind: str) -> list[str]:
    return sorted(name for name, golden in GOLDEN.items() if golden["runs"] == kind)


def test_every_file_is_run_and_says_where_it_comes_from() -> None:
    assert len(GOLDEN) >= 7
    for golden in GOLDEN.values():
        assert golden["runs"] in {"split", "pairs", "ratings", "artifact_ids"}
        assert golden["about"] and golden["origin"] and golden["settings"] and golden["rows"]


# --- completions ------------------------------------------------------------------------------------------------------


def split_rows() -> Iterator[Any]:
    for name in names("split"):
        for row in GOLDEN[name]["rows"]:
            yield pytest.param(GOLDEN[name]["settings"], row, id=f"{name}: {row['id']}")


@pytest.mark.parametrize(("settings", "row"), split_rows())
def test_split(settings: dict[str, Any], row: dict[str, Any]) -> None:
    form = ThoughtFormat(**settings)
    text = row["completion"]
    found = form.split(text, is_prefilled=row["is_prefilled"], finish_reason=row["finish_reason"])
    expected = {key: row[key] for key in ("thought", "response", "error", "thought_span", "response_span")}
    assert {
        key: list(value) if isinstance(value, tuple) else value for key, value in found._asdict().items()
    } == expected
    for part in ("thought", "response"):  # the file itself
        assert text[slice(*row[f"{part}_span"])] == (row[part] or "")


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names("pairs"))
def test_pairs(name: str) -> None:
    golden = GOLDEN[name]
    completions, scores = [], []
    for row in golden["rows"]:
        score = row["score"]
        rest = {key: value for key, value in row.items() if key != "score"}
        text = f"hm {row['response']}"
        completions.append(Completion(**{**golden["completion"], "completion": text, **rest}))
        reason = "no_verdict" if score is None else None
        scores.append(Score(row["prompt_id"], row["sample_index"], score, reason, None, 0))
    order = list(dict.fromkeys(row["prompt_id"] for row in golden["rows"]))
    for rows_of in (completions, scores):  # a file holds each instruction's rows together
        rows_of.sort(key=lambda row: order.index(row.prompt_id))
    outcomes = list(build_pairs(completions, scores, BestWorstPairs(**golden["settings"])))
    assert len(outcomes) == len(order)
    assert count_drops(outcome for outcome in outcomes if isinstance(outcome, str)) == golden["drops"]
    pairs = [outcome for outcome in outcomes if isinstance(outcome, Pair)]
    rows = [msgspec.structs.asdict(pair) for pair in pairs]
    assert [{key: row[key] for key in expected} for row, expected in zip(rows, golden["pairs"], strict=True)] == [
        {**expected, "margin": pytest.approx(expected["margin"], abs=1e-9)} for expected in golden["pairs"]
    ]
    texts = {(row.prompt_id, row.sample_index): row.completion for row in completions}
    for pair in pairs:
        assert pair.chosen == texts[pair.prompt_id, pair.chosen_index]
        assert pair.rejected == texts[pair.prompt_id, pair.rejected_index]


# --- ratings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in names("ratings") for kind in GOLDEN[name]["settings"]]
)
def test_ratings(name: str, kind: str) -> None:
    golden = GOLDEN[name]
    responses = [
        Response(*(row[key] for key in ("prompt_id", "sample_index", "text", "error"))) for row in golden["rows"]
    ]
    verdicts = [Verdict(**row, raw=None, num_tokens=0) for row in golden["verdicts"]]
    rating = load_settings(Rating, golden["settings"][kind])
    for judged in (verdicts, verdicts[::-1]):
        found = rate_responses(responses, judged, rating=rating, seed=golden["seed"])
        assert [row.unscored_reason for row in found] == [row["reason"] for row in golden["rows"]]
        for row, expected in zip(found, golden["rows"], strict=True):
            assert row.score == (None if expected[kind] is None else pytest.approx(expected[kind], abs=1e-9))


# --- identities -------------------------------------------------------------------------------------------------------


class Selecting(PlannedPipeline):
    """A planned run in which validation selects given epochs, one after the other."""

    epochs: Iterator[int]

    def select(self, checkpoints: Artifact) -> tuple[PolicyRef, Selection]:
        super().select(checkpoints)  # asks for what the selection is made by
        epoch = next(self.epochs)
        return self.seed_policy.trained(checkpoints, epoch), only_epoch(epoch)


def golden_config(golden: dict[str, Any], root: Path) -> Config:
    overrides = [*golden["settings"]["overrides"], f"artifacts_dir={root}"]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return to_config(Config, compose("config", overrides))


def ids_of_the_run(golden: dict[str, Any], root: Path) -> list[str]:
    """The ids of all stages, given the epochs that the recorded run selected."""
    config = golden_config(golden, root)
    tpo = Selecting(config, PlanStore(root))
    tpo.epochs = iter(golden["settings"]["selected_epochs"])
    iterate(tpo, lambda *_, **__: None, num_iterations=config.num_iterations)
    return [artifact.artifact_id for artifact in tpo.store.asked]


@pytest.mark.parametrize("name", names("artifact_ids"))
def test_artifact_ids_are_those_of_the_recorded_run(name: str, tmp_path: Path) -> None:
    golden = GOLDEN[name]
    assert ids_of_the_run(golden, tmp_path) == golden["rows"]


@pytest.mark.parametrize("name", names("artifact_ids"))
def test_a_plan_knows_all_ids_where_the_last_epoch_is_taken(name: str, tmp_path: Path) -> None:
    golden = GOLDEN[name]
    stages = distinct_steps([plan_job(golden_config(golden, tmp_path))])
    assert list(stages) == golden["rows"] and not any(planned.is_open for planned in stages.values())
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", names("artifact_ids"))
def test_a_plan_knows_the_ids_up_to_the_first_selection(name: str, tmp_path: Path) -> None:
    golden = GOLDEN[name]
    golden = {**golden, "settings": {"overrides": [*golden["settings"]["overrides"], "train.select=validation"]}}
    config, expected = golden_config(golden, tmp_path), GOLDEN[name]["rows"]
    stages = distinct_steps([plan_job(config)])
    known = [stage for stage, planned in stages.items() if not planned.is_open]
    place = expected.index(next(name for name in expected if name.startswith("train-")))
    assert known[: place + 1] == expected[: place + 1]
    # The epochs' answers to the validation instructions, and their scores.
    assert len(known) == place + 1 + 2 * config.train.num_epochs < len(stages)
