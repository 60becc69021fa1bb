"""The round before a level's: first-order estimates, which say what is verified exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from explainers.causal import audit
from explainers.causal.first_order import node_estimates
from explainers.causal.folding import ESTIMATES, MEMBERS, Batch, Folding, Parts, parts_of, whole
from explainers.causal.structure import structure_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.base import Result, State
    from explainers.causal.asking import Task


@dataclass(frozen=True, eq=False)
class Screening(Folding):
    """First-order estimates of what interventions on the neurons of some layers would do.

    Parts of a state are ``<layer>/estimates`` (`explainers.causal.audit`); the result has, by
    layer, ``mean`` and ``error`` of the estimates, ``(classes, neurons)``.
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
            part = {MEMBERS: present, **audit.added(sums, place, estimates.cpu())}
            parts[key] = self.both(key, parts[key], part) if key in parts else part

    def finalise(self, state: State) -> Result:
        """Return mean and standard error of the estimates."""
        found: Result = {}
        for key, part in parts_of(state).items():
            mean, error = audit.moments(whole(part, len(self.chosen.classes)))
            found[key.partition("/")[0]] = {"mean": mean, "error": error}
        return found


def screened(
    task: Task,
    estimates: Mapping[str, Tensor],
    *,
    screening: float,
    share: float,
    seed: int,
    layer: str,
    classes: tuple[int, ...],
) -> Task:
    """Return a task that verifies what estimates say is strong, and others drawn for an audit.

    Parameters
    ----------
    task
        Of the layer.
    estimates
        Result of its screening.
    screening, share
        Of the neurons, those that are verified; of the others, those that are drawn.
    seed, layer, classes
        See `explainers.causal.audit.chosen`.
    """
    strengths = audit.strength(estimates["mean"], estimates["error"])
    chosen = audit.chosen(
        strengths, screening=screening, audit=share, seed=seed, layer=layer, classes=classes
    )
    return replace(task, screened=chosen, estimates=estimates["mean"])


def audited(task: Task, facts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the audit of a screening says, ``(classes,)`` each; nothing without one.

    ``recall``, how many that exact tests select were among the strongest; ``recall_of_strongest``,
    how many of as many truly strongest ones; ``n_audited``; and ``screen_correlation`` of estimated
    and exact effects.
    """
    if task.screened is None or task.estimates is None:
        return {}
    strengths = facts["statistic"].abs().nan_to_num(nan=0, posinf=torch.inf)
    return {
        "recall": audit.recall(facts["sign"] != 0, task.screened),
        "recall_of_strongest": audit.recall_of_strongest(strengths, task.screened),
        "n_audited": (task.screened.audited & facts["tested"]).sum(1),
        "screen_correlation": audit.correlation(task.estimates, facts["te"], facts["tested"]),
    }
