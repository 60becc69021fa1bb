"""More parsers: sums, products, index maps, and what leaves values as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch

from explainers.operators import (
    Add,
    Affine,
    Concat,
    Elementwise,
    Extreme,
    LinearMap,
    Multiply,
    Operator,
    Pad,
    Quotient,
    Reshape,
    Selection,
    Unary,
)
from explainers.reading.graph import Bound, Ref, Size, generic, parses

if TYPE_CHECKING:
    from torch import Tensor


@parses("clone", "alias", "contiguous", "detach", "lift_fresh_copy", "type_as", "_to_copy", "to")
def same(bound: Bound) -> Operator | Ref | None:
    """Drop what copies, unless it changes the type."""
    value = bound["self"]
    return value if isinstance(value, Ref) and value.dtype == bound.dtype else None


@parses("dropout", "feature_dropout", "alpha_dropout", "native_dropout")
def dropout(bound: Bound) -> Operator | Ref | None:
    """Drop a dropout that is switched off."""
    value = bound["input"]
    return value if isinstance(value, Ref) and not bound["train"] and not bound.item else None


@parses("_native_batch_norm_legit_no_training", "native_batch_norm", "batch_norm")
def batch_norm(bound: Bound) -> Operator | None:
    """Read a batch norm with fixed statistics as an affine map of each channel."""
    mean, variance = bound["running_mean"], bound["running_var"]
    weight, bias = bound["weight"], bound["bias"]
    value = bound["input"]
    if bound.item or bound.arguments.get("training") or not isinstance(value, Ref):
        return None
    if not isinstance(mean, torch.Tensor) or not isinstance(variance, torch.Tensor):
        return None
    # in double precision, so that the result is rounded once
    scale = (variance.double() + bound["eps"]).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale
    shift = shift if bias is None else shift + bias.double()
    axes = (-1, *[1] * (len(value.shape) - 2))
    bound.program.norms.add(bound.name)
    return Affine(
        **bound.header(value),
        scale=scale.reshape(axes).to(value.dtype),
        shift=shift.reshape(axes).to(value.dtype),
    )


def _affine(bound: Bound, value: Ref, scale: Any, shift: Any) -> Operator | None:
    """Return ``value * scale + shift`` if the fixed factors are floats.

    A value that they enlarge is repeated first.
    """
    if bound.dtype != value.dtype or not value.dtype.is_floating_point:
        return None
    if bound.shape != value.shape:
        value = _enlarged(bound, value)
    device = bound.program.device
    factors = [
        None if factor is None else torch.as_tensor(factor, dtype=value.dtype, device=device)
        for factor in (scale, shift)
    ]
    return Affine(**bound.header(value), scale=factors[0], shift=factors[1])


def _enlarged(bound: Bound, value: Ref) -> Ref:
    sizes = [int(size) if size.isdigit() else -1 for size in bound.shape]
    repeated = replace(
        bound,
        name=f"{bound.name}:expand",
        function=torch.ops.aten.expand.default,
        arguments={"self": value, "size": sizes, "implicit": False},
    )
    return bound.program.add(generic(repeated, Reshape), bound.shape, value.dtype)


def _is_fixed(value: Any) -> bool:
    return isinstance(value, torch.Tensor | int | float) and not isinstance(value, bool)


@parses("add", "sub", "rsub")
def add(bound: Bound) -> Operator | None:
    """Read a sum or difference, of two values or of a value and something fixed."""
    first, second, alpha = bound["self"], bound["other"], bound.arguments.get("alpha", 1)
    if not isinstance(alpha, int | float):
        return None
    left, right = (1.0, -alpha) if bound.word == "sub" else (1.0, alpha)
    if bound.word == "rsub":
        left, right = -alpha, 1.0
    if isinstance(first, Ref) and _is_fixed(second):
        made = _affine(bound, first, None if left == 1 else left, second * right)
    elif isinstance(second, Ref) and _is_fixed(first):
        made = _affine(bound, second, None if right == 1 else right, first * left)
    else:
        made = None
    return made or _sum(bound, first, second, left, right)


def _sum(bound: Bound, first: Any, second: Any, left: float, right: float) -> Operator | None:
    if not all(isinstance(part, Ref | torch.Tensor) for part in (first, second)):
        return None
    if not first.dtype == second.dtype == bound.dtype or not first.dtype.is_floating_point:
        return None
    if left == 1.0:
        return Add(**bound.header(first, second), alpha=float(right))
    return Add(**bound.header(second, first), alpha=float(left)) if right == 1.0 else None


@parses("mul")
def multiply(bound: Bound) -> Operator | None:
    """Read a product of two values, or of a value and something fixed."""
    first, second = bound["self"], bound["other"]
    made = None
    if isinstance(first, Ref) and _is_fixed(second):
        made = _affine(bound, first, second, None)
    elif isinstance(second, Ref) and _is_fixed(first):
        made = _affine(bound, second, first, None)
    if made is not None:
        return made
    if not all(isinstance(part, Ref | torch.Tensor) for part in (first, second)):
        return elementwise(bound)
    if not first.dtype == second.dtype == bound.dtype or not first.dtype.is_floating_point:
        return elementwise(bound)
    return Multiply(**bound.header(first, second))


@parses("div")
def divide(bound: Bound) -> Operator:
    """Read a division by something fixed as a scaling."""
    first, second = bound["self"], bound["other"]
    is_plain = bound.arguments.get("rounding_mode") is None
    if is_plain and isinstance(first, Ref) and _is_fixed(second):
        inverse = second.double().reciprocal() if isinstance(second, torch.Tensor) else 1 / second
        made = _affine(bound, first, inverse, None)
        if made is not None:
            return made
    if is_plain and isinstance(first, Ref) and isinstance(second, Ref):
        return generic(bound, Quotient)
    return elementwise(bound)


@parses("neg")
def negate(bound: Bound) -> Operator:
    """Read a change of sign as a scaling."""
    return _affine(bound, bound["self"], -1.0, None) or elementwise(bound)


@parses("cat", "concat")
def concat(bound: Bound) -> Operator | Ref:
    """Read joined values; one alone is itself."""
    parts = [part for part in bound["tensors"] if not _is_empty(part)]
    if len(parts) == 1 and isinstance(parts[0], Ref):
        return parts[0]
    return Concat(**bound.header(*parts), dim=bound["dim"])


def _is_empty(part: Ref | Tensor) -> bool:
    return isinstance(part, torch.Tensor) and part.ndim == 1 and part.numel() == 0


@parses("stack")
def stack(bound: Bound) -> Operator:
    """Read stacked values as values with one more axis, joined."""
    dim = bound["dim"] % len(bound.shape)
    parts: list[Ref | Tensor] = []
    for position, part in enumerate(bound["tensors"]):
        if isinstance(part, torch.Tensor):
            parts.append(part.unsqueeze(dim))
            continue
        made = generic(
            replace(
                bound,
                name=f"{bound.name}:{position}",
                function=torch.ops.aten.unsqueeze.default,
                arguments={"self": part, "dim": dim},
            ),
            Reshape,
            is_ordered=True,
        )
        shape = (*part.shape[:dim], "1", *part.shape[dim:])
        parts.append(bound.program.add(made, shape, part.dtype))
    return Concat(**bound.header(*parts), dim=dim)


@parses("pad", "constant_pad_nd")
def pad(bound: Bound) -> Operator | Ref | None:
    """Read padding by fixed widths."""
    widths = bound["pad"]
    if any(isinstance(width, Size) for width in widths):
        return None
    value = bound["self"]
    if not any(widths) and isinstance(value, Ref):
        return value
    return Pad(
        **bound.header(bound["self"]),
        padding=tuple(widths),
        mode=bound.arguments.get("mode", "constant"),
        value=float(bound["value"] or 0.0),
    )


@parses("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze")
def ordered(bound: Bound) -> Operator | Ref | None:
    """Read a change of shape alone."""
    value = bound["self"]
    if not isinstance(value, Ref):
        return None
    if value.shape == bound.shape:
        return value
    if bound.word not in ("view", "reshape", "_unsafe_view"):
        return generic(bound, Reshape, is_ordered=True)
    sizes = list(bound["size"] if "size" in bound.arguments else bound["shape"])
    unknown = [position for position, size in enumerate(sizes) if isinstance(size, Size)]
    if len(unknown) == 1 and -1 not in sizes:
        sizes[unknown[0]] = -1
    # a view of what is not contiguous would fail, and channels_last makes such values
    reshaped = replace(
        bound,
        function=torch.ops.aten.reshape.default,
        arguments={"self": value, "shape": sizes},
    )
    return generic(reshaped, Reshape, is_ordered=True)


@parses("new_zeros", "new_ones", "new_full", "new_empty")
def filled(bound: Bound) -> Operator | Tensor | None:
    """Read a new tensor of fixed size as the constant it is."""
    sizes = bound["size"]
    if any(isinstance(size, Size) for size in sizes):
        return None
    words = {"new_ones": 1.0, "new_full": bound.arguments.get("fill_value")}
    value = cast("float", words.get(bound.word, 0.0))
    return torch.full(sizes, value, dtype=bound.dtype, device=bound.program.device)


@parses("permute", "transpose", "t", "numpy_T", "slice", "select", "split", "split_with_sizes")
@parses("unbind", "chunk", "narrow", "movedim", "diagonal", "swapaxes")
def view(bound: Bound) -> Operator | Ref | None:
    """Read what shares memory with its input."""
    if bound.word == "slice" and bound.shape == bound["self"].shape:
        return cast("Ref", bound["self"])
    return _index_map(bound, is_view=True)


@parses("expand", "roll", "flip", "repeat", "index", "index_select", "gather", "pixel_shuffle")
@parses("pixel_unshuffle", "repeat_interleave", "channel_shuffle", "native_channel_shuffle")
@parses("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "unfold")
def index_map(bound: Bound) -> Operator | Ref | None:
    """Read what moves or repeats values."""
    if bound.word != "expand":
        return _index_map(bound)
    value = bound["self"]
    if not isinstance(value, Ref):
        return None  # a fixed value, repeated for each row: nothing flows back along it
    if value.shape == bound.shape:
        return value
    sizes = list(bound["size"])
    offset = len(sizes) - len(value.shape)
    for position, size in enumerate(value.shape):
        if isinstance(sizes[offset + position], Size) and size != "1":
            sizes[offset + position] = -1
    return _index_map(replace(bound, arguments={**bound.arguments, "size": sizes}))


def _index_map(bound: Bound, *, is_view: bool = False) -> Operator | None:
    first, *further = bound.arguments.values()
    if not isinstance(first, Ref) or any(isinstance(part, Ref) for part in _flat(further)):
        return None
    return generic(bound, Reshape, is_view=is_view)


@parses("sum", "cumsum", "tril", "triu", "im2col", "col2im", "_upsample_bilinear2d_aa")
@parses("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d")
def linear_map(bound: Bound) -> Operator | None:
    """Read a linear function of one value that has no weights."""
    first, *further = bound.arguments.values()
    is_of_one = isinstance(first, Ref) and not any(isinstance(part, Ref) for part in _flat(further))
    if not is_of_one or bound.arguments.get("dtype") is not None or first.dtype != bound.dtype:
        return None
    return generic(bound, LinearMap)


def _flat(parts: list[Any]) -> list[Any]:
    flat: list[Any] = []
    for part in parts:
        flat += _flat(part) if isinstance(part, list) else [part]
    return flat


@parses("exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "pow", "abs", "erf")
@parses("maximum", "minimum", "where", "reciprocal", "sin", "cos", "square", "sign")
@parses("masked_fill", "prelu", "addcdiv", "eq", "ne", "lt", "le", "gt", "ge", "sgn")
@parses("logical_and", "logical_or", "logical_not", "floor", "round", "atan", "sinh", "cosh")
def elementwise(bound: Bound) -> Operator:
    """Read a function of values at the same place."""
    computed = [value for value in bound.arguments.values() if isinstance(value, Ref)]
    if bound.word in _CHOOSERS and bound.dtype is not None and bound.dtype.is_floating_point:
        chooser = bound.arguments.get(_CHOOSERS[bound.word])
        choosers = [position for position, value in enumerate(computed) if value is chooser]
        return generic(bound, Selection, choosers=tuple(choosers))
    is_unary = len(computed) == 1 and computed[0].shape == bound.shape
    if is_unary and computed[0].dtype == bound.dtype and computed[0].dtype.is_floating_point:
        return generic(bound, Unary)
    return generic(bound, Elementwise)


_CHOOSERS = {"where": "condition", "masked_fill": "mask", "maximum": "", "minimum": ""}
"""Functions that choose between values at the same place, and which argument does so."""


@parses("addcmul")
def add_product(bound: Bound) -> Operator | Ref | None:
    """Read ``self + value * first * second`` as a product and a sum."""
    parts = [bound[name] for name in ("self", "tensor1", "tensor2")]
    if any(isinstance(part, Ref) and part.shape != bound.shape for part in parts):
        return elementwise(bound)
    of_two = {"self": parts[1], "other": parts[2]}
    name = f"{bound.name}:product"
    product = multiply(replace(bound, name=name, arguments=of_two, function=_MULTIPLY))
    if not isinstance(product, Affine | Multiply):
        return elementwise(bound)
    reference = bound.program.add(product, bound.shape, cast("torch.dtype", bound.dtype))
    of_sum = {"self": parts[0], "other": reference, "alpha": bound["value"]}
    return add(replace(bound, arguments=of_sum, function=_ADD)) or generic(bound, Elementwise)


_MULTIPLY, _ADD = torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor


@parses("amax", "amin", "max", "min", "topk", "sort", "median", "kthvalue")
def extreme(bound: Bound) -> Operator | None:
    """Read values that are chosen by their order within a sample."""
    is_of_axis = "dim" in bound.arguments and bound.arguments["dim"] != []
    if not is_of_axis or bound.item or not isinstance(bound["self"], Ref):
        return None
    return generic(bound, Extreme)
