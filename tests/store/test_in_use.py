"""A finished run is not replaced by another of its name without a word."""

from pathlib import Path

import pytest
from test_stale import JUDGE, SAMPLE, Rounding

from tpo.store.files import write_json
from tpo.store.in_use import noting
from tpo.store.store import Store

SAID = "is of other inputs than there are now: it does not name"


def finish(root: Path, file: Path, settings: dict[str, int]) -> list[str]:
    """Do a run's two steps and write what it rests on; return the ids."""
    store = Store(root, execute=Rounding())
    first = store.request(SAMPLE, settings)  # as the model's, before the run has a folder
    with noting(store, file):
        second = store.request(JUDGE, {}, {"before": first})
        names = [artifact.artifact_id for artifact in store.asked]
        write_json(file, {"stages": [{"artifact_id": name} for name in names]})
    return [first.artifact_id, second.artifact_id]


def test_a_run_that_rests_on_something_else_is_replaced_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "summary.json"
    finish(tmp_path / "artifacts", file, {"file": 1})
    finish(tmp_path / "artifacts", file, {"file": 1})
    assert SAID not in caplog.text
    first, _ = finish(tmp_path / "artifacts", file, {"file": 2})
    [said] = [record.getMessage() for record in caplog.records if SAID in record.getMessage()]
    assert said.startswith(str(file)) and first in said
    caplog.clear()
    finish(tmp_path / "artifacts", file, {"file": 2})
    assert SAID not in caplog.text
    finish(tmp_path / "artifacts", file, {"file": 1})
    assert SAID in caplog.text, "also where all of it had been computed"
