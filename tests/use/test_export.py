"""An export is the policy: by plain transformers and peft in a fresh process, and as a policy or seed model here."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import run_command
from conftest import make_model
from safetensors.torch import load_file, save_file
from test_run import Finished, run_here, tiny_overrides

import tpo.use.export
from tpo.config.check import check_export
from tpo.config.compose import compose_config
from tpo.config.fields import ConfigError
from tpo.config.schema import Config, ExportConfig
from tpo.evaluate.inherit import settings_of_run, settings_of_seed
from tpo.evaluate.lineage import find_training
from tpo.evaluate.policies import find_policy
from tpo.export import TAKEN, work
from tpo.model.exported import RECORD, read_export
from tpo.run import run_tpo
from tpo.store.artifacts import Store, open_artifact
from tpo.store.errors import TpoError
from tpo.store.execute import execute
from tpo.store.records import Completion
from tpo.use.export_check import Difference, ExportError, Greedy
from tpo.use.export_push import push_export

SHORT = ["num_iterations=1", "train.num_epochs=1"]


def find_under(given: Any) -> Any:
    return settings_of_run(given, taken=TAKEN)


def export(run: Finished, policy: str, name: str, *more: str) -> Path:
    out = run.root / name
    config = compose_config(ExportConfig, [f"policy={policy}", f"out={out}", *more], find_under=find_under)
    check_export(config)
    assert work(config, None).path == out
    return out


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("exported")
    return run_here(root, tiny_overrides(tiny_model, root, *SHORT))


@pytest.fixture(scope="module")
def adapter(run: Finished) -> Path:
    return export(run, str(run.path), "adapter")


@pytest.fixture(scope="module")
def forked_checks(adapter: Path) -> Iterator[None]:
    """The checks of exports are forked; that of the adapter's was a new process."""

    def run(command: Sequence[str], *, cwd: str, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        _, script, *arguments = command
        return run_command(Path(script).stem, *arguments, cwd=Path(cwd), env=env, loads_models=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tpo.use.export_check.subprocess", SimpleNamespace(run=run))
        yield


@pytest.fixture(scope="module")
def merged(run: Finished, forked_checks: None) -> Path:
    return export(run, f"{run.path}@1", "merged", "format=merged")


def test_an_adapter_is_whole_and_names_its_base(run: Finished, adapter: Path, tiny_model: Path) -> None:
    files = {path.name for path in adapter.iterdir()}
    expected = {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "generation_config.json"}
    assert expected | {"README.md", "tokenizer.json", RECORD} <= files
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model)
    trained = open_artifact(run.root / "artifacts" / run.summary["iterations"][1]["artifacts"]["train"])
    own = json.loads(trained.verified("epoch-1/adapter_config.json").read_text())
    assert own["base_model_name_or_path"] == str(tiny_model), "as training names it, too"
    ends = json.loads((adapter / "generation_config.json").read_text())
    assert ends["eos_token_id"] == [1] and ends["max_new_tokens"] == 6 + 8 and ends["temperature"] == 0.8


def test_the_card_says_what_it_is_made_from(run: Finished, adapter: Path, merged: Path) -> None:
    card = (adapter / "README.md").read_text()
    assert card.startswith("---\n") and "library_name: peft" in card and "base_model_relation: adapter" in card
    for said in ("the judge `self_rating`", "| 0 (untrained) |", "95 % intervals", "Here is my response:", "licence"):
        assert said in card, said
    assert "against tiny_model0, direct answers" in card
    assert str(run.root) not in card.replace(str(adapter), ""), "no place of this machine but its own"
    assert "all 128 greedy tokens are the policy's" in card
    assert "PeftModel" not in (merged / "README.md").read_text()


PLAIN = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

def answer(here, kind):
    tokenizer = AutoTokenizer.from_pretrained(here)
    model = kind.from_pretrained(here, dtype=torch.float32)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why is the sky blue?"}], add_generation_prompt=True, return_tensors="pt",
        return_dict=True,
    )
    return model.generate(**inputs, do_sample=False, max_new_tokens=24)[0].tolist()

