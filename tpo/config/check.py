"""The rules that settings of several groups must satisfy together, checked before anything is loaded or sampled.

What concerns one group stands in its dataclass (`tpo.config.fields.check_fields` calls it).
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tpo.config.fields import ConfigError, check_fields
from tpo.config.schema import (
    AgreementConfig,
    Config,
    Entry,
    EvaluateConfig,
    ExportConfig,
    SamplingEntry,
    UseEntry,
    flatten,
)
from tpo.store.processes.cores import AUTO
from tpo.store.secrets import is_secret_name, is_secret_setting, why_secret

WRITTEN = "and settings are written down: take it out; a key comes from the environment variable that api_key_env names"


def check(config: Config, *, with_packages: bool = True) -> None:
    """Raise on settings of a run that could only fail later, when hours may have been spent.

    Args:
        config: Of the run.
        with_packages: Whether what needs a package that is not installed is an error.

    Raises:
        ConfigError: Naming the keys and what to do.
    """
    check_entry(config, with_packages=with_packages)
    sample, prompts = config.sample, config.prompts
    if sample.num_samples < 2:
        raise ConfigError(f"sample.num_samples={sample.num_samples}: a pair needs at least 2 samples per instruction")
    if not sample.temperature > 0:
        raise ConfigError("sample.temperature must be above 0: greedy samples of one instruction are all equal")
    if config.train.select == "validation" and config.train.num_epochs > 1 and prompts.num_validation == 0:
        raise ConfigError(
            "train.select=validation needs validation instructions: set prompts.num_validation above 0, or "
            "train.select=last"
        )
    _check_second_judge(config)
    _check_checks(config)
    _check_training(config)
    quantization = getattr(config.engine, "quantization", "none")
    if quantization != "none" and config.model.quantization != "nf4":
        raise ConfigError(
            f"engine.quantization={quantization} samples from 4-bit values, but model.quantization="
            f"{config.model.quantization} trains others: set model.quantization=nf4 or engine.quantization=none"
        )
    budget = sample.max_thought_tokens + sample.max_response_tokens
    if budget >= config.model.max_model_len:
        raise ConfigError(
            f"sample.max_thought_tokens + sample.max_response_tokens = {budget} leaves no room for the prompt in "
            f"model.max_model_len={config.model.max_model_len}"
        )
    if config.eval.seen != "refuse":
        raise ConfigError(
            f"eval.seen={config.eval.seen} is for python -m tpo.evaluate: a run's training never sees its test "
            "instructions"
        )
    if config.eval.kind != "held_out":
        raise ConfigError(
            f"eval={config.eval.kind} is for python -m tpo.evaluate; within a run policies are compared on held-out "
            "instructions, eval=held_out"
        )


def check_search(config: Config) -> None:
    """Raise where a search (`hydra/sweeper=tpe`) would have nothing to compare its trials by: `tpo.run.objective`.

    Raises:
        ConfigError: Naming the key and what to do.
    """
    what = "hydra/sweeper: a search compares trials by the judge's mean score on the validation instructions"
    if config.judge.is_comparative:
        raise ConfigError(
            f"{what}, and a score by judge={config.judge.kind} means something only beside those judged with it: use a "
            "judge that scores each response by itself, or sweep a grid"
        )
    for key, value, is_enough in (
        ("train.select", config.train.select, config.train.select == "validation"),
        ("train.num_epochs", config.train.num_epochs, config.train.num_epochs > 1),
        ("num_iterations", config.num_iterations, config.num_iterations > 0),
    ):
        if not is_enough:
            raise ConfigError(
                f"{what}, and with {key}={value} there is none: a search needs train.select=validation, more than one "
                "epoch and at least one iteration"
            )


def check_evaluate(config: EvaluateConfig) -> None:
    """Raise on settings of an evaluation that could only fail later.

    Raises:
        ConfigError: Naming the keys and what to do.
    """
    check_entry(config)
    _check_second_judge(config)
    if config.eval.kind == "held_out":
        _check_checks(config)
    if config.eval.kind == "arena_hard" and config.judge.kind != "llm_pairwise":
        raise ConfigError(
            f"eval=arena_hard scores games, which judge={config.judge.kind} does not play: use a pairwise judge"
        )


def check_use(config: UseEntry) -> None:
    """Raise on settings of chat or serve that could only fail later.

    Raises:
        ConfigError: Naming the key and what to do.
    """
    check_entry(config)
    workers = getattr(config.engine, "num_workers", AUTO)
    if workers not in (AUTO, 1):
        raise ConfigError(
            f"engine.num_workers={workers}: chat and serve decode all sequences together in one process, with all "
            f"threads: set it to 1 or {AUTO}"
        )


def check_entry(config: Entry, *, with_packages: bool = True) -> None:
    """Raise on settings of any entry point that could only fail later, each group by itself.

    Args:
        config: Of the entry point.
        with_packages: Whether what needs a package that is not installed is an error.

    Raises:
        ConfigError: Naming the key and what to do.
    """
    values = flatten(dataclasses.asdict(config))
    check_secrets(values)
    check_text(values)
    check_fields(config, with_packages=with_packages)


def check_composed(config: DictConfig, *, at: str = "") -> None:
    """Raise a ConfigError on what must not be written down in what Hydra composed, its own node among the rest.

    Looked at is what is written, and what interpolations stand for as far as that is known yet.

    Args:
        config: All, or the node at the key `at`, which ends with a dot.
        at: Where the node stands.
    """
    check_secrets(dict(_leaves(config, OmegaConf.to_container(config, resolve=False), at)))


def _leaves(node: DictConfig | ListConfig, written: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield keys and values of a composed config; of an interpolation, as a list, its text and what it stands for.

    Args:
        node: The config.
        written: The same as dictionaries and lists, with interpolations as texts.
        prefix: Of the keys.
    """
    items = written.items() if isinstance(written, dict) else enumerate(written or ())
    for key, text in items:
        name = f"{prefix}{key!s}"
        if not OmegaConf.is_interpolation(node, key):
            value = None if OmegaConf.is_missing(node, key) else node[key]
            if isinstance(value, DictConfig | ListConfig):
                yield from _leaves(value, text, f"{name}.")
            else:
                yield name, value
            continue
        try:
            yield name, [text, str(node[key])]
        except (OmegaConfBaseException, ValueError):  # what it stands for has no value yet, or never
            yield name, text


