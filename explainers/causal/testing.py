"""The rounds of a level: estimates and exact interventions, for all classes at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from explainers.causal import audit, poisson, tally
from explainers.causal.deciding import Rule, decided
from explainers.causal.first_order import node_estimates
from explainers.causal.folding import (
    ESTIMATES,
    MEMBERS,
    TALLY,
    Batch,
    Folding,
    Parts,
    parts_of,
    spread,
    whole,
    without_members,
)
from explainers.causal.interventions import Interventions, Outcome
from explainers.causal.structure import structure_of
from explainers.causal.subsampling import subsampled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.base import Result, State
    from explainers.causal.structure import WeightedLayer

_BRIEF = 2
"""Neurons of a class that are tested in a trial."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked of a layer."""

    effects: Tensor
    """The effects E of each class, bool ``(classes, channels)``; empty where it is not reached."""
    u: float
    """What weights are set to."""
    n_neurons: int
    """Of the layer."""
    screened: audit.Chosen | None = None
    """What is verified of all neurons; None for all."""
    estimates: Tensor | None = None
    """Means of first-order effects, by which they were screened, ``(classes, neurons)``."""

    def tested(self, layer: WeightedLayer, most: int | None) -> Tensor:
        """Return which neurons of each class are tested, bool ``(classes, neurons)``.

        Parameters
        ----------
        layer
            In the network.
        most
            How many neurons are tested without the original's sub-sampling; None for no such.
        """
        reached = self.effects.any(1, keepdim=True)
        if self.screened is not None:
            return self.screened.verified & reached
        if most is not None and self.n_neurons > most:
            return subsampled(layer, self.effects) & reached
        return reached.expand(-1, self.n_neurons)


@dataclass(frozen=True, eq=False)
class Testing(Folding):
    """What interventions on the neurons of some layers do to the logits of each class.

    Parts of a state are ``<layer>/tally`` (`explainers.causal.tally`). The result has, by layer,
    what `explainers.causal.deciding.decided` says.
    """

    todo: Mapping[str, Task]
    """By layer."""
    rule: Rule
    """By which it is decided."""
    n_replicates: int
    """Of the bootstrap."""

    def briefer(self) -> Testing:
        """Return the test of a few neurons of each layer."""
        few = {name: replace(task, screened=_few(task)) for name, task in self.todo.items()}
        return replace(self, todo=few)

    def add(self, parts: Parts, batch: Batch) -> None:
        """Add a batch to the tallies."""
        structure = structure_of(batch.trace.network)
        weights = poisson.weights(batch.index, self.n_replicates, batch.trace.seed)
        for name, task in self.todo.items():
            layer = structure.layer(name)
            tested = task.tested(layer, self.rule.most_inputs)[batch.member]
            is_row = self.chosen.for_selection[batch.position]
            asked = Asked(batch, layer, task, tested & is_row[:, None])
            tallied(parts, f"{name}/{TALLY}", asked, asked.outcome(), weights, self.rule)

    def finalise(self, state: State) -> Result:
        """Return what is decided of the layers that the state has."""
        n_classes, found = len(self.chosen.classes), dict[str, object]()
        for key, part in parts_of(state).items():
            name = key.partition("/")[0]
            task = self.todo[name]
            reached = task.effects.any(1)
            facts = decided(whole(part, n_classes), self.rule, task.n_neurons, reached)
            found[name] = facts | _screen(task, facts)
        return found


@dataclass(frozen=True, eq=False)
class Asked:
    """Which neurons of a layer are intervened on for which rows of a batch."""

    batch: Batch
    layer: WeightedLayer
    task: Task
    tested: Tensor
    """Bool ``(rows, neurons)``."""

    def outcome(self, u: float | None = None) -> Outcome:
        """Return what interventions do, ``(rows, neurons)``; zeros where none was asked for."""
        trace, u = self.batch.trace, self.task.u if u is None else u
        device, classes = trace.network.device, self.batch.classes
        effects = self.task.effects[self.batch.member].to(device)
        interventions = Interventions(trace.network, self.layer)
        if self.tested.all():
            return interventions.all(trace, effects, classes, u)
        rows, neurons = (each.to(device) for each in self.tested.nonzero(as_tuple=True))
        found = interventions.pairs(trace, rows, neurons, effects, classes, u)
        filled = [trace.output.new_zeros(self.tested.shape) for _ in range(2)]
        for values, of_pairs in zip(filled, (found.logit, found.divergence), strict=True):
            values[rows, neurons] = of_pairs
        return Outcome(*filled)


