"""What `policy=` and `baseline=` of an evaluation may name, and what it stands for.

seed                              the model of the group `model`
runs/<run>, runs/<run>@2          a run's policy after its last iteration, or after iteration 2 (0: untrained)
artifacts/train-<hash>/epoch-2    what a training of the group `model` left, an adapter or all its weights
some/directory                    an adapter on the group `model`, as peft saved it, or what tpo.export wrote
Qwen/Qwen3-0.6B, ./my-model       another model, by Hub name or directory

A run or an export brings its own model, thought format and token budgets; else they are the groups `model`, `thought`
and `sample`. Of the one that is evaluated, these groups hold its own, under those of the command line
(`tpo.evaluate.inherit`).
"""

import json
from dataclasses import replace
from pathlib import Path

from tpo.config.groups import ModelConfig, SampleConfig
from tpo.config.kinds import load_settings
from tpo.config.thought import ThoughtFormat
from tpo.evaluate.seeds import find_seed, seed_policy
from tpo.evaluate.trained import (
    NamedRun,
    PolicyError,
    adapter_of_run,
    iteration_of_run,
    named_run,
    require_directory,
    trained_artifact,
)
from tpo.model.chat import read_template
from tpo.model.exported import BASE_TEMPLATE, read_export
from tpo.model.load import ADAPTER_CONFIG
from tpo.model.policy import PolicyRef, is_whole_model, manner_of
from tpo.model.stages import prepare_model
from tpo.results.read import read_run
from tpo.store.layout import MANIFEST
from tpo.store.store import Store


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
        model: For what is not a run, an export or another model.
        form: For what is not a run or an export.
        sample: For what is not a run or an export.
        has_own_settings: Whether a run or an export brings its own of these three; False where they are its already,
            but for what the command line has.

    Raises:
        PolicyError: If it does not exist, or is asked on another model than its own.
    """

    def on(model: ModelConfig, name: str, adapter: Path | None = None) -> PolicyRef:
        policy = replace(seed_policy(store, model, form=form, sampling=sample), name=name)
        if adapter is None:
            return policy
        check_tokenizer(adapter, policy.model.path / "tokenizer", name=model.name)
        return policy.trained(*trained_artifact(adapter, store))

    if has_own_settings and (export := read_export(text)) is not None:
        model, form, sample = export.model_config, export.form, export.sampling
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
    require_directory(text, at="policy ")
    return on(replace(model, source="pretrained", name=text, revision=None), f"{text}, {manner}")


def _from_run(named: NamedRun, store: Store) -> PolicyRef:
    run = read_run(named.path)
    config, number = run.config, iteration_of_run(run, named)["iteration"]
    seed = seed_policy(
        store,
        ModelConfig(**config["model"]),
        form=load_settings(ThoughtFormat, config["thought"]),
        sampling=SampleConfig(**config["sample"]),
    )
    policy = replace(seed, name=f"{named.path.name}@{number}")
    adapter = adapter_of_run(named, store)
    return policy if adapter is None else policy.trained(*trained_artifact(adapter, store))


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
    prepared = prepare_model(store, find_seed(model, store).model)
    return replace(policy, model=prepared, settings=model, form=form, sampling=sample)


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
    template, own = adapter / "chat_template.jinja", tokenizer / "chat_template.jinja"
    if read_export(adapter) is not None:  # whose tokenizer has one that carries the thought prompt
        template = adapter / BASE_TEMPLATE
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
