"""Cells of a sample: squares of a picture, stretches of a text or a series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.features import Partition, check, resolve
from explainers.features.subject import network_of, subjects
from explainers.operators import Convolution, Input

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.features.subject import Subject
    from explainers.network import Network
    from explainers.trace import Trace

PER_SIDE = 16
"""Cells along the shorter side of a picture where nobody says how large they are: 14 pixels of
224, and one of 28, as the authors took."""


@dataclass(frozen=True)
class Cells:
    """How samples of a network are cut into cells."""

    shape: tuple[int, int]
    """Rows and columns of cells; a sequence is one row."""
    size: int
    """Values along a side of a cell; the last ones may be smaller."""
    is_sequence: bool
    are_tokens: bool = False
    is_last: bool = False
    """Of a sequence of vectors, whether positions are the last axis and channels the first."""
    length: int = 0
    """Of a sequence, in positions."""
    is_numbered: bool = False
    """Whether positions are single values: columns of a table, units of a layer."""

    @property
    def count(self) -> int:
        """Cells of a sample."""
        return self.shape[0] * self.shape[1]

    def spread(self, of_cells: Tensor) -> Tensor:
        """Return what cells have, ``(..., cells)``, in the shape in which it is stored.

        That is ``(..., rows, columns)`` of cells of a picture, and ``(..., positions)`` of a
        sequence, whose length is then that of its map.
        """
        if not self.is_sequence:
            return of_cells.view(*of_cells.shape[:-1], *self.shape)
        return of_cells[..., torch.arange(self.length, device=of_cells.device) // self.size]

    def partition(self, trace: Trace, layer: str | None) -> Partition:
        """Return which cell each value of a batch lies in."""
        if not self.is_last:
            return resolve({"patches": self.size}, trace, layer=layer)
        shape = tuple(trace.inputs.shape[1:])
        along = torch.arange(shape[-1], device=trace.inputs.device) // self.size
        return Partition(along.view(1, 1, -1), (self.count,), shape)


def cells_of(network: Network, layer: str | None, size: int | None) -> Cells:
    """Return the cells of a network's samples.

    Pictures are ``(channels, height, width)``, series ``(channels, length)`` where a convolution
    reads them and ``(length, features)`` otherwise; values ``(values,)`` are a series, too.

    Parameters
    ----------
    network
        The whole, or the part of it that is explained.
    layer
        Whose values are cut; None for the inputs.
    size
        Of a cell; None for a sixteenth of the shorter side of a picture, at least 1, and 1 for
        others.

    Raises
    ------
    NotImplementedError
        If there are several inputs.
    ValueError
        If samples are of another shape, or a picture would be one cell.
    """
    part = network_of(network, layer)
    found = subjects(part, layer)
    if len(found) != 1:
        raise NotImplementedError(
            f"hierarchies grow in one input, and there are {len(found)}: "
            f"{', '.join(subject.name for subject in found)}; use contextual_decomposition"
        )
    return _cut(found[0], part, layer, size)


def _cut(subject: Subject, part: Network, layer: str | None, size: int | None) -> Cells:
    shape, are_tokens = subject.shape, bool(subject.lookups)
    if len(shape) == 3 and not are_tokens:
        size = max(1, min(shape[1:]) // PER_SIDE) if size is None else size
        if 1 < size >= max(shape[1:]):
            raise ValueError(
                f"got sweep={size} for pictures of {shape[1]} x {shape[2]}, which would be one "
                f"cell; expected at most {max(shape[1:]) - 1}"
            )
        return Cells((-(-shape[1] // size), -(-shape[2] // size)), size, is_sequence=False)
    size = 1 if size is None else size
    if len(shape) == 2 and not are_tokens:
        is_last = _is_convolved(part, subject)
        length = shape[-1 if is_last else 0]
        n_cells = -(-length // size)
        return Cells((1, n_cells), size, is_sequence=True, is_last=is_last, length=length)
    if len(shape) == 1:
        n_cells = check({"patches": size}, part, layer=layer) or 0
        return Cells(
            (1, n_cells),
            size,
            is_sequence=True,
            are_tokens=are_tokens,
            length=shape[0],
            is_numbered=not are_tokens,
        )
    raise ValueError(
        f"got samples of shape {shape}, expected a picture (channels, height, width), a series "
        "(channels, length), tokens (length,) or values (values,); use contextual_decomposition"
    )


def _is_convolved(network: Network, subject: Subject) -> bool:
    """Return whether a convolution is what reads the values first."""
    names = {op.name for op in network.operators if isinstance(op, Input)} | {*subject.values}
    readers = [op for op in network.operators if names.intersection(op.inputs)]
    return bool(readers) and isinstance(readers[0], Convolution)
