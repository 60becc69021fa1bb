"""Lists of the best samples from the scores that a run kept: of any length, by any classes.

A maximization scan with ``keep: scores`` stores, of every sample and concept, the sum, the greatest
value and its position. Other lists than those of its result follow without a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from explainers.concepts.scores import FIELDS
from explainers.maximization.matrices import lists_of_matrices
from pipeline.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from explainers import Result
    from pipeline.store import Run

ROWS = 1024
"""Samples that are read at a time, in whole shards: memory does not grow with their number."""


def lists(
    run: Run,
    scan: str,
    *,
    k: int = 40,
    per_class: bool | int = 0,
    by: Literal["label", "prediction"] | Sequence[int] | NDArray[np.int64] = "label",
    layers: str | Sequence[str] | None = None,
) -> dict[str, Result]:
    """Return lists like those of a maximization scan, from the scores that it kept.

    Parameters
    ----------
    run
        With the scores; samples of shards that are not done are left out.
    scan
        Entry of the scan.
    k
        Length of the lists.
    per_class
        Length of the lists of each class; true for `k`, false or 0 for none.
    by
        What the class of a sample is: its label, the network's prediction, or one integer per
        sample of the run, -1 for those of no class.
    layers
        One or several; all that were kept by default. Of several targets ``<target>/<layer>``.

    Returns
    -------
    dict
        Layer to lists; see `explainers.maximization.scan.Maximization`.

    Raises
    ------
    StoreError
        If no such scores were kept.
    ValueError
        If `by` does not have one class per sample.
    TypeError
        If its classes are no whole numbers.
    """
    if layers is None:
        layers = kept_layers(run, scan)
    elif isinstance(layers, str):
        layers = (layers,)
    n_samples, shard_size = run.plan.n_samples, run.plan.shard_size
    # what was not scored is NaN, and in no list
    return lists_of_matrices(
        {layer: _matrices(run, scan, layer) for layer in layers},
        torch.arange(n_samples),
        torch.from_numpy(_groups(run, by)),
        k=k,
        per_class=per_class,
        n_rows=shard_size * max(1, ROWS // shard_size),
    )


def kept_layers(run: Run, scan: str) -> tuple[str, ...]:
    """Return the layers whose scores a scan kept.

    Raises
    ------
    StoreError
        If there are none.
    """
    ending = f"/{FIELDS[0]}"
    names = (name for name in run.arrays(scan) if name.endswith(ending))
    layers = tuple(name.removesuffix(ending) for name in names)
    if not layers:
        raise StoreError(
            f"{run.path!r} holds no scores of {scan!r}",
            fix="run the scan with `keep: scores`; its lists alone cannot be made longer",
            page="not-in-run",
        )
    return layers


@dataclass(frozen=True)
class _Matrix:
    """Kept scores of a layer, some rows of which are read at a time."""

    array: xr.DataArray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return np.asarray(self.array[rows])


def _matrices(run: Run, scan: str, layer: str) -> dict[str, _Matrix]:
    known = kept_layers(run, scan)
    if layer not in known:
        raise StoreError(
            f"{run.path!r} holds no scores of {scan!r} in {layer!r}",
            fix=f"name one of {', '.join(known)}",
            page="not-in-run",
        )
    return {name: _Matrix(run.array(scan, f"{layer}/{name}")) for name in FIELDS}


def _groups(run: Run, by: str | Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    if isinstance(by, str):
        if by == "prediction":
            return np.asarray(run.array("", "prediction"), dtype=np.int64)
        if by == "label":
            return np.array(run.manifest.labels, dtype=np.int64)
        raise ValueError(f"got by={by!r}, expected 'label', 'prediction' or one class per sample")
    given = np.asarray(by)
    if given.dtype.kind not in "iu":
        raise TypeError(f"got classes of type {given.dtype}, expected whole numbers")
    groups = given.astype(np.int64)
    if groups.shape != (run.plan.n_samples,):
        raise ValueError(
            f"got classes of shape {groups.shape}, expected one for each of the "
            f"{run.plan.n_samples} samples of the run; give -1 to those of no class"
        )
    return groups
