"""A judge with a model in plain torch, in several processes with one thread each that share its weights in memory.

The processes take blocks of instructions (`tpo.judge.protocol.blocks`), and a block is computed in the same way
wherever that is. So scores do not depend on the number of processes.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tpo.judge.protocol import Candidates, Judge, Judgement, PointwiseJudgeConfig, blocks
from tpo.model.policy import Policy
from tpo.store.processes.cores import AUTO, count_workers
from tpo.store.processes.forks import ForkedWorkers
from tpo.store.processes.kept import is_keeper, kept_engine
from tpo.store.processes.order import in_order, numbered
from tpo.store.processes.streams import Stream
from tpo.store.stage import RunsOn


@contextmanager
def open_judge(
    settings: PointwiseJudgeConfig, *, policy: Policy | None, answers_path: Path, identity: object = None
) -> Iterator[Judge]:
    """Yield the judge, on a CPU one process for each core where it has a model in plain torch.

    On a GPU such a model stays in memory for later steps where this process is the one that keeps it.

    Args:
        settings: Of the judge.
        policy: The frozen seed model, where the judge uses it.
        answers_path: File in which answers of language models are cached.
        identity: What tells the judge, with the contents of its files, from any other.

    Raises:
        OccupiedError: If this process keeps vLLM.
        TpoError: If it cannot judge here.
    """
    made_with = {"policy": policy, "answers_path": answers_path}
    if settings.runs_on == RunsOn.KEPT and is_keeper():
        make = partial(settings.make, policy=policy, answers_path=answers_path)
        yield kept_engine(identity, make, is_torch=True)
        return
    count = count_workers(AUTO, at="judge") if settings.computes_blocks else 1
    if count == 1:
        yield settings.make(policy=policy, answers_path=answers_path)
        return
    arguments = {"factory": block_stream, "settings": settings, **made_with}
    with closing(ForkedWorkers(numbered, arguments, count=count)) as workers:
        yield SpreadJudge(workers)


class SpreadJudge:
    """Gives blocks to whichever process is free, and judgements in order."""

    def __init__(self, workers: ForkedWorkers) -> None:
        """Judge with the workers, whose stream function is that of `block_stream`, numbered."""
        self._workers = workers

    def score(self, candidates: Iterable[Candidates]) -> Iterator[list[Judgement]]:
        """Yield for each instruction one judgement per response, in the order given.

        Raises:
            TpoError: If a process fails or is killed.
        """
        for judged in in_order(self._workers.run, blocks(candidates)):
            yield from judged


def block_stream(*, settings: PointwiseJudgeConfig, **made_with: Any) -> Stream:
    """Return what one of the processes does: blocks in, a list of judgements for each instruction of a block out."""
    judge = settings.make(**made_with)
    return lambda tasks: (list(judge.score(block)) for block in tasks)
