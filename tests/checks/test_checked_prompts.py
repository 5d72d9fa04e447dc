from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tpo.checks import check_type, without_floors
from tpo.config.fields import ConfigError, check_fields
from tpo.config.groups import Instructions
from tpo.sample.prompts import PromptError, deal
from tpo.sample.sources.builtin import BuiltinPrompts, load_builtin
from tpo.sample.sources.checked import CheckedPrompts
from tpo.store.records import Check, Prompt

BASE = BuiltinPrompts(num_train=320, num_validation=80, num_test=160)
SETTINGS = CheckedPrompts(
    num_train=24,
    num_validation=16,
    num_test=48,
    base={"builtin": BASE.identity()},
    types={"no_comma": 1, "fewer_words": 1, "more_words": 2},
    unseen_types=["title", "postscript"],
    num_each_unseen=5,
    max_iterations=3,
)


def dealt(seed: int = 0, **changes: Any) -> dict[str, list[Prompt]]:
    rows, _ = deal(replace(SETTINGS, **changes), seed=seed)
    splits: dict[str, list[Prompt]] = {}
    for row in rows:
        splits.setdefault(row.split, []).append(row)
    return splits


def test_splits_have_their_sizes_and_share_no_base_instruction() -> None:
    splits = dealt()
    assert {name: len(rows) for name, rows in splits.items()} == {
        "test": 58, "validation": 16, "train-1": 24, "train-2": 24, "train-3": 24,
    }  # fmt: skip
    bases = {
        part: {row.base_id for name, rows in splits.items() for row in rows if name.startswith(part)}
        for part in ("test", "validation", "train")
    }
    assert not bases["test"] & (bases["train"] | bases["validation"]) and not bases["train"] & bases["validation"]
    everything = [row.prompt_id for rows in splits.values() for row in rows]
    assert len(set(everything)) == len(everything)


def test_types_come_up_by_weight_and_unseen_ones_in_the_test_only() -> None:
    splits = dealt()
    assert Counter(row.category for row in splits["train-1"]) == {"no_comma": 6, "fewer_words": 6, "more_words": 12}
    expected = dict.fromkeys(("no_comma", "fewer_words", "more_words"), 16) | {"title": 5, "postscript": 5}
    assert Counter(row.category for row in splits["test"]) == expected
    for rows in splits.values():
        for row in rows:
            assert [check_type(check) for check in without_floors(row.checks)] == [row.category]
            assert Check("floor:different_words", {"count": 10}) in row.checks


def test_an_instruction_is_its_base_and_a_request() -> None:
    texts = {row.prompt_id: row.text for row in load_builtin()}
    for row in dealt()["test"]:
        base, _, request = row.text.rpartition("\n")
        assert texts[row.base_id] == base and request


def test_base_instructions_come_back_with_other_requests() -> None:
    splits = dealt(num_train=320, max_iterations=2)
    first, second = ({row.base_id: row.text for row in splits[f"train-{number}"]} for number in (1, 2))
    assert first.keys() == second.keys() and len(first) == 320
    assert all(first[key] != second[key] for key in first)


def test_dealing_depends_on_the_seed_alone_and_a_longer_run_keeps_what_a_shorter_one_has() -> None:
    assert dealt(seed=1) == dealt(seed=1) != dealt(seed=2)
    longer = dealt(max_iterations=5)
    assert {name: longer[name] for name in dealt()} == dealt()


def test_several_requests_of_one_instruction_do_not_contradict_one_another() -> None:
    types = {"no_comma": 1, "fewer_words": 1, "more_words": 1, "lowercase": 1, "uppercase": 1, "title": 1}
    for row in dealt(num_checks=3, types=types, unseen_types=[])["train-1"]:
        kinds = [check_type(check) for check in without_floors(row.checks)]
        assert len(set(kinds)) == len(kinds) >= 2
        assert not {"lowercase", "uppercase"} <= set(kinds) and not {"fewer_words", "more_words"} <= set(kinds)
        assert row.text.count("\n") >= len(kinds)


