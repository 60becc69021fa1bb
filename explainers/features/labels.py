"""Numbers for the cells of a picture, a sequence or a vector, and their bookkeeping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Labels:
    """Which cell each value lies in."""

    cells: Tensor
    """int64 from 0 on, ``(1 | batch, ...)``, broadcasting against the values; on the host."""
    counts: tuple[int, ...]
    """Cells of each row."""
    are_of_samples: bool = False
    """Whether other samples may have others, even where there is one row."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The samples that are divided."""

    values: Tensor
    """``(batch, ...)``."""
    whole: Tensor
    """All inputs of the network, of which these values are a part."""
    name: str
    """Of these values among them."""
    index: Tensor
    """Number of each in the data set, int64 ``(batch,)``, on the host."""
    is_data_set: bool
    """Whether there is a data set; if not, a row is its number."""


class Kind(Protocol):
    """A way to divide an input into cells."""

    def labels(self, shape: tuple[int, ...], rows: Rows | None) -> Labels | None:
        """Return the cells of values of a shape.

        Parameters
        ----------
        shape
            Of one sample.
        rows
            The samples; None before any is read, when what depends on them is None.

        Raises
        ------
        ValueError
            If values of such a shape cannot be divided so.
        """

    def suits(self, shape: tuple[int, ...], are_tokens: bool) -> bool:
        """Whether it is meant for an input among several, with values of such a shape."""


def apart(labels: Labels, shape: tuple[int, ...], axis: int) -> Labels:
    """Return cells of one channel each, those of the first channel first."""
    counts = torch.tensor(labels.counts, device=labels.cells.device)
    channels = torch.arange(shape[axis], device=labels.cells.device)
    channels = channels.view(-1, *[1] * (len(shape) - 1 - axis))
    cells = labels.cells + counts.view(-1, *[1] * len(shape)) * channels
    counts_apart = tuple(count * shape[axis] for count in labels.counts)
    return Labels(cells, counts_apart, labels.are_of_samples)


def compacted(cells: Tensor, n_cells: int) -> Labels:
    """Return cells of rows ``(rows, ...)`` that are numbered anew, without those that are empty."""
    flat = cells.flatten(1)
    is_present = torch.zeros(len(flat), n_cells, dtype=torch.bool, device=flat.device)
    is_present.scatter_(1, flat, torch.ones_like(flat, dtype=torch.bool))
    numbers = is_present.cumsum(1) - 1
    counts = tuple(is_present.sum(1).tolist())
    return Labels(numbers.gather(1, flat).view(cells.shape), counts)
