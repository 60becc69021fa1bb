"""The token that a cluster wants: found where its owner put it, never made up, never left out."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import EngineError

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
HOME = Path(".ray", "auth_token")
"""Below the home folder; where Ray itself looks last. It is read here, and never written."""
PAGE = "cluster-token"
FIX = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token (or "
    "RAY_AUTH_TOKEN to the token); whoever started the cluster has it"
)


def token() -> str:
    """Return the user's token for a cluster that runs already.

    Looked for where Ray looks, in the same order: ``RAY_AUTH_TOKEN``, the file that
    ``RAY_AUTH_TOKEN_PATH`` names, ``~/.ray/auth_token``.

    Raises
    ------
    EngineError
        If there is none, it cannot be read, or authentication is switched off. A cluster runs
        whatever it is sent, so that there is no other way to reach one.
    """
    mode = os.environ.get(MODE, "token")
    if mode.lower() == "disabled":
        raise EngineError(f"{MODE} is {mode!r}, expected 'token'", fix=FIX, page=PAGE)
    found = os.environ.get(TOKEN, "").strip()
    return found or _from_file()


def _from_file() -> str:
    named = os.environ.get(TOKEN_PATH)
    path = Path(named) if named else Path.home() / HOME
    try:
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if not named:
            raise EngineError("there is no token for the cluster", fix=FIX, page=PAGE) from error
        reason = getattr(error, "strerror", None) or error
        raise EngineError(
            f"the token in {named!r} ({TOKEN_PATH}) cannot be read: {reason}", fix=FIX, page=PAGE
        ) from error
    if not found:
        raise EngineError(f"the token in {str(path)!r} is empty", fix=FIX, page=PAGE)
    return found
