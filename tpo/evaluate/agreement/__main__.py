"""How good a judge is: `python -m tpo.evaluate.agreement judge=... data=preferences.jsonl`.

Writes `runs/agreement-<hash of the data>/<judge>.json`, and beside it a table and a figure of all judges measured on
that data so far, with two controls that read nothing: always the first response, always the second. Judgements are
artifacts, so a killed measurement continues and nothing is judged twice.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tpo.config.check import check_agreement
from tpo.config.entry import Outcome, run_entry
from tpo.config.schema import AgreementConfig
from tpo.config.streams import console
from tpo.evaluate.agreement.labelled import predict_from_scores, predict_from_verdicts
from tpo.evaluate.stages import LABELLED
from tpo.judge.protocol import Judgement
from tpo.store.artifacts import Artifact
from tpo.store.errors import TpoError
from tpo.store.files import content_hash, file_digest, write_sealed
from tpo.store.records import LabelledPair, Score, Verdict
from tpo.store.seeds import derive_seed

ABOUT = """\
How good is a judge? Its agreement with labelled preferences: JSON lines of instruction, response_a, response_b and
preference, the probability that a is better.

python -m tpo.evaluate.agreement judge=length data=my.jsonl                      what any judge must beat
python -m tpo.evaluate.agreement judge=self_rating data=my.jsonl                 the seed model's yes or no
python -m tpo.evaluate.agreement -m judge=length,random,likelihood data=my.jsonl a table of several
"""


#: Judges that read nothing: where labels favour one side, as a baseline that usually wins, they agree with most.
CONTROLS = {"always response_a": Judgement(1.0, None), "always response_b": Judgement(0.0, None)}


def measure(config: AgreementConfig, *, name: str) -> Path:
    """Judge the labelled responses and return the folder that holds what came out, of the `CONTROLS` too.

    Raises:
        TpoError: If the name is a control's, or the judge cannot be measured.
    """
    if name in CONTROLS:
        raise TpoError(f"name={name} is what a control is called, whose numbers stand beside: give another")
    from tpo.evaluate.agreement.statistics import agreement, position_bias
    from tpo.evaluate.seeds import find_seed
    from tpo.judge.stages import Judging
    from tpo.results.folder import stage_list
    from tpo.results.terminal import Terminal
    from tpo.store.in_use import noting
    from tpo.store.open import open_store

    data, root = Path(config.data), Path(config.artifacts_dir)
    digest = file_digest(data)
    path = Path(config.runs_dir) / f"agreement-{digest[:12]}"
    path.mkdir(parents=True, exist_ok=True)
    with (
        Terminal() as terminal,
        open_store(root, isolate=config.isolate_stages, run=path.name, listeners=[terminal]) as store,
        noting(store, path / file_name(name)),
    ):
        labelled = store.request(LABELLED, {"sha256": digest}, how={"path": str(data)})
        base = find_seed(config.model, store).model
        judging = Judging(store, config.judge, config.rating, model=base, seed=derive_seed(config.seed, "rate"))
        pairs = list(labelled.rows(LabelledPair, "pairs.jsonl"))
        bias = None
        if config.judge.gives_verdicts:  # asked about the labelled pairs themselves: no rating in between
            judged = judging.verdicts({"labelled": labelled})
            verdicts = list(judged.rows(Verdict))
            predictions = predict_from_verdicts(pairs, verdicts)
            bias = position_bias(verdicts, seed=config.seed, confidence=config.confidence).to_dict()
        else:
            judged = judging.score({"labelled": labelled})
            predictions = predict_from_scores(pairs, judged.rows(Score))

        def write(judge: str, predictions: Sequence[Judgement], more: dict[str, Any], asked: list[Artifact]) -> None:
            measured = agreement(
                pairs,
                predictions,
                confidence=config.confidence,
                length_tolerance=config.length_tolerance,
                seed=config.seed,
            )
            stages = stage_list(asked, run=path.name)
            about = {"judge": judge, "data": data.name, **more}
            write_sealed(path / file_name(judge), {**about, **measured.to_dict(), "stages": stages})

        cost = _cost(judged, [step for step in store.asked if step.manifest["stage"] not in {"model", "labelled"}])
        write(name, predictions, {**cost, "position_bias": bias}, store.asked)
        free = {"num_judgements": 0, "tokens_per_judgement": 0.0, "seconds_per_judgement": 0.0, "position_bias": None}
        for control, judgement in CONTROLS.items():
            write(control, [judgement] * len(pairs), free, [labelled])
    return path


def _cost(judged: Artifact, steps: Sequence[Artifact]) -> dict[str, Any]:
    """Return what a judgement cost; `steps` are all that led to `judged`, itself among them."""
    count = judged.metrics["num_verdicts" if "num_verdicts" in judged.metrics else "num_scores"]
    asked = [step for step in steps if step.manifest["stage"] in {"judge", "verdicts"}]
    return {
        "num_judgements": count,
        "tokens_per_judgement": sum(step.metrics["num_tokens"] for step in asked) / count,
        "seconds_per_judgement": sum(step.seconds for step in steps) / count,
    }


def report(path: Path) -> None:
    """Write `agreement.md` and `agreement.png` of all judges measured in the folder `path`, and print the table."""
    from tpo.evaluate.agreement.statistics import agreement_markdown, agreement_table
    from tpo.results.figures import draw_agreement, save
    from tpo.results.read import read_judges

    results = read_judges(path)
    (path / "agreement.md").write_text(agreement_markdown(results), encoding="utf-8")
    save(draw_agreement(results), path, "agreement", formats=("png",))
    console(width=120).print(agreement_table(results))  # a log wraps nothing


def judge_name(choice: str, overrides: list[str]) -> str:
    """Return what the tables call a judge: the option of the group and the keys that were overridden in it."""
    given = [override.lstrip("+") for override in overrides]
    changed = [override.removeprefix("judge.") for override in given if override.startswith("judge.")]
    return " ".join([choice, *changed])


def file_name(judge: str) -> str:
    """Return the name of a judge's file: its own where that can be one, else with a hash of it."""
    plain = re.sub(r"[^\w .=,@+-]", "-", judge.lstrip("."), flags=re.ASCII).strip()
    return f"{plain if plain == judge and len(plain) <= 100 else f'{plain[:100]}~{content_hash(judge)}'}.json"


def work(config: AgreementConfig, hydra: Any) -> Outcome:
    """Measure the judge that a job was started with."""
    name = config.name or judge_name(hydra.runtime.choices["judge"], list(hydra.overrides.task))
    path = measure(config, name=name)
    report(path)
    return Outcome(path)


if __name__ == "__main__":
    run_entry(AgreementConfig, about=ABOUT, check=check_agreement, work=work)
