"""Relevance of many concepts, of many samples, carried to the layers below all at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import torch

from explainers.concepts.kinds.form import form_of
from explainers.rules.repeated import Repeated
from explainers.rules.walking import Course

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from explainers.concepts.kinds import Concepts
    from explainers.concepts.kinds.form import Form
    from explainers.rules.table import Choose
    from explainers.trace import Trace

STABILISER = 1e-10
"""Of the sum of amounts that weights are divided by, as in zennit-crp."""
CHUNK_BYTES = 64 << 20
"""Largest value of an operator for the rows that are carried together."""


@dataclass(frozen=True)
class Edges:
    """Which concepts of a layer make those of another; a row of each tensor is one edge."""

    upper: str
    """Operator of the concepts that are made."""
    lower: str
    """Operator of those that make them."""
    sample: Tensor
    """Row of the batch, int64."""
    concept: Tensor
    """Of `upper`, int64."""
    lower_concept: Tensor
    """Of `lower`, int64."""
    relevance: Tensor
    """That arrives at the lower concept from the upper one."""
    weight: Tensor
    """The same, normalised if that is wanted."""


@dataclass(frozen=True)
class _Arrived:
    """Relevance that arrived at an operator, and the concepts that it is followed to."""

    relevance: Tensor
    """Sample by sample, ``(rows, ...)``."""
    row: Tensor
    """Of each edge, int64: whose relevance it gets."""
    node: Tensor
    """Sample times number of concepts plus concept, of each edge, int64."""


class Decomposing:
    """One decomposition of a batch.

    Parameters
    ----------
    trace
        Of the batch.
    choose
        Gives the rule of each operator.
    concepts
        Operator to its concepts.
    below
        Operator to those that come next on the way back, see `frontiers`.
    depth
        How many steps an operator is behind the first.
    width
        How many concepts of each operator are followed, by the depth of the one above.
    """

    def __init__(
        self,
        trace: Trace,
        choose: Choose,
        concepts: Mapping[str, Concepts],
        below: Mapping[str, tuple[str, ...]],
        depth: Mapping[str, int],
        width: tuple[int, ...],
    ) -> None:
        self._trace = trace
        self._choose = choose
        self._concepts = concepts
        self._below = below
        self._depth = depth
        self._width = width
        self._arrived: dict[str, list[_Arrived]] = {}

    def edges(
        self, first: str, relevance: Tensor, chosen: Tensor, *, is_normed: bool
    ) -> list[Edges]:
        """Return all edges, from the first operator on, one layer after the other.

        Every layer waits for all from which relevance may arrive, so that it is passed once.

        Parameters
        ----------
        first
            Where it begins.
        relevance
            Of its value.
        chosen
            The concept of each sample that is decomposed, int64, ``(batch,)``.
        is_normed
            Whether weights are normalised over the concepts of a layer.
        """
        rows = torch.arange(len(chosen), device=chosen.device)
        self._enter(first, relevance, rows, rows, chosen)
        order = [op.name for op in reversed(self._trace.network.operators)]
        found: list[Edges] = []
        for name in order:
            if name in self._arrived:
                found += self._decomposed(name, is_normed=is_normed)
        return found

    def _enter(
        self, operator: str, relevance: Tensor, row: Tensor, sample: Tensor, concept: Tensor
    ) -> None:
        """Keep what arrived at an operator, if it is followed any further."""
        is_followed = self._depth[operator] < len(self._width) and self._below[operator]
        if is_followed and len(row):
            node = sample * self._concepts[operator].n + concept
            kept = _Arrived(self._form(operator).samples(relevance), row, node)
            self._arrived.setdefault(operator, []).append(kept)

    def _decomposed(self, operator: str, *, is_normed: bool) -> Iterator[Edges]:
        """Yield the edges to the operators below, and keep what arrives there."""
        arrived = self._arrived.pop(operator)
        keys = torch.cat([one.node for one in arrived])
        nodes, which = torch.unique(keys, return_inverse=True)
        parts = torch.split(which, [len(one.node) for one in arrived])
        begin = 0
        for some in torch.split(nodes, self._n_rows):
            relevance = arrived[0].relevance.new_zeros(len(some), *arrived[0].relevance.shape[1:])
            for one, place in zip(arrived, parts, strict=True):
                is_here = (place >= begin) & (place < begin + len(some))
                gathered = one.relevance[one.row[is_here]]
                relevance.index_add_(0, place[is_here] - begin, gathered)
            begin += len(some)
            n = self._concepts[operator].n
            yield from self._carried(operator, relevance, some // n, some % n, is_normed)

    def _carried(
        self, operator: str, relevance: Tensor, sample: Tensor, concept: Tensor, is_normed: bool
    ) -> Iterator[Edges]:
        """Yield the edges of some nodes of an operator.

        Relevance stops at each of the operators below, also where another is reached through it.
        """
        below = self._below[operator]
        values = Repeated.of(self._trace, sample)
        concepts = self._concepts[operator]
        course = Course(
            self._trace.network,
            self._choose,
            ends=below,
            masks=dict.fromkeys(below, torch.zeros_like),
            release=values.release,
        )
        start = concepts.masked(
            self._form(operator).value(relevance),
            values[operator],
            torch.nn.functional.one_hot(concept, concepts.n).bool(),
        )
        kept: dict[str, Tensor] = {}
        course.carry(values, {operator: start}, below, kept)
        for lower in below:
            if lower not in kept:
                continue
            edges = self._greatest(operator, lower, kept[lower], values[lower], is_normed)
            row = edges.sample
            yield replace(edges, sample=sample[row], concept=concept[row])
            self._enter(lower, kept[lower], row, sample[row], edges.lower_concept)

    def _greatest(
        self, upper: str, lower: str, relevance: Tensor, value: Tensor, is_normed: bool
    ) -> Edges:
        """Return the edges to the concepts that most arrives at; `sample` is the row."""
        total = self._concepts[lower].scores(relevance, value).total
        width = min(self._width[self._depth[upper]], total.shape[1])
        order = total.nan_to_num(nan=-torch.inf).argsort(stable=True, dim=1, descending=True)
        best = order[:, :width]
        amounts = total.gather(1, best)
        weights = amounts
        if is_normed:
            weights = amounts / (total.abs().sum(1, keepdim=True) + STABILISER)
        # nothing that arrives is no connection
        row, rank = (amounts.isfinite() & (amounts != 0)).nonzero(as_tuple=True)
        concept, found = best[row, rank], amounts[row, rank]
        return Edges(upper, lower, row, row, concept, found, weights[row, rank])

    def _form(self, operator: str) -> Form:
        return form_of(self._trace.network, operator, operator)

    @cached_property
    def _n_rows(self) -> int:
        """So many rows are carried together."""
        network = self._trace.network
        layouts = (network.layout(op.name) for op in network.operators)
        sizes = [prod(one.shape) * one.n_places * one.dtype.itemsize for one in layouts if one]
        return max(1, CHUNK_BYTES // max(sizes))
