"""Pieces of values: taken out with what is around them, and put back.

All are held channels last, so that a place is one piece of memory, which is copied as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Places:
    """Where pieces of a value are, those of a box in all rows at the same place."""

    starts: tuple[Tensor, ...]
    """First place along each axis, int64 ``(boxes,)`` each."""
    sizes: tuple[int, ...]
    """Number of places along each axis."""

    def positions(self, lead: Tensor, extents: Sequence[int]) -> Tensor:
        """Return where all places are in a flat table, int64 ``(boxes, rows, *sizes)``.

        Parameters
        ----------
        lead
            Which entry of the table each piece is of, ``(boxes, rows)`` or ``(boxes, 1)``.
        extents
            Of an entry along each axis.
        """
        found = lead
        for each, extent in zip(self._along(), extents, strict=True):
            n_boxes, size = each.shape
            places = each.view(n_boxes, *[1] * (found.ndim - 1), size)
            found = found[..., None] * extent + places
        return found

    def outside(self, extents: Sequence[int]) -> Tensor:
        """Return which places are not within these extents, bool ``(boxes, 1, *sizes)``."""
        found = torch.zeros(len(self.starts[0]), 1, dtype=torch.bool, device=self.starts[0].device)
        for each, extent in zip(self._along(), extents, strict=True):
            n_boxes, size = each.shape
            is_out = ((each < 0) | (each >= extent)).view(n_boxes, *[1] * (found.ndim - 1), size)
            found = found[..., None] | is_out
        return found

    def relative_to(self, outer: Places) -> Places:
        """Return the same places, counted from where others start."""
        pairs = zip(self.starts, outer.starts, strict=True)
        return Places(tuple(start - first for start, first in pairs), self.sizes)

    def moved(self, widths: Sequence[int]) -> Places:
        """Return the places in a value that has so many more in front."""
        pairs = zip(self.starts, widths, strict=True)
        return Places(tuple(start + width for start, width in pairs), self.sizes)

    def _along(self) -> list[Tensor]:
        """Return the places along each axis, ``(boxes, size)`` each."""
        return [
            start[:, None] + torch.arange(size, device=start.device)
            for start, size in zip(self.starts, self.sizes, strict=True)
        ]


def table(value: Tensor, margins: Sequence[tuple[int, int]], fill: float) -> Tensor:
    """Return a value ``(rows, channels, *axes)`` as ``(rows, *axes, channels)`` with margins.

    Without margins it is a view, if the value is held channels last.
    """
    last = value.movedim(1, -1)
    if any(max(pair) > 0 for pair in margins):
        widths = [width for pair in reversed(margins) for width in pair]
        last = functional.pad(last, [0, 0, *widths], value=fill)
    return last.contiguous()


def taken(whole: Tensor, lead: Tensor, places: Places) -> Tensor:
    """Return pieces of a table, ``(boxes, rows, *sizes, channels)``."""
    positions = places.positions(lead, whole.shape[1:-1])
    flat = whole.view(-1, whole.shape[-1])
    return flat.index_select(0, positions.flatten()).view(*positions.shape, -1)


def around(
    whole: Tensor, lead: Tensor, places: Places, piece: Tensor, at: Places, *, has_strays: bool
) -> Tensor:
    """Return pieces of a table, in which smaller pieces have been written over.

    Parameters
    ----------
    whole, lead, places
        As in `taken`.
    piece
        What is written, ``(boxes, rows, *at.sizes, channels)``.
    at
        Where it is, counted as `places` are.
    has_strays
        Whether parts of it lie outside of what is taken; these are dropped.
    """
    positions = places.positions(lead, whole.shape[1:-1])
    asked = positions.flatten()
    if has_strays:
        # one more, for what is dropped to be written to
        asked = torch.cat([asked, asked[:1]])
    n_channels = whole.shape[-1]
    flat = whole.view(-1, n_channels).index_select(0, asked)
    inner = at.relative_to(places)
    every = torch.arange(lead.numel(), device=lead.device).view(lead.shape)
    targets = inner.positions(every, places.sizes)
    if has_strays:
        targets = targets.masked_fill(inner.outside(places.sizes), positions.numel())
    flat.index_copy_(0, targets.flatten(), piece.reshape(-1, n_channels))
    return flat[: positions.numel()].view(*positions.shape, n_channels)


def entire(whole: Tensor, lead: Tensor, piece: Tensor, at: Places) -> Tensor:
    """Return copies of whole entries of a table, in which pieces have been written over.

    Returns
    -------
    Tensor
        ``(boxes * rows, *extents, channels)``.
    """
    found = whole.index_select(0, lead.flatten())
    every = torch.arange(lead.numel(), device=lead.device).view(lead.shape)
    targets = at.positions(every, whole.shape[1:-1])
    n_channels = whole.shape[-1]
    flat = found.view(-1, n_channels)
    flat.index_copy_(0, targets.flatten(), piece.reshape(-1, n_channels))
    return found
