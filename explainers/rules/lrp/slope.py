"""LRP rules ``gradient`` and ``beta_smooth``: derivatives, for composites that ask for them.

A composite says by name where it wants the chain rule (excitation backpropagation wants it for
activations, beta smoothing for all but the ReLU); what no composite assigns never gets it.
Derivatives do not conserve relevance: what they drop or multiply is accounted for as ``lost``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers import numeric
from explainers.operators import (
    Activation,
    Add,
    Elementwise,
    MatrixProduct,
    Multiply,
    Operator,
)
from explainers.rules.gradient import gradient
from explainers.rules.lrp.table import lrp
from explainers.rules.table import Relevances, Shares

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.table import Values


@lrp.rule(Operator, name="gradient", conserves=False)  # type: ignore[type-abstract]
def slope(op: Operator, relevance: Tensor, values: Values) -> Shares:
    """Multiply by the derivative, as the table ``gradient`` does."""
    found = gradient.find(op)(op, relevance, values)
    return _accounted(op, relevance, found.relevances if isinstance(found, Shares) else found)


def _check_beta(beta: float = 10.0) -> None:
    numeric.check_finite("beta", beta)


@lrp.rule(Activation, name="beta_smooth", conserves=False, check=_check_beta)
def smoothed(op: Activation, relevance: Tensor, values: Values, beta: float = 10.0) -> Shares:
    """Take the derivative of a softplus for that of a ReLU: ``R * sigmoid(beta * x)``.

    Dombrowski et al. 2019, arXiv:1906.07983. Other activations keep their derivative, as in zennit.
    """
    if op.kind != "relu":
        return slope(op, relevance, values)
    smooth = values[op.inputs[0]].mul(beta).sigmoid_()
    return _accounted(op, relevance, (smooth.mul_(relevance),))


def _accounted(op: Operator, relevance: Tensor, parts: Relevances) -> Shares:
    own = tuple(None if part is None or _is_shared(op, part, relevance) else part for part in parts)
    totals = [relevance.flatten(1).sum(1)]
    totals += [-part.flatten(1).sum(1) for part in own if part is not None]
    # Windows of a sample may be rows of their own on one side; a sample's are in sequence.
    rows = min(len(total) for total in totals)
    return Shares(
        own, {"lost": torch.stack([one.reshape(rows, -1).sum(1) for one in totals]).sum(0)}
    )


def _is_shared(op: Operator, part: Tensor, relevance: Tensor) -> bool:
    """Return whether a part belongs to a constant, for all samples together."""
    if not isinstance(op, Add | Multiply | MatrixProduct | Elementwise):
        return False
    return part.ndim != relevance.ndim or len(part) != len(relevance)
