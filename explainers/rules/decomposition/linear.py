"""Parts behind convolutions and linear maps, whose bias both share."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from explainers.operators import Affine, Convolution, Linear
from explainers.rules.decomposition.affine import normed
from explainers.rules.decomposition.biases import shared
from explainers.rules.decomposition.parts import Parts
from explainers.rules.decomposition.sharing import share
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
    if op.bias is None or not is_shared(op, streams):
        return Parts(relevant)
    own, constant = before_norm(op, layer, relevant)
    return Parts(share(streams, op.name, relevant, own, constant))


def is_shared(op: Convolution | Linear, streams: Streams) -> bool:
    """Return whether parts share the bias; that of the output may be left out."""
    return streams.has_output_bias or not gives_output(op, streams.network)


def gives_output(op: Operator, network: Network) -> bool:
    """Return whether an operator is a linear map that gives the output, and no norm behind it."""
    is_last = isinstance(op, Linear) and op.name == network.output_name
    return is_last and op.name not in folded(network)


def before_norm(
    op: Convolution | Linear, layer: Layer | None, value: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Return an operator's bias as its norm scales it, and the constant of the norm.

    Both are shaped to broadcast against the operator's value. Without a norm these are its bias,
    and None.
    """
    own, constant = op.bias, None
    if layer is not None and layer.norm is not None and layer.norm.shift is not None:
        constant = along(op, layer.norm.shift.flatten(), value)
        unfolded, scale = layer.unfolded, layer.norm.scale
        own = unfolded.bias if isinstance(unfolded, Convolution | Linear) else None
        own = own if own is None or scale is None else own * scale.flatten()
    return (None if own is None else along(op, own, value)), constant


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
    # which of tied values is largest follows from rounding, and so from the kernel: theirs
    weight = _in_order(plain.weight)
    relevant = plain.linear(_in_order(value.of_rows), weight, plain.bias)
    irrelevant = plain.linear(_in_order(value.irrelevant), weight, plain.bias)
    if plain.bias is not None:
        bias = along(op, plain.bias, relevant)
        relevant, irrelevant = relevant - bias, irrelevant - bias
        if is_shared(op, streams):
            relevant, irrelevant = shared(relevant, irrelevant, bias)
    if layer is None or not isinstance(layer.norm, Affine):
        return Parts(relevant, irrelevant)
    return normed(layer.norm, relevant, irrelevant)


def _in_order(value: Tensor) -> Tensor:
    """Return a value with the last axis innermost, also where strides leave that open."""
    return value.reshape(-1).view(value.shape)