def test_several_sources_are_joined() -> None:
    half = replace(BASE, num_train=8, num_validation=4, num_test=8)
    rows, found = deal(replace(SETTINGS, base={"a": half.identity(), "b": BASE.identity()}), seed=0)
    assert isinstance(found, Instructions) and len(found.prompts) == 2 * len(load_builtin())
    assert len({row.base_id for row in rows if row.split == "test"}) > 8


def test_a_split_of_nothing_needs_no_base_instructions() -> None:
    splits = dealt(num_validation=0, base={"builtin": replace(BASE, num_validation=0).identity()})
    assert splits.keys() == {"test", "train-1", "train-2", "train-3"}


def test_too_few_base_instructions_are_said() -> None:
    with pytest.raises(PromptError, match=r"prompts\.base has no instructions for the validation split"):
        dealt(base={"builtin": replace(BASE, num_validation=0).identity()})
    tiny = replace(BASE, num_train=1, num_validation=1, num_test=1).identity()
    with pytest.raises(PromptError, match="needs 48 different instructions, but 1 base instructions and 1 types gave"):
        dealt(base={"builtin": tiny}, types={"no_comma": 1}, unseen_types=[], num_train=1, num_validation=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": {}}, "has no source"),
        ({"types": {"no_coma": 1}}, "there is no type no_coma.*no_comma"),
        ({"types": {}}, "is empty"),
        ({"types": {"no_comma": 0}}, "no_comma"),
        ({"unseen_types": ["no_comma"]}, "so it is seen"),
        ({"unseen_types": ["nothing"]}, "there is no type nothing"),
        ({"words": [20]}, "expected two numbers"),
        ({"words": [30, 20]}, "expected two numbers"),
        ({"num_checks": 9}, "has 3 types"),
        ({"words": [8, 20]}, "min_words=10 different words do not fit"),
        ({"base": {"again": SETTINGS}}, "cannot be a base"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_fields(replace(SETTINGS, **changes), "prompts")


def test_the_digest_of_a_base_file_is_part_of_the_identity(tmp_path: Path) -> None:
    from tpo.config.fields import file_digests
    from tpo.sample.sources.file import FilePrompts

    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "Why?"}\n')
    mine = FilePrompts(num_train=1, num_validation=0, num_test=1, path=str(path))
    [(key, digest)] = file_digests(replace(SETTINGS, base={"mine": mine})).items()
    assert key == "base.mine.path_sha256" and len(digest) == 64


def test_a_base_of_a_data_set_says_under_its_own_key_which_one_it_was(tmp_path: Path) -> None:
    from tpo.sample.sources.hub import HubPrompts

    (tmp_path / "data").mkdir()
    rows = "".join(f'{{"text": "Question {number}?"}}\n' for number in range(60))
    (tmp_path / "data" / "train.jsonl").write_text(rows)
    sizes = {"num_train": 20, "num_validation": 10, "num_test": 20}
    mine = HubPrompts(**sizes, dataset=str(tmp_path / "data"), split="train", text_field="text", max_characters=100)
    _, found = deal(replace(SETTINGS, base={"mine": mine.identity()}), seed=0)
    assert found.origins.keys() == {"prompts.base.mine"} and found.origins["prompts.base.mine"]["is_pinned"]


def test_an_error_of_a_base_names_its_key(tmp_path: Path) -> None:
    from tpo.sample.sources.file import FilePrompts

    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "Why?"}\n')
    mine = FilePrompts(num_train=1, num_validation=0, num_test=9, path=str(path))
    with pytest.raises(PromptError, match=r"^prompts\.base\.mine: the test split needs 9"):
        dealt(base={"mine": mine.identity()})


def test_a_source_with_answers_has_checks() -> None:
    from tpo.sample.sources.file import FilePrompts

    mine = FilePrompts(num_train=1, num_validation=0, num_test=1, path="x", answer_field="answer")
    assert mine.has_checks and not replace(mine, answer_field=None).has_checks
    with pytest.raises(ConfigError, match="cannot be a base|checks"):
        replace(SETTINGS, base={"mine": mine}).check("prompts")
