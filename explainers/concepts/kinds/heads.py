"""Heads of an attention: what each of them adds, before they are joined and projected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.concepts.kinds.attentions import is_mixing, mixing
from explainers.concepts.kinds.form import form_of
from explainers.concepts.kinds.parts import parts
from explainers.concepts.kinds.resolving import kinds
from explainers.operators import Reshape

if TYPE_CHECKING:
    from explainers.concepts.kinds.base import Concepts
    from explainers.concepts.kinds.form import Form
    from explainers.network import Network
    from explainers.operators import Operator


@kinds.register("heads")
def heads(network: Network, layer: str) -> Concepts:
    """Return the heads of an attention, each with all its queries and features as positions.

    Heads are apart where attention weights have met values, and only there: `Concepts.operator` is
    that product, fused or written out. It is found from the layer backwards, so that the module of
    the attention, its output projection and whatever only reshapes in between all name its heads.

    Raises
    ------
    ValueError
        If there is no attention right before the layer, or its heads cannot be told apart.
    """
    op = mixing(network, layer)
    if op is None:
        found = [op.name for op in network.operators if is_mixing(network, op)]
        known = f"attentions are: {', '.join(found[:8])}" if found else "the network has none"
        raise ValueError(
            f"layer {layer!r} is no attention, nor the projection behind one, so it has no "
            f"heads; {known}"
        )
    form = form_of(network, op.name, layer)
    return parts(layer, op.name, form, (_axis(network, op, form, layer),))


def _axis(network: Network, op: Operator, form: Form, layer: str) -> int:
    """Return the axis of a sample along which the heads lie: the third from the end, (q, d) last.

    They may share it with the rows; then the features that they are joined to tell how many.
    """
    *_, features = form.rest
    if len(form.rest) > 2:
        return form.place(len(form.rest) - 3)
    if form.inner > 1 and _joined_width(network, op) == form.inner * features:
        return form.axis + len(form.joined) - 1
    raise ValueError(
        f"the heads of layer {layer!r} cannot be told apart: the value of {op.name!r} is "
        f"{' x '.join(map(str, form.shape))} for each sample, expected (heads, queries, features); "
        "take channels or tokens"
    )


def _joined_width(network: Network, op: Operator) -> int | None:
    """Return how many features a value has where it is reshaped for the last time."""
    width = None
    for later in network.operators:
        if later.inputs[:1] == (op.name,) and isinstance(later, Reshape):
            op = later
            layout = network.layout(op.name)
            width = layout.shape[-1] if layout is not None else width
    return width
