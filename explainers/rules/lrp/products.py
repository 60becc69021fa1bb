"""LRP rules of products of two computed values; which of them is a gate is known beforehand.

A product whose one factor is a gate in [0, 1], a normaliser, or does not depend on the input gives
all to the other factor (`explainers.rules.gates` finds it). Of two signals neither is more than
the other: both get half (Achtibat et al. 2024, arXiv:2402.05602, the uniform rule).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import MatrixProduct, Multiply
from explainers.rules.gradient import gradient
from explainers.rules.lrp.sharing import Absorbed, divided
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser, Stabilising, check_stabiliser
from explainers.rules.lrp.table import lrp
from explainers.rules.table import Shares, Values

if TYPE_CHECKING:
    from torch import Tensor


@lrp.rule(Multiply, name="halves")
@lrp.rule(Multiply)
def halves(op: Multiply, relevance: Tensor, values: Values) -> Shares:
    """Give half to each factor."""
    half = relevance / 2
    first, second = (half.sum_to_size(values[name].shape) for name in op.inputs)
    return Shares((first, second))


@lrp.rule(MatrixProduct, name="halves", check=check_stabiliser)
@lrp.rule(MatrixProduct, check=check_stabiliser)
def halves_of_matrices(
    op: MatrixProduct, relevance: Tensor, values: Values, stabiliser: Stabilising = STABILISER
) -> Shares:
    """Give half to each matrix, by contribution: ``R_X = X * (R / stab(Z)) Y^T / 2``."""
    parts, absorbed = _contributions(op, relevance / 2, values, stabiliser)
    return Shares(parts, {keeper: 2 * amount for keeper, amount in absorbed.items()})


@lrp.rule(MatrixProduct, name="default.signal_0", check=check_stabiliser)
def first_is_mixed(
    op: MatrixProduct, relevance: Tensor, values: Values, stabiliser: Stabilising = STABILISER
) -> Shares:
    """Take the second matrix for weights: share among the first's values by contribution."""
    parts, absorbed = _contributions(op, relevance, values, stabiliser)
    return Shares((parts[0], None), absorbed)


@lrp.rule(MatrixProduct, name="default.signal_1", check=check_stabiliser)
def second_is_mixed(
    op: MatrixProduct, relevance: Tensor, values: Values, stabiliser: Stabilising = STABILISER
) -> Shares:
    """Take the first matrix for weights, as a softmax makes them: ``R_V = V * A^T (R / stab(Z))``.

    It is the rule of `explainers.rules.lrp.attention`, for attention that is written out.
    """
    parts, absorbed = _contributions(op, relevance, values, stabiliser)
    return Shares((None, parts[1]), absorbed)


def _contributions(
    op: MatrixProduct, relevance: Tensor, values: Values, stabiliser: Stabilising
) -> tuple[tuple[Tensor, Tensor], Absorbed]:
    """Return all that each of both factors contributes, and what is kept of it."""
    share, absorbed = divided(op, relevance, values[op.name], Stabiliser.of(stabiliser))
    back = gradient.find(op)(op, share, values)
    parts = back.relevances if isinstance(back, Shares) else back
    first, second = (
        values[name] * (0 if part is None else part)
        for name, part in zip(op.inputs, parts, strict=True)
    )
    return (first, second), absorbed
