"""By what samples are ordered: sums or greatest values of channels, as such or normed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from explainers.maximization import order
from explainers.maximization.tables import SCORES, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

STABILISER = 1e-10
"""Added to what is divided by, as Achtibat et al. 2023 (doi:10.1038/s42256-023-00711-8) do."""


class Rows(NamedTuple):
    """Raw scores of samples in one layer."""

    total: Tensor
    """Float32, ``(rows, channel)``."""
    peak: Tensor
    """Float32, ``(rows, channel)``."""
    position: Tensor
    """Int32, ``(rows, channel)``."""
    sample: Tensor
    """Int64, ``(rows,)``."""
    group: Tensor
    """Int64, ``(rows,)``."""

    def of(self, rows: Tensor) -> Rows:
        """Return some rows, which are given by index."""
        return Rows(*(part[rows] for part in self))

    def in_order(self) -> Rows:
        """Return the rows by class and then by sample."""
        by_sample = self.sample.argsort(stable=True)
        return self.of(by_sample[self.group[by_sample].argsort(stable=True)])

    def entries(self) -> Table:
        """Return the rows' entries for all `SCORES`."""
        raw = [values for part in (self.total, self.peak) for values in (part / _norm(part), part)]
        keys = order.keys(torch.cat(raw, 1), self.sample[:, None])
        return Table(keys, self.position.repeat(1, len(SCORES)), self.group)


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts."""
    return Rows(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _norm(raw: Tensor) -> Tensor:
    """Return the stabilised sum of magnitudes, ``(rows, 1)``; NaN where it is not finite.

    Halves are added until one is left, element by element: so no kernel chooses an order, and the
    bits depend neither on the other rows nor on the device.
    """
    sums = raw.abs()
    while (n := sums.shape[1]) > 1:
        half = n // 2
        paired = sums[:, :half] + sums[:, half : 2 * half]
        sums = torch.cat([paired, sums[:, 2 * half :]], 1) if n % 2 else paired
    return torch.where(sums.isfinite(), sums + STABILISER, torch.nan)
