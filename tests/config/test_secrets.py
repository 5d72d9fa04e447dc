"""What counts as a secret, by name and by form; and that one on a command line is refused before anything quotes it."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

import tpo.plan.__main__ as plan
import tpo.plan.doctor as doctor
from tpo.config.check import check_composed, check_secrets, check_text, check_words
from tpo.config.entry import Outcome, run_entry
from tpo.config.fields import ConfigError
from tpo.config.schema import ChatConfig, Config, EvaluateConfig, ExportConfig, ServeConfig
from tpo.store.environment import REPOSITORY
from tpo.store.errors import TpoError, describe, hide, traced, why
from tpo.store.logs import Shown
from tpo.store.secrets import hidden, is_secret_name, why_secret

PLANTED = "Pl4nted-9c1e7"
TOKENS = (
    *("sk-proj-aB3dE6gH9jK2mN5pQ8", "ghp_aB3dE6gH9jK2mN5pQ8sT1vW4", "github_pat_11ABCDEFG0aB3dE6gH9jK2"),
    *("hf_aB3dE6gH9jK2mN5pQ8sT1vW4", "AKIAIOSFODNN7EXAMPLE", "glpat-aB3dE6gH9jK2mN5pQ8", "xoxb-1234567890-abcdef"),
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVPmB92K27uhb",
)
ADDRESSES = (
    *(f"https://me:{PLANTED}@example.org/v1", f"https://{PLANTED}@example.org", f"git+https://u:{PLANTED}@h/x.git"),
    *(f"https://h/v1?api_key={PLANTED}", f"https://h/v1?a=b&token={PLANTED}&c=d", f"https://h/#access_token={PLANTED}"),
    *(f"https://h/v1?pat={PLANTED}", f"https://h/v1?a=b;api_key={PLANTED}", f"https://h/v1?foo[api_key]={PLANTED}"),
    *(f"https://h/v1?pw={PLANTED}", f"https://user:pa@{PLANTED}@host/", f"https://user:{PLANTED}@ss@host/"),
    *(f"me:{PLANTED}@proxy.example.org:3128", f"me:{PLANTED}@host", f"x=1;api_key={PLANTED}", f"MY_TOKEN={PLANTED}"),
    f"https://hooks.slack.com/services/T01/B02/{PLANTED}",
    *(f"https://h/x?X-Amz-Signature={PLANTED}", f"https://h/x?sig={PLANTED}", f"wss://me:{PLANTED}@h"),
    *(f"http://me:{PLANTED}/x@127.0.0.1:9", f"http://me:a/{PLANTED}@h/v1"),  # a slash that should have been quoted
)


@pytest.mark.parametrize(
    "name",
    [
        *("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "GITHUB_PAT", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
        *(
            "DB_PASSWORD",
            "MY_TOKEN",
            "SENTRY_DSN",
            "PGPASSWORD",
            "API_KEY_2",
            "MYKEY",
            "GOOGLE_CREDENTIALS",
            "SMTP_PASS",
            *("APP_SECRETS", "API_KEYS", "TOKENS", "SSHPASS", "DB_CREDS", "DB_PASS1", "MY_AUTH", "JWT", "COOKIE"),
            *("SLACK_WEBHOOK", "token.x"),
        ),
    ],
)
def test_variables_that_hold_a_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_secret_name(name)
    monkeypatch.setenv(name, PLANTED)
    assert why_secret(f"x{PLANTED}y") == f"the value of the environment variable {name}"
    assert hidden(f"a {PLANTED}, b") == "a <hidden>, b"


@pytest.mark.parametrize(
    "name", ["PWD", "OLDPWD", "PATH", "SSH_KEY_PATH", "AWS_WEB_IDENTITY_TOKEN_FILE", "MAX_THINKING_TOKENS", "KEYBOARD"]
)
def test_variables_that_hold_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, PLANTED)
    assert not is_secret_name(name) and why_secret(PLANTED) is None


@pytest.mark.parametrize("value", ["pl4nted \"\\' /+?&é~", 'two " quotes 1', "it's planted 1", "tab\tplanted"])
def test_a_secret_is_hidden_however_it_is_written(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", value)
    forms = [
        json.dumps(value),
        repr(value),
        repr(f"a' \" {value}"),
        quote(value),
        quote(value, safe=""),
        quote_plus(value),
    ]
    forms += [str({"key": value}), json.dumps([value], ensure_ascii=False), quote_plus(value).lower()]
    for form in forms:
        assert "<hidden>" in hidden(form) and "lanted" not in hidden(form) and "quotes" not in hidden(form)
        assert why_secret(form) == "the value of the environment variable MY_TOKEN"


def test_a_secret_may_be_called_like_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path(PLANTED).touch()
    monkeypatch.setenv("MY_TOKEN", PLANTED)
    assert hidden(PLANTED) == "<hidden>"


def test_a_file_or_a_short_value_is_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MY_KEY", str(tmp_path))
    monkeypatch.setenv("OTHER_KEY", "runs")
    assert why_secret(f"{tmp_path}/runs") is None


@pytest.mark.parametrize("text", [*TOKENS, *ADDRESSES, "Authorization: Bearer aB3dE6gH9jK2mN5pQ8"])
def test_secrets_by_their_form(text: str) -> None:
    assert why_secret(f"see {text} there") is not None
    shown = hidden(f"see {text} there")
    assert "<hidden>" in shown and PLANTED not in shown and shown.startswith("see ") and shown.endswith(" there")
    assert not any(token in shown for token in TOKENS)
    assert hidden(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        *(
            "http://h:8000/v1/a@b",
            "https://h/a:b/c@v1",
            "mail me@example.org",
            "https://h/x?n=1&page=2",
            "0123456789abcdef" * 2,
            "sk-learn-compatible-model",
        ),
        *(
            "model.name=Qwen/Qwen2.5-0.5B-Instruct",
            "hf_hub",
            "the bearer responsibilities",
            *("mailto:me@example.org", "from:bob99@example.org", "git@github.com:a/b", "name:tag@sha256:0a1b2c3d"),
            *("judge@eval.judge=length", "/hydra/devices@_global_.hydra.callbacks: one", "policy=runs/x-1@2", "h:8000"),
            *("judge.server.api_key_env=MY_KEY_2", "max_tokens=12345678", "token=<hidden>", "error: see a@b, c:d"),
            *("http://h:80/v1, or me@example.org", "train.max_new_tokens=123456789"),
            "What is a token? A key: 12345678",
        ),
    ],
)
def test_what_only_resembles_a_secret_is_none(text: str) -> None:
    assert why_secret(text) is None and hidden(text) == text


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "judge.server.api_key",
        "token",
        "judge.arguments.hf_token",
        "x.password",
        "client_secret",
        "hydra.job.env_set.MY_KEY",
    ],
)
def test_settings_that_are_secrets_by_their_name(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is the name of a secret, and holds a value") as caught:
        check_secrets({key: PLANTED})
    assert PLANTED not in str(caught.value)
    check_secrets(
        {key: None, "judge.server.api_key_env": "MY_KEY", "sample.max_thought_tokens": 64, "x.keyword": "tea"}
    )


def test_settings_are_text() -> None:
    for value, said in (("\ud800", "half of a surrogate pair"), (["a", "\0"], "the character NUL")):
        with pytest.raises(ConfigError, match=f"x.y holds {said}"):
            check_text({"x.y": value})
    check_text({"x.y": "\U0001f642 \u202e\n", "n": 1})


# --- the command line -------------------------------------------------------------------------------------------


def planted_words() -> list[str]:
    given = [f"judge.server.base_url={address}" for address in ADDRESSES] + [f"judge.name={token}" for token in TOKENS]
    given += [
        f"judge.server.api_key={PLANTED}",
        f"+token={PLANTED}",
        f"judge.name=a-{PLANTED}",
        f"{PLANTED}=1",
        PLANTED,
    ]
    given += [f"judge.server.nothing={PLANTED}", f"judge={PLANTED}", f"+x={{url:'{ADDRESSES[0]}'}}", f"x=a,{PLANTED}"]
    return [*given, PLANTED, f"--config-dir={PLANTED}", f"hydra.run.dir={PLANTED}", f"x=[{PLANTED}", f"~seed={PLANTED}"]


@pytest.mark.parametrize("word", planted_words())
def test_a_secret_on_the_command_line_is_refused_unseen(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PAT", PLANTED)
    for words in ([word], ["-m", "seed=0,1", word], [word, "no=such key ["]):
        with pytest.raises(ConfigError, match="settings are written down: take it out") as caught:
            check_words(words)
        assert PLANTED not in str(caught.value) and not any(token in str(caught.value) for token in TOKENS)


def test_words_without_a_secret_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PAT", PLANTED)
    check_words(
        ["-m", "seed=0,1", "judge.server.api_key_env=MY_PAT", "model.name=/a/b", "thought.prompt='{instruction}'"]
    )
    check_words(["~eval.judge", "+x.token=null", "judge.server.base_url=http://h:8000/v1", "--cfg", "job"])
    with pytest.raises(ConfigError, match="judge.name holds the value of the environment variable MY_PAT"):
        check_words(["judge.name=${oc.env:MY_PAT}"])
    with pytest.raises(ConfigError, match="thought.name is not UTF-8"):
        check_words(["thought.name=\udcff"])


def nothing(config: object, hydra: object = None) -> Outcome:
    raise AssertionError("this is never reached")


COMMANDS: dict[str, Callable[[list[str]], object]] = {
    **{
        entry.__name__: lambda words, entry=entry: run_entry(entry, about="", check=nothing, work=nothing)  # type: ignore[misc]
        for entry in (Config, EvaluateConfig, ChatConfig, ServeConfig, ExportConfig)
    },
    "plan": lambda words: plan.main(words),
    "doctor": lambda words: sys.exit(doctor.main(words)),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("more", [[], ["--help"], ["-m"]], ids=" ".join)
def test_every_command_refuses_before_hydra_speaks(
    command: str, more: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if command == "doctor" and more == ["-m"]:
        pytest.skip("doctor has no -m")
    words = [f"judge.server.no_such={PLANTED}", *more]
    monkeypatch.setenv("MY_PAT", PLANTED)
    monkeypatch.setattr(sys, "argv", ["tpo", *words])
    with pytest.raises(SystemExit) as ended:
        COMMANDS[command](words)
    out, err = capfd.readouterr()
    said = out + err + str(ended.value)
    assert ended.value.code and PLANTED not in said and "Traceback" not in said
    assert "judge.server.no_such holds the value of the environment variable MY_PAT" in said
    assert not GlobalHydra.instance().is_initialized()


# --- a user's own YAML ------------------------------------------------------------------------------------------

KEY = TOKENS[0]
COMPOSED = {
    "environment": f"hydra: {{job: {{env_set: {{MY_TOKEN: {PLANTED}}}}}}}",
    "launcher": f"hydra: {{launcher: {{setup: [export X={KEY}]}}}}",
    "folder": f"hydra: {{sweep: {{dir: runs/{KEY}}}}}",
    "swept": f"hydra: {{sweeper: {{params: {{model.name: 'a,{KEY}'}}}}}}",
    "group": f"judge: {{token: {{first: {PLANTED}}}}}",
    "copied": "model: {chat_template: '${oc.env:OTHER_TOKEN}'}",
    "resolved": "model: {chat_template: '${oc.env:INNOCENT}'}",
    "listed": f"model: {{tags: [a, {{b: {KEY}}}]}}",
    "interpolation": f"model: {{name: '${{{KEY}}}'}}",
}


@pytest.mark.parametrize("name", COMPOSED)
def test_what_is_composed_holds_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_TOKEN", "an0ther-one")
    monkeypatch.setenv("INNOCENT", f"x {KEY}")
    with pytest.raises(ConfigError, match="take it out") as caught:
        check_composed(OmegaConf.create(COMPOSED[name]))
    assert not any(secret in str(caught.value) for secret in (KEY, PLANTED, "an0ther-one"))


YAML = {
    "environment": COMPOSED["environment"],
    "value": f"model: {{name: {KEY}}}",
    "type": f"seed: {KEY}",
    "merge": f"thought: {KEY}",
    "option": f"defaults: [override /judge: {KEY}]",
    "interpolation": COMPOSED["interpolation"],
}
MODES: list[tuple[str, list[str]]] = [
    *((name, []) for name in YAML),
    *(("environment", ["--multirun", "num_iterations=0,1"]), ("environment", ["--cfg=hydra"])),
    *(("value", [word]) for word in ("--help", "--info=config", "--cfg=job")),
    *(("type", [word]) for word in ("--help", "--info=config")),
]


def command(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """Return what a command says, which must end with an error."""
    monkeypatch.setattr(sys, "argv", ["tpo", *words])
    with pytest.raises(SystemExit) as ended:
        run_entry(Config, about="", check=nothing, work=nothing)
    out, err = capfd.readouterr()
    said = f"{out}{err}{ended.value.code}"
    assert ended.value.code and "Traceback" not in said
    return said


@pytest.mark.parametrize(("name", "more"), MODES, ids=str)
def test_a_secret_in_a_file_is_neither_printed_nor_written(
    name: str, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "x.yaml").write_text(f"# @package _global_\n{YAML[name]}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    said = command([f"--config-dir={tmp_path}/mine", *more, "experiment=x"], monkeypatch, capfd)
    assert "error: " in said and KEY not in said and PLANTED not in said
    assert "take it out" in said or name in ("type", "merge", "option")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x.yaml"]


def test_what_no_job_can_resolve_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("INNOCENT", "text")
    said = command(["model.name=${nowhere}"], monkeypatch, capfd)
    assert said == "error: model.name: Interpolation key 'nowhere' not found"
    said = command(["seed=${oc.env:INNOCENT}"], monkeypatch, capfd)
    assert said.startswith("error: seed: ") and said.endswith("'text' of type 'str' could not be converted to Integer")


def test_neither_options_nor_documents_look_like_secrets() -> None:
    options = sorted((REPOSITORY / "conf").rglob("*.yaml"))
    for path in options:
        loaded = OmegaConf.load(path)
        assert isinstance(loaded, DictConfig)
        check_composed(loaded)
    found = [*options, REPOSITORY / "README.md", *REPOSITORY.glob("[cet]*/**/*.md")]
    lines = [line for path in found for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(options) > 50 and len(lines) > 1000
    assert [line for line in lines if why_secret(line) or hidden(line) != line] == []


# --- errors and logs --------------------------------------------------------------------------------------------


def test_errors_and_records_show_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY_PASSWORD", PLANTED)
    text = f"cannot reach https://me:other@h/x?key=third with {PLANTED} and {TOKENS[0]}"
    try:
        try:
            raise ValueError(text)
        except ValueError as error:
            raise OSError(5, text, text) from error
    except OSError as error:
        for said in (str(TpoError(text)), describe(error), why(error), describe(TpoError(text))):
            assert "<hidden>" in said and not any(word in said for word in (PLANTED, "other", "third", TOKENS[0]))
        record = logging.LogRecord(
            "x", logging.ERROR, "here", 1, "of %s", (text,), (OSError, error, error.__traceback__)
        )
        assert Shown().filter(record)
        told = logging.Formatter().format(record)
        assert "Traceback" in told and not any(word in told for word in (PLANTED, "other", "third", TOKENS[0]))
        assert "ValueError" in (told := traced(error)) and "<hidden>" in told
        assert not any(word in told for word in (PLANTED, "other", "third", TOKENS[0]))
        hide(error)
        assert not any(PLANTED in str(part) for each in (error, error.__cause__) if each for part in each.args)
