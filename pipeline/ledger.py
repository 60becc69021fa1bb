"""What is done: one record per pass and shard, written last, and the first writer wins."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.errors import IntegrityError

if TYPE_CHECKING:
    import os


@dataclass(frozen=True)
class Entry:
    """The record that one shard of one pass is done."""

    pass_name: str
    """The pass."""
    shard: int
    """The shard's index."""
    digest: str
    """Digest of config and inputs; a record with another one than the run's is stale."""
    objects: dict[str, str] = field(default_factory=dict)
    """What this record vouches for: path relative to the run folder to SHA-256."""
    attempt: int = 1
    """Which attempt at this shard it was, from 1."""
    epoch: int = 0
    """Which start of the run (run, resume, ...) the writer belonged to."""
    started: float = 0.0
    """When work began, seconds since 1970; for people, nothing is ordered by it."""
    seconds: float = 0.0
    """How long it took."""
    worker: str = ""
    """Who did it."""
    batch_size: int = 0
    """Samples per batch; smaller than planned where memory ran out."""
    peak_memory: int = 0
    """Bytes."""
    n_samples: int = 0
    """Samples in the shard."""
    n_failed: int = 0
    """Samples that could not be used."""
    not_finite: dict[str, int] = field(default_factory=dict)
    """Explainer to the samples whose map is NaN or infinite somewhere, where there are any."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of ``read`` (waiting for samples), ``compute`` and ``write``; between the latter two
    a shard may have waited for the one before it to be written."""


_LATER = frozenset({"not_finite", "phases"})
"""Fields that records of earlier versions do not have."""


class Ledger:
    """The records of a run; a shard without one is not done, whatever lies in the store.

    Parameters
    ----------
    root
        The run folder, a path or any fsspec URL.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._folder = paths.Folder(root)

    def commit(self, entry: Entry) -> bool:
        """Enter a record; False when another writer was first, whose record then stands.

        What the record vouches for must be durable before.
        """
        path = paths.record_path(entry.pass_name, entry.shard)
        return self._folder.claim(path, _encode(entry))

    def entry(self, pass_name: str, shard: int) -> Entry | None:
        """Return the record of one shard, or None.

        Raises
        ------
        IntegrityError
            If the record is damaged.
        """
        path = paths.record_path(pass_name, shard)
        try:
            content = self._folder.read(path)
        except FileNotFoundError:
            return None
        return _decode(content, path)

    def shards(self, pass_name: str) -> tuple[int, ...]:
        """Return the indices of the shards that have a record, readable or not, in order."""
        names = self._folder.entries(f"{paths.LEDGER}/{pass_name}")
        # What a killed writer leaves has a name that is no number, and counts for nothing.
        stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return tuple(sorted(int(stem) for stem in stems if stem.isdecimal()))

    def entries(self, pass_name: str) -> dict[int, Entry]:
        """Return all records of a pass by shard, in shard order.

        Raises
        ------
        IntegrityError
            If one is damaged.
        """
        names = {paths.record_path(pass_name, shard): shard for shard in self.shards(pass_name)}
        # those withdrawn since the folder was listed are not among them
        found = self._folder.read_all(names)
        return {names[path]: _decode(content, path) for path, content in found.items()}

    def current(self, pass_name: str, digest: str) -> dict[int, Entry]:
        """Return the records of a pass that were made from this config and these inputs."""
        entries = self.entries(pass_name)
        return {shard: entry for shard, entry in entries.items() if entry.digest == digest}

    def passes(self) -> tuple[str, ...]:
        """Return the passes that have records, sorted."""
        return tuple(name for name in self._folder.entries(paths.LEDGER) if self.shards(name))

    def withdraw(self, pass_name: str, shard: int) -> None:
        """Remove a record, so that the shard is computed again; nothing if there is none."""
        self._folder.remove(paths.record_path(pass_name, shard))


def _encode(entry: Entry) -> bytes:
    record = asdict(entry)
    return json.dumps(record | {"checksum": _checksum(record)}, indent=1, sort_keys=True).encode()


def _decode(content: bytes, path: str) -> Entry:
    try:
        record: dict[str, Any] = json.loads(content)
        checksum = record.pop("checksum")
        names = [one.name for one in fields(Entry) if one.name in record or one.name not in _LATER]
        entry = Entry(**{name: record[name] for name in names})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, repr(error)) from error
    if _checksum(record) != checksum:
        raise _damaged(path, "its checksum does not match")
    return entry


def _checksum(record: dict[str, Any]) -> str:
    return paths.sha256(json.dumps(record, sort_keys=True).encode())


def _damaged(path: str, reason: str) -> IntegrityError:
    return IntegrityError(
        f"the ledger record {path!r} is damaged: {reason}",
        fix="run `xpipe verify --repair` on the run, then `xpipe resume`",
    )
