"""The entry point: `python -m tpo.export policy=runs/<run> format=merged out=exports/mine` (`tpo.use.export`)."""

from functools import partial
from pathlib import Path
from typing import Any

from tpo.config.check import check_export
from tpo.config.entry import Outcome, run_entry
from tpo.config.schema import ExportConfig
from tpo.config.streams import say, tell
from tpo.evaluate.inherit import settings_of_run

ABOUT = """\
A trained policy as a directory that transformers, peft and vLLM load, with a model card.

python -m tpo.export policy=runs/<run> out=exports/mine                   its last policy's adapter; @1: iteration 1's
python -m tpo.export policy=runs/<run> format=merged out=exports/mine     merged into its base, a model of its own
python -m tpo.export policy=runs/<run> out=exports/mine push=me/mine      and to the Hugging Face Hub, private
"""
TAKEN = ("model", "sample", "thought")


def work(config: ExportConfig, hydra: Any) -> Outcome:
    """Export what a job was started with."""
    say(f"loading {config.policy} ...")  # before the imports, which take seconds too
    from tpo.store.open import open_store
    from tpo.use.export import export_policy
    from tpo.use.export_push import push_export

    with open_store(Path(config.artifacts_dir), isolate=config.isolate_stages) as store:
        path = export_policy(config, store)
    if config.push is not None:
        tell(push_export(path, config.push, is_private=config.private))
    return Outcome(path)


if __name__ == "__main__":
    run_entry(
        ExportConfig,
        about=ABOUT,
        check=check_export,
        work=work,
        find_under=partial(settings_of_run, taken=TAKEN),
        kept="",
        then="the directory `out` is there only if the export was complete",
    )
