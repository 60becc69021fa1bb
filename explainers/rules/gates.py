"""Which factor of a product is the signal and which only gates it, known before any input is seen.

A gate decides how much of the signal passes; relevance belongs to the signal (Arras et al. 2017,
arXiv:1706.07206; for attention Ali et al. 2022, arXiv:2202.07304). A factor is taken for one if

- it does not depend on the network's input: a scale, a fixed mixing matrix;
- it lies in [0, 1] for every input and the other does not: a sigmoid's gate, a softmax's weights;
- it is a reciprocal or an inverse square root, and the other is not: a normaliser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from explainers.operators import (
    Affine,
    Attention,
    MatrixProduct,
    Multiply,
    Quotient,
    Reshape,
    Selection,
    Unary,
)
from explainers.rules.ranges import ranges

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.rules.ranges import Range

Product: TypeAlias = Multiply | MatrixProduct


def signals(network: Network, known: Mapping[str, Range] | None = None) -> dict[str, int]:
    """Return, by name of a product, the position of its signal; nothing where both are signals.

    Parameters
    ----------
    network
        Must be a program.
    known
        Bounds of its values, where they have been found: see `ranges`.
    """
    known = ranges(network) if known is None else known
    normalisers = _normalisers(network)
    found: dict[str, int] = {}
    for op in network.operators:
        if isinstance(op, Multiply | MatrixProduct):
            for is_gate in (
                [name not in network.dependent for name in op.inputs],
                [known[name][0] >= 0 and known[name][1] <= 1 for name in op.inputs],
                [name in normalisers for name in op.inputs],
            ):
                if sum(is_gate) == 1:
                    found.setdefault(op.name, is_gate.index(False))
    return found


def receiving(op: Operator, signals: Mapping[str, int]) -> frozenset[str]:
    """Return the inputs that relevance can reach by the rules of the table ``lrp``."""
    if op.name in signals:
        return frozenset({op.inputs[signals[op.name]]})
    if isinstance(op, Attention):
        return frozenset({op.inputs[2]})
    if isinstance(op, Quotient):
        return frozenset({op.inputs[0]})
    if isinstance(op, Selection):
        return op.sources & _without(op.inputs, op.choosers)
    return op.sources


def _without(names: Iterable[str], positions: tuple[int, ...]) -> frozenset[str]:
    return frozenset(name for place, name in enumerate(names) if place not in positions)


def _normalisers(network: Network) -> set[str]:
    found: set[str] = set()
    for op in network.operators:
        is_inverse = isinstance(op, Unary) and op.word in ("rsqrt", "reciprocal")
        is_scaled = isinstance(op, Reshape) or (isinstance(op, Affine) and op.shift is None)
        if is_inverse or (is_scaled and op.inputs[0] in found):
            found.add(op.name)
    return found
