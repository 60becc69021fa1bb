"""Units of a layer: a channel over all its positions, or one value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from explainers.cut import unit_shape
from explainers.operators import (
    Activation,
    Add,
    Affine,
    Attention,
    Embedding,
    Linear,
    Multiply,
    Normalise,
    Recurrent,
)

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network


def unit_weights(network: Network, layer: str, unit: Any) -> Tensor:
    """Return ones for a unit and zeros for the others, ``(units,)``, as the flat value has them.

    Raises
    ------
    LookupError
        If there is no such layer.
    NotImplementedError
        If the network is opaque.
    ValueError
        If the layer has no such unit.
    """
    shape = unit_shape(network, layer)
    if isinstance(unit, int):
        axis = channel_axis(network, layer)
        place: tuple[Any, ...] = (*[slice(None)] * axis, unit)
        limits: tuple[int, ...] = (shape[axis],)
    else:
        place, limits = tuple(unit), shape
    indices = [unit] if isinstance(unit, int) else list(unit)
    if len(indices) != len(limits) or any(i >= n for i, n in zip(indices, limits, strict=True)):
        raise ValueError(
            f"unit {unit!r} does not exist: the value of layer {layer!r} is (batch, "
            f"{', '.join(map(str, shape))}); give a channel below "
            f"{shape[channel_axis(network, layer)]}, or {len(shape)} indices"
        )
    weights = torch.zeros(shape)
    weights[place] = 1.0
    return weights.flatten()


def channel_axis(network: Network, layer: str) -> int:
    """Return which axis of a layer's value for one sample holds its channels.

    The last, behind a matrix product, an embedding or a norm over the last axis (tokens with
    features); else the first, as behind a convolution. What only changes values is looked through.
    """
    operators = {op.name: op for op in network.operators}
    op = network.operator(layer)
    while isinstance(op, Activation | Affine | Add | Multiply):
        op = operators[op.inputs[0]]
    is_last = isinstance(op, Linear | Embedding | Recurrent | Attention) or (
        isinstance(op, Normalise) and op.kind != "group"
    )
    return len(unit_shape(network, layer)) - 1 if is_last else 0
