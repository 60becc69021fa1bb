"""One partition of all that a network takes in, from the cells of each input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.features.cuts import Tokens
from explainers.features.labels import compacted
from explainers.features.partition import Partition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from explainers.features.labels import Labels
    from explainers.features.partition import Spread
    from explainers.features.spec import Division
    from explainers.features.subject import Subject
    from explainers.inputs.packing import Packing


@dataclass(frozen=True, eq=False)
class Piece:
    """An input that has been divided."""

    subject: Subject
    division: Division
    labels: Labels


def joined(pieces: Sequence[Piece], packing: Packing | None) -> Partition:
    """Return the partition of packed inputs; numbers go on from one input to the next.

    Parameters
    ----------
    pieces
        Of all inputs.
    packing
        How they lie in one tensor; None where they are one value.
    """
    divided = [_parts(piece) for piece in pieces]
    every = [part for parts in divided for part in parts.values()]
    if packing is None:
        return every[0]
    start = torch.zeros(max(len(part.cells) for part in every), dtype=torch.int64)
    cells: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for parts in divided:
        for name, part in parts.items():
            own = part.cells + start.view(-1, *[1] * len(part.shape))
            cells[name] = own.expand(-1, *part.shape)
            weights[name] = part.shares().expand(-1, *part.shape)
        start = start + torch.tensor(next(iter(parts.values())).counts)
    are_copies = all(part.spread == "copy" and part.weights is None for part in every)
    return Partition(
        packing.pack(cells),
        tuple(start.tolist()),
        packing.shape,
        weights=None if are_copies else packing.pack(weights),
        are_of_samples=any(part.are_of_samples for part in every),
    )


def _parts(piece: Piece) -> dict[str, Partition]:
    """Return partitions, by name, of the values that stand for an input: of the same features."""
    if piece.subject.lookups:
        return _of_tokens(piece)
    ((name, shape),) = piece.subject.values.items()
    # the relevance of a token is the sum over its values
    usual: Spread = "share" if isinstance(piece.division.kind, Tokens) else "copy"
    spread = piece.division.spread or usual
    labels = piece.labels
    of_samples = labels.are_of_samples
    found = Partition(labels.cells, labels.counts, shape, spread, are_of_samples=of_samples)
    return {name: found}


def _of_tokens(piece: Piece) -> dict[str, Partition]:
    """Return partitions in which a token that is read several times is in one feature."""
    subject = piece.subject
    own = piece.labels.cells
    cells = own.expand(len(own), *subject.shape).flatten(1)
    read = subject.tokens()
    every = torch.cat([tokens.flatten() for tokens in read.values()])
    # tokens that nothing reads are no feature
    labels = compacted(cells[:, every], max(piece.labels.counts))
    weights = _weights(piece, cells)[:, every]
    found: dict[str, Partition] = {}
    start = 0
    for name, tokens in read.items():
        here, form = slice(start, start + tokens.numel()), (-1, *tokens.shape[1:], 1)
        found[name] = Partition(
            labels.cells[:, here].reshape(form),
            labels.counts,
            subject.values[name],
            weights=weights[:, here].reshape(form),
            are_of_samples=piece.labels.are_of_samples,
        )
        start = here.stop
    return found


def _weights(piece: Piece, cells: Tensor) -> Tensor:
    """Return the share of its feature's number that each value of a token gets, ``(rows, tokens)``.

    The shares of one token sum to one; where they are of one feature, to one over all its tokens.
    """
    n_values = torch.zeros(cells.shape[1], dtype=torch.float64)
    for name, tokens in piece.subject.tokens().items():
        n_read = torch.bincount(tokens.flatten(), minlength=cells.shape[1])
        n_values += piece.subject.values[name][-1] * n_read
    is_read = (n_values > 0).double()
    weights = (is_read / n_values.clamp(min=1)).expand(cells.shape)
    if piece.division.spread != "share":
        return weights
    n_tokens = torch.zeros(len(cells), max(piece.labels.counts), dtype=torch.float64)
    n_tokens.scatter_add_(1, cells, is_read.expand(cells.shape))
    return weights / n_tokens.gather(1, cells).clamp(min=1)
