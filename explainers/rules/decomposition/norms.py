"""Parts behind norms by statistics of the sample itself: of layers, groups and mean squares."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from explainers.operators import Normalise
from explainers.rules.decomposition.table import decomposition
from explainers.rules.decomposition.two_part import Game, given

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.decomposition.parts import Parts
    from explainers.rules.decomposition.streams import Streams


@decomposition.rule(Normalise)
def normalised(op: Normalise, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Take both parts in turn through the norm with its weight, and share its bias.

    Each part is normalised by its own statistics where it plays alone, by those of the whole where
    both do.
    """
    plain = op if op.bias is None else replace(op, bias=None)
    ((relevant, irrelevant, total),) = given(op, inputs, streams)
    bias = _along(op, total.ndim)
    game = Game(plain.run(relevant), plain.run(irrelevant), streams.made(plain), bias=bias)
    return game.parts(streams, op.name)


def _along(op: Normalise, n_axes: int) -> Tensor | None:
    """Return the bias shaped to broadcast: along channels, or the last axes."""
    if op.bias is None or op.kind != "group":
        return op.bias
    return op.bias.view(-1, *[1] * (n_axes - 2))
