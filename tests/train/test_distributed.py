"""Training in several processes on a CPU, through gloo: the same losses as in one."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import patch_environment
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from ranks import fork_ranks, launcher_arguments, shard_on_cpu
from safetensors.torch import load_file
from test_trainer import SETTINGS, make_pair

import tpo.store.execute
import tpo.store.processes.launch
from tpo.config.groups import TEMPLATE_DATE
from tpo.config.schema import register
from tpo.model.load import fingerprint
from tpo.model.stages import MODEL
from tpo.store.artifacts import Artifact, finish
from tpo.store.errors import ArtifactError
from tpo.store.files import write_json
from tpo.store.open import open_store
from tpo.store.records import write_records
from tpo.store.stage import Step
from tpo.store.store import Store
from tpo.train.checkpoints import COMPLETE, MarkComplete
from tpo.train.stages import TRAIN

REPOSITORY = Path(__file__).parents[2]
CONF = REPOSITORY / "conf"
OPTIONS = sorted(path.stem for path in (CONF / "accelerate").glob("*.yaml"))
SEED = 3

# 13 pairs are 7 micro-batches, the last of them smaller: no number of processes divides them, nor the last step's 3.
PAIRS = [make_pair(number, 4 + number, 6 + 2 * number, 40 - number) for number in range(13)]
# Sums are taken in another order, which AdamW's first steps, where little but a gradient's sign counts, make larger:
# measured were 3e-7 for losses and 5e-6 for adapters, at a learning rate of 1e-2.
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 1e-4

register()


def accelerate_config(option: str, num_processes: int = 2) -> dict[str, Any]:
    """The config file of a launch, as the pipeline puts it into a step."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", overrides=["experiment=smoke", f"accelerate={option}"])
    return {**OmegaConf.to_container(composed.accelerate), "num_processes": num_processes}  # type: ignore[dict-item]


def train_step(root: Path, tiny_model: Path, accelerate: dict[str, Any] | None, **changes: Any) -> Step:
    """A training of three epochs, two steps each; model and pairs are made where they are missing."""
    settings = dataclasses.replace(SETTINGS, batch_size=8, num_epochs=3, **changes).identity()
    model = Step(
        "model",
        1,
        {
            "source": "pretrained",
            "name": str(tiny_model),
            "revision": None,
            "dtype": "float32",
            "quantization": settings["quantization"],
            "max_model_len": 1024,
            "chat_template": None,
            "template_arguments": {},
            "template_date": TEMPLATE_DATE,
            "fingerprint": fingerprint(str(tiny_model)),
        },
        work=MODEL.work,
    )
    Store(root, execute=tpo.store.execute.execute).run(model)
    if not (root / "pairs" / "manifest.json").exists():
        (root / "pairs").mkdir()
        write_json(root / "pairs" / "request.json", Step("pairs", 1, {}).to_dict())
        write_records(root / "pairs" / "rows.jsonl", PAIRS)
        finish(root / "pairs", metrics={}, started=0)
    config = {"settings": settings, "dtype": "float32", "max_model_len": 1024, "epoch": 0}
    if accelerate is not None:
        config["accelerate"] = accelerate
    inputs = {"model": model.artifact_id, "pairs": "pairs"}
    return Step("train", 1, config, inputs, SEED, work=TRAIN.work, processes=accelerate)


def train_in_one(root: Path, tiny_model: Path, **changes: Any) -> Artifact:
    with open_store(root) as store:
        return store.run(train_step(root, tiny_model, None, **changes))


def train_in_several(
    root: Path,
    tiny_model: Path,
    accelerate: dict[str, Any],
    *,
    prepare: Callable[[], None] = lambda: None,
    **changes: Any,
) -> Artifact:
    store = Store(root, execute=lambda path: fork_ranks(path, root, prepare=prepare))
    return store.run(train_step(root, tiny_model, accelerate, **changes))


def history(artifact: Artifact) -> list[dict[str, float]]:
    return [json.loads(line) for line in (artifact.path / "metrics.jsonl").read_text().splitlines()]


def weights(artifact: Artifact, epoch: int) -> dict[str, torch.Tensor]:
    (path,) = (artifact.path / f"epoch-{epoch}").glob("*.safetensors")
    return load_file(path)


def assert_same_training(
    found: Artifact, expected: Artifact, *, loss: float = LOSS_TOLERANCE, weight: float = WEIGHT_TOLERANCE
) -> None:
    rows, expected_rows = history(found), history(expected)
    assert len(rows) == len(expected_rows) == 6
    assert rows[-1]["loss"] < 0.3, "nothing was learned, so nothing could differ"
    for key in ("loss", "grad_norm", "rewards/margins", "rewards/accuracies", "logps/chosen", "learning_rate"):
        scale = 1000 if key == "logps/chosen" else 10 if key == "grad_norm" else 1
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in expected_rows], abs=scale * loss), key
    for epoch in (1, 2, 3):
        trained, reference = weights(found, epoch), weights(expected, epoch)
        assert trained.keys() == reference.keys()
        for name in trained:
            torch.testing.assert_close(trained[name], reference[name], atol=weight, rtol=0)
    assert found.manifest["files"].keys() == expected.manifest["files"].keys()
    assert found.metrics.keys() == expected.metrics.keys()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def alone(root: Path, tiny_model: Path) -> Artifact:
    """The training in one process."""
    return train_in_one(root, tiny_model)


