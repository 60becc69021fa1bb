"""Operators on pieces of their inputs: what each output place reads, and how a piece is made.

A function per class of operator, found by `local`. What is not here reads its whole input.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import TYPE_CHECKING, TypeAlias

import torch

from explainers.operators import (
    Activation,
    Add,
    Affine,
    AveragePool,
    Concat,
    Convolution,
    Elementwise,
    MaxPool,
    Multiply,
    Operator,
    Pad,
)
from explainers.regions.reach import Reach, Window, hull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Region: TypeAlias = "tuple[Reach, ...]"
"""What boxes reach of a value ``(batch, channels, *axes)``, along each of the axes."""

Shape: TypeAlias = "tuple[int, ...] | None"


@dataclass(frozen=True)
class Piece:
    """A part of a value that is read, the same number of places for each interval of a box."""

    starts: tuple[tuple[int, ...], ...]
    """First place along each axis for each interval; negative, before the value begins."""
    sizes: tuple[int, ...]
    fill: float = 0.0
    """What is read outside of the value."""

    @classmethod
    def of(cls, region: Region) -> Piece:
        """Return the part that a region is."""
        return cls(tuple(reach.starts for reach in region), tuple(reach.size for reach in region))


@dataclass(frozen=True, eq=False)
class Local(ABC):
    """An operator that makes pieces of its value of pieces of its inputs."""

    op: Operator
    region: Region
    """What boxes reach of its value."""
    reads: tuple[Piece | None, ...]
    """Of each input; None for one that is taken as it is, without places."""

    @abstractmethod
    def run(self, inputs: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
        """Return the pieces ``(pieces, channels, *sizes)``.

        Parameters
        ----------
        inputs
            Pieces of the inputs, those of a box in all rows following each other.
        along
            The interval of each box along each axis, ``(boxes,)`` each.
        """


@dataclass(frozen=True)
class Surroundings:
    """What is known of an operator's inputs and value."""

    regions: tuple[Region | None, ...]
    """Of each input; None where no box reaches it."""
    shapes: tuple[Shape, ...]
    """Of each input for one sample; None where it has no rows of its own."""
    constants: tuple[Tensor | None, ...]
    """Each input that is a constant."""
    shape: tuple[int, ...]
    """Of the value for one sample."""

    @property
    def n_axes(self) -> int:
        """Axes of the value besides rows and channels."""
        return len(self.shape) - 1


@singledispatch
def local(op: Operator, around: Surroundings) -> Local | None:
    """Return how an operator makes pieces; None where it has to have its whole input."""
    return None


