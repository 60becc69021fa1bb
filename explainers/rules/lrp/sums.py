"""LRP rule ``z_plus`` of sums and means: the rule of a matrix product whose weights are ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import Add, AveragePool
from explainers.rules.lrp.conserving import routed
from explainers.rules.lrp.parameters import check_common
from explainers.rules.lrp.sharing import divided
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser
from explainers.rules.lrp.table import lrp
from explainers.rules.table import Shares

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.lrp.stabiliser import Stabilising
    from explainers.rules.table import Values


@lrp.rule(Add, name="z_plus", check=check_common)
def z_plus_of_sum(
    op: Add, relevance: Tensor, values: Values, stabiliser: Stabilising = STABILISER
) -> Shares:
    """Share by positive terms (Montavon et al. 2017, arXiv:1512.02479).

    ``R_i = x_i+ * R / stab(z)`` with ``z = x_1+ + x_2+``. The rule `norm` divides by the sum of
    signed terms, and gives large relevance of both signs where they nearly cancel.
    """
    first, second = (values[name] for name in op.inputs)
    positive = first.clamp(min=0), (second * op.alpha).clamp(min=0)
    z = positive[0] + positive[1]
    share, absorbed = divided(op, relevance, z, Stabiliser.of(stabiliser))
    terms = zip(positive, (first, second), strict=True)
    parts = tuple((share * part).sum_to_size(term.shape) for part, term in terms)
    return Shares(parts, absorbed)


@lrp.rule(AveragePool, name="z_plus", check=check_common)
def z_plus_of_mean(
    op: AveragePool, relevance: Tensor, values: Values, stabiliser: Stabilising = STABILISER
) -> Shares:
    """Share by positive values of a window (Montavon et al. 2017, arXiv:1512.02479)."""
    positive = values[op.inputs[0]].clamp(min=0)
    z = op.run(positive)
    share, absorbed = divided(op, relevance, z, Stabiliser.of(stabiliser))
    (spread,) = routed(op, share, values)
    if spread is None:
        raise TypeError(f"the gradient rule of {op.name!r} gave nothing to the pool's input")
    return Shares((spread * positive,), absorbed)
