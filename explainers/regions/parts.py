"""Boxes in parts that are evaluated apart: those at borders reach less than those within."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from explainers.regions.boxes import Boxes
from explainers.regions.draft import draft

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.regions.boxes import Intervals
    from explainers.regions.plan import Plan

WORTH = 0.9
"""Of the cost of running everything, at most what plans may cost."""
MOST_AT_BORDERS = 4
"""Boxes along each side of a border that are tried as a part of their own."""


@dataclass(frozen=True, eq=False)
class Part:
    """Boxes next to each other, and how they are evaluated."""

    plan: Plan
    positions: Tensor
    """Of its boxes among all, int64, on the CPU."""


_known: WeakKeyDictionary[Network, dict[Boxes, tuple[Part, ...]]] = WeakKeyDictionary()
_KEPT = 8
"""Geometries that are remembered of a network: more than are used in turn."""


def planned(network: Network, boxes: Boxes) -> tuple[Part, ...]:
    """Return how boxes on a network's input are evaluated; nothing where reuse does not pay."""
    known = _known.setdefault(network, {})
    if boxes not in known:
        while len(known) >= _KEPT:
            del known[next(iter(known))]
        known[boxes] = _cheapest(network, boxes)
    return known[boxes]


def _cheapest(network: Network, boxes: Boxes) -> tuple[Part, ...]:
    """Return the parts that cost least together, if they save enough."""
    found: tuple[Part, ...] = ()
    whole = draft(network, boxes)
    if whole is None:
        return found
    least = WORTH * len(boxes)
    for width in range(MOST_AT_BORDERS + 1):
        if width and all(len(axis) <= 2 * width for axis in boxes.axes[1:]):
            break
        parts = parted(network, boxes, width)
        cost = sum(part.plan.cost * len(part.positions) for part in parts)
        cost += whole.cost_of_weights * (len(parts) - 1)
        if parts and cost <= least:
            found, least = parts, cost
    return found


def parted(network: Network, boxes: Boxes, width: int) -> tuple[Part, ...]:
    """Return parts, so many boxes wide at each border; one, where that is 0.

    Nothing, where there is a part that reaches everything.
    """
    every = torch.arange(len(boxes)).view(boxes.counts)
    channels, *axes = boxes.axes
    cuts = [[slice(None)], *(_slices(axis, width) for axis in axes)]
    parts = []
    for which in itertools.product(*cuts):
        some = (axis.some(one) for axis, one in zip(axes, which[1:], strict=True))
        made = draft(network, Boxes((channels, *some)))
        if made is None:
            return ()
        parts.append(Part(made.cheapest(), every[which].flatten()))
    return tuple(parts)


def _slices(axis: Intervals, width: int) -> list[slice]:
    if not width or len(axis) <= 2 * width:
        return [slice(None)]
    return [slice(width), slice(width, len(axis) - width), slice(len(axis) - width, None)]
