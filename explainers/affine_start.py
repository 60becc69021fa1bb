"""Where a network stops being affine: what lies before can be done once for many gradients.

Along a straight path of inputs, values behind an affine map lie on a straight path too, and the
mean of gradients before it is the map's transpose of the mean behind it. In front of the first
activation there is often the most expensive convolution of all, over the input's full extent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from explainers.cut import begun
from explainers.operators import (
    Add,
    Affine,
    AveragePool,
    Concat,
    Convolution,
    Input,
    Linear,
    Operator,
    Pad,
    Reshape,
)

if TYPE_CHECKING:
    from explainers.network import Network


def affine_end(network: Network) -> str | None:
    """Return the layer up to which a network is affine in its input, if that spares anything.

    It is the one value of the affine part that anything else reads, and not the output; None where
    there is no such value, where it has no rows of its own, or where no convolution or matrix
    product lies before it.
    """
    if network not in _ends:
        _ends[network] = _found(network)
    return _ends[network]


_KINDS = Convolution | Linear | Affine | Add | AveragePool | Concat | Pad | Reshape

_ends: WeakKeyDictionary[Network, str | None] = WeakKeyDictionary()


def _found(network: Network) -> str | None:
    if not network.is_program:
        return None
    affine = _affine(network)
    others = [op for op in network.operators if op.name not in affine]
    read = {name for op in others for name in op.sources if name in affine}
    if len(read) != 1 or network.output_name in affine:
        return None
    (end,) = read
    if not any(isinstance(op, Convolution | Linear) for op in affine.values()):
        return None
    # the layer that is the operator's own value: a convolution's name may be of it without its norm
    for path in network.layers:
        found = network._layer(path)
        if found.operator == end and found.unfolded is None and found.norm is None:
            return path if _can_begin(network, path) else None
    return None


def _affine(network: Network) -> dict[str, Operator]:
    """Return the operators that depend on the input, and on it as an affine map, by name."""
    affine: dict[str, Operator] = {}
    for op in network.operators:
        dependent = [name for name in op.sources if name in network.dependent]
        is_first = isinstance(op, Input) and op.name in network.dependent
        is_behind = bool(dependent) and all(name in affine for name in dependent)
        if is_first or (is_behind and isinstance(op, _KINDS)):
            affine[op.name] = op
    return affine


def _can_begin(network: Network, path: str) -> bool:
    try:
        begun(network, (path,))
    except ValueError:
        # its value does not have the batch as its first axis
        return False
    return True
