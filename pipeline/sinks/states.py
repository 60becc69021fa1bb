"""States of scans: one monoid element per round and shard, tensors without code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load, save

from pipeline import paths
from pipeline.errors import StoreError

if TYPE_CHECKING:
    import os

    from explainers.base import State


def write(
    root: str | os.PathLike[str], scan: str, round_name: str, shard: int, state: State
) -> dict[str, str]:
    """Write a state durably and return its object and SHA-256; equal states give equal bytes."""
    path = paths.state_path(scan, round_name, shard)
    # A copy each: safetensors refuses tensors that share memory or are not contiguous.
    tensors = {name: state[name].detach().cpu().clone().contiguous() for name in sorted(state)}
    return {path: paths.Folder(root).write(path, save(tensors))}


def read(root: str | os.PathLike[str], scan: str, round_name: str, shard: int) -> State:
    """Return a state.

    Raises
    ------
    StoreError
        If there is none or it cannot be read.
    """
    path = paths.state_path(scan, round_name, shard)
    try:
        state: State = load(paths.Folder(root).read(path))
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"cannot read the state {path!r}: {error}",
            fix="run `xpipe verify --repair` on the run, then `xpipe resume`",
        ) from error
    return state
