"""Biases that are shared in place, block by block, where only relevant parts are carried.

The plain values of the samples are known, so that nothing but the relevant part of each row is
read and written, once; what lies between stays in the cache. On whole values the eight operations
of a share took five times as long as all else in a LeNet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.rules.decomposition.biases import shared, shared_constant, stabiliser

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from explainers.rules.decomposition.streams import Streams

_BLOCK_BYTES = 1 << 17
"""Of each of the five tensors that are in use at once; caches of 1 to 2 MiB are usual."""

_ROUNDINGS = 4
"""Units in the last place of a sample's largest value that a difference of equal values may have.
Where a relevant part is near zero, such an irrelevant part would get much of a bias, and grow from
layer to layer: of a mask of ones, a ResNet18 in single precision lost half a percent."""


def share(
    streams: Streams,
    name: str,
    relevant: Tensor,
    rest: Tensor,
    bias: Tensor | None,
    constant: Tensor | None = None,
) -> Tensor:
    """Return relevant parts with their shares, in their own memory where that can be.

    Parameters
    ----------
    streams
        Say which sample a row is of.
    name
        Of an operator whose value is laid out alike.
    relevant
        Without any bias, for each row; it may be written over.
    rest
        The values of the samples without any bias.
    bias
        Of the operator; it broadcasts against the values. Where both parts are zero, each gets
        half of it.
    constant
        Of the norm behind it; where both parts are zero, it is irrelevant.
    """
    n_rows = streams.n_rows
    least = streams.largest(name, rest).mul_(_ROUNDINGS * torch.finfo(rest.dtype).eps)
    if not streams.is_plain(name) or not _is_dense(relevant):
        least = streams.repeated(name, least)
        return _of_rows(relevant, streams.repeated(name, rest), bias, constant, least)
    least = _flat(least, streams.n_samples)[:, :1]
    rows = _flat(relevant, n_rows)
    for given, is_halved in ((bias, True), (constant, False)):
        if given is not None:
            shape = (len(relevant) // n_rows, *relevant.shape[1:])
            along = _flat(_empty(shape, relevant).copy_(given), 1)
            samples = _flat(_alike(rest, relevant), streams.n_samples)
            for own, others, part, rounding in _blocks(streams, rows, samples, along, least):
                _share(own, others, part, rounding, is_halved=is_halved)
            rest = rest + given
    return relevant


def _of_rows(
    relevant: Tensor,
    rest: Tensor,
    bias: Tensor | None,
    constant: Tensor | None,
    least: Tensor,
) -> Tensor:
    if bias is not None:
        relevant, _ = shared(relevant, _irrelevant(relevant, rest, least), bias)
        rest = rest + bias
    if constant is not None:
        relevant = shared_constant(relevant, _irrelevant(relevant, rest, least), constant)
    return relevant


def _irrelevant(relevant: Tensor, rest: Tensor, least: Tensor) -> Tensor:
    """Return magnitudes of irrelevant parts, none where they are rounding: at most `least`."""
    found = torch.sub(rest, relevant).abs_()
    # ones and zeros of its own type: converting conditions took longer than all else here
    return found.mul_(torch.gt(found, least, out=torch.empty_like(found)))


def _share(
    relevant: Tensor, rest: Tensor, bias: Tensor, rounding: Tensor, *, is_halved: bool
) -> None:
    """Add ``bias |r| / (|r| + |rest - r|)`` to relevant parts in place."""
    irrelevant = _irrelevant(relevant, rest, rounding)
    ratio = relevant.abs()
    if is_halved:
        least = stabiliser(relevant.dtype)
        ratio.div_(irrelevant.add_(ratio.add_(least)).add_(least))
    else:
        ratio.div_(irrelevant.add_(ratio)).nan_to_num_(0.0)
    relevant.addcmul_(ratio, bias)


def _blocks(
    streams: Streams, rows: Tensor, samples: Tensor, along: Tensor, least: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield parts of rows, what their samples have there, what all rows have there, and roundings.

    Parameters
    ----------
    rows, samples, along, least
        ``(rows, values)``, ``(samples, values)``, ``(1, values)``, ``(samples, 1)``.
    """
    n_rows, n_values = rows.shape
    width, height = n_values, n_rows
    if rows.device.type == "cpu":
        width = min(n_values, _BLOCK_BYTES // rows.element_size())
        height = max(1, _BLOCK_BYTES // rows.element_size() // max(width, 1))
    for start in range(0, n_values, max(width, 1)):
        across = slice(start, start + width)
        for first in range(0, n_rows, height):
            down = slice(first, first + height)
            others, rounding = samples[:, across], least
            if streams.n_samples > 1:
                own = streams.rows[down]
                others, rounding = others.index_select(0, own), least.index_select(0, own)
            yield rows[down, across], others, along[:, across], rounding


def _alike(value: Tensor, like: Tensor) -> Tensor:
    """Return a value in the memory layout of another with as many axes."""
    if value.stride() == like.stride():
        return value
    return _empty(value.shape, like).copy_(value)


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return memory for values of a shape, in the layout of others."""
    return torch.empty_strided(shape, like.stride(), dtype=like.dtype, device=like.device)


def _flat(value: Tensor, n_rows: int) -> Tensor:
    """Return dense values, in the order of memory, ``(rows, values)``."""
    n_values = value.numel() // n_rows
    return value.as_strided((n_rows, n_values), (n_values, 1))


def _is_dense(value: Tensor) -> bool:
    """Return whether values lie without gaps, row by row."""
    return value.is_contiguous() or (
        value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
    )
