"""LRP rules ``gradient`` and ``beta_smooth``: derivatives, for composites that ask for them.

A composite says by name where it wants the chain rule (excitation backpropagation wants it for
activations, beta smoothing for all but the ReLU); what no composite assigns never gets it.
Derivatives do not conserve relevance: what they drop or multiply is accounted for as ``lost``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers import numeric
from explainers.operators import Activation, Operator
from explainers.rules.gradient import gradient
from explainers.rules.lrp.table import lrp
from explainers.rules.table import Shares

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.table import Values


@lrp.rule(Operator, name="gradient", conserves=False)  # type: ignore[type-abstract]
def slope(op: Operator, relevance: Tensor, values: Values) -> Shares:
    """Multiply by the derivative, as the table ``gradient`` does."""
    found = gradient.find(op)(op, relevance, values)
    return Shares(found.relevances if isinstance(found, Shares) else found, rest="lost")


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
    return Shares((smooth.mul_(relevance),), rest="lost")
