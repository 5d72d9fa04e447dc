"""vLLM against the torch engine. Each engine runs in a process of its own, as in the pipeline."""

import json
import os
import shutil
import signal
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import make_model, vllm_settings
from real_vllm import forking_engine, forking_judge, run_script
from test_torch_engine import DELIMITER, GREEDY, generate, make_adapter, make_engine, random_prompts, switching

from tpo.judge.llm.ask import LLM
from tpo.judge.llm.local import LocalBackend
from tpo.judge.llm.question import FIRST_TOKEN, Question
from tpo.judge.llm.settings import LLMConfig, LocalLLMConfig
from tpo.model.chat import Chat, load_tokenizer
from tpo.model.load import load_model
from tpo.model.policy import Policy
from tpo.model.prepare import save_quantized
from tpo.sample.engines.vllm import VllmWorkers
from tpo.sample.sources.builtin import load_builtin
from tpo.store.errors import TpoError
from tpo.store.processes import kept as kept_module
from tpo.store.processes.vllm import engine_peaks_mib

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

# For one policy after the other: greedy for the comparison, then sampled thoughts with the forced switch.
SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from test_torch_engine import generate
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding
from tpo.sample.engines.vllm import VllmEngine, VllmEngineConfig
request = json.loads(sys.argv[1])
results, engines = [], []
for adapter in request["adapters"]:
    policy = Policy(request["model"], None, request["tokenizer"], "float32", 512, Path(adapter) if adapter else None)
    settings = VllmEngineConfig(**request["config"])
    engines.append(VllmEngine(settings, policy, end_ids=frozenset(request["end_ids"]), seed=2**62))
    results.append([])
    for decoding, num_samples in zip(request["decodings"], request["num_samples"]):
        if decoding["switch_ids"] is not None:
            decoding["switch_ids"] = tuple(decoding["switch_ids"])
        seeds = [[0] * num_samples] * len(request["prompts"])
        groups = generate(engines[-1], request["prompts"], seeds=seeds, decoding=Decoding(**decoding))
        results[-1].append([[asdict(generation) for generation in group] for group in groups])
