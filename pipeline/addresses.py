"""Where runs can be sent or joined: the forms of an address, checked before anything is written."""

from __future__ import annotations

import re

FORMS = "local, auto, host:port or http://host:port"
_NAMED = ("local", "auto")
_JOB_SERVER = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d+)?/?")
_CLUSTER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d+")


class UserInAddressError(ValueError):
    """An address has a user or a password in it, neither of which is repeated here."""


def is_job_server(address: str) -> bool:
    """Whether ``engine.address`` names a job server, and not a cluster to join."""
    return address.startswith(("http://", "https://"))


def without_user(address: str) -> str:
    """Return an address that has neither user nor password in it.

    Raises
    ------
    UserInAddressError
        If it has: it would be kept with the run, and shown by whatever shows addresses.
    """
    if "@" in address:
        raise UserInAddressError(
            "an address has no user or password in it; give the cluster's token by "
            "RAY_AUTH_TOKEN_PATH"
        )
    return address


def checked(address: str) -> str:
    """Return an address if it has one of the forms that there are.

    Raises
    ------
    ValueError
        If it has none.
    """
    without_user(address)
    if address in _NAMED or _JOB_SERVER.fullmatch(address) or _CLUSTER.fullmatch(address):
        return address
    raise ValueError(f"got the address {address!r}, expected {FORMS}")
