"""Windows of pools: of max-pools, each offset is a strided view of the values with margins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.operators import MaxPool

_CHUNK = 1 << 21
"""Values of windows that are worked on at once: few enough for little memory of what is made of
them."""


@dataclass(frozen=True)
class Windows:
    """Regular windows over the last axes of a value that has its margins already."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    outputs: tuple[int, ...]
    """How many windows there are along each axis."""

    def views(self, value: Tensor) -> list[Tensor]:
        """Return, offset by offset, what the windows have there; the last axis runs fastest."""
        leading = (slice(None),) * (value.ndim - len(self.size))
        return [value[(*leading, *places)] for places in self._places()]

    def _places(self) -> Iterator[tuple[slice, ...]]:
        for offset in product(*(range(size) for size in self.size)):
            steps = zip(offset, self.stride, self.dilation, self.outputs, strict=True)
            yield tuple(
                slice(place * dilation, place * dilation + (n - 1) * stride + 1, stride)
                for place, stride, dilation, n in steps
            )

    def chunks(self, spread: Tensor, axis: int) -> Iterator[Chunk]:
        """Yield parts of the windows that need little memory each.

        Parameters
        ----------
        spread
            What the windows are over; of its size is thought.
        axis
            Of the samples.
        """
        first = -len(self.size)
        per_row = spread.shape[:first].numel() // spread.shape[axis]
        per_row *= math.prod(self.size) * math.prod(self.outputs[1:])
        n_rows = min(max(1, _CHUNK // max(per_row, 1)), self.outputs[0])
        n_samples = max(1, _CHUNK // max(per_row * self.outputs[0], 1))
        for sample in range(0, spread.shape[axis], n_samples):
            samples = slice(sample, sample + n_samples)
            for start in range(0, self.outputs[0], n_rows):
                stop = min(start + n_rows, self.outputs[0])
                yield Chunk(self, axis, samples, start, stop)


@dataclass(frozen=True)
class Chunk:
    """Some samples, and some consecutive windows along the first of the pooled axes."""

    windows: Windows
    axis: int
    samples: slice
    start: int
    stop: int

    def views(self, value: Tensor) -> list[Tensor]:
        """Return `Windows.views` of the part of a value with margins."""
        whole = self.windows
        outputs = (self.stop - self.start, *whole.outputs[1:])
        low = self.start * whole.stride[0]
        high = (self.stop - 1) * whole.stride[0] + (whole.size[0] - 1) * whole.dilation[0] + 1
        part = self._of(value, slice(low, high))
        return Windows(whole.size, whole.stride, whole.dilation, outputs).views(part)

    def of_result(self, value: Tensor) -> Tensor:
        """Return the part of a result, one value for each window."""
        return self._of(value, slice(self.start, self.stop))

    def _of(self, value: Tensor, rows: slice) -> Tensor:
        places = [slice(None)] * value.ndim
        places[self.axis], places[-len(self.windows.size)] = self.samples, rows
        return value[tuple(places)]


def n_windows(size: int, reach: int, stride: int, padding: int, *, is_ceil: bool) -> int:
    """Return how many windows, from first to last value `reach` long, an axis has."""
    room = size + 2 * padding - reach
    n = (-(-room // stride) if is_ceil else room // stride) + 1
    # a window must start within the values or the padding before them
    return n - 1 if is_ceil and (n - 1) * stride >= size + padding else n


def adaptive_bounds(size: int, n: int) -> list[tuple[int, int]]:
    """Return where each of n windows that lie between fractions of an axis starts and stops."""
    return [(place * size // n, -(-(place + 1) * size // n)) for place in range(n)]


def with_margins(op: MaxPool, value: Tensor, fill: float) -> tuple[Tensor, Windows]:
    """Return a value with `fill` wherever windows reach beyond it, and the windows over that."""
    sizes = tuple(value.shape[-len(op.size) :])
    if op.is_adaptive:
        return _adapted(value, sizes, op.size, fill)
    n_axes = len(op.size)
    stride, padding = op.stride or op.size, op.padding or (0,) * n_axes
    dilation = op.dilation or (1,) * n_axes
    outputs, widths = [], []
    for size, window, step, pad, apart in zip(
        sizes, op.size, stride, padding, dilation, strict=True
    ):
        reach = apart * (window - 1) + 1
        n = n_windows(size, reach, step, pad, is_ceil=op.ceil_mode)
        outputs.append(n)
        widths += [max(0, (n - 1) * step + reach - size - pad), pad]
    windows = Windows(op.size, stride, dilation, tuple(outputs))
    margins = widths[::-1]
    return (functional.pad(value, margins, value=fill) if any(margins) else value), windows


def _adapted(
    value: Tensor, sizes: tuple[int, ...], outputs: tuple[int, ...], fill: float
) -> tuple[Tensor, Windows]:
    """Return windows of one length without overlap, for those between fractions of an axis."""
    lengths = []
    for axis, (size, n) in enumerate(zip(sizes, outputs, strict=True), start=-len(sizes)):
        bounds = adaptive_bounds(size, n)
        length = max(stop - start for start, stop in bounds)
        lengths.append(length)
        if size == n * length:
            continue
        # `size` is the place of the fill
        places = [min(start + k, size) for start, _ in bounds for k in range(length)]
        for position, (start, stop) in enumerate(bounds):
            short = range(position * length + stop - start, (position + 1) * length)
            for place in short:
                places[place] = size
        last = [0, 0] * (-axis - 1)
        filled = functional.pad(value, [*last, 0, 1], value=fill)
        value = filled.index_select(axis, torch.tensor(places, device=value.device))
    ones = (1,) * len(lengths)
    return value, Windows(tuple(lengths), tuple(lengths), ones, outputs)