assert len({id(engine.llm) for engine in engines}) == 1
Path(request["out"]).write_text(json.dumps(results))
"""


def run_vllm(
    model: Path, adapters: list[Path | None], prompts: list[list[int]], decodings: list[Any], out: Path
) -> Any:
    weights = out.parent / "weights"  # as the model stage leaves a quantized policy: the tokenizer lies elsewhere
    shutil.copytree(model, weights, ignore=shutil.ignore_patterns("tokenizer*", "chat_template*"))
    request = {
        "model": str(weights),
        "tokenizer": str(model),
        "adapters": [str(adapter) if adapter else None for adapter in adapters],
        "config": asdict(vllm_settings(gpu_memory_utilization=0.15)),
        "end_ids": END_IDS,
        "decodings": [vars(decoding) for decoding in decodings],
        "num_samples": [2, 3],
        "prompts": prompts,
        "out": str(out),
    }
    run_script(SCRIPT, json.dumps(request), folder=out.parent)
    return json.loads(out.read_text())


END_IDS = [1, *range(5, 30)]  # many, so that some sequences stop


@pytest.mark.parametrize("has_adapter", [False, True], ids=["seed_model", "adapter"])
def test_vllm_generates_what_the_torch_engine_does(wide_model: Path, tmp_path: Path, has_adapter: bool) -> None:
    pytest.importorskip("vllm")
    adapters = [make_adapter(wide_model, tmp_path / f"adapter-{seed}", seed=seed) for seed in range(2)]
    policies: list[Path | None] = [*adapters, adapters[0]] if has_adapter else [None, None]
    prompts = random_prompts(0, lengths=(2, 9, 33, 64, 90))
    switch = switching(load_tokenizer(wide_model), thought=6, response=7)
    found = run_vllm(wide_model, policies, prompts, [GREEDY, switch], tmp_path / "out.json")
    (greedy, sampled), (again, sampled_again) = found[0], found[-1]
    assert greedy == again
    starts = [samples[0][0]["token_ids"][0] for samples in (sampled, sampled_again)]
    assert starts[0] == starts[1], "the random stream begins anew"
    expected = []
    for adapter, (group, _) in zip(policies, found, strict=True):
        engine = make_engine(wide_model, adapter_path=adapter, end_ids=END_IDS)
        expected.append(generate(engine, prompts, seeds=[[0]] * len(prompts), decoding=GREEDY))
        assert group == [[vars(wanted)] * 2 for (wanted,) in expected[-1]]
    if has_adapter:
        base = make_engine(wide_model, end_ids=END_IDS)
        assert generate(base, prompts, seeds=[[0]] * len(prompts), decoding=GREEDY) not in expected
        assert expected[0] != expected[1]
    else:
        assert {wanted.finish_reason for (wanted,) in expected[0]} == {"stop", "length"}
    assert switch.switch_ids is not None
    assert DELIMITER in load_tokenizer(wide_model).decode(switch.switch_ids)
    flat = [generation for group in sampled for generation in group]
    assert len(flat) == 15
    for generation in flat:
        ids, start, stop = (generation[key] for key in ("token_ids", "forced_start", "forced_stop"))
        assert tuple(ids[start:stop]) == switch.switch_ids
        ends = [at for at, token in enumerate(ids) if token in END_IDS and not start <= at < stop]
        assert start <= 6
        assert ends == ([len(ids) - 1] if generation["finish_reason"] == "stop" else [])
        assert 1 <= len(ids) - stop <= 7
        assert generation["finish_reason"] == "stop" or len(ids) - stop == 7
    assert len({tuple(generation["token_ids"]) for generation in flat}) > 5, "samples differ"


QUANTIZED = """
import json, sys
from functools import partial
from pathlib import Path
from conftest import vllm_settings
from real_vllm import holds_values
from test_torch_engine import GREEDY, generate
from tpo.model.policy import Policy
from tpo.sample.engines.vllm import VllmEngine
root, adapter = Path(sys.argv[1]), Path(sys.argv[2])
policy = Policy(
    str(root / "quantized"), None, str(root / "source"), "bfloat16", 256, adapter, unquantized_path=str(root / "source")
)
engine = VllmEngine(vllm_settings(quantization="bitsandbytes"), policy, end_ids=frozenset({1}), seed=0)
[group] = generate(engine, [[5, 6, 7]], seeds=[[0]], decoding=GREEDY)
[found] = engine.llm.apply_model(partial(holds_values, saved=root / "quantized" / "model.safetensors"))
(root / "found.json").write_text(json.dumps([found, list(group[0].token_ids)]))
"""


def test_vllm_in_4_bits_holds_the_values_that_are_trained(tmp_path: Path) -> None:
    """Bit for bit, through vllm-bnb-plugin; and it samples with an adapter on them."""
    pytest.importorskip("vllm")
    pytest.importorskip("vllm_bnb_plugin")
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64}
    load_model(make_model(tmp_path / "made", **sizes), revision=None, dtype="bfloat16").save_pretrained(
        tmp_path / "source"
    )
    load_tokenizer(tmp_path / "made").save_pretrained(tmp_path / "source")
    adapter = make_adapter(tmp_path / "source", tmp_path / "adapter")
    save_quantized(tmp_path / "source", tmp_path / "quantized", revision=None, dtype="bfloat16", quantization="nf4")
    allowed = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    run_script(QUANTIZED, str(tmp_path), str(adapter), folder=tmp_path, environment=allowed)
    found, token_ids = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 2 * 4 and all(found.values()), found  # of each layer qkv, o, gate and up, down
    assert 1 <= len(token_ids) <= GREEDY.max_tokens


def test_several_engines_generate_what_one_does(
    wide_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    adapter = make_adapter(wide_model, tmp_path / "adapter")
    prompts = random_prompts(0, lengths=(2, 9, 33, 64, 90))
    alone = make_engine(wide_model, adapter_path=adapter, end_ids=END_IDS)
    expected = generate(alone, prompts, seeds=[[0]] * len(prompts), decoding=GREEDY)
    config = vllm_settings(gpu_memory_utilization=0.05, data_parallel_size=2)
    monkeypatch.setattr(kept_module, "_kept", None)
    monkeypatch.setattr("tpo.sample.engines.vllm.vllm_stream", forking_engine)
    policy = Policy(str(wide_model), None, str(wide_model), "float32", 512, adapter)
    chat = Chat(None, frozenset(END_IDS))
    engine = config.make(policy, chat=chat, max_len=200, seed=2**62)
    assert isinstance(engine, VllmWorkers)
    try:
        assert generate(engine, prompts, seeds=[[0]] * len(prompts), decoding=GREEDY) == expected
        peaks = engine_peaks_mib()
        assert len(peaks) == 2 and min(peak["host"] for peak in peaks) > 1000, "with vLLM's own processes"
        hot = replace(GREEDY, temperature=1.0)
        same = generate(engine, [prompts[1]] * 2, seeds=[[0] * 4] * 2, decoding=hot)
        assert same[0] != same[1], "two engines that draw the same numbers"
        num_done = 0
        with pytest.raises(
            TpoError, match=r"worker 2 of 2 \(VLLM_CPU_OMP_THREADS_BIND=.*\) (ended with exit code 1|failed)"
        ):
            while num_done < 100:
                if num_done == 1:  # while it computes: vLLM itself would wait for ever
                    threading.Timer(0.5, kill_engine_of, [engine._workers._processes[1].pid]).start()
                generate(engine, prompts, seeds=[[0] * 16] * len(prompts), decoding=replace(hot, max_tokens=400))
                num_done += 1
        assert num_done < 4
    finally:
        engine._workers.close()


def kill_engine_of(pid: int) -> None:
    """Kill vLLM's engine, which computes for a worker, as a machine that is out of memory would."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"EngineCore" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)


