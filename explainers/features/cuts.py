"""Cells that follow from the shape of the input alone: values, places, channels, grids, patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.features.axes import axes, channel_axis
from explainers.features.labels import Labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from explainers.features.labels import Rows


@dataclass(frozen=True)
class Values:
    """Every value by itself."""

    def labels(self, shape: tuple[int, ...], rows: Rows | None) -> Labels:
        """Return a cell for each value."""
        return _numbered(shape, range(len(shape)))

    def suits(self, shape: tuple[int, ...], are_tokens: bool) -> bool:
        """Whatever it is."""
        return True


@dataclass(frozen=True)
class Pixels:
    """Every place by itself, with all its channels."""

    def labels(self, shape: tuple[int, ...], rows: Rows | None) -> Labels:
        """Return a cell for each place."""
        return _numbered(shape, axes(shape).places)

    def suits(self, shape: tuple[int, ...], are_tokens: bool) -> bool:
        """Whether there are places with channels."""
        return len(shape) > 1 and not are_tokens


@dataclass(frozen=True)
class Channels:
    """Every channel by itself, at all places."""

    def labels(self, shape: tuple[int, ...], rows: Rows | None) -> Labels:
        """Return a cell for each channel."""
        return _numbered(shape, (channel_axis(shape),))

    def suits(self, shape: tuple[int, ...], are_tokens: bool) -> bool:
        """Whether there are channels."""
        return len(shape) > 1 and not are_tokens


@dataclass(frozen=True)
class Tokens:
    """Every token by itself: the first axis of what has been looked up."""

    def labels(self, shape: tuple[int, ...], rows: Rows | None) -> Labels:
        """Return a cell for each place of a sequence."""
        if len(shape) != 2:
            raise ValueError(
                f"got features 'tokens' for values of shape {shape}, expected (tokens, features), "
                "or an input of integers that an embedding looks up"
            )
        return _numbered(shape, (0,))

    def suits(self, shape: tuple[int, ...], are_tokens: bool) -> bool:
        """Whether they are tokens."""
        return are_tokens


@dataclass(frozen=True)
class Grid:
    """Places cut into as many cells as are asked for, whose sides differ by one at most."""

    n_cells: tuple[int, ...]
    """Along each axis of places; one number for all of them."""

    def labels(self, shape: tuple[int, ...], rows: Rows | None) -> Labels:
        """Return the cells of a regular grid."""
        places = axes(shape, len(self.n_cells)).places
        n_cells = _for_each(self.n_cells, places, shape, "grid")
        for axis, wanted in zip(places, n_cells, strict=True):
            if wanted > shape[axis]:
                raise ValueError(
                    f"got a grid of {wanted} cells along an axis of {shape[axis]} values, of "
                    f"inputs {shape}: a cell would be empty; expected {shape[axis]} at most"
                )
        along = [
            torch.arange(shape[axis]) * wanted // shape[axis]
            for axis, wanted in zip(places, n_cells, strict=True)
        ]
        return _product(along, n_cells, places, len(shape))

    def suits(self, shape: tuple[int, ...], are_tokens: bool) -> bool:
        """Whether there are places with channels."""
        return len(shape) > 1 and not are_tokens


@dataclass(frozen=True)
class Patches:
    """Places cut into cells of a size; those at the far edges may be smaller."""

    size: tuple[int, ...]
    """Along each axis of places; one number for all of them."""

    def labels(self, shape: tuple[int, ...], rows: Rows | None) -> Labels:
        """Return the patches."""
        places = axes(shape, len(self.size)).places
        sizes = _for_each(self.size, places, shape, "patches")
        along = [
            torch.arange(shape[axis]) // size for axis, size in zip(places, sizes, strict=True)
        ]
        n_cells = [-(-shape[axis] // size) for axis, size in zip(places, sizes, strict=True)]
        return _product(along, n_cells, places, len(shape))

    def suits(self, shape: tuple[int, ...], are_tokens: bool) -> bool:
        """Whether there are places with channels."""
        return len(shape) > 1 and not are_tokens


def _numbered(shape: tuple[int, ...], chosen: Sequence[int]) -> Labels:
    """Return a cell for each position along the chosen axes."""
    own = [size if axis in chosen else 1 for axis, size in enumerate(shape)]
    n_cells = math.prod(own)
    return Labels(torch.arange(n_cells).view(1, *own), (n_cells,))


def _product(
    along: Sequence[Tensor], n_cells: Sequence[int], places: Sequence[int], n_axes: int
) -> Labels:
    """Return the cells that stretches along each axis make together, row by row."""
    cells = torch.zeros(1, *[1] * n_axes, dtype=torch.int64)
    for axis, stretch, own in zip(places, along, n_cells, strict=True):
        cells = cells * own + stretch.view(-1, *[1] * (n_axes - 1 - axis))
    return Labels(cells, (math.prod(n_cells),))


def _for_each(
    given: tuple[int, ...], places: Sequence[int], shape: tuple[int, ...], word: str
) -> tuple[int, ...]:
    if len(given) == 1:
        return given * len(places)
    if len(given) != len(places):
        raise ValueError(
            f"got {word} {list(given)} for inputs {shape}, expected one number, or one for each "
            f"of {len(places)} axes; for cells of one channel say channels: apart"
        )
    return given
