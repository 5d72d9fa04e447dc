"""Secrets: what looks like one, by the name of its variable or setting or by its form, and a text without them.

Settings are written to files, logs and trackers, so none may hold a secret (`why_secret`); and what other libraries say
in an error may quote one, such as the address of a proxy with its password (`hidden`).
"""

import os
import re

LEAST = 8  # characters: a shorter value would be found in texts that have nothing to do with it
HIDDEN = "<hidden>"
WORDS = {
    *("KEY", "APIKEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "PWD", "PAT", "DSN"),
    *("CREDENTIAL", "CREDENTIALS"),
}
ENDS = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)\d*$")
NO_SECRETS = {"PWD", "OLDPWD"}  # folders
PLACES = {"FILE", "PATH", "DIR", "HOME", "SOCK", "ENV", "NAME"}  # a variable that says where a secret is
#: Names of settings that are secrets themselves; a name such as `api_key_env` says where one is.
SETTING = re.compile(
    r"(?:\w+_)?(?:api_?key|secret|secret_key|private_key|password|passwd|passphrase|credentials?|authorization|bearer)"
    r"|(?:(?:access|auth|api|hf|hub|wandb|bearer|refresh|id)_)?token",
    re.IGNORECASE,
)
#: Tokens of well-known services, private keys, and what an Authorization header holds.
FORM = re.compile(
    r"\b(?:sk-(?=[\w-]*\d)[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}"
    r"|nvapi-[\w-]{20,}|gsk_[A-Za-z0-9]{20,}|r8_[A-Za-z0-9]{20,}|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{30,}|ya29\.[\w-]{20,}"
    r"|xox[a-z]-[\w-]{10,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{32,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})"
    r"|(?<=[Bb]earer )(?=\S*\d)[\w.~+/=-]{16,}|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*"
)
USER = re.compile(r"(?<=://)[^/?#\s@]*(?=@)")  # of an address: a name, a password
QUERY = re.compile(
    r"(://[^\s?#]*[?#](?:[^\s]*&)?(?:[\w-]*(?:key|token|secret|password|passwd|signature|credential)|sig|auth|code)=)"
    r"[^&#\s]+",
    re.IGNORECASE,
)


def is_secret_name(name: str) -> bool:
    """Return whether an environment variable's name says that its value is a secret."""
    words = name.upper().split("_")
    if name.upper() in NO_SECRETS or words[-1] in PLACES:
        return False
    return not WORDS.isdisjoint(words) or ENDS.search(name.upper()) is not None


def is_secret_setting(name: str) -> bool:
    """Return whether a setting's name, without its group, says that its value is a secret."""
    return SETTING.fullmatch(name) is not None


def secret_variables() -> dict[str, str]:
    """Return the environment variables that hold a secret, the longest value first; none that names a file."""
    found = {
        name: value.strip()
        for name, value in os.environ.items()
        if is_secret_name(name) and len(value.strip()) >= LEAST and not os.path.exists(value)
    }
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def why_secret(text: str) -> str | None:
    """Return which secret a text holds, in words that do not show it; None where it holds none that is known."""
    for name, value in secret_variables().items():
        if value in text:
            return f"the value of the environment variable {name}"
    if USER.search(text):
        return "a user name or a password"
    if QUERY.search(text):
        return "a key in the query of an address"
    return "what looks like a key or a token" if FORM.search(text) else None


def hidden(text: str) -> str:
    """Return a text in which secrets are replaced by "<hidden>"."""
    for value in secret_variables().values():
        text = text.replace(value, HIDDEN)
    if "://" in text:
        text = QUERY.sub(rf"\g<1>{HIDDEN}", USER.sub(HIDDEN, text))
    return FORM.sub(HIDDEN, text)
