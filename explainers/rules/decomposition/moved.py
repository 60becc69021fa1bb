"""Parts behind index maps, lookups and linear maps without weights: each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import LinearMap, Reshape
from explainers.rules.decomposition.table import decomposition

if TYPE_CHECKING:
    from explainers.rules.decomposition.parts import Parts
    from explainers.rules.decomposition.streams import Streams


@decomposition.rule(Reshape, LinearMap)
def moved(op: Reshape | LinearMap, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Move, repeat or sum the values of both parts."""
    return streams.run(op, inputs)
