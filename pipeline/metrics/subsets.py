"""Random subsets of features, the output without each of them, and their relevance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from explainers.sampling import chunks, counted
from pipeline.metrics import removal, sampled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.trace import Trace

OutputSpace = Literal["probability", "logit"]

MOST_KEPT = 2**28
"""Bytes of subsets that are kept for the explainers of a batch; more are drawn again for each,
which takes little beside forward passes of inputs that large."""


@dataclass(frozen=True, eq=False)
class Subsets:
    """Subsets of one size, drawn uniformly and alone for each sample; the same in any batch."""

    seeds: Tensor
    """Of the samples, int64 ``(batch,)``."""
    n_draws: int
    """Subsets of each sample."""
    size: int
    """Features in each, from 1 to all."""
    n_features: int
    """Of a sample."""
    kept: Tensor | None = None
    """Who belongs to each, bool ``(batch * draws, features)``, where these are kept."""

    def members(self, row: Tensor) -> Tensor:
        """Return who belongs to subsets, bool ``(rows, features)``; row is sample * draws + draw.

        Each feature has a word of the subset's stream; those with the least words belong to it.
        No two words of a stream are equal, so there are always `size`.
        """
        if self.kept is not None:
            return self.kept[row]
        streams = counted.word(self.seeds[row // self.n_draws], row % self.n_draws)
        words = counted.words(streams, self.n_features)
        return words <= words.kthvalue(self.size, dim=1, keepdim=True).values

    def rows(self, limit: int) -> Iterator[Tensor]:
        """Yield the numbers of all subsets in order, `limit` at a time."""
        n_rows = len(self.seeds) * self.n_draws
        for start in range(0, n_rows, limit):
            yield torch.arange(start, min(start + limit, n_rows), device=self.seeds.device)

    def sums(self, relevance: Tensor) -> Tensor:
        """Return what each subset's features add up to, float64 ``(batch, draws)``.

        Parameters
        ----------
        relevance
            Of each feature, ``(batch, features)``.
        """
        values = relevance.double()
        if self.kept is not None:
            members = self.kept.view(-1, self.n_draws, self.n_features)
            return products(members, values)
        zero = values.new_zeros(())
        found = [
            torch.where(self.members(row), values[row // self.n_draws], zero).sum(dim=1)
            for row in self.rows(chunks.rows_at_once(relevance))
        ]
        return torch.cat([values.new_empty(0), *found]).view(-1, self.n_draws)


def products(many: Tensor, one: Tensor) -> Tensor:
    """Return the product of each of many rows of a sample with one, float64 ``(batch, many)``.

    Parameters
    ----------
    many
        ``(batch, many, values)``, of any type; made float64 a few samples at a time.
    one
        ``(batch, values)``, float64.
    """
    most = max(1, chunks.CPU_ELEMENTS // max(1, math.prod(many.shape[1:])))
    found = [
        torch.bmm(many[piece].double(), one[piece, :, None])[..., 0]
        for piece in chunks.pieces(len(one), most)
    ]
    return torch.cat(found)


def drawn(trace: Trace, n_features: int, n_draws: int, size: int, n_kept: int = 1) -> Subsets:
    """Return subsets of the features of each sample, kept where that takes little memory.

    Parameters
    ----------
    trace
        Whose randomness it is.
    n_features
        Of a sample.
    n_draws
        Subsets of each sample.
    size
        Of each subset.
    n_kept
        How many such sets of subsets there are in all.
    """
    made = Subsets(sampled.seeds(trace, f"subsets of {size}"), n_draws, size, n_features)
    if trace.n_rows * n_draws * n_features * n_kept > MOST_KEPT:
        return made
    # as many together as fit in a cache
    members = [made.members(row) for row in made.rows(max(1, chunks.CPU_ELEMENTS // n_features))]
    kept = torch.cat(members) if members else None
    return Subsets(made.seeds, n_draws, size, n_features, kept)


@dataclass(frozen=True, eq=False)
class Removal:
    """The output of one target while some features of the samples of a batch are removed."""

    trace: Trace
    weights: Tensor
    """Of the target, ``(batch, classes)``."""
    features: Tensor
    """``(batch, channels, features)``."""
    baseline: Tensor
    """``(batch, channels | 1, features | 1)``."""
    space: OutputSpace
    """Which output is measured."""
    clean: Tensor
    """Output with all features, ``(batch,)``."""

    @property
    def n_features(self) -> int:
        """Of a sample."""
        return self.features.shape[2]

    @property
    def scale(self) -> Tensor:
        """Size of the numbers that drops are differences of, ``(batch,)``."""
        return scale_of(self.trace, self.space)

    def drops(self, sample: Tensor, gone: Tensor) -> Tensor:
        """Return by how much the output falls without features, ``(rows,)``.

        Parameters
        ----------
        sample
            Row of the batch that each row belongs to, int64 ``(rows,)``.
        gone
            Which features are removed, bool ``(rows, features)``.
        """
        inputs = self.trace.inputs
        changed = torch.where(gone[:, None], self.baseline[sample], self.features[sample])
        with torch.no_grad():
            output = self.trace.network(changed.reshape(-1, *inputs.shape[1:]))
        return self.clean[sample] - removal.selected(output, self.weights[sample], self.space)

    def without(self, subsets: Subsets) -> Tensor:
        """Return by how much the output falls without each subset, ``(batch, draws)``."""
        limit = removal.rows_at_once(self.trace.inputs)
        found = [
            self.drops(row // subsets.n_draws, subsets.members(row)) for row in subsets.rows(limit)
        ]
        return torch.cat([self.clean.new_empty(0), *found]).view(-1, subsets.n_draws)


def removing(
    trace: Trace, weights: Tensor, baseline: removal.Absence, space: OutputSpace, *, by_pixel: bool
) -> Removal:
    """Return the removal of features of a batch; by pixel or by value as `removal.features`.

    Raises
    ------
    ValueError
        If probabilities are measured of a network with one output.
    """
    removal.check_space(trace.output.shape[1], space)
    features = removal.features(trace.inputs, by_pixel=by_pixel)
    absent = removal.absent(trace, baseline, by_pixel)
    clean = removal.selected(trace.output, weights, space)
    return Removal(trace, weights, features, absent, space, clean)


def scale_of(trace: Trace, space: OutputSpace) -> Tensor:
    """Return the size of the numbers that outputs are made of, ``(batch,)``; at least float32."""
    output = trace.output
    largest = output.abs().amax(dim=1).to(torch.promote_types(output.dtype, torch.float32))
    # logits that are off by rounding move a probability by as much
    return largest.clamp_min(1.0) if space == "probability" else largest
