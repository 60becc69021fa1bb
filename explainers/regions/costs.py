"""What operators cost, in multiplications: how a plan is chosen."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import TYPE_CHECKING

from explainers.operators import (
    Attention,
    AveragePool,
    Convolution,
    Linear,
    MatrixProduct,
    MaxPool,
    Operator,
    Recurrent,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

PER_VALUE = 16
"""Multiplications in the time that a value takes to be read and written: one core with AVX-512
makes 70 of a convolution in a nanosecond, and copies 4 to 5 values."""

PER_WEIGHT = 100
"""Multiplications in the time that a pass takes for a weight, however few rows it has: CPU kernels
lay weights out anew each time. Of ResNet18 that is the time of one and a half boxes."""


@singledispatch
def multiplications(op: Operator, inputs: Sequence[tuple[int, ...]], n_values: int) -> float:
    """Return the multiplications for `n_values` values of an operator.

    Parameters
    ----------
    op
        What is run.
    inputs
        Shapes of its inputs for one sample.
    n_values
        Of the output, for one sample.
    """
    return 0.0


@multiplications.register(Convolution)
def _of_convolution(op: Convolution, inputs: Sequence[tuple[int, ...]], n_values: int) -> float:
    if op.transposed:
        return math.prod(inputs[0]) * op.weight[0].numel()
    return n_values * op.weight[0].numel()


@multiplications.register(Linear)
def _of_linear(op: Linear, inputs: Sequence[tuple[int, ...]], n_values: int) -> float:
    return n_values * op.weight.shape[1]


@multiplications.register(MatrixProduct)
def _of_product(op: MatrixProduct, inputs: Sequence[tuple[int, ...]], n_values: int) -> float:
    return n_values * (inputs[0] or (1,))[-1]


@multiplications.register(Attention)
def _of_attention(op: Attention, inputs: Sequence[tuple[int, ...]], n_values: int) -> float:
    keys = (inputs[1] if len(inputs) > 1 else ()) or (1, 1)
    return 2 * n_values * (keys[-2] if len(keys) > 1 else 1)


@multiplications.register(Recurrent)
def _of_recurrence(op: Recurrent, inputs: Sequence[tuple[int, ...]], n_values: int) -> float:
    hidden = op.weights[1].shape[1]
    return n_values / hidden * sum(weight.numel() for weight in op.weights)


@multiplications.register(MaxPool | AveragePool)
def _of_pool(op: MaxPool | AveragePool, inputs: Sequence[tuple[int, ...]], n_values: int) -> float:
    values = math.prod(inputs[0]) if inputs else n_values
    is_sliding = bool(op.stride)
    return n_values * math.prod(op.size) if is_sliding else values
