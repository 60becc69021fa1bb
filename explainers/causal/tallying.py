"""What a layer's interventions did: as single rows while these take less room, else in a tally.

The statistics of one class and neuron, with those of a bootstrap's replicates, take as much room as
the outcomes of a few hundred samples, and shards often have few samples of a class. So a state has
rows, as long as a class has no more of them than the statistics would take; those of a class that
has more are tallied. Results are the same up to rounding, and to the bit where all is in rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.causal import poisson, tally
from explainers.causal.folding import MEMBERS, merged, spread, without_members
from explainers.causal.interventions import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from explainers.base import State
    from explainers.causal.asking import Asked
    from explainers.causal.deciding import Rule

ROWS, TALLY = "rows", "tally"
"""Kinds of parts. Of rows it has ``sample``, ``member`` (int64), ``reference``, ``logit``,
``divergence`` and ``tested`` (bool), ``(rows,)`` or ``(rows, neurons)``."""
_PLAIN = 8
_DRAWN = {"paired": 2, "compat": 5}
_ELEMENTS = 1 << 24
"""Of statistics that are made at once."""


@dataclass(frozen=True)
class Statistics:
    """What is added up."""

    rule: Rule
    """By which causes are selected."""
    n_replicates: int = 0
    """Of the bootstrap."""
    seed: int = 0
    """Of the bootstrap."""

    @property
    def numbers(self) -> int:
        """How many there are of each class and neuron."""
        return numbers_of(self.rule.name, self.n_replicates)

    def rows(self, asked: Asked, outcome: Outcome) -> State:
        """Return the rows of a batch, on the CPU."""
        rows = asked.looked_at(is_compat=self.rule.is_compat).nonzero()[:, 0]
        batch = asked.batch
        found = {
            "sample": batch.index,
            "member": batch.member,
            "reference": batch.reference,
            "logit": outcome.logit,
            "divergence": outcome.divergence,
            "tested": asked.tested,
        }
        return {name: entry[rows.to(entry.device)].cpu() for name, entry in found.items()}

    def added(self, state: State | None, asked: Asked, outcome: Outcome) -> State | None:
        """Return a tally, with an entry `MEMBERS`, with those of a batch; None for no rows."""
        rows = self.rows(asked, outcome)
        if not len(rows["sample"]):
            return state
        found = self._tallied(rows)
        return found if state is None else merged(TALLY, state, found)

    def joined(self, parts: Sequence[State]) -> State:
        """Return the rows of all parts, by sample."""
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        order = found["sample"].argsort(stable=True)
        return {name: entry[order] for name, entry in found.items()}

    def settled(self, rows: State | None, tallied: State | None) -> dict[str, State]:
        """Return rows and tally by kind, rows of classes that have many in the tally."""
        if rows is not None:
            members, counts = torch.unique(rows["member"], return_counts=True)
            # a row has a logit and a divergence
            most = 8 * self.numbers // (2 * rows["logit"].element_size())
            is_many = torch.isin(rows["member"], members[counts > most])
            if is_many.any():
                found = self._tallied(_some(rows, is_many))
                tallied = found if tallied is None else merged(TALLY, tallied, found)
                rows = _some(rows, ~is_many)
        parts = {ROWS: rows, TALLY: tallied}
        return {kind: part for kind, part in parts.items() if part is not None}

    def blocks(self, parts: dict[str, State], n_classes: int, n_neurons: int) -> Iterator[State]:
        """Yield the tally of some classes at a time, in their order."""
        n_at_once = max(1, _ELEMENTS // (self.numbers * n_neurons))
        for start in range(0, n_classes, n_at_once):
            stop = min(start + n_at_once, n_classes)
            yield self._of_classes(parts, torch.arange(start, stop), n_neurons)

    def _of_classes(self, parts: dict[str, State], members: Tensor, n_neurons: int) -> State:
        state = tally.empty(
            len(members), n_neurons, self.n_replicates, is_compat=self.rule.is_compat
        )
        for kind, part in parts.items():
            if kind == TALLY:
                found = {
                    name: entry[torch.isin(part[MEMBERS], members)] for name, entry in part.items()
                }
            else:
                some = _some(part, torch.isin(part["member"], members))
                if not len(some["sample"]):
                    continue
                found = self._tallied(some)
            state = tally.merged(state, without_members(spread(found, members)))
        return state

    def _tallied(self, rows: State) -> State:
        """Return the tally of rows, of which there is one at least."""
        members, place = torch.unique(rows["member"], return_inverse=True)
        is_compat, n_neurons = self.rule.is_compat, rows["logit"].shape[1]
        state = tally.empty(len(members), n_neurons, self.n_replicates, is_compat=is_compat)
        is_tested = rows["tested"].any(1)
        for which, add in ((is_tested, self._add), (~is_tested, self._add_reference)):
            if which.any():
                some = _some(rows, which)
                weights = poisson.weights(some["sample"], self.n_replicates, self.seed)
                add(state, place[which], some, weights)
        return {MEMBERS: members, **state}

    def _add(self, state: State, place: Tensor, rows: State, weights: Tensor) -> None:
        outcome = Outcome(rows["logit"], rows["divergence"])
        tally.added(state, place, outcome, rows["reference"], rows["tested"], weights)

    def _add_reference(self, state: State, place: Tensor, rows: State, weights: Tensor) -> None:
        tally.with_reference(state, place, rows["reference"], weights)


def numbers_of(rule: str, n_replicates: int) -> int:
    """Return how many numbers a tally has of each class and neuron."""
    return _PLAIN + _DRAWN[rule] * n_replicates


def _some(rows: State, which: Tensor) -> State:
    return {name: entry[which] for name, entry in rows.items()}
