"""What the network itself knows of a sample: the value of one of its last layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import Convolution, Linear
from explainers.units import channel_axis

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.trace import Trace


def embedding_of(network: Network, layer: str | None = None) -> str:
    """Return the operator whose value is the embedding.

    Parameters
    ----------
    network
        Must be a program.
    layer
        Whose value it is; by default what the last linear layer, or convolution, before the output
        is given.
    """
    if layer is not None:
        return network.operator(layer).name
    reached = {network.output_name}
    for op in reversed(network.operators):
        if op.name in reached and op.name in network.dependent:
            if isinstance(op, Linear | Convolution):
                return op.inputs[0]
            reached |= op.sources
    return network.output_name


def embeddings(trace: Trace, operator: str) -> Tensor:
    """Return the embeddings of a batch, ``(batch, features)``, float32: means over positions.

    Raises
    ------
    NotImplementedError
        If the rows of the value are no samples.
    """
    network = trace.network
    layout = network.layout(operator)
    if layout is None or not layout.is_plain:
        raise NotImplementedError(
            f"the value of {operator!r} does not have samples along its first axis, so it is no "
            "embedding of them; name another layer: embedding"
        )
    value = trace.values[operator]
    if value.ndim > 2:
        channel = channel_axis(network, operator) + 1
        value = value.movedim(channel, 1).flatten(2).mean(2)
    return value.reshape(len(value), -1).float()
