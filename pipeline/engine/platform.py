"""Ray itself: started on this machine with a token of the run's own, or joined where it runs."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import explainers
from pipeline.engine import authentication
from pipeline.errors import EngineError
from pipeline.ownership.lock import acquire, owner
from pipeline.threads import processors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.engine import Settings

OBJECT_STORE_BYTES = 128 * 1024**2
"""Only items and outcomes travel through Ray; maps go straight to the store."""
PREFIX = "xpipe-"
"""Of temporary folders; each says whose it is, so that those of dead drivers can be removed."""
MAX_PARENT_LENGTH = 24
"""Ray's sockets lie some 80 characters below it, and Unix allows 107 in all."""
PACKAGES = ("explainers", "pipeline", "cli", "clusters", "configs")
"""Ours: shipped to clusters, whose nodes need our dependencies alone."""
EXCLUDED = ("__pycache__/", "*.pyc")
"""Of what is shipped: they differ from run to run, so that the rest would be sent again."""
JOIN_SECONDS = 10.0
"""For the first answer of a cluster that is joined; it takes less than one."""
CLUSTER_ID_BYTES = 28
"""Of what Ray calls a cluster by."""
WRONG_CLUSTER = "WrongClusterID"
"""In what a head says to a client that takes it for another one."""


@contextlib.contextmanager
def platform(settings: Settings) -> Iterator[None]:
    """Start Ray on this machine, or join a cluster, and leave it at the end."""
    context = _local if settings.address == "local" else _joined
    with context(settings):
        yield


def package_root() -> Path:
    """Return the folder that holds our packages."""
    return Path(explainers.__file__).parents[1]


@contextlib.contextmanager
def _local(settings: Settings) -> Iterator[None]:
    import ray

    n_processors = processors()
    if settings.workers != "auto":
        n_processors = max(n_processors, int(settings.workers) * settings.threads)
    folder = _temporary_folder()
    token = folder / "token"
    token.touch(mode=0o600, exist_ok=False)
    token.write_text(secrets.token_hex(32), encoding="ascii")
    values = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # such errors come back as outcomes; printing them too would be noise
        "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    }
    try:
        with _environment(values), _quiet():
            ray.init(
                address="local",
                num_cpus=n_processors,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                object_store_memory=OBJECT_STORE_BYTES,
                # one below: Ray opens its own folder to everybody
                _temp_dir=str(folder / "ray"),
            )
            try:
                yield
            finally:
                ray.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _joined(settings: Settings) -> Iterator[None]:
    """Join a running cluster with the user's own token; our packages are shipped to it.

    In a job of the cluster, the job's own environment has them already.
    """
    import ray
    from ray._private.services import canonicalize_bootstrap_address_or_die

    secret = authentication.token()
    values = {
        authentication.MODE: os.environ.get(authentication.MODE, "token"),
        authentication.TOKEN: secret,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    }
    is_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    packages = [str(package_root() / name) for name in PACKAGES]
    shipped = {} if is_job else {"py_modules": packages, "excludes": list(EXCLUDED)}
    with _environment(values), _quiet():
        # looked up once: what is joined is what was asked
        with _refusals_named(settings.address):
            found = canonicalize_bootstrap_address_or_die(settings.address)
        _check_tokens(settings.address, found)
        with _refusals_named(settings.address):
            ray.init(
                address=found,
                log_to_driver=False,
                configure_logging=False,
                runtime_env=shipped,
            )
        try:
            yield
        finally:
            ray.shutdown()


def _check_tokens(address: str, found: str) -> None:
    """See that a cluster refuses a token that is nobody's, and then that it takes ours.

    An open cluster takes code from everybody, and Ray joins it without a word. Where a token is
    wrong, Ray tries for 20 seconds and then says that it cannot connect.

    Raises
    ------
    EngineError
        If the cluster asks for no token, wants another one or does not answer.
    """
    with _refusals_named(address), _environment({authentication.TOKEN: secrets.token_hex(32)}):
        is_open = not _is_token_refused(found)
    if is_open:
        raise EngineError(
            f"the cluster at {address!r} asks for no token: anybody who reaches it can run code "
            "on it",
            fix="start it with RAY_AUTH_MODE=token and a token; xpipe does not join it as it is",
            page="cluster-without-authentication",
        )
    with _refusals_named(address):
        is_refused = _is_token_refused(found)
    if is_refused:
        raise _other_token(address)


def _is_token_refused(found: str) -> bool:
    """Ask a cluster for its nodes with the token of the environment.

    The client names a cluster that does not exist: a head that looks at tokens says that this one
    is wrong, and if it is not, or none is looked at, that the cluster is another one. So nothing
    is printed, and nothing done, whatever the answer.
    """
    from ray import _raylet, exceptions

    refused: Any = getattr(exceptions, "AuthenticationError", ())
    raylet: Any = _raylet
    try:
        client = raylet.GcsClient(address=found, cluster_id=secrets.token_hex(CLUSTER_ID_BYTES))
        client.get_all_node_info(timeout=JOIN_SECONDS)
    except refused as error:
        return WRONG_CLUSTER not in str(error)
    return False


@contextlib.contextmanager
def _refusals_named(address: str) -> Iterator[None]:
    """Turn what Ray raises when it joins a cluster into errors that name address and cure."""
    from ray import exceptions

    refused: Any = getattr(exceptions, "AuthenticationError", ())
    broken = (exceptions.RaySystemError, exceptions.RpcError)
    try:
        yield
    except refused as error:
        raise _other_token(address) from error
    except (*broken, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EngineError(
            f"cannot join the cluster at {address!r}: {first}",
            fix="see that it runs, has this version of Ray and Python, and may be reached from "
            "here; `auto` needs a node of the cluster, http://head:8265 does not",
            page="cluster-unreachable",
        ) from error


def _other_token(address: str) -> EngineError:
    return EngineError(
        f"the cluster at {address!r} does not take the token",
        fix=authentication.FIX,
        page=authentication.PAGE,
    )


def _temporary_folder() -> Path:
    """Return a folder of the run's own, readable by nobody else, that Ray's sockets fit into."""
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) > MAX_PARENT_LENGTH:
        parent = Path("/tmp")
    for left in parent.glob(f"{PREFIX}*"):
        present = owner(left) if os.access(left, os.R_OK | os.X_OK) else None
        # of a driver that was killed
        if present is not None and present.is_alive is False:
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    acquire(folder)
    return folder


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the time of a with block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    _reread_authentication()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _reread_authentication()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from printing deaths of workers to stdout, where results belong."""
    from ray._private import worker

    # no public switch: ``log_to_driver`` is not asked for the raylet's messages
    before = worker._worker_logs_enabled
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = before


def _reread_authentication() -> None:
    """Let Ray see the environment again: it reads the mode at import and keeps the first token."""
    from ray import _raylet

    settings = getattr(_raylet, "Config", None)
    loader = getattr(_raylet, "AuthenticationTokenLoader", None)
    if settings is not None and loader is not None:  # else a Ray that knows no tokens
        settings.initialize("")
        loader.instance().reset_cache()
