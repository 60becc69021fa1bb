"""Which records of the ledger a start of a run may build on."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.errors import IntegrityError
from pipeline.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.ledger import Entry

logger = logging.getLogger(__name__)


def settle(path: str, pass_name: str, digest: str, basis: str = "") -> dict[int, Entry]:
    """Withdraw the records of a pass that cannot be trusted, and return the others by shard.

    A record is trusted if it can be read, has the run's digest, vouches for objects that all
    exist, and was made on the same basis; whether the objects are intact is for `verify` to say.

    Parameters
    ----------
    path
        Folder of the run.
    pass_name
        The pass.
    digest
        Of the run.
    basis
        `basis_of` the records that the pass depends on; empty for one that depends on none.
    """
    folder, ledger = paths.Folder(path), Ledger(path)
    if not _is_same_basis(folder, pass_name, basis):
        for shard in ledger.shards(pass_name):
            ledger.withdraw(pass_name, shard)
        # after the records are gone: a crash in between only does it again
        folder.write(_basis_path(pass_name), json.dumps({"basis": basis}).encode())
    # in a store, one listing is quicker than a request for each object
    there = folder.exists if folder.is_local else frozenset(folder.files()).__contains__
    trusted: dict[int, Entry] = {}
    for shard in ledger.shards(pass_name):
        entry = _trusted(there, ledger, pass_name, shard, digest)
        if entry is None:
            logger.warning("shard %s of pass %s is done again", shard, pass_name)
            ledger.withdraw(pass_name, shard)
        else:
            trusted[shard] = entry
    return trusted


def basis_of(*parts: Mapping[int, Entry] | str) -> str:
    """Return a digest of records: of their shards and of the objects that they vouch for."""
    plain = [
        part if isinstance(part, str) else [[shard, part[shard].objects] for shard in sorted(part)]
        for part in parts
    ]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def is_result_of(path: str, scan: str, basis: str) -> bool:
    """Whether a scan's result was finalised from these records."""
    return _is_same_basis(paths.Folder(path), f"{scan}.result", basis)


def note_result_of(path: str, scan: str, basis: str) -> None:
    """Take note of the records that a scan's result was finalised from."""
    name = _basis_path(f"{scan}.result")
    paths.Folder(path).write(name, json.dumps({"basis": basis}).encode())


def _trusted(
    there: Callable[[str], bool], ledger: Ledger, pass_name: str, shard: int, digest: str
) -> Entry | None:
    try:
        entry = ledger.entry(pass_name, shard)
    except IntegrityError:
        return None
    if entry is None or entry.digest != digest:
        return None
    return entry if all(there(name) for name in entry.objects) else None


def _is_same_basis(folder: paths.Folder, pass_name: str, basis: str) -> bool:
    name = _basis_path(pass_name)
    if not folder.exists(name):
        return not basis
    try:
        return bool(json.loads(folder.read(name)).get("basis") == basis)
    except ValueError:
        return False


def _basis_path(pass_name: str) -> str:
    """Where it is written; no shard's record has a name that is no number."""
    return f"{paths.LEDGER}/{pass_name}/basis.json"
