"""Features that are boxes: patches, cells of a grid, pixels, channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.perturbing.game import Game
from explainers.regions.boxes import Boxes, Intervals
from explainers.regions.evaluate import values_without
from explainers.regions.parts import planned

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.features import Partition


def without_each(game: Game, draws: range) -> Tensor | None:
    """Return the values of all coalitions that lack one feature, ``(draws, rows, features)``.

    None where features are no boxes, or where it does not pay to recompute what they reach alone.

    Parameters
    ----------
    game
        Of the features.
    draws
        Of what is random in the fill, each the same for all features.
    """
    # what only looks like a game, as in tests, has no network
    found = boxes_of(game.partition) if isinstance(game, Game) else None
    if found is None or not planned(game.valuation.trace.network, found[0]):
        return None
    boxes, positions = found
    values = [
        values_without(game.valuation, boxes, game.fill, torch.full((len(boxes),), draw))
        for draw in draws
    ]
    return torch.stack(values)[..., positions.to(game.rows)]


def boxes_of(partition: Partition) -> tuple[Boxes, Tensor] | None:
    """Return features as boxes, and the position of each among them; None if they are not.

    They are, where all samples share them and each axis, of two or more, is cut at the same places
    everywhere.
    """
    if not partition.is_shared or len(partition.shape) < 2:
        return None
    cells = partition.cells[0].cpu()
    axes, firsts = [], cells
    for axis, size in enumerate(partition.shape):
        n_cells = cells.shape[axis]
        before, after = cells.narrow(axis, 0, n_cells - 1), cells.narrow(axis, 1, n_cells - 1)
        is_new = (before != after).movedim(axis, 0).flatten(1).any(1)
        starts = [0, *(is_new.nonzero().flatten() + 1).tolist()]
        stops = [*starts[1:], n_cells] if n_cells == size else [size]
        axes.append(Intervals(size, tuple(starts), tuple(stops)))
        firsts = firsts.index_select(axis, torch.tensor(starts))
    numbers = firsts.flatten()
    boxes = Boxes(tuple(axes))
    is_once = len(numbers) == max(partition.counts) and len(set(numbers.tolist())) == len(numbers)
    if not is_once or not torch.equal(_spread(firsts, boxes, cells.shape), cells):
        return None
    return boxes, numbers.argsort()


def _spread(firsts: Tensor, boxes: Boxes, shape: torch.Size) -> Tensor:
    """Return what cells are, if each box has one number."""
    for axis, (intervals, n_cells) in enumerate(zip(boxes.axes, shape, strict=True)):
        if n_cells == intervals.size:
            sizes = torch.tensor(intervals.stops) - torch.tensor(intervals.starts)
            firsts = firsts.repeat_interleave(sizes, axis)
    return firsts
