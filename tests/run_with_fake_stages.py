"""`python tests/run_with_fake_stages.py <arguments of tpo.run>`: the real command with fake stages in place of models.

Sampling and training take as many seconds as FAKE_SECONDS says, and write the noise that libraries write.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from test_wandb_run import REPLACED, replace_slow, sample_stage, train_stage

import tpo.run
from tpo.config.check import check
from tpo.config.entry import run_entry
from tpo.config.schema import Config
from tpo.model.conventions import Conventions
from tpo.model.stages import MODEL
from tpo.sample.stages import SAMPLE
from tpo.store.job import Job, Metrics
from tpo.store.progress import Progress
from tpo.store.records import Completion, Key, read_records
from tpo.store.rows import grow_rows
from tpo.train.stages import TRAIN

SECONDS = float(os.environ.get("FAKE_SECONDS", "0"))


class Patch:
    """What pytest's monkeypatch does, for good."""

    @staticmethod
    def setattr(place: Any, name: Any, value: Any = None) -> None:
        if value is None:
            module, _, name, value = *place.rpartition("."), name
            place = sys.modules[module]
        vars(place)[name] = value if not isinstance(place, type) else setattr(place, name, value)


def fake_model(job: Job) -> Metrics:
    print("a library prints to standard output")
    os.write(2, b"a library written in C writes to standard error\n")
    logging.getLogger("tpo.model").warning("this model is fake")
    return {"name": job.config["name"], **Conventions().to_metrics()}


def slow_sample(job: Job) -> Metrics:
    metrics = sample_stage(job)
    rows = {row.key: row for row in read_records(job.path / "rows.jsonl", Completion)}
    (job.path / "rows.jsonl").unlink()

    def compute(keys: Sequence[Key]) -> Iterator[Completion]:
        for key in keys:
            time.sleep(SECONDS / len(rows))
            yield rows[key]

    grow_rows(
        *(job.path, Completion), keys=list(rows), compute=compute, unit="completion", count_tokens=lambda row: 100
    )
    return {**metrics, "tokens_per_second": 100 * len(rows) / (SECONDS or 1)}


def slow_train(job: Job) -> Metrics:
    with Progress(job.path, total=20, unit="step") as progress:
        progress.kept = "0 of 2 epochs"
        for number in range(1, 21):
            time.sleep(SECONDS / 20)
            progress.measured(number, {"loss": 0.75 - 0.01 * number, "step": number})
            progress.advance()
    return train_stage(job)


if __name__ == "__main__":
    import tpo.evaluate.compare
    import tpo.store.execute

    REPLACED.update({MODEL.work: fake_model, SAMPLE.work: slow_sample, TRAIN.work: slow_train})
    replace_slow(Patch())  # type: ignore[arg-type]
    run_entry(Config, about="", check=check, work=tpo.run.work)
