"""Parts behind pools: where the whole value is largest, and means of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import AveragePool, MaxPool
from explainers.rules.decomposition.parts import Parts
from explainers.rules.decomposition.table import decomposition

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.decomposition.streams import Streams


@decomposition.rule(MaxPool)
def largest(op: MaxPool, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Take both parts from where their sum is largest: of equal ones, from the first."""
    (value,) = inputs
    name = op.inputs[0]
    if value.irrelevant is not None:
        places = op.with_indices(streams.total(name))[1]
        return Parts(_at(op, value.of_rows, places), _at(op, value.irrelevant, places))
    places = streams.repeated(op.name, op.switches(streams.values))
    return Parts(_at(op, value.of_rows, places))


def _at(op: MaxPool, value: Tensor, places: Tensor) -> Tensor:
    """Return values at flat positions in the spatial axes."""
    n_axes = len(op.size)
    flat = value.flatten(-n_axes)
    return flat.gather(-1, places.flatten(-n_axes)).view(places.shape)


@decomposition.rule(AveragePool)
def averaged(op: AveragePool, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Average both parts."""
    return streams.run(op, inputs)
