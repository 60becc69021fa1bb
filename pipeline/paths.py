"""Where things live in a run folder, and how a file gets there so that a crash cannot halve it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import uuid
from typing import IO, TYPE_CHECKING, Any

from fsspec.implementations.local import LocalFileSystem

from pipeline import object_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RUN_FILE = "run.yaml"
PLAN = "plan.json"
ENVIRONMENT = "environment.json"
MANIFEST = "manifest.parquet"
MAPS = "maps.zarr"
LEDGER = "ledger"
SAMPLES = "samples"
TABLES = "tables"
STATES = "states"
SCANS = "scans"
GRAPHS = "graphs"
SCORES = "scores"
SPRAY = "spray"
AGGREGATES = "aggregates.parquet"
GATES = "gates.json"
COMPARISONS = "comparisons.parquet"
REPORT = "report.html"
MACHINE = "report.json"
ATLAS = "atlas"
EVENTS = "events.jsonl"
EVENT_OBJECTS = "events"
OWNERS = "owners"
STOP = "stop"

SHARDED = (MAPS, SAMPLES, TABLES, STATES, SCORES, SPRAY)
"""Folders in which every object belongs to a shard and is vouched for by a ledger record."""

BLOCK = 1 << 20
"""Bytes read at a time when a file is hashed; larger blocks were no faster."""


def record_path(pass_name: str, shard: int) -> str:
    """Where the ledger keeps the record of one shard."""
    return f"{LEDGER}/{pass_name}/{shard}.json"


def samples_path(pass_name: str, shard: int) -> str:
    """Where the facts per sample of one shard are."""
    return f"{SAMPLES}/{pass_name}/{shard}.parquet"


def table_path(name: str, shard: int) -> str:
    """Where the table rows of one shard are."""
    return f"{TABLES}/{name}/{shard}.parquet"


def state_path(scan: str, round_name: str, shard: int) -> str:
    """Where the monoid element of one shard is."""
    return f"{STATES}/{scan}/{round_name}/{shard}.safetensors"


def scores_path(metric: str, explainer: str, shard: int) -> str:
    """Where the scores of one shard are."""
    return f"{SCORES}/{metric}/{explainer}/{shard}.parquet"


def judged_path(metric: str) -> str:
    """Where it says how a metric was evaluated."""
    return f"{SCORES}/{metric}/metric.json"


def spray_path(explainer: str, file: str = "") -> str:
    """Where the spectral analysis of an explainer's maps is, or one file of it."""
    return f"{SPRAY}/{explainer}/{file}".rstrip("/")


def spray_record_path(explainer: str) -> str:
    """Where the digests of a finished spectral analysis are; written last, as that of a result."""
    return f"{SPRAY}/{explainer}.json"


def result_path(scan: str) -> str:
    """Where the finalised result of a scan is."""
    return f"{SCANS}/{scan}.zarr"


def result_record_path(scan: str) -> str:
    """Where the digests of a finalised result are; written last, so it is the completion marker."""
    return f"{SCANS}/{scan}.json"


def graph_path(scan: str, file: str = "") -> str:
    """Where the graphs of a scan are, or one file of them."""
    return f"{GRAPHS}/{scan}/{file}".rstrip("/")


def graph_record_path(scan: str) -> str:
    """Where the digests of a scan's graphs are; written last, like that of its result."""
    return f"{GRAPHS}/{scan}.json"


def events_path(epoch: int, number: int) -> str:
    """Where events of a start are in an object store; names sort as they were written."""
    return f"{EVENT_OBJECTS}/{epoch:06d}-{number:06d}.jsonl"


