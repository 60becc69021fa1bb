"""Moments of products: of two uncertain values, or of one and something certain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import MatrixProduct, Multiply, Quotient
from explainers.rules.moments.forms import Moments
from explainers.rules.moments.refusing import refuse
from explainers.rules.moments.table import moments

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.moments.forms import Form


BY_AN_UNCERTAIN_ONE = "a divisor that depends on the input"
"""What is refused: the quotient of Gaussian values has no moments."""


@moments.rule(Multiply, MatrixProduct, name="variance")
def multiplied(op: Multiply | MatrixProduct, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Give ``m1^2 v2 + m2^2 v1 + v1 v2``, exact for independent values.

    Of a value times itself it is ``4 m^2 v + 2 v^2`` around the mean ``m^2 + v``, exact for a
    Gaussian one.
    """
    first, second = inputs
    mean = op.run(first.mean, second.mean)
    if first.spread is None or second.spread is None:
        parts = [part.mean.square() if part.spread is None else part.spread for part in inputs]
        return Moments(mean, op.run(*parts))
    if isinstance(op, Multiply) and op.inputs[0] == op.inputs[1]:
        spread = first.spread
        return Moments(mean + spread, 2 * spread * (2 * mean + spread))
    spread = op.run(first.mean.square(), second.spread)
    return Moments(mean, spread + op.run(first.spread, second.mean.square() + second.spread))


@moments.rule(Multiply, MatrixProduct, name="factor")
def multiplied_rows(
    op: Multiply | MatrixProduct, inputs: tuple[Moments, ...], form: Form
) -> Moments:
    """Give the rows ``m2 L1 + m1 L2`` and the mean ``m1 m2 + sum_k L1 L2``."""
    first, second = inputs
    left, right = op.inputs
    mean = op.run(first.mean, second.mean)
    rows: Tensor | None = None
    if first.spread is not None:
        rows = op.run(first.spread, form.repeated(right, second.mean))
    if second.spread is not None:
        others = op.run(form.repeated(left, first.mean), second.spread)
        rows = others if rows is None else rows + others
    if first.spread is not None and second.spread is not None:
        axis, apart = form.apart(op.name, op.run(first.spread, second.spread))
        mean = mean + form.together(op.name, apart.sum(axis, keepdim=True))
    return Moments(mean, rows)


@moments.rule(Quotient, name="variance")
@moments.rule(Quotient, name="factor")
def divided(op: Quotient, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Divide by something certain.

    Raises
    ------
    NotImplementedError
        If the divisor is uncertain: a Gaussian one gives no moments.
    """
    value, divisor = inputs
    if value.spread is None or divisor.spread is not None:
        refuse(op, form.kind, BY_AN_UNCERTAIN_ONE)
    by = form.repeated(op.inputs[1], divisor.mean)
    if form.kind == "variance":
        by = by.square()
    return Moments(op.run(value.mean, divisor.mean), op.run(value.spread, by))
