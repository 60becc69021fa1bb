"""Biases that are shared in place, block by block, where only relevant parts are carried.

The plain values of the samples are known, so that nothing but the relevant part of each row is
read and written, once; what lies between stays in the cache. On whole values the eight operations
of a share took five times as long as all else in a LeNet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.rules.decomposition.biases import portion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from explainers.rules.decomposition.streams import Streams

_BLOCK_BYTES = 1 << 18
"""Of each of the four tensors that are in use at once; caches of 1 to 2 MiB are usual. With half as
much, masks of a LeNet take 1.27 forward passes, not 1.22."""


def share(
    streams: Streams,
    name: str,
    relevant: Tensor,
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
        Without any bias, for each row, those of the samples behind the others; it may be written
        over.
    bias
        Of the operator; it broadcasts against the values. Where both parts are zero, each gets
        half of it.
    constant
        Of the norm behind it; where both parts are zero, it is irrelevant.
    """
    is_in_place = streams.is_plain(name) and _is_dense(relevant)
    for given, is_halved in ((bias, True), (constant, False)):
        if given is None:
            continue
        if is_in_place:
            _share(streams, relevant, given, is_halved=is_halved)
        else:
            whole = streams.spread(name, streams.of_samples(name, relevant))
            relevant = shared_of_rows(
                streams, name, relevant, whole - relevant, given, is_halved=is_halved
            )
    return relevant


def shared_of_rows(
    streams: Streams,
    name: str,
    relevant: Tensor,
    irrelevant: Tensor,
    bias: Tensor,
    *,
    is_halved: bool = True,
) -> Tensor:
    """Return relevant parts with their shares; the samples' rows, where all is relevant, get all.

    Parameters
    ----------
    irrelevant
        It is written over.
    is_halved
        Whether a part gets half where both are zero, or nothing.
    """
    ratio = portion(relevant, irrelevant, is_halved=is_halved)
    streams.apart(name, ratio)[1].fill_(1.0)
    return torch.addcmul(relevant, ratio, bias)


def _share(streams: Streams, relevant: Tensor, bias: Tensor, *, is_halved: bool) -> None:
    """Add ``bias |r| / (|r| + |rest - r|)`` to relevant parts in place, block by block."""
    shape = (len(relevant) // streams.n_rows, *relevant.shape[1:])
    along = _flat(_empty(shape, relevant).copy_(bias), 1)
    rows = _flat(relevant, streams.n_rows)
    for own, whole, part in _blocks(streams, rows, along):
        own.addcmul_(portion(own, torch.sub(whole, own), is_halved=is_halved), part)
    rows[streams.n_masks :] += along


def _blocks(
    streams: Streams, rows: Tensor, along: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield parts of masks' rows, what their samples have there, and what all rows have there.

    Parameters
    ----------
    rows, along
        ``(rows, values)``, ``(1, values)``.
    """
    n_masks, n_values = streams.n_masks, rows.shape[1]
    wholes = rows[n_masks:]
    width, height = n_values, n_masks
    if rows.device.type == "cpu":
        width = min(n_values, _BLOCK_BYTES // rows.element_size())
        height = max(1, _BLOCK_BYTES // rows.element_size() // max(width, 1))
    for start in range(0, n_values, max(width, 1)):
        across = slice(start, start + width)
        for first in range(0, n_masks, max(height, 1)):
            down = slice(first, min(first + height, n_masks))
            whole = wholes[:, across]
            if len(wholes) > 1:
                whole = whole.index_select(0, streams.own[down])
            yield rows[down, across], whole, along[:, across]


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
