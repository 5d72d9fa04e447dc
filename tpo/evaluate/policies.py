"""What `policy=` and `baseline=` of an evaluation may name, and what it stands for.

seed                              the model of the group `model`
runs/<run>, runs/<run>@2          a run's policy after its last iteration, or after iteration 2 (0: untrained)
artifacts/train-<hash>/epoch-2    what a training of the group `model` left, an adapter or all its weights
some/directory                    an adapter on the group `model`, as peft saved it
Qwen/Qwen3-0.6B, ./my-model       another model, by Hub name or directory

A run brings its own model, thought format and token budgets; else they are the groups `model`, `thought` and `sample`.
Of the run that is evaluated, these groups hold its own, under those of the command line (`tpo.evaluate.inherit`).
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tpo.config.groups import ModelConfig, SampleConfig
from tpo.config.kinds import load_settings
from tpo.config.thought import ThoughtFormat
from tpo.evaluate.stages import import_adapter
from tpo.model.chat import read_template
from tpo.model.load import ADAPTER_CONFIG, check_adapter
from tpo.model.policy import PolicyRef, is_whole_model, manner_of
from tpo.model.stages import prepare_model
from tpo.results.read import FinishedRun, read_run
from tpo.store.artifacts import MANIFEST, Artifact, Store, open_artifact
from tpo.store.errors import TpoError
from tpo.store.files import file_digest
from tpo.store.job import Job, Metrics


class PolicyError(TpoError):
    """A policy that does not exist or cannot be told apart; says what was looked for."""


class NamedRun(NamedTuple):
    """A run by name, and which of its policies; None: the last."""

    path: Path
    iteration: int | None


def named_run(text: str | None) -> NamedRun | None:
    """Return the run that `policy=` or `baseline=` names, None where it names something else."""
    if text is None:
        return None
    place, _, iteration = text.rpartition("@")
    if place and iteration.isdecimal() and Path(place).is_dir():
        return NamedRun(Path(place), int(iteration))
    return NamedRun(Path(text), None) if (Path(text) / "summary.json").is_file() else None


def find_policy(
    text: str,
    store: Store,
    *,
    model: ModelConfig,
    form: ThoughtFormat,
    sample: SampleConfig,
    has_own_settings: bool = True,
) -> PolicyRef:
    """Return the policy that `text` names (see the module's text).

    Args:
        text: As the user wrote it.
        store: Of all artifacts; a run's adapter is looked for there if it is not where the run left it.
        model: For what is not a run or another model.
        form: For what is not a run.
        sample: For what is not a run.
        has_own_settings: Whether a run brings its own of these three; False where they are the run's already, but for
            what the command line has.

    Raises:
        PolicyError: If it does not exist, or is asked on another model than its own.
    """

    def on(model: ModelConfig, name: str, adapter: Path | None = None) -> PolicyRef:
        policy = PolicyRef(name, prepare_model(store, model), model, form, sample)
        if adapter is None:
            return policy
        check_tokenizer(adapter, policy.model.path / "tokenizer", name=model.name)
        return policy.trained(*_trained(adapter, store))

    manner = manner_of(form)
    if text == "seed":
        return on(model, f"{model.name}, {manner}")
    if (run := named_run(text)) is not None:
        found = _from_run(run, store)
        return found if has_own_settings else _asked_with(found, text, store, model=model, form=form, sample=sample)
    path = Path(text)
    is_trained = is_whole_model(path) and (path.resolve().parent / MANIFEST).is_file()
    if (path / ADAPTER_CONFIG).is_file() or is_trained:
        return on(model, f"{model.name} with {path}, {manner}", path)
    if path.is_dir() and not (path / "config.json").is_file():
        epochs = sorted(
            found.parent.name for name in (ADAPTER_CONFIG, "config.json") for found in path.glob(f"*/{name}")
        )
        hint = f"; name one of its {', '.join(epochs)}" if epochs else ""
        raise PolicyError(f"policy {text}: the directory holds no run, adapter or model{hint}")
    if not path.is_dir() and (path.is_absolute() or text.startswith((".", "runs/", "artifacts/"))):
        raise PolicyError(f"policy {text}: there is no such directory")
    return on(replace(model, source="pretrained", name=text, revision=None), f"{text}, {manner}")


def _from_run(named: NamedRun, store: Store) -> PolicyRef:
    run = read_run(named.path)
    config, number = run.config, _entry(run, named)["iteration"]
    model = ModelConfig(**config["model"])
    policy = PolicyRef(
        name=f"{named.path.name}@{number}",
        model=prepare_model(store, model),
        settings=model,
        form=load_settings(ThoughtFormat, config["thought"]),
        sampling=SampleConfig(**config["sample"]),
    )
    adapter = adapter_of_run(named, store)
    return policy if adapter is None else policy.trained(*_trained(adapter, store))


def _entry(run: FinishedRun, named: NamedRun) -> dict[str, Any]:
    entries = {entry["iteration"]: entry for entry in run.summary["iterations"]}
    number = max(entries) if named.iteration is None else named.iteration
    if number not in entries:
        raise PolicyError(f"policy {named.path}@{number}: the run has iterations {sorted(entries)}")
    found: dict[str, Any] = entries[number]
    return found


def adapter_of_run(named: NamedRun, store: Store) -> Path | None:
    """Return the directory that holds what a run trained, an adapter or a whole model; None where it is untrained.

    Raises:
        PolicyError: If the run has no such iteration, or its artifacts are not at hand.
    """
    run = read_run(named.path)
    entry = _entry(run, named)
    if entry["adapter"] is None:
        return None
    places: list[Path] = [Path(run.config["artifacts_dir"]), store.root]
    found: list[Path] = [place / entry["adapter"] for place in places]
    adapter = next((at for at in found if (at / ADAPTER_CONFIG).is_file() or is_whole_model(at)), None)
    if adapter is None:
        raise PolicyError(
            f"policy {named.path}@{entry['iteration']}: its adapter {entry['adapter']} is neither in "
            f"{' nor in '.join(map(str, dict.fromkeys(places)))}; set artifacts_dir"
        )
    return adapter


def weights_of(text: str, store: Store) -> Path | None:
    """Return the directory of the weights that training left, of the policy that `text` names; None where it is none.

    Raises:
        PolicyError: As `find_policy`.
    """
    if (run := named_run(text)) is not None:
        return adapter_of_run(run, store)
    path = Path(text)
    return path if (path / ADAPTER_CONFIG).is_file() or is_whole_model(path) else None


def _asked_with(
    policy: PolicyRef, text: str, store: Store, *, model: ModelConfig, form: ThoughtFormat, sample: SampleConfig
) -> PolicyRef:
    """Return a run's policy, asked with other settings than the run's; its weights are of one model only."""
    own, other = ((one.source, one.name, one.revision) for one in (policy.settings, model))
    if own != other:
        raise PolicyError(
            f"policy {text}: its weights are of model.name={policy.settings.name}, not {model.name}; take model=... "
            "out of the command, or name another policy"
        )
    return replace(policy, model=prepare_model(store, model), settings=model, form=form, sampling=sample)


def check_tokenizer(adapter: Path, tokenizer: Path, *, name: str) -> None:
    """Raise where a tokenizer that lies beside an adapter is not the model's, with which it is going to be asked.

    Args:
        adapter: Directory, as peft and its users save them.
        tokenizer: Directory of the model's.
        name: Of the model.

    Raises:
        PolicyError: If tokens or chat templates differ.
    """
    theirs, ours = (_tokens_of(place / "tokenizer.json") for place in (adapter, tokenizer))
    if theirs and ours and theirs != ours:
        some = sorted(token for token, _ in theirs ^ ours)[:3]
        raise PolicyError(
            f"policy {adapter}: the tokenizer beside the adapter is not that of model.name={name} (for example "
            f"{', '.join(map(repr, some))}): name the model it was trained on, or one that it was merged into"
        )
    template, own = (place / "chat_template.jinja" for place in (adapter, tokenizer))
    if (
        template.is_file()
        and own.is_file()
        and read_template(template, at=f"policy {adapter}").strip() != read_template(own, at="model.name").strip()
    ):
        raise PolicyError(
            f"policy {adapter}: the chat template beside the adapter is not that of model.name={name}: take it, with "
            f"model.chat_template={template}, or take the file away"
        )


def _tokens_of(path: Path) -> set[tuple[str, int]]:
    """Return the tokens of a tokenizer's file with their ids; none where there is no such file."""
    if not path.is_file():
        return set()
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        added = {(token["content"], token["id"]) for token in read["added_tokens"]}
        vocabulary = read["model"]["vocab"]
        if isinstance(vocabulary, dict):
            return added | set(vocabulary.items())
        return added | {(token, number) for number, (token, _) in enumerate(vocabulary)}  # with scores: Unigram
    except (ValueError, KeyError, TypeError) as error:
        raise PolicyError(f"{path}: not a tokenizer's file ({error!r}): copy or save it again") from error


def _trained(path: Path, store: Store) -> tuple[Artifact, int]:
    """Return artifact and epoch of an adapter or a whole model, imported into the store where it lies in none."""
    home = path.resolve().parent
    if (home / MANIFEST).exists() and home.parent == store.root.resolve():
        return open_artifact(store.root / home.name), int(path.resolve().name.removeprefix("epoch-"))
    if is_whole_model(path):
        raise PolicyError(
            f"policy {path}: this is a whole model, which is not copied from one directory of artifacts to "
            f"another: set artifacts_dir={home.parent}"
        )
    digests = {file.name: file_digest(file) for file in sorted(path.glob("adapter_*")) if file.is_file()}
    if not any(name.startswith("adapter_model.") for name in digests):
        raise PolicyError(
            f"policy {path}: there is {ADAPTER_CONFIG}, but no weights (adapter_model.safetensors): copy or save "
            "the adapter again"
        )
    check_adapter(path)
    return import_adapter(store, path, digests), 1


def work(job: Job) -> Metrics:
    """Import an adapter that was trained elsewhere."""
    source = Path(job.how["path"])
    (job.path / "epoch-1").mkdir(exist_ok=True)
    for name in job.config["files"]:
        shutil.copyfile(source / name, job.path / "epoch-1" / name)
    return {"source": str(source)}
