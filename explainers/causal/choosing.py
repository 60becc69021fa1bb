"""Which samples a causal graph is learned from: of each class, those that a hash puts first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.base import Cost, Scan
from explainers.causal.outline import Outline
from explainers.sampling.counted import numbered, seed_of

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.base import Result, Samples, State
    from explainers.trace import Trace

_LISTED = ("sample", "label", "rank")
_COUNTED = ("seen", "correct")


@dataclass(frozen=True)
class Choosing(Scan):
    """Lists the first samples of each class that are classified as it, and the network's layers.

    Every sample gets a pseudo-random number from the run's seed and its index, and of each class
    those with the smallest are kept (bottom-k sampling, Cohen and Kaplan 2007,
    doi:10.1145/1281100.1281133): the same from any shards, batches and order, and fewer are the
    first of more. A sample belongs to a class if it is classified as it, by finite outputs, and its
    label, if it has one, agrees.

    A state has ``sample``, ``label`` (the class) and ``rank`` (the number), int64, in the order of
    classes and then of ranks; ``seen`` and ``correct``, of every output how many samples have the
    label, and how many of these are classified so; ``seed``; and the entries of `Outline`. That of
    no samples is empty.
    """

    n_kept: int
    """How many of each class."""
    classes: tuple[int, ...] | None = None
    """Which classes; None for all."""

    @property
    def cost(self) -> Cost:
        """One forward pass."""
        return Cost(forward=1)

    def init(self) -> State:
        """Return the state of no samples."""
        return {}

    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        """Return the state with one batch added."""
        if not trace.n_rows:
            return state
        n_classes = trace.network.n_outputs
        index, label = samples.index.cpu(), samples.label.cpu()
        found = trace.prediction.cpu()
        is_known = (label >= 0) & (label < n_classes)
        of_class = torch.where(label < 0, found, label)
        # of what is not a number, argmax says something as well
        is_kept = (found == of_class) & trace.output.isfinite().all(1).cpu()
        counted = {
            "seen": _counts(label[is_known], n_classes),
            "correct": _counts(label[is_known & is_kept], n_classes),
        }
        if self.classes is not None:
            is_kept &= torch.isin(of_class, torch.tensor(self.classes))
        rank = ranks(index, trace.seed)
        listed = {"sample": index, "label": of_class, "rank": rank}
        listed = {name: entry[is_kept] for name, entry in listed.items()}
        outline = state if "seed" in state else Outline.of(trace.network).entries()
        fixed = {name: entry for name, entry in outline.items() if _is_fixed(name)}
        fixed["seed"] = torch.tensor([seed_of(str(trace.seed))])
        return self.merge(state, {**fixed, **self._first(listed), **counted})

    def merge(self, left: State, right: State) -> State:
        """Return the samples of both parts with the smallest numbers."""
        if not left or not right:
            return dict(left or right)
        joined = {name: torch.cat([left[name], right[name]]) for name in _LISTED}
        counted = {name: left[name] + right[name] for name in _COUNTED}
        return {**left, **self._first(joined), **counted}

    def finalise(self, state: State) -> Result:
        """Return the state, which is its result."""
        return dict(state)

    def _first(self, listed: State) -> State:
        order = listed["rank"].argsort()
        order = order[listed["label"][order].argsort(stable=True)]
        label = listed["label"][order]
        order = order[_places(label) < self.n_kept]
        return {name: entry[order] for name, entry in listed.items()}


@dataclass(frozen=True, eq=False)
class Chosen:
    """The samples that were chosen, in ascending order of their indices, and what each is for."""

    classes: tuple[int, ...]
    """Whose graphs are learned, ascending."""
    sample: Tensor
    """Indices, int64, ``(chosen,)``."""
    member: Tensor
    """Position of each sample's class in `classes`, likewise."""
    place: Tensor
    """Which of its class it is, by its number, from 0, likewise."""
    n_samples: int
    """How many of each class are for selection."""
    n_held_out: int
    """How many of the following ones are held out."""
    seen: Tensor
    """How many samples have each class's label, int64, ``(classes,)``."""
    correct: Tensor
    """How many of these are classified so, likewise."""

    @classmethod
    def of(cls, result: State, scan: Choosing, n_samples: int, n_held_out: int) -> Chosen:
        """Return what the first round found.

        Parameters
        ----------
        result
            Of the round.
        scan
            Its scan.
        n_samples, n_held_out
            How many of each class are for what.
        """
        seen = result.get("seen", torch.zeros(0, dtype=torch.int64))
        classes = torch.arange(len(seen)) if scan.classes is None else torch.tensor(scan.classes)
        empty = torch.zeros(0, dtype=torch.int64)
        label, sample = (result.get(name, empty) for name in ("label", "sample"))
        order = sample.argsort()
        n_seen = seen if len(seen) else torch.zeros(max(classes.tolist(), default=-1) + 1).long()
        n_correct = result.get("correct", n_seen)
        return cls(
            tuple(classes.tolist()),
            sample[order],
            torch.searchsorted(classes, label)[order],
            _places(label)[order],
            n_samples,
            n_held_out,
            n_seen[classes],
            n_correct[classes],
        )

    @property
    def for_selection(self) -> Tensor:
        """Whether a sample is one that causes are selected on, bool, ``(chosen,)``."""
        return self.place < self.n_samples

    @property
    def is_following(self) -> Tensor:
        """Whether a sample is the first of its class that is not for selection, likewise."""
        return self.place == self.n_samples

    @property
    def is_held_out(self) -> Tensor:
        """Whether a sample is one that what was selected is tested on again, likewise."""
        return (self.place >= self.n_samples) & (self.place < self.n_samples + self.n_held_out)

    def counts(self, which: Tensor) -> Tensor:
        """Return how many of some samples each class has, int64, ``(classes,)``."""
        return _counts(self.member[which], len(self.classes))

    def at(self, index: Tensor) -> Tensor:
        """Return the position of each index among the chosen samples, and -1 where it is none."""
        if not len(self.sample):
            return torch.full_like(index, -1)
        found = torch.searchsorted(self.sample, index).clamp(max=len(self.sample) - 1)
        return torch.where(self.sample[found] == index, found, -1)


def ranks(index: Tensor, seed: int) -> Tensor:
    """Return a pseudo-random int64 for each index, different ones for different indices."""
    return numbered(index, f"causal graph {seed}")


def _places(label: Tensor) -> Tensor:
    """Return the place of each entry among those of its label, which lie together, ascending."""
    return torch.arange(len(label)) - torch.searchsorted(label, label)


def _counts(label: Tensor, n_classes: int) -> Tensor:
    return torch.bincount(label, minlength=n_classes)


def _is_fixed(name: str) -> bool:
    return name not in (*_LISTED, *_COUNTED)
