"""Parts behind convolutions and linear maps, whose bias both share."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from explainers.operators import Affine, Convolution, Linear
from explainers.rules.decomposition.affine import normed
from explainers.rules.decomposition.biases import shared, shared_constant
from explainers.rules.decomposition.parts import Parts
from explainers.rules.decomposition.table import decomposition

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.reading.program import Layer
    from explainers.rules.decomposition.streams import Streams

_FOLDED: WeakKeyDictionary[Network, dict[str, Layer]] = WeakKeyDictionary()


def folded(network: Network) -> dict[str, Layer]:
    """Return, by operator, what norm it has taken in and what it was before."""
    if network not in _FOLDED:
        weighted = {op.name for op in network.operators if isinstance(op, Convolution | Linear)}
        layers = (network._layer(path) for path in network.layers)
        found = {layer.operator: layer for layer in layers if layer.norm is not None}
        _FOLDED[network] = {name: layer for name, layer in found.items() if name in weighted}
    return _FOLDED[network]


@decomposition.rule(Convolution, Linear)
def weighted(op: Convolution | Linear, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Map both parts and share the bias; then the constant of the norm that was folded in."""
    (value,) = inputs
    layer = folded(streams.network).get(op.name)
    if streams.is_strict:
        return _of_two(op, value, streams, layer)
    relevant = op.linear(value.of_rows, op.weight)
    if op.bias is None:
        return Parts(relevant)
    if op.name == streams.network.output_name and not streams.has_output_bias:
        return Parts(relevant)
    whole = streams.total(op.name) - along(op, op.bias, relevant)
    own, norm = before_norm(op, layer)
    if own is not None:
        bias = along(op, own, relevant)
        relevant, _ = shared(relevant, whole - relevant, bias)
        whole = whole + bias
    if norm is not None:
        relevant = shared_constant(relevant, whole - relevant, along(op, norm, relevant))
    return Parts(relevant)


def before_norm(
    op: Convolution | Linear, layer: Layer | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return an operator's bias as its norm scales it, and the constant of the norm, (out,) each.

    Without a norm these are its bias, and None.
    """
    if layer is None or layer.norm is None or layer.norm.shift is None:
        return op.bias, None
    constant = layer.norm.shift.flatten()
    unfolded = layer.unfolded
    own = unfolded.bias if isinstance(unfolded, Convolution | Linear) else None
    if own is None or layer.norm.scale is None:
        return own, constant
    return own * layer.norm.scale.flatten(), constant


def along(op: Operator, bias: Tensor, value: Tensor) -> Tensor:
    """Return a bias shaped to broadcast along the channels of an operator's value."""
    if isinstance(op, Convolution):
        return bias.view(-1, *[1] * (value.ndim - 2))
    return bias


def _of_two(op: Convolution | Linear, value: Parts, streams: Streams, layer: Layer | None) -> Parts:
    """Map both parts as the published code rounds them: with the bias, which is taken off again."""
    plain = layer.unfolded if layer is not None else op
    if not isinstance(plain, Convolution | Linear) or value.irrelevant is None:
        raise TypeError(f"got {plain!r}, expected a weighted operator with both parts of its input")
    relevant, irrelevant = plain.run(value.of_rows), plain.run(value.irrelevant)
    if plain.bias is not None:
        bias = along(op, plain.bias, relevant)
        relevant, irrelevant = relevant - bias, irrelevant - bias
        if op.name != streams.network.output_name or streams.has_output_bias:
            relevant, irrelevant = shared(relevant, irrelevant, bias)
    if layer is None or not isinstance(layer.norm, Affine):
        return Parts(relevant, irrelevant)
    return normed(layer.norm, relevant, irrelevant)
