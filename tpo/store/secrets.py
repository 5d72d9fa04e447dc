"""Secrets: what looks like one, by the name of its variable or setting or by its form, and a text without them.

Settings are written to files, logs and trackers, so none may hold a secret (`why_secret`); and what other libraries say
in an error may quote one, such as the address of a proxy with its password (`hidden`).
"""

import json
import os
import re
from functools import cache
from urllib.parse import quote, quote_plus

LEAST = 8  # characters: a shorter value would be found in texts that have nothing to do with it
HIDDEN = "<hidden>"
WORDS = {  # of a variable's name, each also with an S and with a number
    *("KEY", "APIKEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "SSHPASS", "PWD", "PAT", "DSN"),
    *("CREDENTIAL", "CRED", "AUTH", "JWT", "COOKIE", "WEBHOOK"),
}
ENDS = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)\d*$")
NO_SECRETS = {"PWD", "OLDPWD"}  # folders
COUNTED = {"MAX", "MIN", "NUM"}  # of tokens, or keys, how many
PLACES = {"FILE", "PATH", "DIR", "HOME", "SOCK", "ENV", "NAME"}  # a variable that says where a secret is
#: Names of settings that are secrets themselves; a name such as `api_key_env` says where one is.
SETTING = re.compile(
    r"(?:\w+_)?(?:api_?keys?|secrets?|secret_key|private_key|passwords?|passwd|passphrase|credentials?|creds"
    r"|authorization|bearer|jwt|cookies?|webhook(?:_url)?)|(?:(?:access|auth|api|hf|hub|wandb|bearer|refresh|id)_)?token",
    re.IGNORECASE,
)
#: Tokens of well-known services, private keys, and what an Authorization header holds.
FORM = re.compile(
    r"\b(?:sk-(?=[\w-]*\d)[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}"
    r"|nvapi-[\w-]{20,}|gsk_[A-Za-z0-9]{20,}|r8_[A-Za-z0-9]{20,}|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{30,}|ya29\.[\w-]{20,}"
    r"|xox[a-z]-[\w-]{10,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{32,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})"
    r"|(?<=[Bb]earer )(?=\S*\d)[\w.~+/=-]{16,}|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*"
    r"|(?<=hooks\.slack\.com/)(?:services|workflows|triggers)/[\w/-]+|(?<=/api/webhooks/)\d+/[\w-]+"
)
#: Of an address: a name and a password, in which there may be an "@", and a slash that should have been quoted.
USER = re.compile(r"(?<=://)(?:[^/?#\s\"'`]*|[^/?#\s:@\"'`]+:(?!\d+/)[^\s\"'`]*)(?=@)")
#: The same without a scheme, where the host ends with a port or has no dot: others may be an address for e-mail.
BARE_USER = re.compile(
    r"(?<![\w/:.@+-])(?!mailto:)[A-Za-z][\w.+-]*:[^\s:/@\"'{}]+@(?!sha\d+:)(?=[A-Za-z][\w.-]*:\d|[A-Za-z][\w-]*(?![\w.:-]))"
)
NAMED = r"[\w-]*(?:key|token|secret|password|passwd|signature|credential)s?"
QUERY = re.compile(
    rf"(://[^\s?#]*[?#](?:[^\s]*[&;?#])?(?:[\w-]*\[)?(?:{NAMED}|sig|auth|code|pat|pw|pwd|pass|jwt)\]?=)[^&;#\s]+",
    re.IGNORECASE,
)
#: An assignment elsewhere, of a value with a digit, as secrets have and words have not.
ASSIGNED = re.compile(
    r"(?<![\w.-])((?:[\w-]+\[)?(?:[\w-]*(?:api_?key|secret|password|passwd)|(?:\w+_)?token)\]?=)(?=[^\s&;#]*\d)"
    r"[^\s&;#\"'\[\]{}$<,]{8,}",
    re.IGNORECASE,
)


@cache
def is_secret_name(name: str) -> bool:
    """Return whether an environment variable's name says that its value is a secret."""
    words = [word.rstrip("0123456789") for word in re.split(r"[_.-]", name.upper())]
    if name.upper() in NO_SECRETS or words[-1] in PLACES or not COUNTED.isdisjoint(words):
        return False
    singular = {word if word in WORDS else word.removesuffix("S") for word in words}
    return not WORDS.isdisjoint(singular) or ENDS.search(name.upper()) is not None


def is_secret_setting(name: str) -> bool:
    """Return whether a setting's name, without its group, says that its value is a secret."""
    return SETTING.fullmatch(name) is not None


def secret_variables() -> dict[str, str]:
    """Return the environment variables that hold a secret, the longest value first; none that names a place."""
    found = {
        name: value.strip()
        for name, value in os.environ.items()
        if is_secret_name(name)
        and len(value.strip()) >= LEAST
        # A password may be called like a file that is here; a place is told from the root.
        and not (os.path.isabs(value) and os.path.exists(value))
    }
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


@cache
def _written(value: str) -> tuple[str, ...]:
    """Return how a text may be written: as it is, in JSON, in Python and in an address; the longest first."""
    quoted = {quote(value), quote(value, safe=""), quote_plus(value)}
    quoted |= {re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), text) for text in quoted}
    literals = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]}
    literals.add(repr(value + "'\"")[1:-4])  # as within a text that has both quotation marks
    return tuple(sorted({value, *literals, *quoted}, key=lambda text: (-len(text), text)))


def why_secret(text: str) -> str | None:
    """Return which secret a text holds, in words that do not show it; None where it holds none that is known."""
    for name, value in secret_variables().items():
        if any(form in text for form in _written(value)):
            return f"the value of the environment variable {name}"
    if USER.search(text) or BARE_USER.search(text):
        return "a user name or a password"
    if QUERY.search(text):
        return "a key in the query of an address"
    return "what looks like a key or a token" if FORM.search(text) or ASSIGNED.search(text) else None


def hidden(text: str) -> str:
    """Return a text in which secrets are replaced by "<hidden>"."""
    for value in secret_variables().values():
        for form in _written(value):
            text = text.replace(form, HIDDEN)
    if "://" in text:
        text = QUERY.sub(rf"\g<1>{HIDDEN}", USER.sub(HIDDEN, text))
    if "@" in text:
        text = BARE_USER.sub(f"{HIDDEN}@", text)
    if "=" in text:
        text = ASSIGNED.sub(rf"\g<1>{HIDDEN}", text)
    return FORM.sub(HIDDEN, text)
