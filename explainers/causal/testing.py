"""The round of a level: exact interventions on neurons of its layers, for all classes at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from explainers.causal.asking import Asked
from explainers.causal.audit import Chosen
from explainers.causal.deciding import decided
from explainers.causal.folding import Batch, Folding, Parts, flat, parts_of
from explainers.causal.screening import audited
from explainers.causal.structure import structure_of
from explainers.causal.tallying import ROWS, TALLY, Statistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from explainers.base import Result, Samples, State
    from explainers.causal.asking import Task
    from explainers.trace import Trace

_BRIEF = 2
"""Neurons of a class that are tested in a trial."""


@dataclass(frozen=True, eq=False)
class Testing(Folding):
    """What interventions on the neurons of some layers do to the logits of each class.

    Parts of a state are ``<layer>/rows`` and ``<layer>/tally`` (`explainers.causal.tallying`). The
    result has, by layer, what `explainers.causal.deciding.decided` says.
    """

    todo: Mapping[str, Task]
    """By layer."""
    statistics: Statistics
    """What is added up."""

    def briefer(self) -> Testing:
        """Return the test of a few neurons of each layer."""
        few = {name: replace(task, screened=_few(task)) for name, task in self.todo.items()}
        return replace(self, todo=few)

    def add(self, parts: Parts, batch: Batch) -> None:
        """Add the rows of a batch."""
        structure = structure_of(batch.trace.network)
        is_row = self.chosen.for_selection[batch.position]
        for name, task in self.todo.items():
            layer = structure.layer(name)
            tested = task.tested(layer, self.statistics.rule.most_inputs)[batch.member]
            asked = Asked(batch, layer, task, tested & is_row[:, None])
            rows = self.statistics.rows(asked, asked.outcome())
            if len(rows["sample"]):
                # joined once all are there
                parts[f"{name}/{ROWS}/{len(parts)}"] = rows

    def fold(self, batches: Iterable[tuple[Trace, Samples]]) -> State:
        """Return the state of a shard."""
        return self._settled([parts_of(super().fold(batches))])

    def merge(self, left: State, right: State) -> State:
        """Return the state of both parts."""
        return self.merged([left, right])

    def merged(self, states: Iterable[State]) -> State:
        """Return the state of all parts, whose rows are put together at once."""
        return self._settled([parts_of(state) for state in states])

    def finalise(self, state: State) -> Result:
        """Return what is decided of the layers that the state has."""
        found: Result = {}
        for name, parts in _by_layer([parts_of(state)]).items():
            task, n_classes = self.todo[name], len(self.chosen.classes)
            of_layer = {kind: each[0] for kind, each in parts.items()}
            blocks = self.statistics.blocks(of_layer, n_classes, task.n_neurons)
            facts = decided(blocks, self.statistics.rule, task.n_neurons, task.reached)
            found[name] = facts | audited(task, facts)
        return found

    def _settled(self, states: list[Parts]) -> State:
        found: Parts = {}
        for name, parts in _by_layer(states).items():
            rows = self.statistics.joined(parts[ROWS]) if ROWS in parts else None
            tallied: State | None = None
            for part in parts.get(TALLY, ()):
                tallied = part if tallied is None else self.both(f"{name}/{TALLY}", tallied, part)
            settled = self.statistics.settled(rows, tallied)
            found |= {f"{name}/{kind}": part for kind, part in settled.items()}
        return flat(found)


def _by_layer(states: list[Parts]) -> dict[str, dict[str, list[State]]]:
    """Return parts by layer and kind."""
    found: dict[str, dict[str, list[State]]] = {}
    for parts in states:
        for key, part in parts.items():
            name, kind, *_ = key.split("/")
            found.setdefault(name, {}).setdefault(kind, []).append(part)
    return found


def _few(task: Task) -> Chosen:
    few = (torch.arange(task.n_neurons) < _BRIEF).expand(len(task.effects), -1)
    known = task.screened
    drawn = torch.zeros_like(few) if known is None else known.audited & few
    share = torch.ones(len(few), dtype=torch.float64) if known is None else known.share
    return Chosen(few, drawn, share)
