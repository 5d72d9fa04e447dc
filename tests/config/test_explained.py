"""Configs that do not compose: one sentence that names the file, the key and what to do, whichever command composes."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tpo.config.entry import Outcome, run_entry
from tpo.config.schema import ChatConfig, Config
from tpo.plan import __main__ as plan
from tpo.plan import doctor

KEY = "sk-" + "abc123def456ghi789jkl"


def not_reached(config: object, hydra: object = None) -> Outcome:
    raise AssertionError("nothing is checked or done")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": lambda words: run_entry(Config, about="", check=not_reached, work=not_reached),
    "plan": lambda words: plan.main(words),
    "doctor": lambda words: sys.exit(doctor.main(words)),
}
OTHERS: dict[str, Callable[[list[str]], None]] = {
    "chat": lambda words: run_entry(ChatConfig, about="", check=not_reached, work=not_reached),
}


def refused(command: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """Return what a command says, which must end with a sentence."""
    monkeypatch.setattr(sys, "argv", ["tpo", *words])
    with pytest.raises(SystemExit) as ended:
        (COMMANDS | OTHERS)[command](words)
    out, err = capfd.readouterr()
    said = f"{out}{err}{ended.value.code if isinstance(ended.value.code, str) else ''}".strip()
    assert ended.value.code and "\n" not in said, said
    assert KEY not in said and not any(word in said for word in ("Traceback", "HYDRA_", "hydra.cc", "full_key"))
    return said


WORDS = {  # of the command line, and what is said of them
    "judge.server.base_url=http://h/v1?x=y": "judge.server.base_url=http://h/v1?x=y: the value cannot be read "
    "(mismatched input '=' expecting <EOF>); quote it where it is a text: 'judge.server.base_url=\"http://h/v1?x=y\"'",
    f"+judge.api_key={KEY}": "judge.api_key holds what looks like a key or a token, and settings are written down: "
    "take it out; a key comes from the environment variable that api_key_env names",
    "judge.nosuch=1": "judge.nosuch: there is no such key",
    "num_iteration=1": "num_iteration: there is no such key; did you mean num_iterations?",
    "num_iterations=abc": "num_iterations: Value 'abc' of type 'str' could not be converted to Integer",
    "rating=nosuch": "rating=nosuch: expected one of bradley_terry, elo, win_count",
    "hydra/sweeper=nosuch": "hydra/sweeper=nosuch: expected one of basic, ",
    "words": "words: expected key=value",
    "prompts.path=my.jsonl": "prompts.path: there is no such key; prompts=file has it",
    "judge.server.base_url=x": "judge.server: there is no such key; judge=alpaca_eval or llm_",
    "experiment=smok": "experiment=smok: expected one of ablation_irpo, ",
    "prompts=nowhere/my.jsonl": "prompts=nowhere/my.jsonl: expected one of builtin, ",
    "~nosuch": "Could not delete from config. 'nosuch' does not exist.",
    "seed=1,2": "seed=1,2: several values are a sweep, which -m runs; a list is written as [a,b], a text as '\"a,b\"'",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("word", WORDS)
def test_a_word_that_does_not_compose_is_one_sentence(
    command: str, word: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = refused(command, [word], monkeypatch, capfd)
    job = f"job {word}: " if command == "plan" and word == "seed=1,2" else ""
    assert said.startswith(f"error: {job}{WORDS[word]}")


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_meant_is_said_last(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my rows.jsonl").touch()
    for word, meant in {
        "experiment=smok": "; did you mean smoke?",
        "prompts=my rows.jsonl": "; a file of your own is given as prompts=file 'prompts.path=\"my rows.jsonl\"'",
        f"prompts={tmp_path}/my rows.jsonl": f" prompts=file 'prompts.path=\"{tmp_path}/my rows.jsonl\"'",
        "eval=my rows.jsonl": ", thought_value",  # several options have a path
    }.items():
        said = refused(command, [word], monkeypatch, capfd)
        assert said.startswith(f"error: {word}: expected one of ") and said.endswith(meant)


def test_a_policy_without_its_key_is_told_how_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "x").mkdir(parents=True)
    for word in ("runs/x", "runs/x@1"):
        said = refused("chat", [word], monkeypatch, capfd)
        assert said.startswith(f"error: {word}: expected key=value; a policy is given as policy=runs/x")
        assert refused("run", [word], monkeypatch, capfd) == f"error: {word}: expected key=value"
    assert refused("chat", ["runs/y"], monkeypatch, capfd) == "error: runs/y: expected key=value"


FILES = {  # of a user's own, and what is said of them
    "judge/mine": {
        f"defaults: [llm_pairwise]\nserver: {{api_key: {KEY}}}": "judge/mine.yaml: judge.server.api_key: there is no "
        "such key; a key comes from the environment variable that api_key_env names",
        "defaults: [llm_pairwise]\nnam: x": "judge/mine.yaml: judge.nam: there is no such key",
        "defaults: [llm_pairwise]\nmax_tokens: many": "judge/mine.yaml: judge.max_tokens: Value 'many' of type 'str' "
        "could not be converted to Integer",
        "defaults: [llm_pairwise]\n\tname: x": "/judge/mine.yaml: this is no YAML mapping: while scanning for the next "
        "token found character '\\t' that cannot start any token",
        "a: [1": "/judge/mine.yaml: this is no YAML mapping: while parsing a flow sequence",
        "kind: \udcff": "/judge/mine.yaml: this is no YAML mapping: 'utf-8' codec can't decode byte 0xff",
    },
    "experiment/mine": {
        f"# @package _global_\nhydra: {{job: {{env_set: {{MY_TOKEN: {KEY}}}}}}}": "hydra.job.env_set.MY_TOKEN holds "
        "what looks like a key or a token, and settings are written down: take it out",
        "# @package _global_\ndefaults: [override /rating: nosuch]": "rating=nosuch: expected one of",
    },
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FILES.items() for text in texts])
def test_a_file_that_does_not_compose_is_one_sentence(
    command: str,
    name: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own" / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode(errors="surrogateescape"))
    said = refused(command, ["--config-dir=own", name.replace("/", "=")], monkeypatch, capfd)
    assert said.startswith("error: ") and FILES[name][text] in said
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.yaml"], "nothing was written"
