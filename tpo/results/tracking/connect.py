"""Whether a run is tracked online or offline: what the user says, whether there is a key, and whether W&B answers."""

import netrc
import os
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from urllib.parse import urlsplit

from tpo.store.errors import TpoError
from tpo.store.secrets import why_secret

ANSWER_S = 5.0  # for W&B to answer a request
PATIENCE_S = 8.0  # in all: looking up a name without a network can take much longer
DEFAULT_URL = "https://api.wandb.ai"
MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")  # of W&B; the last two are older names
#: Variables whose text W&B writes to a run where the settings have none.
WRITTEN = (
    *("WANDB_NOTES", "WANDB_TAGS", "WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_JOB_TYPE", "WANDB_PROJECT", "WANDB_ENTITY"),
    *("WANDB_RUN_ID", "WANDB_HOST", "WANDB_USERNAME", "WANDB_PROGRAM", "WANDB_ARGS", "WANDB_SWEEP_ID"),
    *("WANDB_DESCRIPTION", "WANDB_DOCKER"),
)


class TrackingError(TpoError):
    """Tracking that was asked for and cannot be done."""


def choose_mode(wanted: str) -> tuple[str, str | None]:
    """Return how to track, "online", "offline" or another of W&B's modes, and why not online where that was meant.

    Args:
        wanted: The setting `tracking.mode`; "auto" is what WANDB_MODE says, else online if a key is found.

    Raises:
        TrackingError: If `tracking.mode=online` and W&B does not answer, or a variable of W&B's cannot be used.
    """
    check_variables()
    mode = find_mode() if wanted == "auto" else wanted
    reason = unreachable() if mode == "online" else None
    if reason is None:
        return mode, None
    if wanted == "online":
        raise TrackingError(f"tracking.mode=online, but {reason}: see to the network, or set tracking.mode=offline")
    return "offline", reason


def check_variables() -> None:
    """Check what W&B reads from the environment by itself.

    Raises:
        TrackingError: If a variable holds a secret, which W&B would write to the run, or a mode that there is not.
    """
    for name in WRITTEN:
        if why := why_secret(os.environ.get(name, "")):
            raise TrackingError(f"{name} holds {why}, which W&B would write to the run: unset it")
    if (mode := os.environ.get("WANDB_MODE")) and mode not in MODES:
        raise TrackingError(f"WANDB_MODE: expected one of {', '.join(MODES)}: set one of them, or unset it")


def find_mode() -> str:
    """Return what WANDB_MODE says, else online where a key is found."""
    return os.environ.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline")


def has_wandb_key() -> bool:
    """Return whether a W&B key is in the environment or in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = _url().split("//")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError, UnicodeDecodeError):
        return False


def unreachable() -> str | None:
    """Return why W&B cannot be reached, None if it answers, whatever it says; a proxy that is set is used.

    Of its address only scheme, host and port are asked for and shown: the rest may hold a password.
    """
    try:
        parts = urlsplit(_url())
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:  # which quotes it
        parts, port = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"WANDB_BASE_URL is no address such as {DEFAULT_URL}"
    shown = f"{parts.scheme}://{parts.hostname}{port}"
    found = [f"W&B at {shown} does not answer within {PATIENCE_S:.0f} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(shown, timeout=ANSWER_S):
                found[0] = ""
        except urllib.error.HTTPError:
            found[0] = ""
        except (OSError, ValueError, HTTPException) as error:
            found[0] = f"W&B at {shown} does not answer ({getattr(error, 'reason', None) or error})"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return found[0] or None


def _url() -> str:
    return os.environ.get("WANDB_BASE_URL") or DEFAULT_URL
