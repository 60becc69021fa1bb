"""The receptive fields of the neurons that references point at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.concepts.kinds.directions import Directions
from explainers.concepts.kinds.parts import Parts
from explainers.concepts.receptive_field import boxes_at

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.concepts.kinds import Concepts
    from explainers.concepts.references.listed import Entries
    from explainers.network import Network


def fields_of(concepts: Concepts, network: Network, entries: Entries) -> Tensor:
    """Return the receptive field of each reference's neuron.

    Returns
    -------
    Tensor
        Top, left, bottom, right, the latter two behind the last; int64, ``(references, 4)``.
    """
    layout = network.layout(concepts.operator)
    places: list[Tensor | None] = []
    if layout is not None and layout.is_plain:
        places = _places(concepts, entries, len(layout.shape))
    boxes = boxes_at(network, concepts.operator, places)
    return boxes.expand(len(entries.row), -1)


def _places(concepts: Concepts, entries: Entries, n_axes: int) -> list[Tensor | None]:
    """Return where neurons are along each axis of a sample's value; None for all along an axis."""
    own: tuple[int, ...] = ()
    places: list[Tensor | None] = [None] * n_axes
    if isinstance(concepts, Parts):
        own = concepts.axes
        sizes = tuple(concepts.form.shape[axis] for axis in own)
        for axis, place in zip(own, torch.unravel_index(entries.concept, sizes), strict=True):
            places[axis] = place
    elif isinstance(concepts, Directions):
        own = (concepts.axis,)
    others = [axis for axis in range(n_axes) if axis not in own]
    if concepts.shape and len(others) == len(concepts.shape):
        found = torch.unravel_index(entries.position, concepts.shape)
        for axis, place in zip(others, found, strict=True):
            places[axis] = place
    return places
