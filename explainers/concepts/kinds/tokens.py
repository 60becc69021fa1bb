"""Tokens: places of a layer's value, each with all its features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.concepts.kinds.attentions import is_mixing
from explainers.concepts.kinds.channels import axis_of_channels
from explainers.concepts.kinds.form import form_of
from explainers.concepts.kinds.parts import parts
from explainers.concepts.kinds.resolving import kinds

if TYPE_CHECKING:
    from explainers.concepts.kinds.base import Concepts
    from explainers.network import Network


@kinds.register("tokens")
def tokens(network: Network, layer: str) -> Concepts:
    """Return a layer's tokens, each with its features as positions.

    They lie along all axes but that of the channels, in row-major order: the sequence of a
    transformer, the places of a grid of tokens or of a feature map. Inside an attention they are
    the queries, with the features of all heads.

    Raises
    ------
    ValueError
        If the layer has one value for each channel, and so no tokens.
    """
    op = network.operator(layer)
    form = form_of(network, op.name, layer)
    n_axes = len(form.shape)
    if is_mixing(network, op):
        return parts(layer, op.name, form, (n_axes - 2,))
    channel = axis_of_channels(network, layer, form)
    axes = tuple(axis for axis in range(n_axes) if axis != channel)
    if not axes:
        raise ValueError(
            f"layer {layer!r} has {form.shape[0]} values for each sample and no tokens; "
            "take its channels, or a layer before the tokens are joined"
        )
    return parts(layer, op.name, form, axes)
