"""Which settings of an engine are part of what is sampled, and how the others reach it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import vllm_settings
from test_config import PLAIN, composed

import tpo.sample.completions
from tpo.config.fields import how, identity
from tpo.config.groups import EngineConfig
from tpo.config.kinds import kinds, load_settings
from tpo.model.conventions import Conventions
from tpo.model.policy import Policy
from tpo.plan.stages import plan_job
from tpo.sample.decoding import switch_to_response
from tpo.sample.engines.vllm import llm_arguments
from tpo.store.artifacts import Artifact
from tpo.store.digests import digests
from tpo.store.errors import TpoError
from tpo.store.job import Job

# What an artifact of each engine is known by. A key more, and everybody's samples are computed again.
IDENTITIES = {
    "torch": {"kind": "torch"},
    "vllm": {
        "kind": "vllm",
        "max_num_seqs": 256,
        "gpu_memory_utilization": 0.9,
        "enforce_eager": False,
        "enable_prefix_caching": True,
        "tensor_parallel_size": 1,
    },
    "server": {"kind": "server"},
}


def engine_settings(*overrides: str) -> EngineConfig:
    plain = [override for override in PLAIN if override != "experiment=smoke"]
    return composed(*plain, *overrides).engine


def test_every_engine_has_an_identity_here() -> None:
    assert set(kinds(EngineConfig)) == {*IDENTITIES, "custom"}


@pytest.mark.parametrize("kind", IDENTITIES)
def test_identity_is_what_is_sampled(kind: str) -> None:
    settings = engine_settings(f"engine={kind}")
    assert identity(settings) == IDENTITIES[kind]
    assert load_settings(EngineConfig, identity(settings), how(settings)) == settings
    assert how(settings) != {}


def sample_steps(*overrides: str) -> list[tuple[str, Any]]:
    stages = plan_job(composed(*PLAIN, "artifacts_dir=nowhere", *overrides)).stages
    return [
        (stage.artifact_id, stage.manifest["config"]["engine"])
        for stage in stages
        if stage.manifest["stage"] == "sample"
    ]


@pytest.mark.parametrize(
    ("engine", "changes"),
    [
        ("torch", ["engine.max_sequences=7", "engine.num_workers=3"]),
        ("vllm", ["engine.data_parallel_size=4"]),
        (
            "server",
            [
                "engine.base_urls=[http://a/v1,http://b/v1]",
                "engine.max_concurrency=9",
                "engine.timeout_s=1",
                "engine.api_key_env=OTHER",
            ],
        ),
    ],
)
def test_where_it_is_sampled_changes_no_artifact(engine: str, changes: list[str]) -> None:
    plain = sample_steps(f"engine={engine}")
    assert plain and all(settings == IDENTITIES[engine] for _, settings in plain)
    assert sample_steps(f"engine={engine}", *changes) == plain


def test_how_vllm_computes_is_part_of_what_is_sampled() -> None:
    plain, others = sample_steps("engine=vllm"), sample_steps("engine=vllm", "engine.max_num_seqs=7")
    assert plain and not {name for name, _ in others} & {name for name, _ in plain}


def test_values_that_vllm_quantizes_are_part_of_what_is_sampled() -> None:
    changes = ("model.quantization=nf4", "model.dtype=bfloat16")
    plain = sample_steps("engine=vllm", *changes)
    held = sample_steps("engine=vllm", *changes, "engine.quantization=bitsandbytes")
    assert [settings.get("quantization") for _, settings in held] == ["bitsandbytes"] * len(plain)
    assert plain and not {name for name, _ in held} & {name for name, _ in plain}


def test_vllm_quantizes_the_weights_that_training_quantizes() -> None:
    policy = Policy("quantized", "abc", "tokenizer", "bfloat16", 64, None, unquantized_path="some/model")
    settings = vllm_settings(quantization="bitsandbytes")
    assert llm_arguments(settings, policy) == llm_arguments(vllm_settings(), policy) | {
        "model": "some/model",
        "quantization": "bitsandbytes",
    }
    with pytest.raises(TpoError, match="engine.quantization=bitsandbytes holds the 4-bit values of a policy with"):
        llm_arguments(settings, replace(policy, unquantized_path=None))


def test_how_reaches_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = engine_settings("engine=server", "engine.max_concurrency=9")
    found: dict[str, Any] = {}
    monkeypatch.setattr(tpo.sample.completions, "write_completions", lambda *_, **given: found.update(given) or {})
    form = {"prompt": "{instruction}", "thought_delimiter": None, "response_delimiter": None, "enforce": "none"}
    config = {
        "split": "test",
        "thought": form,
        "settings": {},
        "engine": identity(settings),
        **{"dtype": "float32", "max_model_len": 64, "epoch": 0},
    }
    named = {"is_embedded": False, "is_quantized": False, "name": "some/model", "revision": None}
    metrics = {**named, **Conventions().to_metrics()}
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "tokenizer").touch()
    files = digests(tmp_path, ["rows.jsonl", "tokenizer"])
    manifest = {"config": {"fingerprint": None}, "metrics": metrics, "files": files}
    inputs = {role: Artifact(f"{role}-1", tmp_path, manifest, is_reused=True) for role in ("prompts", "model")}
    tpo.sample.completions.work(Job(tmp_path, config, inputs, how={"engine": how(settings)}))
    assert found["engine_settings"] == settings and settings.max_concurrency == 9


@pytest.mark.parametrize(
    ("token_ids", "is_delimited", "expected"),
    [
        ([7, 8, 50], True, ([7, 8, 50], 0, 0)),  # the model wrote the delimiter
        ([7, 8], False, ([7, 8, 60, 61], 2, 4)),  # cut by the budget
        ([7, 1], False, ([7, 60, 61], 1, 3)),  # ended before it answered: the response takes the end's place
        ([1], False, ([60, 61], 0, 2)),
        ([], False, ([60, 61], 0, 2)),
    ],
)
def test_switch_to_response(token_ids: list[int], is_delimited: bool, expected: Any) -> None:
    given = list(token_ids)
    found = switch_to_response(token_ids, is_delimited=is_delimited, switch_ids=(60, 61), end_ids=frozenset({1}))
    assert found == expected
    assert token_ids == given and found.token_ids is not token_ids
