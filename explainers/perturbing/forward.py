"""The network at other inputs than a trace's own, when nothing but the output is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.cut import Cut

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.trace import Trace


def outputs_at(trace: Trace, inputs: Tensor, rows: Tensor) -> Tensor:
    """Return the outputs at other inputs, ``(new batch, classes)``; no value is kept.

    Parameters
    ----------
    trace
        Whose network it is.
    inputs
        ``(new batch, ...)``.
    rows
        For each new row, the row of the trace that it belongs to, in any shape: a part of a network
        takes values of the whole over, row by row.
    """
    network = trace.network
    if not trace.carried or not isinstance(network, Cut):
        return network(inputs)
    return network(inputs, network.gathered(trace.carried, rows.flatten()))
