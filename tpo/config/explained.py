"""What Hydra and OmegaConf say of a config that does not compose, in one sentence: without their hints and places."""

import re
import shlex

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from tpo.config.fields import near
from tpo.store.errors import TpoError, shown
from tpo.store.secrets import is_secret_setting

#: Lines that say how Hydra's user might go on, or where in OmegaConf it happened, and the key's place.
HINT = re.compile(
    r"\s*(?:(?:full_key|object_type|reference_type)[:=]|See https?:|To append to your|Config search path:|provider="
    r"|Set the environment variable|Error (?:merging|parsing) override )"
)
FILE = re.compile(r"In '(?!hydra/config')(?P<file>[^']*/[^']*)': (?:\w+ raised while composing config:)?")
OPTIONS_OF = re.compile(r"^Available options in '(.*)':$", re.MULTILINE)
FULL_KEY = re.compile(r"^\s*full_key: (\S+)$", re.MULTILINE)


def explained(error: Exception) -> str:
    """Return the sentence, which names the file of YAML, where it is one, and the key; fit to be shown."""
    if isinstance(error, TpoError) or str(error).startswith("error: "):  # of a job of a sweep
        return shown(error).removeprefix("error: ")
    cause = error.__cause__
    text = "\n".join([shown(error), *([shown(cause)] if isinstance(cause, OmegaConfBaseException) else [])])
    found = FILE.match(text)
    file = "" if found is None else f"{found['file']}.yaml: "
    lines = [line.strip() for line in FILE.sub("", text).splitlines() if line.strip() and not HINT.match(line)]
    said = " ".join(lines)
    if swept := re.match(r"Ambiguous value for argument '(.*?)' 1\.", said):
        return f"{swept[1]}: several values are a sweep, which -m runs; a list is written as [a,b], a text as '\"a,b\"'"
    if isinstance(error, OverrideParseException):
        return _not_parsed(error.override, said)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        missing, options = shown(Exception(error.missing_cfg_file)), error.options or []
        group, _, option = missing.rpartition("/")
        if listed := OPTIONS_OF.search(text):  # where there are options, the group is named: an option may hold a "/"
            group = listed[1]
            option = missing.removeprefix(f"{group}/")
        expected = ", ".join(options or ["nothing: no such group"])
        return f"{file}{group}={option}: expected one of {expected}{near(option, options)}"
    full_key = FULL_KEY.search(text)
    if full_key is None:
        return f"{file}{said}"
    key = full_key[1]
    if not re.search(r"^Key '.*' not in '", text, re.MULTILINE):
        return f"{file}{key}: {said}"
    is_secret = is_secret_setting(key.rpartition(".")[2])
    more = "; a key comes from the environment variable that api_key_env names" if is_secret else ""
    return f"{file}{key}: there is no such key{more}"


def _not_parsed(override: str, why: str) -> str:
    key, is_setting, value = override.partition("=")
    if not is_setting or not re.fullmatch(r"[+~]*[\w./@-]+", key):
        return f"{override}: expected key=value"
    quoted = shlex.quote(f"{key}={_in_quotes(value)}")
    return f"{override}: the value cannot be read ({why}); quote it where it is a text: {quoted}"


def word_of(key: str, text: str) -> str:
    """Return what is typed in a shell to give a key a text, in quotation marks where Hydra would read another value."""
    value = text if re.fullmatch(r"[\w./@-]+", text) else _in_quotes(text)
    return shlex.quote(f"{key}={value}")


def _in_quotes(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()