@dataclass(frozen=True, eq=False)
class InPlace(Local):
    """Each place of the value is made of the same place of the inputs."""

    def run(self, inputs: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
        """Return the operator's value for the pieces."""
        return self.op.run(*inputs)


@local.register(Activation | Add | Multiply | Elementwise)
def pointwise(op: Operator, around: Surroundings) -> Local | None:
    """Return pieces of the same places of all inputs."""
    changed = [region for region in around.regions if region is not None]
    region = tuple(hull(reaches) for reaches in zip(*changed, strict=True))
    reads: list[Piece | None] = []
    for shape, constant in zip(around.shapes, around.constants, strict=True):
        if constant is not None and _is_placeless(constant, around.n_axes):
            reads.append(None)
        elif shape is not None and shape[1:] == around.shape[1:]:
            reads.append(Piece.of(region))
        else:
            return None
    return InPlace(op, region, tuple(reads))


@local.register(Affine)
def affine(op: Affine, around: Surroundings) -> Local | None:
    """Return pieces of the same places, if factors are the same at all places."""
    factors = [each for each in (op.scale, op.shift) if each is not None]
    is_same = all(_is_placeless(each, around.n_axes) for each in factors)
    return pointwise(op, around) if is_same else None


@local.register(Concat)
def concat(op: Concat, around: Surroundings) -> Local | None:
    """Return pieces of the same places, if it is channels that are joined."""
    return pointwise(op, around) if op.dim in (1, -len(around.shape)) else None


@dataclass(frozen=True, eq=False)
class Windowed(Local):
    """An operator on windows, a convolution or a pool, whose padding is part of the pieces."""

    def run(self, inputs: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
        """Return what the operator without padding makes of the pieces."""
        return self.op.run(*inputs)


@local.register(Convolution)
def convolution(op: Convolution, around: Surroundings) -> Local | None:
    """Return pieces of a convolution that is not transposed."""
    n_axes = op.weight.ndim - 2
    if op.transposed or n_axes != around.n_axes:
        return None
    zeros = op.extents_of_zeros
    if any(len(each) != n_axes for each in (op.stride, op.dilation, zeros)):
        return None
    sizes = op.weight.shape[2:]
    windows = [
        Window(*numbers)
        for numbers in zip(sizes, op.stride, [z[0] for z in zeros], op.dilation, strict=True)
    ]
    plain = replace(op, padding=(0,) * n_axes, margins=())
    region, piece = _slid(windows, around, 0.0)
    return Windowed(plain, region, (piece,))


@local.register(MaxPool)
def max_pool(op: MaxPool, around: Surroundings) -> Local | None:
    """Return pieces of maxima; nothing outside is larger than what is there."""
    fitted = _fixed(op, around)
    if fitted is None:
        return None
    windows, plain = fitted
    region, piece = _slid(windows, around, -math.inf)
    return Windowed(plain, region, (piece,))


@dataclass(frozen=True, eq=False)
class Averaged(Local):
    """Means over windows, of which those at borders count fewer values."""

    corrections: tuple[tuple[float, ...], ...] = ()
    """By what the mean over whole windows is multiplied, for each output place of each axis; none
    where all windows count the same."""

    def run(self, inputs: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
        """Return the means without padding, multiplied."""
        found = self.op.run(*inputs)
        pairs = zip(self.corrections, self.region, along, strict=True) if self.corrections else ()
        for axis, (factors, reach, which) in enumerate(pairs):
            places = torch.tensor(reach.starts, device=which.device)[which, None]
            places = places + torch.arange(reach.size, device=which.device)
            factor = torch.tensor(factors, dtype=found.dtype, device=found.device)[places]
            ones = [1] * (len(self.region) + 1)
            ones[axis + 1] = reach.size
            each = len(found) // len(which)
            found = found * factor.repeat_interleave(each, 0).view(-1, *ones)
        return found


@local.register(AveragePool)
def average_pool(op: AveragePool, around: Surroundings) -> Local | None:
    """Return pieces of means over windows of a fixed size."""
    fitted = None if op.form == "mean" else _fixed(op, around)
    if fitted is None:
        return None
    windows, plain = fitted
    region, piece = _slid(windows, around, 0.0)
    counts = [
        _counts(window, full, reach.full, is_padding_counted=op.count_include_pad)
        for window, full, reach in zip(windows, _extents(around), region, strict=True)
    ]
    factors = tuple(
        tuple(window.size / count for count in axis)
        for window, axis in zip(windows, counts, strict=True)
    )
    is_even = op.divisor is not None or all(factor == 1 for axis in factors for factor in axis)
    return Averaged(plain, region, (piece,), () if is_even else factors)


@dataclass(frozen=True, eq=False)
class Surrounded(Local):
    """The same places, of a value that begins elsewhere."""

    def run(self, inputs: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
        """Return the pieces as they are."""
        return inputs[0]


@local.register(Pad)
def pad(op: Pad, around: Surroundings) -> Local | None:
    """Return the same pieces, if what surrounds them is a constant."""
    (region,) = around.regions
    n_padded = len(op.padding) // 2
    if region is None or op.mode != "constant" or min(op.padding) < 0 or n_padded > around.n_axes:
        return None
    before = [0] * (around.n_axes - n_padded) + list(op.padding[::2][::-1])
    moved = tuple(
        Reach(tuple(start + width for start in reach.starts), reach.size, full)
        for reach, width, full in zip(region, before, around.shape[1:], strict=True)
    )
    return Surrounded(op, moved, (Piece.of(region),))


def _fixed(
    op: MaxPool | AveragePool, around: Surroundings
) -> tuple[list[Window], MaxPool | AveragePool] | None:
    """Return a pool's windows, and the pool without padding; None if its windows differ."""
    n_axes = around.n_axes
    if len(op.size) != n_axes:
        return None
    size, stride = op.size, op.stride or op.size
    before, dilation = op.padding or (0,) * n_axes, getattr(op, "dilation", ()) or (1,) * n_axes
    if op.is_adaptive if isinstance(op, MaxPool) else op.form == "adaptive":
        pairs = list(zip(_extents(around), op.size, strict=True))
        if any(full % parts for full, parts in pairs):
            return None
        size = stride = tuple(full // parts for full, parts in pairs)
        before = (0,) * n_axes
    windows = [Window(*each) for each in zip(size, stride, before, dilation, strict=True)]
    if isinstance(op, MaxPool):
        none = (0,) * n_axes
        plain = replace(op, size=size, stride=stride, padding=none, ceil_mode=False)
        return windows, replace(plain, is_adaptive=False, dilation=dilation)
    fixed = replace(op, form="window", size=size, stride=stride, padding=(0,) * n_axes)
    return windows, replace(fixed, ceil_mode=False, count_include_pad=True)


def _slid(windows: Sequence[Window], around: Surroundings, fill: float) -> tuple[Region, Piece]:
    """Return what is reached by windows that slide over the one input, and what they read."""
    (inputs,) = around.regions
    region, starts, sizes = [], [], []
    for window, reach, full in zip(windows, inputs or (), around.shape[1:], strict=True):
        reached = window.reached(reach, full)
        start, size = window.read(reached)
        region.append(reached)
        starts.append(start)
        sizes.append(size)
    return tuple(region), Piece(tuple(starts), tuple(sizes), fill)


def _counts(
    window: Window, full: int, n_outputs: int, *, is_padding_counted: bool
) -> tuple[int, ...]:
    """Return how many places along an axis the mean at each output place is over."""
    found = []
    for place in range(n_outputs):
        first = place * window.stride - window.before
        last = min(first + window.size, full + window.before)
        found.append(last - first if is_padding_counted else min(last, full) - max(first, 0))
    return tuple(found)


def _extents(around: Surroundings) -> tuple[int, ...]:
    (shape,) = around.shapes
    return () if shape is None else shape[1:]


def _is_placeless(factor: Tensor, n_axes: int) -> bool:
    """Whether a constant is the same at all places."""
    return all(size == 1 for size in factor.shape[max(0, factor.ndim - n_axes) :])
