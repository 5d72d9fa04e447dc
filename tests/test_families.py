"""Tiny models of every family against their own forward passes, and the table that says what came of it."""

from pathlib import Path

import pytest

from experiments.families import FAMILIES, SUBJECTS, compare

# Experts, a capped head, a vision tower, layers without attention, a scale, a head that trl does not know, latents.
BY_DEFAULT = ("qwen3_moe", "gemma2", "gemma3", "lfm2", "granite", "recurrent_gemma", "deepseek_v3")


def read_table() -> dict[str, list[str]]:
    """What `experiments/families.md` says of each family."""
    lines = (Path(__file__).parents[1] / "experiments" / "families.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {family: cells for family, *cells in rows[2:]}


TABLE = read_table()


def test_the_table_has_every_family_and_nothing_wrong() -> None:
    assert TABLE.keys() == FAMILIES.keys()
    assert len(TABLE) >= 30
    assert {cell.partition(",")[0] for cells in TABLE.values() for cell in cells} == {"equal", "refused"}


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in BY_DEFAULT else pytest.mark.slow) for name in FAMILIES]
)
def test_family_is_computed_as_the_table_says(family: str, tmp_path: Path) -> None:
    found = [compare(family, subject, tmp_path) for subject in SUBJECTS]
    assert [outcome.found.partition(":")[0] for outcome in found] == TABLE[family], found
    for outcome in found:
        if outcome.found.startswith("refused"):
            assert "use engine=vllm" in outcome.found
            assert "\n" not in outcome.found
