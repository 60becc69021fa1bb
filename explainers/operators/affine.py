"""Operators that are linear in each of their inputs, up to a constant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from explainers.operators import phases
from explainers.operators.base import Operator

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(Operator):
    """Convolution or transposed convolution over one to three spatial axes, zero padding."""

    weight: Tensor
    """(out, in / groups, \\*kernel); transposed: (in, out / groups, \\*kernel)."""
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool
    output_padding: tuple[int, ...]
    margins: tuple[int, ...] = ()
    """Zeros before ``padding``, as ``torch.nn.functional.pad`` has them; uneven padding."""

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the convolution of the input."""
        return self.linear(inputs[0], self.weight, self.bias)

    def linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the convolution with other weights of the same shape: absolute, positive."""
        return torch.convolution(
            self._padded(inputs),
            weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
        )

    def transpose(self, relevance: Tensor, inputs: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the transposed map's value: the gradient of ``linear`` in its input.

        Parameters
        ----------
        relevance
            What comes back, shaped as the output.
        inputs
            The input, of which only shape and memory layout are used.
        weight
            Other weights of the same shape; by default the operator's.
        """
        weight, padded = self.weight if weight is None else weight, self._padded(inputs)
        inward = tuple(-width for width in self.margins)
        if (
            self.groups == 1
            and not self.transposed
            and phases.pays(weight, self.stride, self.dilation)
        ):
            stride, extent = self.stride[0], padded.shape[2:]
            found = phases.transposed(relevance, weight, stride, self.padding, extent)
            return functional.pad(found, inward) if inward else found
        gradient = self._backward(relevance, padded, weight, [True, False, False])[0]
        return functional.pad(gradient, inward) if inward else gradient

    def weight_gradient(
        self, relevance: Tensor, inputs: Tensor, channels: tuple[int, ...]
    ) -> Tensor:
        """Return the gradient of ``linear`` in its weight, summed over rows: no patches are made.

        Parameters
        ----------
        relevance
            What comes back, ``(rows, ...)``.
        inputs
            ``(rows, ...)``.
        channels
            The first two sizes of the weight, which need not be those of the operator's.
        """
        like = self.weight.new_empty(1).expand(*channels, *self.weight.shape[2:])
        return self._backward(relevance, self._padded(inputs), like, [False, True, False])[1]

    def _backward(
        self, relevance: Tensor, padded: Tensor, weight: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, ...]:
        """Return the gradients in input, weight and bias, as far as they are wanted."""
        gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            relevance,
            padded,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
            wanted,
        )
        return gradients

    def _padded(self, inputs: Tensor) -> Tensor:
        return functional.pad(inputs, self.margins) if self.margins else inputs

    def padded_by(self, widths: tuple[int, ...]) -> Convolution:
        """Return the convolution with zeros around its input; even ones add to ``padding``."""
        before, after = widths[::2][::-1], widths[1::2][::-1]
        is_even = before == after and len(before) == len(self.padding) and not self.transposed
        if not is_even:
            return replace(self, margins=widths)
        padding = tuple(sum(pair) for pair in zip(self.padding, before, strict=True))
        return replace(self, padding=padding)

    @property
    def extents_of_zeros(self) -> tuple[tuple[int, int], ...]:
        """Zeros before and after the input, axis by axis, of padding and margins together."""
        filled = (*self.margins, *[0] * (2 * len(self.padding) - len(self.margins)))
        pairs = zip(filled[::2][::-1], filled[1::2][::-1], strict=True)
        both = zip(self.padding, pairs, strict=True)
        return tuple((even + before, even + after) for even, (before, after) in both)


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Operator):
    """Matrix product of the last axis with a fixed matrix."""

    weight: Tensor
    """(out, in)."""
    bias: Tensor | None

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the product."""
        return self.linear(inputs[0], self.weight, self.bias)

    def linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the product with other weights of the same shape."""
        # with turned axes it would be a product for each row: ViT-B/16 took 1.8 times as long
        return functional.linear(inputs.contiguous() if inputs.ndim > 2 else inputs, weight, bias)

    def transpose(self, relevance: Tensor, inputs: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the product with the transposed matrix; see `Convolution.transpose`."""
        return relevance @ (self.weight if weight is None else weight)


@dataclass(frozen=True, eq=False, kw_only=True)
class MatrixProduct(Operator):
    """``torch.matmul`` of two values."""

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the product."""
        left, right = inputs
        return left @ right


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(Operator):
    """``x * scale + shift`` with fixed, broadcast factors that never enlarge x.

    A batch norm that could not be folded, a layer scale, a scalar factor, a position table.
    """

    scale: Tensor | None
    shift: Tensor | None

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the scaled and shifted input."""
        (value,) = inputs
        if self.scale is None:
            return value if self.shift is None else value + self.shift
        return value * self.scale if self.shift is None else value * self.scale + self.shift


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Operator):
    """``first + alpha * second``, broadcast; either may be a `Constant`."""

    alpha: float = 1.0

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the sum."""
        first, second = inputs
        return first + second if self.alpha == 1.0 else torch.add(first, second, alpha=self.alpha)


@dataclass(frozen=True, eq=False, kw_only=True)
class Multiply(Operator):
    """Product of two values at the same place, broadcast: gates, squeeze-and-excitation."""

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the product."""
        first, second = inputs
        return first * second


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Operator):
    """Values joined along an axis."""

    dim: int

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the joined values."""
        return torch.cat(inputs, self.dim)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pad(Operator):
    """Values surrounded by a constant, or by copies of themselves."""

    padding: tuple[int, ...]
    """Before and after, last axis first, as ``torch.nn.functional.pad`` has it."""
    mode: str
    """``constant``, ``reflect``, ``replicate`` or ``circular``."""
    value: float

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the padded input."""
        value = self.value if self.mode == "constant" else None
        return functional.pad(inputs[0], self.padding, self.mode, value)


@dataclass(frozen=True, eq=False, kw_only=True)
class Embedding(Operator):
    """Rows of a table, chosen by integer inputs."""

    weight: Tensor
    """(rows, features)."""

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the rows."""
        return functional.embedding(inputs[0], self.weight)
