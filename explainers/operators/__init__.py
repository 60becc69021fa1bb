"""What a network's program is made of: one frozen dataclass per kind of operator.

Every operator has one output, knows the names of its inputs and its module path, and runs itself.
Rules (``explainers.rules``) read the typed fields and the values; nobody looks at graph nodes.
"""

from __future__ import annotations

from explainers.operators.affine import (
    Add,
    Affine,
    Concat,
    Convolution,
    Embedding,
    Linear,
    MatrixProduct,
    Multiply,
    Pad,
)
from explainers.operators.base import (
    Call,
    Carried,
    Constant,
    Elementwise,
    Extent,
    Extreme,
    Generic,
    Input,
    LinearMap,
    Operator,
    Quotient,
    Reshape,
    Selection,
    Slot,
    Unary,
)
from explainers.operators.nonlinear import (
    Activation,
    Attention,
    AveragePool,
    MaxPool,
    Normalise,
    Pool,
    Recurrent,
    Softmax,
)

__all__ = [
    "Activation",
    "Add",
    "Affine",
    "Attention",
    "AveragePool",
    "Call",
    "Carried",
    "Concat",
    "Constant",
    "Convolution",
    "Elementwise",
    "Embedding",
    "Extent",
    "Extreme",
    "Generic",
    "Input",
    "Linear",
    "LinearMap",
    "MatrixProduct",
    "MaxPool",
    "Multiply",
    "Normalise",
    "Operator",
    "Pad",
    "Pool",
    "Quotient",
    "Recurrent",
    "Reshape",
    "Selection",
    "Slot",
    "Softmax",
    "Unary",
]
