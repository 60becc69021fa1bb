"""Pairs of a row and an intervention on it, stacked, and the values of rows without any."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import torch

from explainers.causal.interventions.rows import chosen, has_rows, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from torch import Tensor

    from explainers.causal.interventions.partial import Partial
    from explainers.network import Network
    from explainers.operators import Operator

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Interventions that are carried through the network together, sorted by neuron."""

    rows: Tensor
    """Of the trace, int64 ``(pairs,)``."""
    own: Tensor
    """Positions of these rows among those of the reference, int64 ``(pairs,)``."""
    neurons: Tensor
    """int64 ``(pairs,)``, ascending."""
    u: float | Tensor
    """What weights are set to; a tensor ``(pairs,)``."""

    @cached_property
    def _runs(self) -> tuple[Tensor, Tensor, Tensor]:
        distinct, run, counts = torch.unique_consecutive(
            self.neurons, return_inverse=True, return_counts=True
        )
        return distinct, run, counts

    @property
    def distinct(self) -> Tensor:
        """The neurons, each once."""
        return self._runs[0]

    def grid(self) -> tuple[Tensor, Tensor | None]:
        """Return the rows of each neuron, filled up to as many of each, ``(neurons, most rows)``.

        And the positions of the pairs in that, flattened; None where nothing was filled up.
        """
        distinct, run, counts = self._runs
        most = int(counts.max())
        if most * len(distinct) == len(self.rows):
            return self.rows.reshape(len(distinct), most), None
        starts = counts.cumsum(0) - counts
        within = torch.arange(len(self.rows), device=self.rows.device) - starts[run]
        slots = run * most + within
        grid = self.rows.new_zeros(len(distinct) * most)
        grid[slots] = self.rows
        return grid.reshape(len(distinct), most), slots


class Reference:
    """Values of some rows of a trace as they are without an intervention.

    Parameters
    ----------
    network
        A program.
    values
        Of its operators, for the rows of the trace.
    rows
        Which are meant, int64, ascending.
    """

    def __init__(self, network: Network, values: Mapping[str, Tensor], rows: Tensor) -> None:
        self.network, self.values, self.rows = network, values, rows
        self._operators = {op.name: op for op in network.operators}
        self._made: dict[Hashable, object] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` makes; made once."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]  # type: ignore[assignment]
        return made

    def has_rows(self, name: str) -> bool:
        """Return whether a value has one for each sample, as opposed to a constant."""
        return has_rows(self.network, self._operators[name])

    def taken(self, op: Operator, rows: Tensor | None = None) -> Tensor:
        """Return a value for rows of the trace: by default for those of the reference."""
        value = self.values[op.name]
        place = place_of(self.network, op)
        return place.taken(value, self.rows if rows is None else rows)


class Stack:
    """Values for pairs of what no intervention has changed.

    Parameters
    ----------
    reference
        Values of the rows.
    pairs
        To whose rows they are repeated.
    """

    def __init__(self, reference: Reference, pairs: Pairs) -> None:
        self.reference, self.pairs = reference, pairs
        self._operators = reference._operators

    def full(self, name: str) -> Tensor:
        """Return the value of an operator for each pair."""
        if not self.reference.has_rows(name):
            return self.reference.values[name]
        return self.reference.taken(self._operators[name], self.pairs.rows)

    def part(self, name: str, axis: int, columns: Tensor, reader: str) -> Tensor:
        """Return some columns of it along an axis.

        Parameters
        ----------
        name
            Of the operator; it has rows.
        axis
            Which is not that of the rows.
        columns
            int64; always the same ones for a reader and a reference.
        reader
            Who asks.
        """
        op = self._operators[name]

        def make() -> Tensor:
            return chosen(self.reference.taken(op), axis, columns)

        found = self.reference.once(("part", name, reader), make)
        return place_of(self.reference.network, op).taken(found, self.pairs.own)

    def completed(self, name: str, part: Partial) -> Tensor:
        """Return the whole value of an operator, given what has changed of it."""
        if len(part.columns) == part.size:
            return part.value
        return self.full(name).index_copy_(part.axis, part.columns, part.value)

    def sized(self, name: str) -> Tensor:
        """Return something with as many rows as there are pairs, for who reads only its sizes."""
        place = place_of(self.reference.network, self._operators[name])
        front = place.front(self.reference.values[name])
        return place.back(front[:1].expand(len(self.pairs.rows), *front.shape[1:]))
