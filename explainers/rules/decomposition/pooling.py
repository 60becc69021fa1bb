"""Parts behind pools: where the whole value is largest, and means of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

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
    return Parts(taken(op, value.of_rows, op.switches(streams.values), streams))


def taken(op: MaxPool, value: Tensor, places: Tensor, streams: Streams) -> Tensor:
    """Return the values of rows at positions in their samples.

    Parameters
    ----------
    op
        The pool, behind which rows are in the first axis.
    value
        Of its input, for each row.
    places
        Flat in the spatial axes, for each sample.
    streams
        Say which sample a row is of.
    """
    if value.ndim != 4 or not value.is_contiguous(memory_format=torch.channels_last):
        return _at(op, value, streams.repeated(op.name, places))
    # by place in memory, where the values of one row are one line
    n_channels, n_samples = value.shape[1], len(places)
    channel = torch.arange(n_channels, device=places.device).view(-1, 1, 1)
    lines = value.permute(0, 2, 3, 1).reshape(len(value), -1)
    within = (places * n_channels + channel).permute(0, 2, 3, 1).reshape(n_samples, -1)
    if n_samples == 1:
        found = lines.index_select(1, within[0])
    else:
        found = lines.gather(1, within[streams.rows])
    return found.view(len(value), *places.shape[2:], n_channels).permute(0, 3, 1, 2)


def _at(op: MaxPool, value: Tensor, places: Tensor) -> Tensor:
    """Return values at flat positions in the spatial axes, row by row."""
    n_axes = len(op.size)
    return value.flatten(-n_axes).gather(-1, places.flatten(-n_axes)).view(places.shape)


@decomposition.rule(AveragePool)
def averaged(op: AveragePool, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Average both parts."""
    return streams.run(op, inputs)
