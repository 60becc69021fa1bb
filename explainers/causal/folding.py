"""What the rounds that intervene have in common: their samples, and states by layer and class."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.base import Cost, Scan
from explainers.causal import audit, tally

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from torch import Tensor

    from explainers.base import Samples, State
    from explainers.causal.choosing import Chosen
    from explainers.trace import Trace

ESTIMATES, EDGES = "estimates", "edges"
"""Kinds of parts that are no tallies."""
MEMBERS = "members"
"""Entry of a part: positions of the classes that it has anything of, ascending, int64."""
COUNTS = "counts"
"""Entry of edges: how many each class has, int64 ``(members,)``."""
CONNECTED = "connected"
"""Entry of edges, see `explainers.causal.edges.Edges`; with what was selected it says which they
are, so that states need not."""
SUM = "sum"
"""Entry of edges: the weights, summed over samples, in order of class, cause and effect."""

Parts = dict[str, "State"]
"""Parts of a state, by ``<layer>/<kind>``, or ``<layer>/<kind>/<number>``."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of a batch that were chosen."""

    trace: Trace
    """Of these rows alone."""
    index: Tensor
    """Of the samples, int64 ``(rows,)``, as all below on the CPU."""
    position: Tensor
    """Among the chosen samples, likewise."""
    member: Tensor
    """Position of the class, likewise."""
    classes: Tensor
    """The class, likewise, where the network is."""

    @property
    def reference(self) -> Tensor:
        """Logit of each row's class, ``(rows,)``."""
        return self.trace.output.gather(1, self.classes[:, None])[:, 0]


@dataclass(frozen=True, eq=False)
class Folding(Scan):
    """A fold over chosen samples that adds up, by layer, what it finds of each class.

    A state has entries ``<layer>/<kind>/<name>``. Of tallies and estimates, these have an axis of
    classes first, of those alone that a shard has samples of: ``<layer>/<kind>/members`` has their
    positions. So a state is as large as the classes of its shard, not as all there are.
    """

    chosen: Chosen
    """The samples."""
    which: Tensor
    """Those of them that are looked at, bool ``(chosen,)``."""

    @property
    def samples(self) -> Tensor:
        """Their indices, ascending."""
        return self.chosen.sample[self.which]

    @property
    def cost(self) -> Cost:
        """One forward pass; what interventions take depends on the network."""
        return Cost(forward=1)

    @abstractmethod
    def add(self, parts: Parts, batch: Batch) -> None:
        """Add a batch to the parts of a state, which are this fold's own."""

    def init(self) -> State:
        """Return the state of no samples, which is empty."""
        return {}

    def fold(self, batches: Iterable[tuple[Trace, Samples]]) -> State:
        """Return the state of a shard."""
        parts: Parts = {}
        for trace, samples in batches:
            batch = self._batch(trace, samples)
            if batch is not None:
                with torch.no_grad():
                    self.add(parts, batch)
        return flat(parts)

    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        """Return the state with one batch added."""
        return self.merge(state, self.fold([(trace, samples)]))

    def merge(self, left: State, right: State) -> State:
        """Return the state of both parts."""
        found, others = parts_of(left), parts_of(right)
        for key, part in others.items():
            found[key] = self.both(key, found[key], part) if key in found else part
        return flat(found)

    def both(self, key: str, left: State, right: State) -> State:
        """Return the part of both."""
        return merged(key.split("/")[1], left, right)

    def groups(self, names: Collection[str]) -> Sequence[Collection[str]]:
        """Return the entries of each layer."""
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(name.partition("/")[0], []).append(name)
        return list(found.values()) or [names]

    def _batch(self, trace: Trace, samples: Samples) -> Batch | None:
        """Return the rows that are looked at, if there are any."""
        index = samples.index.cpu()
        position = self.chosen.at(index)
        is_wanted = position >= 0
        is_wanted &= self.which[position.clamp(min=0)] if len(self.which) else is_wanted
        rows = is_wanted.nonzero()[:, 0]
        if not len(rows):
            return None
        position = position[rows]
        member = self.chosen.member[position]
        classes = torch.tensor(self.chosen.classes)[member].to(trace.network.device)
        return Batch(of_rows(trace, rows), index[rows], position, member, classes)


def of_rows(trace: Trace, rows: Tensor) -> Trace:
    """Return a trace of some rows: itself if these are all."""
    if len(rows) == trace.n_rows:
        return trace
    parts = [part[rows.to(part.device)] for part in trace.parts.values()]
    return trace.at(trace.network.structure.filled(parts), rows)


def parts_of(state: State) -> Parts:
    """Return the parts of a state."""
    found: Parts = {}
    for name, entry in state.items():
        key, _, last = name.rpartition("/")
        found.setdefault(key, {})[last] = entry
    return found


def flat(parts: Parts) -> State:
    """Return parts as a state, on the CPU."""
    return {
        f"{key}/{name}": entry.cpu() for key, part in parts.items() for name, entry in part.items()
    }


def merged(kind: str, left: State, right: State) -> State:
    """Return the part of both; what is neither edges nor estimates is a tally."""
    if kind == EDGES:
        return _edges_of_both(left, right)
    members = torch.unique(torch.cat([left[MEMBERS], right[MEMBERS]]))
    both = [without_members(spread(part, members)) for part in (left, right)]
    join = audit.merged if kind == ESTIMATES else tally.merged
    return {MEMBERS: members, **join(*both)}


def _edges_of_both(left: State, right: State) -> State:
    """Return the edges of both parts, each of which has all or none of a class's."""
    ours, theirs = (part[MEMBERS].repeat_interleave(part[COUNTS]) for part in (left, right))
    is_shared = torch.isin(theirs, left[MEMBERS])
    sums = left[SUM].clone()
    sums[torch.isin(ours, right[MEMBERS])] += right[SUM][is_shared]
    of_class = torch.cat([ours, theirs[~is_shared]])
    order = of_class.argsort(stable=True)
    members, counts = torch.unique(of_class, return_counts=True)
    summed = torch.cat([sums, right[SUM][~is_shared]])[order]
    return {MEMBERS: members, COUNTS: counts, CONNECTED: left[CONNECTED], SUM: summed}


def spread(part: State, members: Tensor) -> State:
    """Return a part with entries for more classes; a class that it has nothing of has zeros."""
    if torch.equal(part[MEMBERS], members):
        return part
    places = torch.searchsorted(members, part[MEMBERS])
    found = {MEMBERS: members}
    for name, entry in part.items():
        if name != MEMBERS:
            found[name] = entry.new_zeros(len(members), *entry.shape[1:])
            found[name][places.to(entry.device)] = entry
    return found


def without_members(part: State) -> State:
    """Return a part without the positions of its classes."""
    return {name: entry for name, entry in part.items() if name != MEMBERS}


def whole(part: State, n_classes: int) -> State:
    """Return a part with entries for all classes."""
    return without_members(spread(part, torch.arange(n_classes)))
