"""The concepts of all layers that patterns name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.concepts.kinds.resolving import resolve

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from explainers.concepts.kinds.base import Concepts
    from explainers.concepts.kinds.resolving import Spec
    from explainers.network import Network


def select(
    patterns: str | Sequence[str], spec_by_pattern: Mapping[str, Spec], network: Network
) -> dict[str, Concepts]:
    """Return the concepts of the layers that patterns name, in execution order.

    A convolution and the norm that was folded into it are one layer, and so are other names of
    one value; it goes by the name of its operator if that is among those named, else by the first.
    Names for which concepts are given go before others, and a value may have several kinds.

    Parameters
    ----------
    patterns
        As `Network.match` takes them.
    spec_by_pattern
        Pattern to the kind of concepts of the layers that it names, see `resolve`; where several
        name a layer, the first decides. Channels, where none does.
    network
        Must be a program.

    Raises
    ------
    LookupError
        If a pattern names nothing, or one with a spec none of the layers.
    ValueError
        If a layer has no such concepts.
    """
    names = network.match(patterns)
    for pattern in spec_by_pattern:
        if not {*names} & {*network.match(pattern)}:
            raise LookupError(
                f"concepts are given for {pattern!r}, which is none of the layers asked for: "
                f"{', '.join(names)}; name it among the layers too"
            )
    given = given_kinds(spec_by_pattern, network)
    found: dict[str, Concepts] = {}
    for name in _ranked(names, given, network):
        concepts = resolve(given.get(name, "channels"), network, name)
        same = [given.get(one) for one, held in found.items() if held.operator == concepts.operator]
        if not same or (name in given and not any(_is_same(given[name], one) for one in same)):
            found[name] = concepts
    return {name: found[name] for name in names if name in found}


def given_kinds(spec_by_pattern: Mapping[str, Spec], network: Network) -> dict[str, Spec]:
    """Return the kind of each layer that a pattern names: of several, the first decides.

    Raises
    ------
    LookupError
        If a pattern names nothing.
    """
    found: dict[str, Spec] = {}
    for pattern, spec in spec_by_pattern.items():
        found = dict.fromkeys(network.match(pattern), spec) | found
    return found


def _ranked(names: Sequence[str], given: Container[str], network: Network) -> list[str]:
    """Return names in the order in which they are preferred."""
    operators = {op.name for op in network.operators}
    return sorted(names, key=lambda name: (name not in given, name not in operators))


def _is_same(spec: Spec, other: Spec | None) -> bool:
    # tensors are not compared: the names of one pattern share its spec
    return spec is other or (isinstance(spec, str) and spec == other)
