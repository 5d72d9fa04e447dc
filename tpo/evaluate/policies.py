"""What `policy=` and `baseline=` of an evaluation may name, and what it stands for.

seed                              the model of the group `model`
runs/<run>, runs/<run>@2          a run's policy after its last iteration, or after iteration 2 (0: untrained)
artifacts/train-<hash>/epoch-2    what a training of the group `model` left, an adapter or all its weights
some/directory                    an adapter on the group `model`, as peft saved it
Qwen/Qwen3-0.6B, ./my-model       another model, by Hub name or directory

A run brings its own model, thought format and token budgets; else they are the groups `model`, `thought` and `sample`.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tpo.config.groups import ModelConfig, SampleConfig, ThoughtConfig
from tpo.model.policy import is_whole_model
from tpo.sample.thought import DIRECT, ThoughtFormat, make_format
from tpo.store.artifacts import MANIFEST
from tpo.store.errors import TpoError

ADAPTER_CONFIG = "adapter_config.json"


class PolicyError(TpoError):
    """A policy that does not exist or cannot be told apart; says what was looked for."""


@dataclass(frozen=True)
class NamedPolicy:
    """A policy to evaluate.

    Attributes:
        name: For people.
        model: The seed model: its weights without the adapter.
        form: How it is asked for a thought; `DIRECT` where it is not.
        sample: Token budgets.
        adapter: Directory of the adapter, or of the whole model where all weights were trained; None for the seed
            model.
    """

    name: str
    model: ModelConfig
    form: ThoughtFormat
    sample: SampleConfig
    adapter: Path | None = None


def resolve(
    text: str, *, model: ModelConfig, form: ThoughtFormat, sample: SampleConfig, artifacts_dir: Path
) -> NamedPolicy:
    """Return the policy that `text` names (see the module's text).

    Args:
        text: As the user wrote it.
        model: For what is not a run or another model.
        form: For what is not a run.
        sample: For what is not a run.
        artifacts_dir: Where a run's adapter is looked for if the run's own directory is not here.

    Raises:
        PolicyError: If it does not exist.
    """
    how = "direct" if form == DIRECT else "with a thought"
    if text == "seed":
        return NamedPolicy(f"{model.name}, {how}", model, form, sample)
    place, _, iteration = text.rpartition("@")
    if place and iteration.isdecimal() and Path(place).is_dir():
        return _from_run(Path(place), int(iteration), artifacts_dir=artifacts_dir)
    path = Path(text)
    if (path / "summary.json").is_file():
        return _from_run(path, None, artifacts_dir=artifacts_dir)
    if (path / ADAPTER_CONFIG).is_file() or (is_whole_model(path) and (path.parent / MANIFEST).is_file()):
        return NamedPolicy(f"{model.name} with {path}, {how}", model, form, sample, path)
    if path.is_dir() and not (path / "config.json").is_file():
        epochs = sorted(
            found.parent.name for name in (ADAPTER_CONFIG, "config.json") for found in path.glob(f"*/{name}")
        )
        hint = f"; name one of its {', '.join(epochs)}" if epochs else ""
        raise PolicyError(f"policy {text}: the directory holds no run, adapter or model{hint}")
    if not path.is_dir() and (path.is_absolute() or text.startswith((".", "runs/", "artifacts/"))):
        raise PolicyError(f"policy {text}: there is no such directory")
    other = replace(model, source="pretrained", name=text, revision=None)
    return NamedPolicy(f"{text}, {how}", other, form, sample)


def _from_run(path: Path, iteration: int | None, *, artifacts_dir: Path) -> NamedPolicy:
    config, summary = (_read(path / name) for name in ("config.json", "summary.json"))
    if "iterations" not in summary or "thought" not in config:
        raise PolicyError(f"policy {path}: {path / 'summary.json'} is not the summary of a run of tpo.run")
    entries = {entry["iteration"]: entry for entry in summary["iterations"]}
    number = max(entries) if iteration is None else iteration
    if number not in entries:
        raise PolicyError(f"policy {path}@{number}: the run has iterations {sorted(entries)}")
    adapter = None
    if entries[number]["adapter"] is not None:
        places = [Path(config["artifacts_dir"]), artifacts_dir]
        found = [place / entries[number]["adapter"] for place in places]
        adapter = next((at for at in found if (at / ADAPTER_CONFIG).is_file() or is_whole_model(at)), None)
        if adapter is None:
            raise PolicyError(
                f"policy {path}@{number}: its adapter {entries[number]['adapter']} is neither in "
                f"{' nor in '.join(map(str, dict.fromkeys(places)))}; set artifacts_dir"
            )
    return NamedPolicy(
        name=f"{path.name}@{number}",
        model=ModelConfig(**config["model"]),
        form=make_format(ThoughtConfig(**config["thought"])),
        sample=SampleConfig(**config["sample"]),
        adapter=adapter,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise PolicyError(f"there is no {path}: not the folder of a run that was finished") from error
    except ValueError as error:
        raise PolicyError(f"{path} is damaged: {error}") from error
    return value
