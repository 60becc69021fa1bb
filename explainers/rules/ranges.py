"""What is known of a network's values before any input is seen: bounds by interval arithmetic.

Rules use it to leave out what is zero (the negative inputs of z+ behind a ReLU) and to tell a gate
from the signal that it gates (`explainers.rules.gates`). The bounds are read off the operators, so
nothing has to wait for a batch to be compared with zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from explainers.operators import (
    Activation,
    Add,
    Affine,
    AveragePool,
    Carried,
    Concat,
    Constant,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Reshape,
    Softmax,
)

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network

Range: TypeAlias = tuple[float, float]

UNKNOWN: Range = (-math.inf, math.inf)

_OF_ACTIVATIONS: dict[str, Range] = {
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "sigmoid": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "softplus": (0.0, math.inf),
    "tanh": (-1.0, 1.0),
    "hardtanh": (-1.0, 1.0),
}


def ranges(network: Network) -> dict[str, Range]:
    """Return bounds of every operator's value, by operator name; infinite where nothing is known.

    They hold in exact arithmetic for any input of the network, also of a part that was cut out.
    """
    is_cut = any(isinstance(op, Carried) for op in network.operators)
    of_whole = ranges(network.root) if is_cut else {}
    found: dict[str, Range] = {}
    for op in network.operators:
        if isinstance(op, Carried):
            found[op.name] = of_whole.get(op.name, UNKNOWN)
        else:
            found[op.name] = _range(op, [found[name] for name in op.inputs])
    return found


def _range(op: Operator, inputs: list[Range]) -> Range:
    if isinstance(op, Activation):
        return _of_activation(op)
    if isinstance(op, MaxPool | Reshape):
        return inputs[0]
    if isinstance(op, Concat):
        return _hull(*inputs)
    if isinstance(op, AveragePool):
        bounds = _hull(inputs[0], (0.0, 0.0))
        return bounds if op.divisor is None else _product(bounds, (0.0, math.inf))
    if isinstance(op, Pad):
        return _hull(inputs[0], (op.value, op.value)) if op.mode == "constant" else inputs[0]
    if isinstance(op, Add):
        return _sum(inputs[0], _product(inputs[1], (op.alpha, op.alpha)))
    if isinstance(op, Multiply):
        return _product(*inputs)
    if isinstance(op, Affine):
        scaled = _product(inputs[0], _of_tensor(op.scale, 1.0))
        return _sum(scaled, _of_tensor(op.shift, 0.0))
    if isinstance(op, Softmax):
        return (-math.inf, 0.0) if op.is_log else (0.0, 1.0)
    return _of_tensor(op.value, 0.0) if isinstance(op, Constant) else UNKNOWN


def _of_activation(op: Activation) -> Range:
    low, high = _OF_ACTIVATIONS.get(op.kind, UNKNOWN)
    if op.kind in ("hardtanh", "clamp") and op.parameters:
        low = float(op.parameters[0])
        high = float(op.parameters[1]) if len(op.parameters) > 1 else high
    return low, high


def _of_tensor(tensor: Tensor | None, otherwise: float) -> Range:
    if tensor is None or tensor.numel() == 0:
        return otherwise, otherwise
    low, high = tensor.detach().aminmax()
    return float(low), float(high)


def _hull(*parts: Range) -> Range:
    return min(low for low, _ in parts), max(high for _, high in parts)


def _sum(left: Range, right: Range) -> Range:
    return left[0] + right[0], left[1] + right[1]


def _product(left: Range, right: Range) -> Range:
    # 0 * inf is 0 here: a bound that is never reached times exactly nothing.
    corners = [a * b if a and b else 0.0 for a in left for b in right]
    return min(corners), max(corners)
