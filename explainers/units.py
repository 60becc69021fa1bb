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
    Concat,
    Embedding,
    Linear,
    Multiply,
    Normalise,
    Recurrent,
    Reshape,
)

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator


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
    features); else the first, as behind a convolution. What only changes or moves values is
    looked through.
    """
    operators = {op.name: op for op in network.operators}
    op = network.operator(layer)
    path: list[Operator] = []
    while isinstance(op, _LOOKED_THROUGH):
        inputs = [name for name in op.inputs if name in network.dependent & op.sources]
        if not inputs:
            break
        path.append(op)
        op = operators[inputs[0]]
    is_last = isinstance(op, Linear | Embedding | Recurrent | Attention) or (
        isinstance(op, Normalise) and op.kind != "group"
    )
    return max(0, _followed(network, op, path[::-1], -1 if is_last else 1) - 1)


def _followed(network: Network, source: Operator, path: list[Operator], axis: int) -> int:
    """Return where an axis of a value is at the end of a path, batch axis included.

    Its indices go through the index maps for one sample; then what varies along it is looked for.
    """
    value = _indices(network, source, axis)
    if value is not None and not path:
        # nothing to look for, which takes long in large values
        return axis % value.ndim if value.shape[axis] > 1 else 1
    for op in path:
        if value is None:
            return 1
        if isinstance(op, Reshape):
            # further inputs say how large the batch is: here, one
            value = op.run(value, *[value.new_empty(1)] * (len(op.inputs) - 1))
        else:
            value = _indices(network, op, _varying(value))
    return 1 if value is None else _varying(value)


def _indices(network: Network, op: Operator, axis: int) -> Tensor | None:
    """Return the indices along an axis, shaped as an operator's value for one sample."""
    layout = network.layout(op.name)
    if layout is None:
        return None
    shape = list(layout.shape)
    shape.insert(layout.axis, layout.n_places)
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]
    return torch.arange(shape[axis]).reshape(sizes).expand(shape)


def _varying(value: Tensor) -> int:
    """Return the axis along which a value varies; that of channels where it is not just one."""
    axes = [axis for axis in range(value.ndim) if bool((value != value.narrow(axis, 0, 1)).any())]
    return axes[0] if len(axes) == 1 else 1


_LOOKED_THROUGH = (Activation, Add, Affine, Concat, Multiply, Reshape)
