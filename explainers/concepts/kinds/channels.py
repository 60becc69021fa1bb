"""Channels: feature maps of a convolution, units of a linear layer, features of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.concepts.kinds.attentions import is_mixing
from explainers.concepts.kinds.form import form_of
from explainers.concepts.kinds.parts import parts
from explainers.concepts.kinds.resolving import kinds
from explainers.units import channel_axis

if TYPE_CHECKING:
    from explainers.concepts.kinds.base import Concepts
    from explainers.concepts.kinds.form import Form
    from explainers.network import Network


@kinds.register("channels")
def channels(network: Network, layer: str) -> Concepts:
    """Return a layer's channels, each with all its places, or tokens, as positions.

    They are the concepts of concept relevance propagation (Achtibat et al. 2023,
    arXiv:2206.03208). Along which axis they lie is read off the program, see
    `explainers.units.channel_axis`: along the last one behind a matrix product.
    """
    operator = network.operator(layer).name
    form = form_of(network, operator, layer)
    return parts(layer, operator, form, (axis_of_channels(network, layer, form),))


def axis_of_channels(network: Network, layer: str, form: Form) -> int:
    """Return the axis of a sample along which its channels lie."""
    op = network.operator(layer)
    if is_mixing(network, op):
        return len(form.shape) - 1
    return form.place(channel_axis(network, layer))