# The same training


@pytest.mark.parametrize("num_processes", [2, 4])
def test_several_processes_train_as_one(root: Path, tiny_model: Path, alone: Artifact, num_processes: int) -> None:
    assert_same_training(train_in_several(root, tiny_model, accelerate_config("ddp", num_processes)), alone)


def test_several_processes_share_the_nll_term_as_one(root: Path, tiny_model: Path) -> None:
    changes = {"nll_weight": 0.5, "loss_on": "response"}
    one = history(train_in_one(root, tiny_model, **changes))
    two = history(train_in_several(root, tiny_model, accelerate_config("ddp", 2), **changes))
    assert one[0]["nll_loss"] > 1
    for key in ("loss", "nll_loss", "rewards/margins"):
        assert [row[key] for row in two] == pytest.approx([row[key] for row in one], abs=10 * LOSS_TOLERANCE), key


def require_fused_layers() -> None:
    """Fail at the start of training unless its 4-bit layers are computed by one process's kernels."""

    def on_train_begin(self: Any, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        layers = [module for module in model.modules() if type(module).__name__ == "Linear4bit"]
        adapted = [module for module in layers if hasattr(module, "lora_A")]
        assert adapted and all(isinstance(module.forward, partial) for module in adapted)

    MarkComplete.on_train_begin = on_train_begin  # type: ignore[method-assign]


@pytest.mark.slow
def test_whole_4_bit_models_in_several_processes_train_as_one(root: Path, tiny_model: Path) -> None:
    one = train_in_one(root, tiny_model, quantization="nf4")
    two = train_in_several(root, tiny_model, accelerate_config("ddp"), prepare=require_fused_layers, quantization="nf4")
    assert_same_training(two, one)


def require_shards() -> None:
    """Fail at the start of training unless the 4-bit weights and the adapter are cut in halves."""
    shard_on_cpu()

    def on_train_begin(self: Any, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        kinds = set()
        for name, parameter in model.named_parameters():
            kind = "lora" if "lora_" in name else "base" if "base_layer.weight" in name else ""
            if kind:
                assert 2 * parameter.to_local().numel() == parameter.numel(), name
                kinds.add(kind)
        assert kinds == {"lora", "base"}

    MarkComplete.on_train_begin = on_train_begin  # type: ignore[method-assign]


def test_shards_of_a_4_bit_model_train_as_the_whole(root: Path, tiny_model: Path) -> None:
    changes: dict[str, Any] = {"quantization": "nf4", "gradient_checkpointing": True}
    sharded = train_in_several(root, tiny_model, accelerate_config("fsdp"), prepare=require_shards, **changes)
    assert_same_training(sharded, train_in_one(root, tiny_model, **changes))


@pytest.mark.parametrize("option", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_all_weights_are_trained_as_in_one_process(root: Path, tiny_model: Path, option: str) -> None:
    changes: dict[str, Any] = {"lora_rank": 0, "learning_rate": 3e-4}
    prepare = {"ddp": lambda: None, "fsdp": shard_on_cpu}[option]
    several = train_in_several(root, tiny_model, accelerate_config(option), prepare=prepare, **changes)
    one = train_in_one(root, tiny_model, **changes)
    assert_same_training(several, one)
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert several.manifest["files"][f"epoch-3/{name}"] == one.manifest["files"][f"epoch-3/{name}"]


def kill_in_second_epoch() -> None:
    shard_on_cpu()

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            os._exit(9)

    MarkComplete.on_step_end = on_step_end  # type: ignore[method-assign]


def require_resumed() -> None:
    shard_on_cpu()

    def on_train_begin(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert state.global_step == 2, "the first epoch is trained again"

    MarkComplete.on_train_begin = on_train_begin  # type: ignore[method-assign]


@pytest.mark.slow
def test_resumed_shards_equal_uninterrupted_ones(root: Path, tiny_model: Path) -> None:
    accelerate = accelerate_config("fsdp")
    with pytest.raises(AssertionError, match="failed"):
        train_in_several(root, tiny_model, accelerate, prepare=kill_in_second_epoch)
    resumed = train_in_several(root, tiny_model, accelerate, prepare=require_resumed)
    # What nothing reads gives the step another name.
    again = train_in_several(root, tiny_model, accelerate | {"machine_rank": 0}, prepare=shard_on_cpu)
    assert_same_training(resumed, again, loss=0, weight=0)
    assert history(resumed) == history(again)


# The real launch: store, accelerate's launcher, tpo.store.execute

RUN_STEP = """
import json, sys
from pathlib import Path
from tpo.store.stage import Step
from tpo.store.open import open_store
with open_store(Path(sys.argv[1])) as store:
    store.run(Step(**json.loads(sys.argv[2])))
"""


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory that new processes import from, besides the repository."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPOSITORY}")
    return tmp_path


def processes_on(path: Path) -> list[str]:
    """The command lines of all processes that work on an artifact's directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if str(path) in command:
            found.append(command)
    return found


def assert_soon(condition: Callable[[], bool], *, seconds: float, message: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_launched_training_survives_a_kill(root: Path, tiny_model: Path, alone: Artifact, importable: Path) -> None:
    step = train_step(root, tiny_model, accelerate_config("ddp") | {"machine_rank": 0})
    path = root / step.artifact_id
    arguments = [sys.executable, "-c", RUN_STEP, str(root), json.dumps(dataclasses.asdict(step))]
    with subprocess.Popen(arguments, start_new_session=True) as process:
        saved = path / "checkpoints" / "checkpoint-2" / COMPLETE
        assert_soon(lambda: saved.exists() or process.poll() is not None, seconds=600, message="nothing was saved")
        os.killpg(process.pid, signal.SIGKILL)
    assert not (path / "manifest.json").exists(), "too late"
    assert_soon(lambda: not processes_on(path), seconds=10, message=f"left over: {processes_on(path)}")
    with open_store(root) as store:
        assert_same_training(store.run(step), alone)
    assert not list(path.glob("*.tmp")) and not (path / "checkpoints").exists()


FAILING_STAGE = """
import os
import tpo.store.execute, tpo.train.trainer
def fail(*arguments):
    if os.environ["RANK"] == "1":
        raise tpo.train.settings.TrainingError("rank 1 has had enough")
    return micro_batches(*arguments)
micro_batches, tpo.train.trainer.micro_batches = tpo.train.trainer.micro_batches, fail
tpo.store.execute.main()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_error_of_one_rank_ends_them_all(
    root: Path, tiny_model: Path, importable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (importable / "failing_stage.py").write_text(FAILING_STAGE)
    monkeypatch.setattr(tpo.store.processes.launch, "STAGE", "failing_stage")
    step = train_step(root, tiny_model, accelerate_config("ddp") | {"machine_rank": 0}, beta=0.2)
    with open_store(root) as store, pytest.raises(ArtifactError, match="failed .exit 1.: rank 1 has had enough"):
        store.run(step)
    assert not processes_on(root / step.artifact_id)
    assert not (root / step.artifact_id / "manifest.json").exists()


def test_step_of_several_processes_is_not_executed_by_one(root: Path, tiny_model: Path) -> None:
    step = train_step(root, tiny_model, accelerate_config("ddp"), beta=0.3)
    with pytest.raises(ArtifactError, match="train.num_processes=2, but 1 were started"):
        Store(root, execute=tpo.store.execute.execute).run(step)


# What accelerate makes of the group


def test_every_option_is_tested() -> None:
    assert OPTIONS == ["ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp"]


@pytest.mark.parametrize("option", OPTIONS)
def test_accelerate_knows_every_key(option: str, tmp_path: Path) -> None:
    # It ignores those that it does not know.
    arguments = vars(launcher_arguments(accelerate_config(option, 3), tmp_path))
    assert arguments["num_processes"] == 3
    assert arguments["mixed_precision"] == "no", "weights are in the dtype to compute in"
    chosen = {name for name in ("multi_gpu", "use_fsdp", "use_deepspeed") if arguments[name]}
    assert chosen == {{"ddp": "multi_gpu", "fsdp": "use_fsdp"}.get(option, "use_deepspeed")}
    config = accelerate_config(option)
    for key, value in {**config.get("fsdp_config", {}), **config.get("deepspeed_config", {})}.items():
        assert str(arguments[key]).lower() == str(value).lower(), key


def test_fsdp_plugin(tmp_path: Path) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    environment = prepare_multi_gpu_env(launcher_arguments(accelerate_config("fsdp"), tmp_path))
    with patch_environment(**environment):
        plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
    assert plugin.cpu_ram_efficient_loading is False
    assert plugin.mixed_precision_policy is None
    assert type(plugin.cpu_offload).__name__ == "OffloadPolicy", "offloads nothing"


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_deepspeed_plugin(stage: int, precision: str, tmp_path: Path) -> None:
    # The package is not needed for this.
    from accelerate.utils import DeepSpeedPlugin
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    _, environment = prepare_deepspeed_cmd_env(
        launcher_arguments(accelerate_config(f"deepspeed_zero{stage}"), tmp_path)
    )
    with patch_environment(**environment):
        plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision(precision)  # as transformers does from its arguments
    zero = plugin.deepspeed_config["zero_optimization"]
    assert zero["stage"] == stage
    assert (zero["offload_optimizer"]["device"], zero["offload_param"]["device"]) == ("none", "none")
    assert zero["stage3_gather_16bit_weights_on_model_save"] == (stage == 3)
    assert plugin.zero3_init_flag is False
    assert plugin.deepspeed_config["bf16"]["enabled"] == (precision == "bf16")
    assert plugin.deepspeed_config["gradient_accumulation_steps"] == "auto", "transformers fills it in"
    assert "optimizer" not in plugin.deepspeed_config, "it is handed over"
