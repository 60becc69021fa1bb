"""What interventions on weights do to first order: one walk back serves all layers and neurons.

With ``g`` the gradient of a row's logit with respect to a layer's output z, and a the layer's
input, do(n, u) moves the logit by

    TE_n ~ sum_{e in E} sum_places g_e dz_{e,n}
    dz_{e,n} = sum_{f of n} (u scale_e - W[e,f]) * a_f

which is ``sum a_f * back_f`` over the features f of n and their places, where ``back`` is the
layer's transposed map, with ``u scale - W`` for weights, of the g of E alone. W is the weight that
the program has, ``scale`` that of a batch norm that was folded into it (1 without one): u is set
on the weight before the norm. It is exact where the logit is linear in z, as behind the last layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.operators import Convolution
from explainers.rules.gradient import gradient
from explainers.rules.walking import Course

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from explainers.causal.structure import WeightedLayer
    from explainers.network import Network
    from explainers.trace import Trace


@torch.no_grad()
def node_estimates(
    trace: Trace,
    layers: Sequence[WeightedLayer],
    effects: Mapping[str, Tensor],
    classes: Tensor,
    u: Mapping[str, float] | float = 0.0,
) -> dict[str, Tensor]:
    """Return first-order total effects of every neuron of layers, by layer.

    Parameters
    ----------
    trace
        Of the rows.
    layers
        Whose neurons are asked about; the walk goes back to the earliest of them.
    effects
        Layer to the effects E of each row: bool ``(rows, n_outputs)``.
    classes
        Of which output the logit is meant, ``(rows,)``.
    u
        What the weights are set to, for all layers or by layer.

    Returns
    -------
    dict
        Layer to ``(rows, n_neurons)``, in logits, of the network's dtype. Exactly zero where E is
        empty.
    """
    found: dict[str, Tensor] = {}

    def estimate(layer: WeightedLayer, slope: Tensor) -> None:
        chosen = effects[layer.name].to(slope.device)
        found[layer.name] = _estimated(trace, layer, slope, chosen, value_of(u, layer.name))

    walk_back(trace, layers, classes, estimate)
    return {layer.name: found[layer.name] for layer in layers}


def walk_back(
    trace: Trace,
    layers: Sequence[WeightedLayer],
    classes: Tensor,
    seen: Callable[[WeightedLayer, Tensor], None],
) -> None:
    """Show layers the gradients of the rows' logits with respect to their outputs.

    Parameters
    ----------
    trace
        Of the rows.
    layers
        Of the network.
    classes
        Of which output the logit is meant, ``(rows,)``.
    seen
        Called with each layer, in reverse execution order, and its gradient, shaped as the value
        of the layer's operator; nothing is kept of it afterwards.
    """
    network = trace.network
    start = torch.zeros_like(trace.output).scatter_(1, classes.to(trace.output.device)[:, None], 1)
    by_operator = {layer.operator.name: layer for layer in layers}
    course = Course(network, gradient.find, ends=by_operator)
    reached: set[str] = set()

    def show(name: str, slope: Tensor) -> None:
        reached.add(name)
        seen(by_operator[name], slope)

    course.carry(trace.values, {network.output_name: start}, by_operator, {}, seen=show)
    for name, layer in by_operator.items():
        if name not in reached:  # a detached branch: nothing comes back
            seen(layer, torch.zeros_like(trace.values[name]))


def value_of(u: Mapping[str, float] | float, layer: str) -> float:
    """Return what the weights of a layer are set to."""
    return float(u) if isinstance(u, int | float) else float(u[layer])


def scale_of(layer: WeightedLayer) -> Tensor | None:
    """Return the scale of a folded norm for each output, ``(n_outputs,)``; None without one."""
    scale = None if layer.norm is None else layer.norm.scale
    return None if scale is None else scale.flatten().to(layer.operator.weight)


def weight_changes(layer: WeightedLayer, u: float) -> Tensor:
    """Return ``u scale - W``, shaped as the weight: what setting each of the weights changes."""
    op, weight, scale = layer.operator, layer.operator.weight, scale_of(layer)
    if u == 0 or scale is None:
        return u - weight
    if not (isinstance(op, Convolution) and op.transposed):
        return u * scale.view(-1, *[1] * (weight.ndim - 1)) - weight
    grouped = weight.reshape(op.groups, -1, *weight.shape[1:])
    by_group = scale.view(op.groups, 1, -1, *[1] * (weight.ndim - 2))
    return (u * by_group - grouped).flatten(0, 1)


def rows_of(network: Network, layer: WeightedLayer, n_rows: int) -> tuple[int, Tensor]:
    """Return the axis of the rows in a layer's input and output, and the row of each place on it.

    Raises
    ------
    NotImplementedError
        If the rows do not lie along one axis.
    """
    op = layer.operator
    if op.name == network.output_name:
        return 0, torch.arange(n_rows, device=network.device)
    layout = network.layout(op.name)
    if layout is None:
        raise NotImplementedError(
            f"the samples in the value of layer {layer.name!r} (operator {op.name!r}) do not lie "
            "along one axis, so that its effects cannot be told apart by sample; leave the layer "
            "out by layers="
        )
    inner = layout.n_places // op.batch_outer
    rows = torch.arange(n_rows, device=network.device)
    return layout.axis, rows.repeat_interleave(inner).repeat(op.batch_outer)


def _estimated(
    trace: Trace, layer: WeightedLayer, slope: Tensor, effects: Tensor, u: float
) -> Tensor:
    axis, rows = rows_of(trace.network, layer, trace.n_rows)
    value = trace.values[layer.operator.inputs[0]]
    back = _carried_back(layer, _of_effects(layer, slope, effects, axis, rows), value, effects, u)
    product = (value * back).movedim(axis, 0)
    is_convolution = isinstance(layer.operator, Convolution)
    by_feature = product.flatten(2).sum(2) if is_convolution else _summed_places(product)
    if len(rows) > trace.n_rows:
        shape = (trace.n_rows, by_feature.shape[1])
        by_feature = by_feature.new_zeros(shape).index_add_(0, rows, by_feature)
    return by_neuron(layer, by_feature)


def _summed_places(product: Tensor) -> Tensor:
    """Return ``(rows, features)`` of ``(rows, ..., features)``."""
    return product if product.ndim == 2 else product.flatten(1, -2).sum(1)


def by_neuron(layer: WeightedLayer, by_feature: Tensor) -> Tensor:
    """Return sums over the features of each neuron, ``(rows, n_neurons)``."""
    neuron_of = layer.neuron_of.to(by_feature.device)
    # what no neuron has (-1) goes into a column of its own, the last, which is dropped
    column = torch.where(neuron_of < 0, layer.n_neurons, neuron_of)
    sums = by_feature.new_zeros(len(by_feature), layer.n_neurons + 1)
    return sums.index_add_(1, column, by_feature)[:, : layer.n_neurons]


def _of_effects(
    layer: WeightedLayer, slope: Tensor, effects: Tensor, axis: int, rows: Tensor
) -> Tensor:
    """Return the gradient with zeros where an output is no effect of the row."""
    shape = [1] * slope.ndim
    shape[axis] = len(rows)
    shape[_output_axis(layer)] = layer.n_outputs
    return slope * effects[rows].to(slope.dtype).view(shape)


def _output_axis(layer: WeightedLayer) -> int:
    return 1 if isinstance(layer.operator, Convolution) else -1


def _carried_back(
    layer: WeightedLayer, slope: Tensor, value: Tensor, effects: Tensor, u: float
) -> Tensor:
    """Return ``back``, shaped as the layer's input, of effects of some row alone."""
    op, scale = layer.operator, scale_of(layer)
    is_convolution = isinstance(op, Convolution)
    # linear maps may be large, and what u adds to one is the same for all features
    weight = weight_changes(layer, u) if u and is_convolution else op.weight
    added = 0.0 if is_convolution or not u else u * _weighted(slope, scale)
    chosen = effects.any(0).nonzero()[:, 0]
    is_parted = isinstance(op, Convolution) and (op.groups > 1 or op.transposed)
    if not is_parted and 2 * len(chosen) <= layer.n_outputs:
        if not len(chosen):
            return torch.zeros_like(value)
        slope, weight = slope.index_select(_output_axis(layer), chosen), weight[chosen]
    back = op.transpose(slope, value, weight)
    return back if u and is_convolution else added - back


def _weighted(slope: Tensor, scale: Tensor | None) -> Tensor:
    """Return sums over the last axis, with weights, ``(..., 1)``."""
    return (slope if scale is None else slope * scale).sum(-1, keepdim=True)
