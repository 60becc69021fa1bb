"""The rounds behind the levels: edges, the test on held-out samples, and other values of u."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from explainers.causal import selection, stability
from explainers.causal.asking import Asked
from explainers.causal.deciding import decided, is_untested
from explainers.causal.edges import Edges, between, edge_estimates, exact_edges
from explainers.causal.folding import (
    CONNECTED,
    COUNTS,
    EDGES,
    MEMBERS,
    SUM,
    Batch,
    Folding,
    Parts,
    of_rows,
    parts_of,
    whole,
)
from explainers.causal.structure import structure_of
from explainers.causal.sweep import swept
from explainers.causal.tallying import Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.base import Result, State
    from explainers.causal.asking import Task
    from explainers.causal.deciding import Rule
    from explainers.causal.interventions import Outcome

HELD_OUT, SWEEP = "held_out", "sweep"
"""Kinds of parts: tallies."""
_BRIEF = 2
"""Edges, and values of u, that are looked at in a trial."""


@dataclass(frozen=True, eq=False)
class Found:
    """A layer of the graph."""

    task: Task
    """What was asked of it."""
    sign: Tensor
    """What was selected, int8 ``(classes, neurons)``."""
    is_swept: bool = False
    """Whether other values of u are tried."""


@dataclass(frozen=True, eq=False)
class Concluding(Folding):
    """What follows once all causes are known, in one pass.

    Parts of a state are ``<layer>/held_out``, a tally of the causes on samples that they were not
    selected on; ``<layer>/edges``, first-order effects of a cause on each effect, summed over
    samples; and ``<layer>/sweep/<number>``, a tally of all neurons for each value of u. The result
    has, by layer, ``held_out_te``, ``held_out_p``, ``held_out_q``, ``is_confirmed`` and
    ``n_held_out``; ``edges`` and ``sweep`` as `explainers.causal.results` says.
    """

    layers: Mapping[str, Found]
    """Of the graph."""
    rule: Rule
    """By which causes are selected."""
    values: tuple[float, ...]
    """Of u."""
    max_edges: int
    """How many edges of a class and layer are kept; 0 for no edges at all."""

    def briefer(self) -> Concluding:
        """Return what looks at fewer values of u."""
        return replace(self, values=self.values[:_BRIEF])

    def add(self, parts: Parts, batch: Batch) -> None:
        """Add a batch to all parts."""
        is_held_out = self.chosen.is_held_out[batch.position]
        if is_held_out.any():
            self._test_again(parts, batch, is_held_out)
        is_selection = self.chosen.for_selection[batch.position]
        if self.max_edges and is_selection.any():
            self._weigh(parts, batch, is_selection)
        if self.values:
            self._sweep(parts, batch)

    def finalise(self, state: State) -> Result:
        """Return what was found of each layer."""
        by_layer: dict[str, Parts] = {}
        for key, part in parts_of(state).items():
            name, _, kind = key.partition("/")
            by_layer.setdefault(name, {})[kind] = part
        return {name: self._layer(name, parts) for name, parts in by_layer.items()}

    def _test_again(self, parts: Parts, batch: Batch, rows: Tensor) -> None:
        structure = structure_of(batch.trace.network)
        statistics = Statistics(replace(self.rule, name="paired"))
        for name, found in self.layers.items():
            tested = (found.sign[batch.member] != 0) & rows[:, None]
            if tested.any():
                asked = Asked(batch, structure.layer(name), found.task, tested)
                _tally(parts, f"{name}/{HELD_OUT}", asked, asked.outcome(), statistics)

    def _weigh(self, parts: Parts, batch: Batch, rows: Tensor) -> None:
        structure = structure_of(batch.trace.network)
        present = torch.unique(batch.member[rows])
        place = torch.searchsorted(present, batch.member).masked_fill(~rows, -1)
        edges = {}
        for name, found in self.layers.items():
            causes, effects = found.sign[present] != 0, found.task.effects[present]
            of_layer = Edges.of(structure.layer(name), causes, effects)
            if len(of_layer):
                edges[name] = of_layer
        layers = [structure.layer(name) for name in edges]
        constants = {name: found.task.u for name, found in self.layers.items()}
        sums = edge_estimates(batch.trace, layers, edges, place, batch.classes, constants)
        for name, each in sums.items():
            of_layer, key = edges[name], f"{name}/{EDGES}"
            members, counts = torch.unique(present[of_layer.member], return_counts=True)
            part = {MEMBERS: members, COUNTS: counts, CONNECTED: of_layer.is_connected}
            part[SUM] = each.cpu()
            parts[key] = self.both(key, parts[key], part) if key in parts else part

    def _sweep(self, parts: Parts, batch: Batch) -> None:
        structure = structure_of(batch.trace.network)
        for name, found in self.layers.items():
            reached = found.task.effects.any(1)[batch.member]
            rows = (reached & ~self._is_kept_out(batch)).nonzero()[:, 0]
            if not found.is_swept or not len(rows):
                continue
            some = _some(batch, rows)
            layer = structure.layer(name)
            tested = found.task.tested(layer, self.rule.most_inputs)[some.member]
            tested = tested & self.chosen.for_selection[some.position][:, None]
            asked = Asked(some, layer, found.task, tested)
            for number, outcome in enumerate(self._outcomes(asked)):
                key = f"{name}/{SWEEP}/{number}"
                _tally(parts, key, asked, outcome, Statistics(self.rule))

    def _outcomes(self, asked: Asked) -> Any:
        if not asked.tested.all():
            return (asked.outcome(u) for u in self.values)
        effects = asked.task.effects[asked.batch.member].to(asked.batch.classes.device)
        return swept(asked.batch.trace, asked.layer, effects, asked.batch.classes, self.values)

    def _is_kept_out(self, batch: Batch) -> Tensor:
        """Return which rows say nothing of other values of u."""
        known = self.chosen.for_selection[batch.position]
        if self.rule.is_compat:
            known = known | self.chosen.is_following[batch.position]
        return ~known

    def _layer(self, name: str, parts: Parts) -> Result:
        found, result = self.layers[name], dict[str, Any]()
        n_classes = len(self.chosen.classes)
        if HELD_OUT in parts:
            state = whole(parts[HELD_OUT], n_classes)
            again = selection.retest(state, found.sign, self.rule.level, dtype=self.rule.dtype)
            result |= {"held_out_te": again.te, "held_out_p": again.p, "held_out_q": again.q}
            result["is_confirmed"] = again.is_confirmed.double().masked_fill(
                again.p.isnan(), torch.nan
            )
            result["n_held_out"] = state["reference_n"]
        if EDGES in parts:
            n = self.chosen.counts(self.chosen.for_selection)
            result["edges"] = _strongest(parts[EDGES], found, n, self.max_edges)
        swept_parts = [parts[f"{SWEEP}/{n}"] for n in range(len(self.values)) if self._has(parts)]
        if swept_parts:
            result["sweep"] = self._swept(found, [whole(each, n_classes) for each in swept_parts])
        return result

    def _has(self, parts: Parts) -> bool:
        return f"{SWEEP}/0" in parts

    def _swept(self, found: Found, states: list[State]) -> dict[str, Tensor]:
        """Return how what is selected depends on u."""
        reached = found.task.effects.any(1)
        decisions = [decided([each], self.rule, found.task.n_neurons, reached) for each in states]
        signs = torch.stack([each["sign"] for each in decisions])  # (values, classes, neurons)
        sets = self.rule.sets(signs)
        how = torch.stack([each["how"] for each in decisions], 1)
        jaccard = stability.jaccard(sets, self.rule.sets(found.sign)).T
        return {
            "u": torch.tensor(self.values, dtype=torch.float64).expand(len(reached), -1),
            "how": how,
            "n_causes": (signs > 0).sum(2).T,
            "n_negative_causes": (signs < 0).sum(2).T,
            "jaccard": jaccard.masked_fill(is_untested(how), torch.nan),
            "nogueira": stability.nogueira(sets),
            "frequency": _frequency(signs, found.sign),
        }


def _frequency(signs: Tensor, sign: Tensor) -> Tensor:
    """Return how often the sign of the graph is found; of neurons without, the more frequent."""
    lower, higher = stability.frequency(signs > 0), stability.frequency(signs < 0)
    found = torch.where(sign > 0, lower, torch.maximum(lower, higher))
    return torch.where(sign < 0, higher, found)


@dataclass(frozen=True, eq=False)
class Exact(Folding):
    """Exact effects of edges: each one's intervention sets the weights of its effect alone.

    Parts of a state are ``<layer>/edges``; the result has ``edges`` by layer.
    """

    layers: Mapping[str, Found]
    """Of the graph."""
    edges: Mapping[str, Mapping[str, Tensor]]
    """Layer to the edges that are asked about, ordered by class."""

    def briefer(self) -> Exact:
        """Return what looks at a few edges of each layer."""
        few = {
            name: {entry: of_edges[:_BRIEF] for entry, of_edges in edges.items()}
            for name, edges in self.edges.items()
        }
        return replace(self, edges=few)

    def add(self, parts: Parts, batch: Batch) -> None:
        """Add a batch to the sums."""
        structure = structure_of(batch.trace.network)
        for name, edges in self.edges.items():
            if not torch.isin(batch.member, edges["member"]).any():
                continue
            asked = edges["member"], edges["cause"], edges["effect"]
            u, layer = self.layers[name].task.u, structure.layer(name)
            sums = exact_edges(batch.trace, layer, asked, batch.member, batch.classes, u).cpu()
            parts.setdefault(f"{name}/{EDGES}", {SUM: torch.zeros_like(sums)})[SUM] += sums

    def both(self, key: str, left: State, right: State) -> State:
        """Return the sums of both: each part has all edges of its layer."""
        return {SUM: left[SUM] + right[SUM]}

    def finalise(self, state: State) -> Result:
        """Return the mean effect of each edge."""
        n = self.chosen.counts(self.chosen.for_selection)
        found: Result = {}
        for key, part in parts_of(state).items():
            edges = self.edges[key.partition("/")[0]]
            weight = part[SUM] / n[edges["member"]]
            found[key.partition("/")[0]] = {"edges": {**edges, "weight": weight}}
        return found


def _strongest(part: State, found: Found, n: Tensor, most: int) -> dict[str, Tensor]:
    """Return the strongest edges of each class, in order of class, cause and effect."""
    members = part[MEMBERS]
    causes, effects = found.sign[members] != 0, found.task.effects[members]
    place, cause, effect = between(causes, effects, part[CONNECTED])
    member = members[place]
    weight = part[SUM] / n[member]
    order = weight.abs().argsort(descending=True, stable=True)
    order = order[member[order].argsort(stable=True)]
    of_class = member[order]
    places = torch.arange(len(order)) - torch.searchsorted(of_class, of_class)
    kept = order[places < most].sort().values
    named = {"member": member, "cause": cause, "effect": effect, "weight": weight}
    return {name: each[kept] for name, each in named.items()}


def _tally(parts: Parts, key: str, asked: Asked, outcome: Outcome, statistics: Statistics) -> None:
    found = statistics.added(parts.get(key), asked, outcome)
    if found is not None:
        parts[key] = found


def _some(batch: Batch, rows: Tensor) -> Batch:
    """Return some rows of a batch."""
    return Batch(
        of_rows(batch.trace, rows),
        batch.index[rows],
        batch.position[rows],
        batch.member[rows],
        batch.classes[rows.to(batch.classes.device)],
    )