def tallied(
    parts: Parts, key: str, asked: Asked, outcome: Outcome, weights: Tensor, rule: Rule
) -> None:
    """Add what interventions did to the tally of a part.

    Rows of classes that the layer is asked about, but on which nothing was tested, add to the
    reference that the original's rule compares with.
    """
    batch = asked.batch
    is_tested, reached = asked.tested.any(1), asked.task.effects.any(1)[batch.member]
    others = reached & ~is_tested if rule.is_compat else torch.zeros_like(reached)
    present = torch.unique(batch.member[is_tested | others])
    if not len(present):
        return
    device = batch.trace.network.device
    part = parts.get(key)
    if part is None:
        sizes = len(present), asked.task.n_neurons, len(weights)
        empty = tally.empty(*sizes, is_compat=rule.is_compat)
        part = {MEMBERS: present, **{name: each.to(device) for name, each in empty.items()}}
    part = spread(part, torch.unique(torch.cat([part[MEMBERS], present])))
    parts[key] = part
    own, places = without_members(part), torch.searchsorted(part[MEMBERS], batch.member)
    rows = is_tested.nonzero()[:, 0]
    if len(rows):
        logits = Outcome(outcome.logit[rows], outcome.divergence[rows])
        reference = batch.reference[rows]
        tally.added(own, places[rows], logits, reference, asked.tested[rows], weights[:, rows])
    rows = others.nonzero()[:, 0]
    if len(rows):
        tally.with_reference(own, places[rows], batch.reference[rows], weights[:, rows])


@dataclass(frozen=True, eq=False)
class Screening(Folding):
    """First-order estimates of what interventions on the neurons of some layers would do.

    Parts of a state are ``<layer>/estimates`` (`explainers.causal.audit`); the result has, by
    layer, `mean` and `error` of the estimates, ``(classes, neurons)``.
    """

    todo: Mapping[str, Task]
    """By layer."""

    def add(self, parts: Parts, batch: Batch) -> None:
        """Add a batch to the estimates: one walk back for all layers."""
        trace, structure = batch.trace, structure_of(batch.trace.network)
        layers = [structure.layer(name) for name in self.todo]
        effects = {
            name: task.effects[batch.member].to(trace.network.device)
            for name, task in self.todo.items()
        }
        constants = {name: task.u for name, task in self.todo.items()}
        found = node_estimates(trace, layers, effects, batch.classes, constants)
        present, place = torch.unique(batch.member, return_inverse=True)
        for name, estimates in found.items():
            key = f"{name}/{ESTIMATES}"
            sums = audit.empty(len(present), self.todo[name].n_neurons)
            of_batch = {MEMBERS: present, **audit.added(sums, place, estimates.cpu())}
            known = parts.get(key)
            parts[key] = of_batch if known is None else self._joined(known, of_batch)

    def finalise(self, state: State) -> Result:
        """Return mean and standard error of the estimates."""
        found: Result = {}
        for key, part in parts_of(state).items():
            mean, error = audit.moments(whole(part, len(self.chosen.classes)))
            found[key.partition("/")[0]] = {"mean": mean, "error": error}
        return found

    def _joined(self, left: State, right: State) -> State:
        members = torch.unique(torch.cat([left[MEMBERS], right[MEMBERS]]))
        both = [without_members(spread(part, members)) for part in (left, right)]
        return {MEMBERS: members, **audit.merged(*both)}


def screened(
    task: Task,
    estimates: Mapping[str, Tensor],
    *,
    by: Literal["t", "mean"],
    screening: float,
    share: float,
    seed: int,
    layer: str,
    classes: tuple[int, ...],
) -> Task:
    """Return a task that verifies what the estimates say, and draws others for an audit."""
    strengths = audit.strength(estimates["mean"], estimates["error"], by)
    chosen = audit.chosen(
        strengths, screening=screening, audit=share, seed=seed, layer=layer, classes=classes
    )
    return replace(task, screened=chosen, estimates=estimates["mean"])


def _screen(task: Task, facts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the audit says of a screening."""
    if task.screened is None or task.estimates is None:
        return {}
    return {
        "recall": audit.recall(facts["sign"] != 0, task.screened),
        "n_audited": (task.screened.audited & facts["tested"]).sum(1),
        "screen_correlation": audit.correlation(task.estimates, facts["te"], facts["tested"]),
    }


def _few(task: Task) -> audit.Chosen:
    few = (torch.arange(task.n_neurons) < _BRIEF).expand(len(task.effects), -1)
    known = task.screened
    audited = torch.zeros_like(few) if known is None else known.audited & few
    share = torch.ones(len(few), dtype=torch.float64) if known is None else known.share
    return audit.Chosen(few, audited, share)
