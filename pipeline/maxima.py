"""Lists of the best samples from the scores that a run kept: of any length, by any classes.

A maximization scan with ``keep: scores`` stores, of every sample and concept, the sum, the greatest
value and its position. Other lists than those of its result follow without a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from explainers.concepts.scores import Scores
from explainers.maximization.lists import Lists
from explainers.maximization.scored import Scored
from pipeline.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from explainers import Result, State
    from pipeline.store import Run

FIELDS = ("total", "peak", "position")
ROWS = 1024
"""Samples that are read at a time, in whole shards: memory does not grow with their number."""


def lists(
    run: Run,
    scan: str,
    *,
    k: int = 40,
    per_class: int = 0,
    by: Literal["label", "prediction"] | Sequence[int] | NDArray[np.int64] = "label",
    layers: Sequence[str] | None = None,
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
        Length of the lists of each class; 0 for none.
    by
        What the class of a sample is: its label, the network's prediction, or one integer per
        sample of the run, -1 for those of no class.
    layers
        Which; all that were kept by default. Of several targets ``<target>/<layer>``.

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
    """
    groups = _groups(run, by)
    made = Lists(k, per_class)
    found: dict[str, Result] = {}
    for layer in kept_layers(run, scan) if layers is None else layers:
        state = made.merged(_states(run, scan, layer, groups, made))
        found.update(made.finalise(state))
    return found


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
        )
    return layers


def _states(
    run: Run, scan: str, layer: str, groups: NDArray[np.int64], made: Lists
) -> Iterator[State]:
    if layer not in kept_layers(run, scan):
        raise StoreError(
            f"{run.path!r} holds no scores of {scan!r} in {layer!r}",
            fix=f"name one of {', '.join(kept_layers(run, scan))}",
        )
    arrays = {name: run.array(scan, f"{layer}/{name}") for name in FIELDS}
    size = run.plan.shard_size * max(1, ROWS // run.plan.shard_size)
    for start in range(0, run.plan.n_samples, size):
        rows = slice(start, min(start + size, run.plan.n_samples))
        scored = _scored(arrays, layer, rows, groups)
        if len(scored.sample):
            yield made.of(scored)


def _scored(
    arrays: dict[str, xr.DataArray], layer: str, rows: slice, groups: NDArray[np.int64]
) -> Scored:
    values: dict[str, Any] = {name: np.asarray(array[rows]) for name, array in arrays.items()}
    good = np.isfinite(values["total"]).all(axis=1) & np.isfinite(values["peak"]).all(axis=1)
    chosen = {name: torch.from_numpy(part[good]) for name, part in values.items()}
    index = np.arange(rows.start, rows.stop)[good]
    return Scored(
        torch.from_numpy(index),
        torch.from_numpy(groups[index]),
        {layer: Scores(*(chosen[name] for name in FIELDS))},
    )


def _groups(run: Run, by: str | Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    if isinstance(by, str):
        if by == "prediction":
            return np.asarray(run.array("", "prediction"), dtype=np.int64)
        if by == "label":
            return np.array(run.manifest.labels, dtype=np.int64)
        raise ValueError(f"got by={by!r}, expected 'label', 'prediction' or one class per sample")
    groups = np.array(by, dtype=np.int64)
    if groups.shape != (run.plan.n_samples,):
        raise ValueError(
            f"got classes of shape {groups.shape}, expected one for each of the "
            f"{run.plan.n_samples} samples of the run; give -1 to those of no class"
        )
    return groups