def check_secrets(values: dict[str, Any]) -> None:
    """Raise a ConfigError on what must not be written down, as settings (by dotted key) are, without showing it."""
    for key, value in values.items():
        texts = _texts(value)
        if why := why_secret(key):
            raise ConfigError(f"the name of a setting holds {why}, {WRITTEN}")
        for why in filter(None, map(why_secret, texts)):
            raise ConfigError(f"{key} holds {why}, {WRITTEN}")
        for name in [name for text in texts for name in _copied(text)]:
            raise ConfigError(f"{key} holds the value of the environment variable {name}, {WRITTEN}")
        is_given = value not in (None, "", MISSING)
        if is_given and (_is_secret_key(key) or (".env_set." in key and is_secret_name(key.partition(".env_set.")[2]))):
            raise ConfigError(f"{key} is the name of a secret, and holds a value, {WRITTEN}")
        if key.rpartition(".")[2] == "api_key_env" and not re.fullmatch("[A-Z_][A-Z0-9_]*", str(value)):
            raise ConfigError(f"{key}: expected the name of an environment variable, in capitals, not the key itself")


def _is_secret_key(key: str) -> bool:
    """Return whether a dotted key, or that of a group which it is in, says that its value is a secret."""
    return any(map(is_secret_setting, key.split(".")))


def _copied(text: str) -> list[str]:
    """Return the environment variables with a secret that a text's interpolations copy."""
    return [name for name in re.findall(r"\$\{\s*oc\.(?:env|decode)\s*:\s*(\w+)", text) if is_secret_name(name)]


def check_text(values: dict[str, Any]) -> None:
    """Raise a ConfigError on a setting with what no file or path can hold: a lone surrogate, or NUL."""
    for key, text in ((key, text) for key, value in values.items() for text in _texts(value)):
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            raise ConfigError(f"{key} holds half of a surrogate pair, which is no text: take it out")
        if "\0" in text:
            raise ConfigError(f"{key} holds the character NUL, which no path or file of text can: take it out")


