"""From what a run file says to the concepts of a layer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from explainers.registry import Registry

if TYPE_CHECKING:
    from explainers.concepts.kinds.base import Concepts
    from explainers.network import Network

Spec: TypeAlias = "str | Mapping[str, Any]"
"""The name of a kind, or a mapping from it to what it needs."""


class Kind(Protocol):
    """Makes the concepts of a layer."""

    def __call__(self, network: Network, layer: str, *parameters: Any) -> Concepts:
        """Return them; there is a parameter where the spec is a mapping."""


kinds: Registry[Kind] = Registry(
    "kind of concepts", ("explainers.concepts.kinds",), "xpipe.concepts"
)


def resolve(spec: Spec, network: Network, layer: str) -> Concepts:
    """Return the concepts of a layer.

    Parameters
    ----------
    spec
        ``channels``, ``heads``, ``tokens`` or ``{directions: matrix}``; see the module of each.
    network
        Must be a program.
    layer
        Its name, one of ``network.layers``.

    Raises
    ------
    LookupError
        If there is no such kind or layer.
    NotImplementedError
        If the network is opaque.
    TypeError
        If the spec is neither a name nor a mapping with one entry, or a kind is given something
        that it does not take.
    ValueError
        If the layer has no such concepts.
    """
    if isinstance(spec, str):
        return _made(spec, network, layer)
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise TypeError(
            f"got concepts {spec!r}, expected the name of a kind ({', '.join(kinds)}), or a "
            "mapping with one entry such as {directions: matrix.npy}"
        )
    ((name, parameter),) = spec.items()
    return _made(name, network, layer, parameter)


def _made(name: str, network: Network, layer: str, *parameters: Any) -> Concepts:
    kind = kinds.get(name)
    try:
        inspect.signature(kind).bind(network, layer, *parameters)
    except TypeError:
        if parameters:
            raise TypeError(f"concepts {name!r} take no parameter, got {parameters[0]!r}") from None
        raise TypeError(f"concepts {name!r} need a parameter: {{{name}: ...}}") from None
    return kind(network, layer, *parameters)