def sha256(content: bytes) -> str:
    """Digest of bytes in memory, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


class Folder:
    """A run folder on any fsspec file system; names in it are relative, with forward slashes.

    Locally, what `write` and `create` return for is on the disk: file and folders are synced.
    Object stores are durable and atomic per object by themselves.

    Parameters
    ----------
    url
        A local path or a URL such as ``s3://bucket/run``.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = os.fspath(url).rstrip("/") or "/"
        self.fs, path = object_store.opened(self.url)
        self.path: str = path.rstrip("/")
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self._whole = object_store.in_one_request(self.fs)

    def __repr__(self) -> str:
        return f"Folder({self.url!r})"

    def at(self, name: str) -> str:
        """Return the file system's own path of a name."""
        return f"{self.path}/{name}" if name else self.path

    def at_url(self, name: str) -> str:
        """Return a URL of a name, for those that open files by themselves."""
        return f"{self.url}/{name}"

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[str]:
        """Give a local path of a file for the time of a with block: a copy if it is not local."""
        if self.is_local:
            yield self.at(name)
            return
        with tempfile.TemporaryDirectory() as copy:
            path = os.path.join(copy, name.rsplit("/", 1)[-1])
            with open(path, "wb") as file:
                file.write(self.read(name))
            yield path

    def write(self, name: str, content: bytes) -> str:
        """Put a file in place as a whole, durably, and return its SHA-256.

        Raises
        ------
        StoreError
            If the file system refuses, for example because it is full; nothing is left behind.
        """
        with object_store.named(self.at(name), "write"):
            if self.is_local:
                _make_folder(os.path.dirname(self.at(name)))
                with _synced_temporary(self.at(name), content) as temporary:
                    os.replace(temporary, self.at(name))
                _sync_folder(os.path.dirname(self.at(name)))
            else:
                self.fs.pipe_file(self.at(name), content)
        return sha256(content)

    def create(self, name: str, content: bytes) -> bool:
        """Put a file in place unless there is one already: of all that try, one gets True.

        Raises
        ------
        StoreError
            If the file system refuses for any other reason than that the file exists.
        """
        try:
            with object_store.named(self.at(name), "write"):
                if self.is_local:
                    _make_folder(os.path.dirname(self.at(name)))
                    with _synced_temporary(self.at(name), content) as temporary:
                        os.link(temporary, self.at(name))
                    _sync_folder(os.path.dirname(self.at(name)))
                else:
                    object_store.create(self.fs, self.at(name), content)
        except FileExistsError:
            return False
        return True

    def claim(self, name: str, content: bytes) -> bool:
        """Create a file whose content nobody else has, such as a record that names its writer.

        Over a network, the answer to a write can get lost; what is repeated then finds the file.
        If it has this very content, it is the caller's own, who was first.

        Raises
        ------
        StoreError
            As `create`.
        """
        if self.create(name, content):
            return True
        if self.is_local:
            return False
        try:
            return self.read(name) == content
        except FileNotFoundError:
            return False  # it was withdrawn in between

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        with object_store.named(self.at(name), "read"):
            content: bytes = self.fs.cat_file(self.at(name), **self._whole)
        return content

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the content of those files that are there; at once, where that saves waiting.

        Raises
        ------
        StoreError
            If one cannot be read for any other reason than that it is not there.
        """
        if self.is_local:
            return dict(self._read_each(names))
        inside = {self.at(name): name for name in names}
        found: dict[str, Any] = {}
        with object_store.named(self.path, "read"):
            # of one path, fsspec returns the content itself
            if inside:
                found = self.fs.cat(list(inside), on_error="return", **self._whole)
        return dict(self._contents(inside, found))

    def _read_each(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield name, self.read(name)

    def _contents(
        self, inside: dict[str, str], found: dict[str, Any]
    ) -> Iterator[tuple[str, bytes]]:
        for path, name in inside.items():
            content = found.get(path)
            if isinstance(content, bytes):
                yield name, content
            elif content is not None and not isinstance(content, FileNotFoundError):
                with object_store.named(path, "read"):
                    raise content

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Give a file to read parts of, for the time of a with block.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        with object_store.named(self.at(name), "read"):
            opened = self.fs.open(self.at(name), "rb")
        with opened as file:
            yield file

    def exists(self, name: str) -> bool:
        """Whether there is a file or a folder of this name."""
        with object_store.named(self.at(name), "look for"):
            return bool(self.fs.exists(self.at(name)))

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a file, read block by block.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        running = hashlib.sha256()
        with self.open(name) as file, object_store.named(self.at(name), "read"):
            while block := file.read(BLOCK):
                running.update(block)
        return running.hexdigest()

    def files(self, under: str = "") -> list[str]:
        """Return the names of all files below a folder, sorted; none if it does not exist."""
        self.fs.invalidate_cache()
        prefix = len(self.path) + 1
        with object_store.named(self.at(under), "list"):
            return sorted(path[prefix:] for path in self.fs.find(self.at(under)))

    def entries(self, under: str = "") -> list[str]:
        """Return the last parts of the names directly in a folder, sorted."""
        self.fs.invalidate_cache()
        try:
            with object_store.named(self.at(under), "list"):
                found = self.fs.ls(self.at(under), detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def listed(self, under: str = "") -> tuple[list[str], list[str]]:
        """Return the names of the files directly in a folder, and of the folders in it, sorted."""
        try:
            with object_store.named(self.at(under), "list"):
                found = self.fs.ls(self.at(under), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return [], []
        last = {each["name"].rstrip("/").rsplit("/", 1)[-1]: each["type"] for each in found}
        folders = sorted(name for name, kind in last.items() if kind == "directory")
        return sorted(last.keys() - set(folders)), folders

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all in it, durably; nothing if it is not there.

        Raises
        ------
        StoreError
            If the file system refuses, for some of it or for all.
        """
        path = self.at(name)
        with contextlib.suppress(FileNotFoundError), object_store.named(path, "remove"):
            self.fs.rm(path, recursive=True)
            if self.is_local:
                _sync_folder(os.path.dirname(path))
            elif self.fs.find(path):
                # many objects are removed by one request, which succeeds though some are left
                raise OSError("the store kept some of it")


def is_temporary(name: str) -> bool:
    """Whether a file is what a killed writer left of an unfinished write."""
    last = name.rsplit("/", 1)[-1]
    return last.startswith(".") and last.endswith(".tmp")


@contextlib.contextmanager
def _synced_temporary(path: str, content: bytes) -> Iterator[str]:
    """Give a synced file beside `path` under a name that no reader takes; it is gone afterwards."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _make_folder(path: str) -> None:
    """Make a folder and its parents; each new entry is synced, or a crash could lose the file."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_folder(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
    _sync_folder(parent)


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
