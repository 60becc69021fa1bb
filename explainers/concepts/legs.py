"""The way of relevance from named layer to named layer, and to the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainers.operators import Input

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from explainers.network import Network


@dataclass(frozen=True)
class Leg:
    """Where relevance is carried in one go."""

    sources: tuple[str, ...]
    """Operators whose outputs' relevance starts."""
    ends: tuple[str, ...]
    """Operators to whose outputs it is carried; what goes elsewhere is dropped."""


def whole_way(network: Network, start: str) -> tuple[Leg, ...]:
    """Return the one leg from an operator to the inputs, by all ways."""
    return (Leg((start,), _inputs(network)),)


def legs(network: Network, start: str, named: Collection[str]) -> tuple[Leg, ...]:
    """Return the legs of all ways that pass as many named operators as lie along them.

    A way counts if no named operator could be put between two that it passes, nor before the first
    or behind the last: what goes around one is dropped, while operators side by side are passed by
    ways of their own. Legs are in the order in which relevance is there.

    Parameters
    ----------
    network
        Must be a program.
    start
        Operator where relevance starts.
    named
        Operators before it, or itself.
    """
    below = {name: found & {*named} for name, found in _reaching(network, {start, *named}).items()}
    next_below = {name: _nearest(found, below) for name, found in below.items()}
    depth = _depths(start, [op.name for op in network.operators], next_below)
    inputs = _inputs(network)
    together: dict[tuple[int, frozenset[str]], list[str]] = {}
    for name, level in depth.items():
        together.setdefault((level, next_below[name]), []).append(name)
    ordered = sorted(together.items(), key=lambda item: item[0][0])
    return tuple(Leg(tuple(names), tuple(sorted(ends)) or inputs) for (_, ends), names in ordered)


def check_order(network: Network, start: str, named: Mapping[str, str]) -> None:
    """Refuse layers that relevance from the start cannot reach.

    Parameters
    ----------
    network
        Must be a program.
    start
        Operator where relevance starts.
    named
        Layers to their operators.

    Raises
    ------
    ValueError
        If there is such a layer.
    """
    reaching = _reaching(network, {start, *named.values()})[start] | {start}
    for layer, operator in named.items():
        if operator not in reaching:
            raise ValueError(
                f"conditions on layer {layer!r} have no meaning: {start!r}, where relevance "
                "starts, does not depend on it; name layers before it"
            )


def _inputs(network: Network) -> tuple[str, ...]:
    return tuple(op.name for op in network.operators if isinstance(op, Input))


def _reaching(network: Network, named: set[str]) -> dict[str, set[str]]:
    """Return, of each named operator, those of them on whose value its own depends."""
    reaching: dict[str, set[str]] = {}
    for op in network.operators:
        found: set[str] = set()
        for source in op.sources:
            found |= reaching[source]
            if source in named:
                found.add(source)
        reaching[op.name] = found
    return {name: reaching[name] for name in named}


def _nearest(found: set[str], below: Mapping[str, set[str]]) -> frozenset[str]:
    """Return those on which none of the others depends."""
    behind = {far for near in found for far in below[near]}
    return frozenset(found - behind)


def _depths(
    start: str, order: list[str], next_below: Mapping[str, frozenset[str]]
) -> dict[str, int]:
    """Return how many legs there are at most from the start to each named operator."""
    depth = {start: 0}
    for name in reversed(order):
        if name in depth:
            for following in next_below[name]:
                depth[following] = max(depth.get(following, 0), depth[name] + 1)
    return depth
