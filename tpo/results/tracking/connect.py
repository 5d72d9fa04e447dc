"""Whether a run is tracked online or offline: what the user says, whether there is a key, and whether W&B answers."""

import netrc
import os
import re
import threading
import urllib.error
import urllib.request
from http.client import HTTPException

from tpo.store.errors import TpoError

ANSWER_S = 5.0  # for W&B to answer a request
PATIENCE_S = 8.0  # in all: looking up a name without a network can take much longer
DEFAULT_URL = "https://api.wandb.ai"


class TrackingError(TpoError):
    """Tracking that was asked for and cannot be done."""


def choose_mode(wanted: str) -> tuple[str, str | None]:
    """Return how to track, "online", "offline" or another of W&B's modes, and why not online where that was meant.

    Args:
        wanted: The setting `tracking.mode`; "auto" is what WANDB_MODE says, else online if a key is found.

    Raises:
        TrackingError: If `tracking.mode=online` and W&B does not answer.
    """
    mode = find_mode() if wanted == "auto" else wanted
    reason = unreachable() if mode == "online" else None
    if reason is None:
        return mode, None
    if wanted == "online":
        raise TrackingError(f"tracking.mode=online, but {reason}: see to the network, or set tracking.mode=offline")
    return "offline", reason


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
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def unreachable() -> str | None:
    """Return why W&B cannot be reached, None if it answers, whatever it says; a proxy that is set is used."""
    shown = re.sub(r"//[^/@]*@", "//", _url())
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
