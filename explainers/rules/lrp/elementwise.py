"""LRP rules of functions that have no operator of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import Extreme, LinearMap, Quotient, Selection, Unary
from explainers.rules.gradient import gradient
from explainers.rules.lrp.sharing import divided
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser, Stabilising, check_stabiliser
from explainers.rules.lrp.table import lrp
from explainers.rules.table import Relevances, Shares, Values

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.operators import Operator


@lrp.rule(Unary, name="pass")
@lrp.rule(Unary)
def passed(op: Unary, relevance: Tensor, values: Values) -> Relevances:
    """Hand on what arrives, unchanged, as for activations."""
    return (relevance,)


@lrp.rule(Quotient, name="pass")
@lrp.rule(Quotient)
def to_the_numerator(op: Quotient, relevance: Tensor, values: Values) -> Shares:
    """Give all to the numerator: the denominator is a normaliser, which is held fixed."""
    return Shares((relevance.sum_to_size(values[op.inputs[0]].shape), None))


@lrp.rule(Selection, name="route")
@lrp.rule(Selection)
def to_the_selected(op: Selection, relevance: Tensor, values: Values) -> Shares:
    """Give all to the value that was chosen, equal values the same; a fixed one keeps it as bias.

    What chooses gets nothing.
    """
    return Shares(_back(op, relevance, values), rest="bias")


@lrp.rule(Extreme, name="route")
@lrp.rule(Extreme)
def to_the_extreme(op: Extreme, relevance: Tensor, values: Values) -> Relevances:
    """Hand each value on to where it came from; equal ones get the same."""
    return _back(op, relevance, values)


@lrp.rule(LinearMap, check=check_stabiliser)
def by_contribution(
    op: LinearMap, relevance: Tensor, values: Values, stabiliser: Stabilising = STABILISER
) -> Shares:
    """Share by contribution: ``x * J^T (R / stab(z))``."""
    share, absorbed = divided(op, relevance, values[op.name], Stabiliser.of(stabiliser))
    parts = [
        None if part is None else part * values[name]
        for name, part in zip(op.inputs, _back(op, share, values), strict=True)
    ]
    return Shares(tuple(parts), absorbed)


def _back(op: Operator, relevance: Tensor, values: Values) -> Relevances:
    found = gradient.find(op)(op, relevance, values)
    return found.relevances if isinstance(found, Shares) else found
