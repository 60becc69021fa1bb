"""States of scans: one monoid element per round and shard, tensors without code."""

from __future__ import annotations

import contextlib
import json
from typing import IO, TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from pipeline import paths
from pipeline.errors import StoreError

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator

    from explainers.base import State

HEADER_BYTES = 100 << 20
"""Of a header that can be one; safetensors itself draws the line here."""


def write(
    root: str | os.PathLike[str], scan: str, round_name: str, shard: int, state: State
) -> dict[str, str]:
    """Write a state durably and return its object and SHA-256; equal states give equal bytes."""
    path = paths.state_path(scan, round_name, shard)
    # A copy each: safetensors refuses tensors that share memory or are not contiguous.
    tensors = {name: state[name].detach().cpu().clone().contiguous() for name in sorted(state)}
    return {path: paths.Folder(root).write(path, save(tensors))}


def names(root: str | os.PathLike[str], scan: str, round_name: str, shard: int) -> tuple[str, ...]:
    """Return the names of a state's entries, sorted; nothing else of it is read.

    Raises
    ------
    StoreError
        If there is none or it cannot be read.
    """
    path = paths.state_path(scan, round_name, shard)
    with _errors_told(path), paths.Folder(root).open(path) as file:
        return tuple(sorted(_header(file)[0]))


def read(
    root: str | os.PathLike[str],
    scan: str,
    round_name: str,
    shard: int,
    wanted: Collection[str] | None = None,
) -> State:
    """Return a state.

    Parameters
    ----------
    root
        The run folder.
    scan, round_name, shard
        Whose it is.
    wanted
        Entries to read, as far as it has them; all by default.

    Raises
    ------
    StoreError
        If there is none or it cannot be read.
    """
    path = paths.state_path(scan, round_name, shard)
    with _errors_told(path):
        if wanted is None:
            return _loaded(paths.Folder(root).read(path))
        with paths.Folder(root).open(path) as file:
            return _part(file, wanted)


def _part(file: IO[bytes], wanted: Collection[str]) -> State:
    """Return some entries of a safetensors file: eight bytes of length, a header, the values."""
    header, start = _header(file)
    chosen = {name: header[name] for name in header if name in wanted}
    own, contents, end = {}, [], 0
    # in the order of the file, as its format wants
    for name, entry in sorted(chosen.items(), key=_offset):
        first, last = entry["data_offsets"]
        file.seek(start + first)
        contents.append(file.read(last - first))
        own[name] = {**entry, "data_offsets": [end, end + last - first]}
        end += last - first
    described = json.dumps(own).encode()
    described += b" " * (-len(described) % 8)
    return _loaded(b"".join((len(described).to_bytes(8, "little"), described, *contents)))


def _loaded(content: bytes) -> State:
    """Return a state in the order of its names, in which safetensors gives none."""
    state = load(content)
    return {name: state[name] for name in sorted(state)}


def _header(file: IO[bytes]) -> tuple[dict[str, Any], int]:
    """Return what each entry is, by name, and where values start."""
    length = int.from_bytes(file.read(8), "little")
    if length > HEADER_BYTES:
        raise ValueError(f"its header would have {length} bytes")
    header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _offset(item: tuple[str, dict[str, Any]]) -> tuple[int, str]:
    return item[1]["data_offsets"][0], item[0]


@contextlib.contextmanager
def _errors_told(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"cannot read the state {path!r}: {error}",
            fix="run `xpipe verify --repair` on the run, then `xpipe resume`",
            page="integrity",
        ) from error
