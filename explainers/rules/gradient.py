"""Rule table ``gradient``: the chain rule, with ATen's own backward kernels where they are fast."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from explainers.operators import (
    Activation,
    Add,
    Affine,
    AveragePool,
    Concat,
    Convolution,
    Embedding,
    Linear,
    MatrixProduct,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Reshape,
    Softmax,
)
from explainers.rules.table import Relevances, RuleTable, Values

if TYPE_CHECKING:
    from torch import Tensor

aten = torch.ops.aten
gradient = RuleTable("gradient")


@gradient.rule(Operator)  # type: ignore[type-abstract]  # the base serves all
def differentiated(op: Operator, relevance: Tensor, values: Values) -> Relevances:
    """Differentiate the operator by autograd; for what has no rule of its own.

    Raises
    ------
    RuntimeError
        In inference mode, where autograd would find zero.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            f"the operator {op.name!r} cannot be differentiated in torch.inference_mode(); leave "
            "it, or call explainers.explain, which does so itself"
        )
    inputs = [values[name].detach() for name in op.inputs]
    with torch.enable_grad():
        for name, value in zip(op.inputs, inputs, strict=True):
            value.requires_grad_(name in op.sources and value.is_floating_point())
        output = op.run(*inputs)
    leaves = [value for value in inputs if value.requires_grad]
    if not leaves or not output.requires_grad:
        return (None,) * len(inputs)
    parts = iter(torch.autograd.grad(output, leaves, relevance, allow_unused=True))
    return tuple(next(parts) if value.requires_grad else None for value in inputs)


@gradient.rule(Convolution, Linear)
def transposed(op: Convolution | Linear, relevance: Tensor, values: Values) -> Relevances:
    """Multiply by the transposed weights."""
    return (op.transpose(relevance, values[op.inputs[0]]),)


@gradient.rule(Embedding)
def none(op: Embedding, relevance: Tensor, values: Values) -> Relevances:
    """Give nothing to an index."""
    return (None,)


@gradient.rule(Activation)
def activation(op: Activation, relevance: Tensor, values: Values) -> Relevances:
    """Multiply by the slope."""
    if op.kind == "relu":
        return (aten.threshold_backward(relevance, values[op.name], 0),)
    if op.kind in ("sigmoid", "tanh"):
        backward = getattr(aten, f"{op.kind}_backward")
        return (backward(relevance, values[op.name]),)
    value = values[op.inputs[0]]
    if op.kind in ("silu", "gelu", "hardswish", "hardsigmoid", "hardtanh"):
        backward = getattr(aten, f"{op.kind}_backward")
        return (backward(relevance, value, *op.parameters, **dict(op.options)),)
    return differentiated(op, relevance, values)


@gradient.rule(MaxPool)
def largest(op: MaxPool, relevance: Tensor, values: Values) -> Relevances:
    """Give all to the first of the largest values of a window."""
    value, switches = values[op.inputs[0]], op.switches(values)
    if len(op.size) == 2 and not op.is_adaptive:
        shape = (op.size, op.stride, op.padding, op.dilation, op.ceil_mode)
        return (aten.max_pool2d_with_indices_backward(relevance, value, *shape, switches),)
    first = -len(op.size)
    back = torch.zeros_like(value, memory_format=torch.contiguous_format)
    back.flatten(first).scatter_add_(-1, switches.flatten(first), relevance.flatten(first))
    return (back,)


@gradient.rule(AveragePool)
def spread(op: AveragePool, relevance: Tensor, values: Values) -> Relevances:
    """Give each value of a window the same share."""
    value = values[op.inputs[0]]
    is_global = op.form == "adaptive" and set(op.size) == {1}
    if op.form == "mean" or is_global:
        dims = op.dims if op.form == "mean" else tuple(range(-len(op.size), 0))
        count = math.prod(value.shape[dim] for dim in dims)
        if op.form == "mean" and not op.keepdim:
            for dim in sorted(dim % value.ndim for dim in dims):
                relevance = relevance.unsqueeze(dim)
        return ((relevance / count).expand_as(value),)
    if len(op.size) != 2:
        return differentiated(op, relevance, values)
    if op.form == "adaptive":
        return (aten._adaptive_avg_pool2d_backward(relevance, value),)
    shape = (op.size, op.stride, op.padding, op.ceil_mode, op.count_include_pad, op.divisor)
    return (aten.avg_pool2d_backward(relevance, value, *shape),)


@gradient.rule(Affine)
def scaled(op: Affine, relevance: Tensor, values: Values) -> Relevances:
    """Multiply by the scale."""
    return (relevance if op.scale is None else relevance * op.scale,)


@gradient.rule(Add)
def added(op: Add, relevance: Tensor, values: Values) -> Relevances:
    """Hand the relevance to both."""
    first, second = (values[name] for name in op.inputs)
    scaled = relevance if op.alpha == 1.0 else relevance * op.alpha
    return (relevance.sum_to_size(first.shape), scaled.sum_to_size(second.shape))


@gradient.rule(Multiply)
def multiplied(op: Multiply, relevance: Tensor, values: Values) -> Relevances:
    """Multiply by the other factor."""
    first, second = (values[name] for name in op.inputs)
    return (
        (relevance * second).sum_to_size(first.shape),
        (relevance * first).sum_to_size(second.shape),
    )


@gradient.rule(MatrixProduct)
def product(op: MatrixProduct, relevance: Tensor, values: Values) -> Relevances:
    """Multiply by the other matrix, transposed."""
    first, second = (values[name] for name in op.inputs)
    if first.ndim < 2 or second.ndim < 2:
        return differentiated(op, relevance, values)
    return (
        (relevance @ second.mT).sum_to_size(first.shape),
        (first.mT @ relevance).sum_to_size(second.shape),
    )


@gradient.rule(Concat)
def parted(op: Concat, relevance: Tensor, values: Values) -> Relevances:
    """Part the relevance where the values were joined."""
    sizes = [values[name].shape[op.dim] for name in op.inputs]
    return torch.split(relevance, sizes, op.dim)


@gradient.rule(Pad)
def cropped(op: Pad, relevance: Tensor, values: Values) -> Relevances:
    """Drop the margin."""
    if op.mode != "constant":
        return differentiated(op, relevance, values)
    return (functional.pad(relevance, [-width for width in op.padding]),)


@gradient.rule(Softmax)
def normalised(op: Softmax, relevance: Tensor, values: Values) -> Relevances:
    """Multiply by the Jacobian of the softmax, or of its logarithm."""
    backward = aten._log_softmax_backward_data if op.is_log else aten._softmax_backward_data
    return (backward(relevance, values[op.name], op.dim, relevance.dtype),)


@gradient.rule(Reshape)
def moved_back(op: Reshape, relevance: Tensor, values: Values) -> Relevances:
    """Move each value back to where it came from; sum where it was repeated."""
    value = values[op.inputs[0]]
    if op.is_ordered:
        part = relevance.reshape(value.shape)
    elif op.is_view:
        part = torch.zeros_like(value)
        op.run(part, *(values[name] for name in op.inputs[1:])).copy_(relevance)
    else:
        return differentiated(op, relevance, values)
    return (part, *(None for _ in op.inputs[1:]))
