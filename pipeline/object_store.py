"""File systems that are no disk: opened so that failures are retried, and asked what they promise.

Retries are those of the libraries. botocore repeats requests that were answered with 500, 502, 503
or 504, and s3fs those that were not answered; both wait longer each time.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import uuid
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.asyn import AsyncFileSystem

from pipeline.errors import PlanError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.paths import Folder

ATTEMPTS = 10
"""Of a request; botocore's own five last for some seconds only, and stores throttle for longer."""
CONFLICTS = 5
"""Attempts at an object that others write at this moment (409): the store decides for nobody."""
PAGE = "object-store"

_FULL = ("QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "507")
"""What stores answer when they are full."""
_EXISTS = ("PreconditionFailed", "412")


def no_file_system(what: str, error: Exception) -> PlanError:
    """Return the error that `what` is in a file system that is not installed, or in none at all."""
    return PlanError(
        f"cannot open {what}: {error}",
        fix="pip install 'xpipe-xai[s3]' for s3://, 'xpipe-xai[gcs]' for gs://, else fsspec's "
        "package for it",
        page="missing-extra",
    )


def opened(url: str) -> tuple[Any, str]:
    """Return the file system of a URL or path, and the path in it.

    Listings are not kept: others write the same folder.

    Raises
    ------
    PlanError
        If there is no such file system, or its package is missing.
    """
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **options(protocol))
    except (ImportError, ValueError) as error:
        raise no_file_system(repr(url), error) from error
    return found


def options(protocol: str) -> dict[str, Any]:
    """Return how a file system is opened; what the user's configuration of fsspec says, stands."""
    if protocol in ("s3", "s3a"):
        retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
        chosen: dict[str, Any] = {
            "config_kwargs": {"retries": retries},
            "use_listings_cache": False,
        }
    elif protocol in ("gs", "gcs", "abfs", "az"):
        chosen = {"use_listings_cache": False}
    else:
        chosen = {}
    said = fsspec.config.conf.get(protocol, {})
    return {name: value for name, value in chosen.items() if name not in said}


def in_one_request(fs: Any) -> dict[str, Any]:
    """Return the arguments of ``cat_file`` with which it does not ask for the size first."""
    read = getattr(type(fs), "_cat_file", None)
    is_known = read is not None and "max_concurrency" in inspect.signature(read).parameters
    return {"max_concurrency": 1} if is_known else {}


def create(fs: Any, path: str, content: bytes) -> None:
    """Put an object in place unless there is one.

    Raises
    ------
    FileExistsError
        If there is one. It may be ours: a request that was carried out, and whose answer was lost,
        is repeated by the libraries, and finds what it has put there itself.
    """
    for _ in range(CONFLICTS):
        try:
            fs.pipe_file(path, content, mode="create")
        except OSError as error:
            code = _code(error)
            if code in _EXISTS:
                # some stores do not say which condition failed, and there is only one
                raise FileExistsError(path) from error
            if code != "ConditionalRequestConflict":
                raise
        else:
            return
    raise OSError(errno.EBUSY, f"others write it at the same time: {path}")


@contextlib.contextmanager
def named(path: str, verb: str) -> Iterator[None]:
    """Turn what a file system refuses into a StoreError that keeps ``errno``.

    That a file exists, or does not, passes: callers ask for it.
    """
    try:
        yield
    except (FileExistsError, FileNotFoundError, StoreError):
        raise
    except OSError as error:
        raise _refusal(path, verb, error) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("botocore", "aiobotocore", "aiohttp"):
            raise
        raise _refusal(path, verb, error) from error


def _refusal(path: str, verb: str, error: Exception) -> StoreError:
    code, number = _code(error), getattr(error, "errno", None)
    fix = "check space and permissions, then resume; nothing half-written was left"
    if code in _FULL:
        number = errno.ENOSPC
        fix = "raise the quota or make room, then resume; nothing half-written was left"
    elif isinstance(error, PermissionError):
        number = errno.EACCES if number is None else number
    elif number is None or code:
        fix = "check the address, the credentials and the network, then resume"
    reason = getattr(error, "strerror", None) or error or type(error).__name__
    refusal = StoreError(f"cannot {verb} {path!r}: {reason}", fix=fix, page=PAGE if code else "")
    refusal.errno = number
    return refusal


def _code(error: BaseException | None) -> str:
    """Return what the store called an error, such as ``SlowDown``; empty if it was no answer."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def refuse_unsafe(folder: Folder) -> None:
    """Refuse a file system in which two writers could both believe that they were first.

    An object is created twice, and the second time has to fail: servers that do not know the
    condition ignore it. Where the client only looks before it writes, no server is asked.

    Raises
    ------
    PlanError
        If it cannot create an object on the condition that there is none.
    StoreError
        If it cannot be written at all.
    """
    if folder.is_local:
        return
    name = f".probe.{uuid.uuid4().hex}.tmp"
    is_safe = _asks_the_server(folder.fs)
    if is_safe:
        try:
            folder.create(name, b"first")
            is_safe = not folder.create(name, b"second")
        except FileNotFoundError as error:
            raise StoreError(
                f"cannot write {folder.url!r}: {error}", fix="make the bucket first", page=PAGE
            ) from error
        finally:
            with contextlib.suppress(StoreError, FileNotFoundError):
                folder.remove(name)
    if not is_safe:
        raise PlanError(
            f"{folder.url!r} is in a store that cannot create an object on the condition that "
            "there is none (If-None-Match), so that two writers could overwrite each other",
            fix="use a store that can (S3, Google Cloud Storage, MinIO of 2024 or later), or write "
            "to a disk and copy the folder afterwards",
            page=PAGE,
        )


def _asks_the_server(fs: Any) -> bool:
    """Whether the class of a file system has a conditional write of its own."""
    if isinstance(fs, AsyncFileSystem):
        return "mode" in inspect.signature(type(fs)._pipe_file).parameters
    # fsspec's own looks whether the file exists, and then writes
    return type(fs).pipe_file is not fsspec.AbstractFileSystem.pipe_file
