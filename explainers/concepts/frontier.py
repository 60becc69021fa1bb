"""Which of some layers come next on the way back from one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from explainers.network import Network


def frontiers(network: Network, operators: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return for each of some operators those that it is reached from without passing another.

    What a skip connection leads around counts too: of ``c(b(a) + a)`` with `a`, `b` and `c` asked
    for, the frontier of `c` is `a` and `b`.

    Parameters
    ----------
    network
        Must be a program.
    operators
        Their names.

    Returns
    -------
    dict
        Operator to operators, both in execution order.
    """
    visible: dict[str, frozenset[str]] = {}
    found: dict[str, tuple[str, ...]] = {}
    order = {op.name: position for position, op in enumerate(network.operators)}
    for op in network.operators:
        behind = frozenset[str]().union(*(visible[name] for name in op.sources if name in visible))
        visible[op.name] = behind
        if op.name in operators:
            found[op.name] = tuple(sorted(behind, key=order.__getitem__))
            visible[op.name] = frozenset({op.name})
    return found


def depths(frontier: Mapping[str, tuple[str, ...]], first: str) -> dict[str, int]:
    """Return how many steps each operator is behind the first, on the shortest way, breadth first.

    Those that it is not reached from have none.
    """
    found = {first: 0}
    level = [first]
    while level:
        following: list[str] = []
        for name in level:
            for lower in frontier[name]:
                if lower not in found:
                    found[lower] = found[name] + 1
                    following.append(lower)
        level = following
    return found
