"""Parts behind functions that clip values: what the relevant part alone would give comes first.

``rel' = f(rel)`` and ``irr' = f(rel + irr) - f(rel)`` (Singh, Murdoch, Yu 2019, arXiv:1806.05337).
A ReLU, and other functions of straight pieces that are zero at zero; all others share what both
give in either order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.operators import Activation, Unary
from explainers.rules.decomposition.parts import Parts
from explainers.rules.decomposition.table import decomposition

if TYPE_CHECKING:
    from explainers.rules.decomposition.streams import Streams


@decomposition.rule(Activation)
def activation(op: Activation, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Take the relevant part first where a function clips; else ask for the rule ``two_part``."""
    if is_clipping(op):
        return relevant_first(op, inputs, streams)
    made: Parts = decomposition.find(op, "two_part")(op, inputs, streams)
    return made


def relevant_first(op: Activation | Unary, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Apply the function to the relevant part; the rest of the value is irrelevant."""
    (value,) = inputs
    if streams.is_spare and isinstance(op, Activation) and op.kind == "relu":
        return Parts(torch.relu_(value.of_rows))
    relevant = op.run(value.of_rows)
    if value.irrelevant is None:
        return Parts(relevant)
    return Parts(relevant, op.run(value.of_rows + value.irrelevant) - relevant)


def is_clipping(op: Activation) -> bool:
    """Return whether a function has straight pieces and is zero at zero."""
    if op.kind in ("relu", "relu6", "leaky_relu"):
        return True
    if op.kind not in ("hardtanh", "clamp"):
        return False
    low, high = ((*op.parameters, None, None) if op.kind == "clamp" else _bounds(op))[:2]
    return (low is None or low <= 0) and (high is None or high >= 0)


def _bounds(op: Activation) -> tuple[float, float]:
    """Return the bounds of a hardtanh, which has defaults."""
    found = dict(zip(("min_val", "max_val"), op.parameters, strict=False)) | dict(op.options)
    return found.get("min_val", -1.0), found.get("max_val", 1.0)