merged, adapter = sys.argv[1:]
found = [answer(merged, AutoModelForCausalLM)]  # before peft is imported, which is not needed for it
from peft import AutoPeftModelForCausalLM
found.append(answer(adapter, AutoPeftModelForCausalLM))
print(json.dumps([*found, any(name.split(".")[0] == "tpo" for name in sys.modules)]))
"""


def plainly(merged: Path, adapter: Path) -> list[list[int]]:
    """Greedy tokens of each, context first, by nothing but transformers and peft."""
    command = [sys.executable, "-c", PLAIN, str(merged), str(adapter)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=merged.parent)
    *found, knows_tpo = json.loads(done.stdout.splitlines()[-1])
    assert not knows_tpo
    return found


def test_plain_transformers_and_peft_give_the_policys_greedy_tokens(run: Finished, adapter: Path, merged: Path) -> None:
    from tpo.config.thought import ThoughtFormat
    from tpo.model.asked import ask
    from tpo.model.chat import load_chat
    from tpo.model.load import load_policy
    from tpo.model.policy import open_policy

    config, store = run.config, Store(run.root / "artifacts", execute=execute)
    named = find_policy(str(run.path), store, model=config.model, form=config.thought, sample=config.sample)
    policy = open_policy(named.config, named.inputs)
    assert type(named.form) is ThoughtFormat
    context = ask(named.form, policy.conventions).context(load_chat(policy).tokenizer, "Why is the sky blue?")
    model = load_policy(policy.model_path, revision=None, dtype="float32", adapter_path=policy.adapter_path)
    ids = torch.tensor([context])
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)[0].tolist()
    assert plainly(merged, adapter) == [expected, expected]


def test_files_of_an_export_are_open_to_others(adapter: Path, merged: Path) -> None:
    for out in (adapter, merged):
        allowed = out.stat().st_mode & 0o666
        assert not [path for path in out.rglob("*") if path.is_file() and path.stat().st_mode & 0o666 != allowed]


def test_nothing_is_overwritten(adapter: Path, run: Finished) -> None:
    with pytest.raises(ConfigError, match="exists already, and nothing is overwritten"):
        export(run, str(run.path), "adapter")


def test_what_has_no_adapter_is_exported_merged(run: Finished) -> None:
    with pytest.raises(ExportError, match=r"format=adapter: the policy .*@0 is untrained.*take format=merged"):
        export(run, f"{run.path}@0", "untrained")
    assert not (run.root / "untrained").exists()


def test_an_adapter_whose_base_nobody_could_load_is_not_sent(run: Finished) -> None:
    with pytest.raises(ExportError, match=r"push=me/mine: the base of the adapter, .*, is not on the Hub.*merged"):
        export(run, str(run.path), "sent", "push=me/mine")
    assert not (run.root / "sent").exists()


def test_an_export_that_is_not_the_policy_is_not_kept(run: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    save = tpo.use.export._save_weights

    def save_others(out: Path, *arguments: Any) -> tuple[list[Greedy], list[Greedy]]:
        found = save(out, *arguments)
        weights = load_file(out / "adapter_model.safetensors")
        save_file({name: torch.randn_like(part) for name, part in weights.items()}, out / "adapter_model.safetensors")
        return found

    monkeypatch.setattr(tpo.use.export, "_save_weights", save_others)
    with pytest.raises(ExportError, match="in a fresh process, is not what was saved: .* Nothing was kept"):
        export(run, str(run.path), "broken")
    assert [path.name for path in run.root.iterdir() if "broken" in path.name] == []


# --- an export in place of a run -------------------------------------------------------------------------------------


def continued(run: Finished, name: str, *more: str) -> Config:
    given = [word for word in tiny_overrides(Path("x"), run.root) if not word.startswith(("model=", "model."))]
    return compose_config(Config, [*given, f"model.name={name}", *SHORT, *more], find_under=settings_of_seed)


def completions(run: Finished, entry: dict[str, Any]) -> list[list[int]]:
    rows = open_artifact(run.root / "artifacts" / entry["artifacts"]["answers"]).rows(Completion)
    return [row.prompt_ids + row.completion_ids for row in rows]


@pytest.mark.slow  # two more runs
def test_a_run_goes_on_from_an_export(run: Finished, adapter: Path, merged: Path) -> None:
    last = run.summary["iterations"][-1]
    for place in (adapter, merged):
        path = run_tpo(continued(run, str(place)), experiment=place.name)
        untrained, trained = json.loads((path / "summary.json").read_text())["iterations"]
        assert completions(run, untrained) == completions(run, last), place.name
        assert trained["training"]["first_loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_an_export_brings_model_format_and_budgets(run: Finished, adapter: Path, merged: Path) -> None:
    other = compose_config(Config, ["experiment=smoke", "thought=none"])
    store = Store(run.root / "artifacts", execute=execute)
    for place in (adapter, merged):
        found = find_policy(str(place), store, model=other.model, form=other.thought, sample=other.sample)
        assert (found.form, found.sampling) == (run.config.thought, run.config.sample)
        assert found.settings.dtype == "float32" and found.settings.quantization == "none"
        template = found.model.verified("tokenizer/chat_template.jinja").read_text()
        assert "Here is my thought process" not in template, "the format asks by itself, once"


def test_what_an_export_was_trained_on_is_known(run: Finished, adapter: Path, merged: Path) -> None:
    root = run.root / "artifacts"
    training = root / run.summary["iterations"][1]["artifacts"]["train"]
    assert find_training(adapter, root) == find_training(merged, root) == training
    again = export(run, str(adapter), "again", "format=merged", f"artifacts_dir={root}")
    assert find_training(again, root) == training, "an export of an export"


def test_a_damaged_record_is_said(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text('{"kind": "merged"}')
    with pytest.raises(TpoError, match=f"{RECORD} is damaged .* export the policy again"):
        read_export(tmp_path)
    assert read_export("") is None and read_export(tmp_path / "nowhere") is None


# --- NF4 -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_quantized_policy_is_exported_as_what_it_is(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", hidden_size=128, num_attention_heads=4, num_key_value_heads=2)
    nf4 = ["model.quantization=nf4", "model.dtype=bfloat16"]
    run = run_here(tmp_path, tiny_overrides(model, tmp_path, *SHORT, *nf4))
    adapter = (export(run, str(run.path), "adapter") / "README.md").read_text()
    assert "BitsAndBytesConfig" in adapter and "on the 16-bit base the adapter is another policy" in adapter
    merged = export(run, str(run.path), "merged", "format=merged")
    card = (merged / "README.md").read_text()
    assert "close to that policy, not equal to it" in card and "nats on average" in card
    exact, own = load_file(model / "model.safetensors"), load_file(merged / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    trained = open_artifact(run.root / "artifacts" / run.summary["iterations"][1]["artifacts"]["train"])
    lora = load_file(trained.verified("epoch-1") / "adapter_model.safetensors")
    prefix = f"base_model.model.{name.removesuffix('.weight')}"
    update = lora[f"{prefix}.lora_B.weight"].float() @ lora[f"{prefix}.lora_A.weight"].float()
    prepared = open_artifact(run.root / "artifacts" / trained.manifest["inputs"]["model"])
    quantized = load_file(prepared.verified("quantized") / "model.safetensors")[name].float()
    scaling = run.config.train.lora_alpha / run.config.train.lora_rank
    assert torch.allclose(own[name].float(), quantized + scaling * update, rtol=2**-7, atol=1e-4)
    assert not torch.allclose(own[name].float(), exact[name] + scaling * update, rtol=2**-7, atol=1e-4)


@pytest.mark.slow
def test_a_policy_of_all_weights_is_merged_in_its_own_dtype(tiny_model: Path, tmp_path: Path) -> None:
    full = ["train=full_dpo", "train.num_epochs=1", "model.dtype=bfloat16"]
    run = run_here(tmp_path, tiny_overrides(tiny_model, tmp_path, *SHORT, *full))
    out = export(run, str(run.path), "whole", "format=merged")
    own = load_file(out / "model.safetensors")
    trained = open_artifact(tmp_path / "artifacts" / run.summary["iterations"][-1]["artifacts"]["train"])
    saved = load_file(trained.verified("epoch-1") / "model.safetensors")
    assert own.keys() == saved.keys() and all(torch.equal(own[name], saved[name]) for name in own)
    assert {tensor.dtype for tensor in own.values()} == {torch.bfloat16}


# --- the check -------------------------------------------------------------------------------------------------------


def test_a_difference_is_said_in_words() -> None:
    equal = Difference(8, 8, True, 0.0, 0.0)
    assert str(equal).startswith("all 8 greedy tokens are the policy's")
    assert str(dataclasses.replace(equal, num_equal=5, is_equal=False)).startswith("5 of 8 greedy tokens")


# --- the Hub ---------------------------------------------------------------------------------------------------------


class StandInHub(BaseHTTPRequestHandler):
    """Speaks as much of the Hub's protocol as a new repository of small files takes."""

    repositories: dict[str, dict[str, Any]] = {}

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer(200, {"sha": "0" * 40, "siblings": [], "id": "x"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != "Bearer hf_good":
            return self.answer(401, {"error": "Invalid token"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.repositories:
                return self.answer(409, {"error": "You already created this model repo"})
            self.repositories[name] = {"private": asked.get("private") or asked.get("visibility") == "private"}
            return self.answer(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name})
        name = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            self.repositories[name]["files"] = {line["value"]["path"] for line in lines if line["key"] == "file"}
            return self.answer(
                200,
                {"commitUrl": f"http://{self.headers['Host']}/{name}/commit/0", "commitOid": "0" * 40, "success": True},
            )
        return self.answer(200, {})

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandInHub)
    Thread(target=server.serve_forever, daemon=True).start()
    StandInHub.repositories = {}
    address = f"http://127.0.0.1:{server.server_port}"
    for module in ("huggingface_hub.constants", "huggingface_hub.hf_api"):
        for name in ("ENDPOINT", "HF_HUB_OFFLINE"):
            value = address if name == "ENDPOINT" else False
            monkeypatch.setattr(f"{module}.{name}", value, raising=False)
    yield address
    server.shutdown()
    server.server_close()


def test_an_export_is_sent_to_the_hub_once(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "README.md").write_text("# Mine\n")
    (folder / "model.safetensors").write_bytes(os.urandom(100))
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert push_export(folder, "me/mine", is_private=True).endswith("/me/mine")
    found = StandInHub.repositories["me/mine"]
    assert found["private"] and found["files"] == {"README.md", "model.safetensors"}
    with pytest.raises(ExportError, match="push=me/mine: there is a repository of this name already"):
        push_export(folder, "me/mine", is_private=True)
    push_export(folder, "me/open", is_private=False)
    assert not StandInHub.repositories["me/open"]["private"]


def test_what_the_hub_refuses_is_one_sentence(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("# Mine\n")
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(ExportError, match=r"nobody is logged in, .*`hf auth login`; the export stays in"):
        push_export(tmp_path, "me/mine", is_private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", "http://127.0.0.1:9", raising=False)
    with pytest.raises(ExportError, match=r"push=me/mine: .*the export stays in"):
        push_export(tmp_path, "me/mine", is_private=True)


def test_settings_of_an_export_are_checked(tmp_path: Path) -> None:
    def checked(*overrides: str) -> None:
        check_export(compose_config(ExportConfig, ["policy=seed", f"out={tmp_path}/new", *overrides]))

    checked()
    with pytest.raises(ConfigError, match="format=gguf: expected one of adapter, merged"):
        checked("format=gguf")
    with pytest.raises(ConfigError, match="push=mine: expected the name of a repository to make, organization/name"):
        checked("push=mine")
