"""Lists from scores that were kept of every sample: no network is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from explainers.concepts.scores import FIELDS, Scores
from explainers.maximization.lists import Lists, length_of_classes
from explainers.maximization.scored import Scored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from explainers.base import Result


class Matrix(Protocol):
    """A tensor, a numpy or a Zarr array, ``(sample, channel)``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extent."""

    def __getitem__(self, rows: slice) -> Any:
        """Return some rows."""


def lists_of_matrices(
    layers: Mapping[str, Mapping[str, Matrix]],
    sample: Tensor,
    group: Tensor | None = None,
    *,
    k: int = 40,
    per_class: bool | int = 0,
    n_rows: int = 1024,
) -> Result:
    """Return what a scan finalises to, for any k and any split of samples into classes.

    From the matrices of a scan, with its k and its classes, the result is that of the scan to the
    bit. A layer is read at a time, and some rows of it.

    Parameters
    ----------
    layers
        By layer ``total``, ``peak`` and ``position``, ``(sample, channel)`` each. Rows of NaN are
        in no list.
    sample
        Index of each row's sample, int64, ``(sample,)``.
    group
        Class of each, int64, ``(sample,)``; -1 for none. By default no sample has one.
    k
        Length of the lists.
    per_class
        Length of the lists of each class; true for `k`, false or 0 for none.
    n_rows
        How many rows are read at once.

    Raises
    ------
    ValueError
        If there is not one row for each sample.
    """
    lists = Lists(k, length_of_classes(per_class, k))
    group = torch.full_like(sample, -1) if group is None else group
    result: Result = {}
    for layer, matrices in layers.items():
        _check(layer, matrices, sample, group)
        blocks = _blocks(layer, matrices, sample, group, n_rows)
        state = lists.merged(lists.of(block) for block in blocks)
        result |= lists.finalise(state)
    return result


def _blocks(
    layer: str, matrices: Mapping[str, Matrix], sample: Tensor, group: Tensor, n_rows: int
) -> Iterator[Scored]:
    # Of no samples, too, there is a block: it says how many channels there are.
    for start in range(0, max(1, len(sample)), n_rows):
        rows = slice(start, start + n_rows)
        scores = Scores(*(torch.as_tensor(matrices[name][rows]) for name in FIELDS))
        yield Scored(sample[rows], group[rows], {layer: scores})


def _check(layer: str, matrices: Mapping[str, Matrix], sample: Tensor, group: Tensor) -> None:
    for name in FIELDS:
        n_found = matrices[name].shape[0]
        if n_found != len(sample):
            raise ValueError(
                f"{name} of {layer!r} has {n_found} rows, expected one for each of "
                f"{len(sample)} samples"
            )
    if len(group) != len(sample):
        raise ValueError(f"got classes of {len(group)} samples, expected {len(sample)}")
