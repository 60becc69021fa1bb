"""Parts behind products and quotients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import MatrixProduct, Multiply, Quotient
from explainers.rules.decomposition.parts import Parts
from explainers.rules.decomposition.refusing import refuse
from explainers.rules.decomposition.table import decomposition

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor

    from explainers.operators import Operator
    from explainers.rules.decomposition.streams import Streams


@decomposition.rule(Multiply, MatrixProduct)
def multiplied(op: Multiply | MatrixProduct, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Scale both parts by what is not split; of two values share what they have together.

    The two-part rule of a product ``a b`` is ``1/2 (a_r b + a b_r)`` for the relevant part, and
    likewise for the irrelevant one: what the relevant part of one and the irrelevant part of the
    other make is halved.
    """
    first, second = inputs
    if first.relevant is None or second.relevant is None:
        return streams.run(op, inputs)
    totals = [streams.total(name) for name in op.inputs]
    relevant = _half(op, [first.relevant, second.relevant], totals)
    if first.irrelevant is None or second.irrelevant is None:
        return Parts(relevant)
    return Parts(relevant, _half(op, [first.irrelevant, second.irrelevant], totals))


def _half(op: Operator, part: list[Tensor], totals: list[Tensor]) -> Tensor:
    if op.inputs[0] == op.inputs[1] and isinstance(op, Multiply):
        return op.run(part[0], totals[0])
    return op.run(part[0], totals[1]).add_(op.run(totals[0], part[1])).mul_(0.5)


@decomposition.rule(Quotient)
def divided(op: Quotient, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Divide both parts by something that is not split."""
    return streams.run(op, inputs)


def check_divisor(op: Operator, split: Collection[str]) -> None:
    """Refuse to divide by something that is split.

    Raises
    ------
    NotImplementedError
        Because a part of a divisor may be zero, and that of an empty mask always is.
    """
    if isinstance(op, Quotient) and op.inputs[1] in split:
        refuse(op, "divides by a value that depends on the input: parts of it may be zero")
