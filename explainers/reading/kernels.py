"""Which ATen function becomes which operator, with its arguments in typed fields."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from explainers.operators import (
    Activation,
    Attention,
    AveragePool,
    Convolution,
    Elementwise,
    Embedding,
    Linear,
    MatrixProduct,
    MaxPool,
    Normalise,
    Operator,
    Pad,
    Recurrent,
    Softmax,
)
from explainers.reading.graph import Bound, Ref, generic, parses

if TYPE_CHECKING:
    from torch import Tensor


def _is_fixed(value: Any) -> bool:
    return value is None or isinstance(value, torch.Tensor)


def _each(value: Any, n_axes: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not values:
        return default
    return values * n_axes if len(values) == 1 else values


@parses("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
@parses("convolution")
def convolution(bound: Bound) -> Operator | None:
    """Read a convolution whose weights are fixed."""
    inputs, weight, bias = bound["input"], bound["weight"], bound["bias"]
    if not isinstance(weight, torch.Tensor) or not _is_fixed(bias) or not isinstance(inputs, Ref):
        return None
    n_axes = weight.ndim - 2
    dilation = _each(bound["dilation"], n_axes)
    padding = bound["padding"]
    if isinstance(padding, str):
        inputs, padding = _named_padding(bound, inputs, padding, dilation, weight)
    return Convolution(
        **bound.header(inputs),
        weight=weight,
        bias=bias,
        stride=_each(bound["stride"], n_axes),
        padding=_each(padding, n_axes),
        dilation=dilation,
        groups=bound["groups"],
        transposed=bound.arguments.get("transposed", "transpose" in bound.word),
        output_padding=_each(bound.arguments.get("output_padding", 0), n_axes),
    )


def _named_padding(
    bound: Bound, inputs: Ref, padding: str, dilation: tuple[int, ...], weight: Tensor
) -> tuple[Ref, tuple[int, ...]]:
    """Return input and padding in numbers; uneven padding becomes an operator of its own."""
    if padding == "valid":
        return inputs, (0,)
    totals = [step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)]
    if all(total % 2 == 0 for total in totals):
        return inputs, tuple(total // 2 for total in totals)
    widths: list[int] = []
    for total in reversed(totals):
        widths += [total // 2, total - total // 2]
    pad = Pad(
        name=f"{bound.name}:pad",
        module_path=bound.owner,
        inputs=(inputs.name,),
        padding=tuple(widths),
        mode="constant",
        value=0.0,
    )
    return bound.program.add(pad, (), inputs.dtype), (0,)


@parses("linear")
def linear(bound: Bound) -> Operator | None:
    """Read a matrix product with fixed weights."""
    weight, bias = bound["weight"], bound["bias"]
    if not isinstance(weight, torch.Tensor) or not _is_fixed(bias):
        return None
    return Linear(**bound.header(bound["input"]), weight=weight, bias=bias)


@parses("addmm")
def added_product(bound: Bound) -> Operator | None:
    """Read ``bias + x @ weight``."""
    bias, inputs, weight = bound["self"], bound["mat1"], bound["mat2"]
    is_plain = bound["alpha"] == 1 and bound["beta"] == 1
    if not is_plain or not isinstance(inputs, Ref) or not isinstance(weight, torch.Tensor):
        return None
    if not isinstance(bias, torch.Tensor) or bias.ndim != 1:
        return None
    return Linear(**bound.header(inputs), weight=weight.mT.contiguous(), bias=bias)


@parses("matmul", "mm", "bmm")
def product(bound: Bound) -> Operator | None:
    """Read a matrix product; with a fixed matrix on the right it is linear."""
    first, second = (bound.arguments[name] for name in list(bound.arguments)[:2])
    if isinstance(second, torch.Tensor) and second.ndim == 2:
        return Linear(**bound.header(first), weight=second.mT.contiguous(), bias=None)
    return MatrixProduct(**bound.header(first, second))


@parses("relu", "sigmoid", "tanh", "silu", "gelu", "hardswish", "hardsigmoid", "hardtanh", "elu")
@parses("selu", "celu", "leaky_relu", "softplus", "mish", "log_sigmoid", "relu6", "tanhshrink")
@parses("hardshrink", "softshrink", "softsign")
def activation(bound: Bound) -> Operator:
    """Read an activation."""
    schema = {argument.name: argument for argument in bound.function._schema.arguments}
    further = list(bound.arguments.items())[1:]
    return Activation(
        **bound.header(bound["self"]),
        kind=bound.word,
        parameters=tuple(value for name, value in further if not schema[name].kwarg_only),
        options=tuple((name, value) for name, value in further if schema[name].kwarg_only),
    )


@parses("clamp", "clamp_min", "clamp_max", "clip")
def clamp(bound: Bound) -> Operator:
    """Read bounds that are numbers.

    It is no ``relu`` or ``hardtanh``: its slope at a bound is what autograd says, and that has
    differed between versions of torch.
    """
    low, high = bound.arguments.get("min"), bound.arguments.get("max")
    inputs = bound["self"]
    is_fixed = all(limit is None or isinstance(limit, int | float) for limit in (low, high))
    if not is_fixed or not isinstance(inputs, Ref) or not inputs.dtype.is_floating_point:
        return generic(bound, Elementwise)
    limits = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
    return Activation(**bound.header(inputs), kind="clamp", parameters=limits)


@parses("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices")
@parses("max_pool3d_with_indices")
def max_pool(bound: Bound) -> Operator | None:
    """Read a maximum over windows."""
    if bound.item:
        return None
    n_axes = int(bound.word[8])
    size = _each(bound["kernel_size"], n_axes)
    return MaxPool(
        **bound.header(bound["self"]),
        size=size,
        stride=_each(bound["stride"], n_axes, size),
        padding=_each(bound["padding"], n_axes),
        dilation=_each(bound["dilation"], n_axes),
        ceil_mode=bound["ceil_mode"],
    )


@parses("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(bound: Bound) -> Operator | None:
    """Read a maximum over windows that follow from the output size."""
    if bound.item:
        return None
    size = _each(bound["output_size"], int(bound.word[17]))
    return MaxPool(**bound.header(bound["self"]), size=size, is_adaptive=True)


@parses("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average_pool(bound: Bound) -> Operator:
    """Read a mean over windows."""
    n_axes = int(bound.word[8])
    size = _each(bound["kernel_size"], n_axes)
    return AveragePool(
        **bound.header(bound["self"]),
        form="window",
        size=size,
        stride=_each(bound["stride"], n_axes, size),
        padding=_each(bound["padding"], n_axes),
        ceil_mode=bound["ceil_mode"],
        count_include_pad=bound["count_include_pad"],
        divisor=bound.arguments.get("divisor_override"),
    )


@parses("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
@parses("_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
def adaptive_average_pool(bound: Bound) -> Operator:
    """Read a mean over windows that follow from the output size."""
    n_axes = int(bound.word.strip("_")[17])
    size = _each(bound["output_size"], n_axes)
    return AveragePool(**bound.header(bound["self"]), form="adaptive", size=size)


@parses("mean")
def mean(bound: Bound) -> Operator | None:
    """Read a mean over whole axes."""
    dims = bound.arguments.get("dim")
    if not dims or bound["dtype"] is not None:
        return None
    return AveragePool(
        **bound.header(bound["self"]), form="mean", dims=tuple(dims), keepdim=bound["keepdim"]
    )


@parses("layer_norm", "native_layer_norm", "rms_norm")
def layer_norm(bound: Bound) -> Operator | None:
    """Read a norm over trailing axes."""
    weight, bias = bound["weight"], bound.arguments.get("bias")
    if bound.item or not _is_fixed(weight) or not _is_fixed(bias):
        return None
    return Normalise(
        **bound.header(bound["input"]),
        kind="rms" if bound.word == "rms_norm" else "layer",
        shape=tuple(bound["normalized_shape"]),
        weight=weight,
        bias=bias,
        eps=bound["eps"],
    )


@parses("group_norm")
def group_norm(bound: Bound) -> Operator | None:
    """Read a norm over groups of channels."""
    if not _is_fixed(bound["weight"]) or not _is_fixed(bound["bias"]):
        return None
    return Normalise(
        **bound.header(bound["input"]),
        kind="group",
        shape=(bound["num_groups"],),
        weight=bound["weight"],
        bias=bound["bias"],
        eps=bound["eps"],
    )


@parses("softmax", "_softmax", "log_softmax", "_log_softmax")
def softmax(bound: Bound) -> Operator | None:
    """Read a softmax, or its logarithm."""
    wanted = bound.arguments.get("dtype")
    # models of attention name the type that the value has anyway
    if wanted not in (None, bound["self"].dtype) or bound.arguments.get("half_to_float"):
        return None
    return Softmax(**bound.header(bound["self"]), dim=bound["dim"], is_log="log" in bound.word)


@parses("scaled_dot_product_attention")
def attention(bound: Bound) -> Operator | None:
    """Read attention."""
    if bound["dropout_p"] != 0.0:
        return None
    mask = bound["attn_mask"]
    inputs = [bound["query"], bound["key"], bound["value"], *([] if mask is None else [mask])]
    return Attention(
        **bound.header(*inputs),
        is_causal=bound["is_causal"],
        scale=bound["scale"],
        enable_gqa=bound["enable_gqa"],
    )


@parses("embedding")
def embedding(bound: Bound) -> Operator | None:
    """Read a choice of rows of a fixed table."""
    if not isinstance(bound["weight"], torch.Tensor):
        return None
    return Embedding(**bound.header(bound["indices"]), weight=bound["weight"])


@parses("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(bound: Bound) -> Operator | None:
    """Read a recurrence over padded sequences with fixed weights."""
    if "input" not in bound.arguments or bound.item is None:
        return None
    weights = bound["params"]
    if not all(isinstance(weight, torch.Tensor) for weight in weights) or bound["train"]:
        return None
    states = bound["hx"] if isinstance(bound["hx"], list) else [bound["hx"]]
    return Recurrent(
        **bound.header(bound["input"], *states),
        kind=bound.word,  # type: ignore[arg-type]  # one of the words above
        weights=tuple(weights),
        has_biases=bound["has_biases"],
        n_layers=bound["num_layers"],
        bidirectional=bound["bidirectional"],
        batch_first=bound["batch_first"],
        item=bound.item,
    )