def _texts(value: Any) -> list[str]:
    """Return the texts in a setting, its keys and its numbers as texts among them."""
    if isinstance(value, dict):
        return [text for item in value.items() for text in _texts(list(item))]
    return [text for item in value for text in _texts(item)] if isinstance(value, list | tuple) else [str(value)]


def check_words(words: Sequence[str]) -> None:
    """Raise a ConfigError on a secret on the command line, or on what is no text, before anything quotes the word.

    Args:
        words: As they were typed; those that hold "=" are settings.
    """
    for number, word in enumerate(words, start=1):
        key, is_setting, value = word.lstrip("+~").partition("=")
        where = key if is_setting and why_secret(key) is None and re.fullmatch(r"[\w./@-]+", key) else f"word {number}"
        if why := why_secret(word):
            raise ConfigError(f"{where} holds {why}, {WRITTEN}")
        if any("\ud800" <= sign <= "\udfff" for sign in word):
            raise ConfigError(f"{where} is not UTF-8: type it in a terminal that writes UTF-8")
        for name in _copied(value):
            raise ConfigError(f"{where} holds the value of the environment variable {name}, {WRITTEN}")
        if value.strip("'\"") not in ("", "null") and _is_secret_key(key):
            raise ConfigError(f"{where} is the name of a secret, and holds a value, {WRITTEN}")


def _check_second_judge(config: SamplingEntry) -> None:
    if dataclasses.asdict(config.eval).get("judge") == dataclasses.asdict(config.judge):
        raise ConfigError(
            f"eval.judge is the judge that the run has already, judge={config.judge.kind}, and would repeat what it "
            "says: choose another, judge@eval.judge=<option>, or leave it out"
        )


def _check_checks(config: SamplingEntry) -> None:
    """Raise where a judge scores by checks that the instructions have not."""
    judges = {"judge": config.judge, "eval.judge": getattr(config.eval, "judge", None)}
    for key, judge in judges.items():
        if asks_checks(judge) and not config.prompts.has_checks:
            raise ConfigError(
                f"{key}=checked scores by an instruction's own checks, which prompts={config.prompts.kind} has not: "
                "use prompts=checked, an answer_field, or another judge (judge=self_rating); a class of your own says "
                "that its rows have checks by an attribute has_checks = True"
            )


def asks_checks(judge: Any) -> bool:
    """Return whether a judge, or a member of an ensemble, scores by the instructions' own checks."""
    if judge is None:
        return False
    return judge.kind == "checked" or any(map(asks_checks, getattr(judge, "members", {}).values()))


def check_agreement(config: AgreementConfig) -> None:
    """Raise on settings of a measurement of a judge that could only fail later.

    Raises:
        ConfigError: Naming the keys and what to do.
    """
    check_entry(config)
    if asks_checks(config.judge):
        raise ConfigError("judge=checked has no say on labelled preferences, whose instructions have no checks")


def check_export(config: ExportConfig) -> None:
    """Raise on settings of an export that could only fail later.

    Raises:
        ConfigError: Naming the keys and what to do.
    """
    check_entry(config)
    if Path(config.out).exists():
        raise ConfigError(f"out={config.out} exists already, and nothing is overwritten: name another directory")
    if config.push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", config.push):
        raise ConfigError(f"push={config.push}: expected the name of a repository to make, organization/name")


def _check_training(config: Config) -> None:
    train, kind = config.train, config.accelerate.distributed_type
    if train.num_processes == 1 and kind != "MULTI_GPU":
        raise ConfigError(f"accelerate shards the model ({kind}), but train.num_processes=1: give it a number above 1")
    if train.loss_on == "thought" and not config.thought.has_thought:
        raise ConfigError(
            f"train.loss_on=thought, but thought={config.thought.name} asks for direct answers, which hold none: set "
            "train.loss_on=all, or choose another thought format"
        )
    if not train.is_full:
        return
    if config.model.quantization != "none":
        raise ConfigError(
            f"train.method=full trains weights that model.quantization={config.model.quantization} fixes: set none"
        )
    if config.engine.kind == "server":
        raise ConfigError(
            "train.method=full makes new models, but a server (engine=server) serves one: use engine=vllm or torch"
        )