def test_several_judges_answer_what_the_torch_engine_does(
    wide_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    monkeypatch.setattr(kept_module, "_kept", None)
    monkeypatch.setattr("tpo.judge.llm.local.vllm_stream", forking_judge)
    vllm = {
        "dtype": "float32",
        "max_model_len": 512,
        "max_num_seqs": 16,
        "gpu_memory_utilization": 0.05,
        "enforce_eager": True,
        "tensor_parallel_size": 1,
        "data_parallel_size": 2,
    }
    config = LLMConfig(backend="vllm", name=str(wide_model), vllm=LocalLLMConfig(**vllm))
    questions = [Question(None, prompt.text, 0.0, 24, watch=(FIRST_TOKEN,)) for prompt in load_builtin()[:9]]
    backend = LocalBackend(config, None)
    answers = list(LLM(backend, tmp_path / "answers.sqlite", max_calls=None).ask(questions))
    engine, tokenizer = make_engine(wide_model), load_tokenizer(wide_model)
    rendered = [backend.render("", question) for question in questions]
    prompts = [item.ids for item in rendered if item is not None]
    for prompt, answer, (expected,) in zip(
        prompts, answers, generate(engine, prompts, seeds=[[0]] * len(prompts), decoding=GREEDY), strict=True
    ):
        text = tokenizer.decode(expected.token_ids, skip_special_tokens=True)
        assert answer.text == text.rstrip("\ufffd"), "vLLM leaves out a character that is not whole at the end"
        assert answer.num_tokens == len(prompt) + len(expected.token_ids)
        assert len(answer.watched[0].alternatives) > 9, "bytes that are no character share a name"
    assert len({answer.text for answer in answers}) == len(answers)
    backend._workers.close()
