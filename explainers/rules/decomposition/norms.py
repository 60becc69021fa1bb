"""Parts behind norms by statistics of the sample itself: of layers, groups and mean squares."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from explainers.operators import Normalise
from explainers.rules.decomposition.table import decomposition
from explainers.rules.decomposition.two_part import Game, given

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.decomposition.parts import Parts
    from explainers.rules.decomposition.streams import Streams

_ROUNDINGS = 16
"""Units in the last place of the largest value that a part of rounding errors may have; fewer left
some of them in a Swin of four blocks, more took away what a token hands to distant ones."""


@decomposition.rule(Normalise)
def normalised(op: Normalise, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Take both parts in turn through the norm with its weight, and share its bias.

    Each part is normalised by its own statistics where it plays alone, by those of the whole where
    both do.
    """
    plain = op if op.bias is None else replace(op, bias=None)
    ((relevant, irrelevant, total),) = given(op, inputs, streams)
    if not streams.is_strict:
        irrelevant = _snapped(op, irrelevant, _largest(op, total))
    bias = _along(op, total.ndim)
    if streams.is_strict:
        whole = plain.run(total)
    else:
        # by the same program as the parts, so that what is all relevant, or not at all, stays so
        whole = streams.repeated(op.name, plain.run(streams.values[op.inputs[0]]))
    return Game(plain.run(relevant), plain.run(irrelevant), whole, bias=bias).parts(streams)


def _along(op: Normalise, n_axes: int) -> Tensor | None:
    """Return the bias shaped to broadcast: along channels, or the last axes."""
    if op.bias is None or op.kind != "group":
        return op.bias
    return op.bias.view(-1, *[1] * (n_axes - 2))


def _snapped(op: Normalise, part: Tensor, largest: Tensor) -> Tensor:
    """Return a part that is none where it is no larger than the rounding of the value is.

    With one stream, the difference of equal numbers is of that size, and a norm would enlarge it:
    by three hundred times, with an ``eps`` of 1e-5, in every norm of a network.
    """
    least = largest * (_ROUNDINGS * torch.finfo(part.dtype).eps)
    is_kept = _largest(op, part) > least
    if op.kind != "group":
        return part * is_kept
    return (part.reshape(len(part), op.shape[0], -1) * is_kept).view(part.shape)


def _largest(op: Normalise, value: Tensor) -> Tensor:
    """Return the largest magnitude of what is normalised together."""
    if op.kind == "group":
        return value.reshape(len(value), op.shape[0], -1).abs().amax(-1, keepdim=True)
    return value.abs().amax(tuple(range(-len(op.shape), 0)), keepdim=True)
