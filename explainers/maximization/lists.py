"""Lists of the samples in which each channel scores most: a monoid that merges exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers import numeric
from explainers.maximization import order, results, tables
from explainers.maximization.tables import Table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from torch import Tensor

    from explainers.base import Result, State
    from explainers.concepts.scores import Scores
    from explainers.maximization.scored import Scored

SCORES = ("sum_normed", "sum", "max_normed", "max")
"""What samples are ordered by: a channel's sum or its greatest value, as such or as a share of the
layer's."""

STABILISER = 1e-10
"""Added to what is divided by, as Achtibat et al. 2023 (doi:10.1038/s42256-023-00711-8) do."""


@dataclass(frozen=True)
class Lists:
    """The best samples of every channel by four scores, among all and within each class.

    With s a channel's sum over its positions or its greatest value, both with their sign, the
    scores are s and, normed, ``s[b, c] / (sum_c' |s[b, c']| + 1e-10)`` (Achtibat et al. 2023,
    doi:10.1038/s42256-023-00711-8). Values are float32, of networks in float64 too: they are
    rounded before they are normed. Best is the greatest value, and of equal ones the smallest
    sample index. NaN and infinite values are in no list; a sample with such a value in any channel,
    or with a sum of them that is beyond float32, is in none of the layer's normed lists.

    A state has, by layer and score, ``<layer>/<score>/value`` (float32), ``/sample`` and
    ``/position`` (int32), ``(rank, channel)`` each and best first; and with classes the same under
    ``<layer>/per_class/<score>/``, the lists of the classes one below the other, and ``/class``
    (int64), the class of each row, ascending. Lists that are shorter than others of their class end
    in NaN, -1 and -1. What is kept does not depend on the order in which samples come, so merging
    is associative and commutative to the bit as long as each sample is scored once. One that comes
    several times, for several labels say, may be in a list several times, and of entries that have
    sample and value in common either may come first.
    """

    k: int = 40
    """Length of the lists."""
    per_class: int = 40
    """Length of the lists of each class; 0 for none."""

    def __post_init__(self) -> None:
        numeric.check_whole("k", self.k)
        numeric.check_whole("per_class", self.per_class, 0)

    def init(self) -> State:
        """Return the neutral element: no layer."""
        return {}

    def of(self, scored: Scored, prefix: str = "") -> State:
        """Return the lists of some samples.

        Parameters
        ----------
        scored
            Their scores.
        prefix
            Goes in front of the layers' names, with a slash, where there are several targets.
        """
        _check(scored.sample)
        state: State = {}
        for layer, scores in scored.layers.items():
            head = f"{prefix}/{layer}" if prefix else layer
            device = scores.total.device
            sample, group = scored.sample.to(device), scored.group.to(device)
            is_known = (group >= 0).nonzero()[:, 0]
            for score, value in normed(scores):
                keys, position = order.keys(value, sample[:, None]), scores.position.int()
                entries = Table(keys, position, torch.zeros_like(group))
                state.update(self._listed(f"{head}/{score}", entries))
                if self.per_class:
                    entries = Table(*(part[is_known] for part in (keys, position, group)))
                    state.update(self._listed(f"{head}/{tables.PER_CLASS}/{score}", entries))
        return state

    def merge(self, left: State, right: State) -> State:
        """Return the lists of both parts, which may have different layers."""
        state: State = {}
        for name in tables.names_of({**left, **right}):
            parts = [part for part in (left, right) if f"{name}/value" in part]
            if len(parts) == 1:
                state.update(tables.taken(name, parts[0]))
                continue
            found = [tables.restored(name, part) for part in parts]
            _check_channels(name, found)
            state.update(self._listed(name, tables.joined(found)))
        return state

    def groups(self, names: Collection[str]) -> Sequence[Collection[str]]:
        """Return the names of each layer's entries, for `Scan.groups`."""
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(tables.layer_of(name), []).append(name)
        return list(found.values())

    def finalise(self, state: State, prefix: str = "") -> Result:
        """Return the lists by layer and score, those of classes under ``per_class`` by class.

        Parameters
        ----------
        state
            A state, or the entries that it has for some layers.
        prefix
            That of the layers; those with another are left out.
        """
        start = f"{prefix}/" if prefix else ""
        result: Result = {}
        for group in self.groups([name for name in state if name.startswith(start)]):
            layer = tables.layer_of(next(iter(group))).removeprefix(start)
            result[layer] = results.of_layer({name: state[name] for name in group})
        return result

    def _listed(self, name: str, entries: Table) -> State:
        is_per_class = tables.is_per_class(name)
        found = tables.best(entries, self.per_class if is_per_class else self.k)
        return tables.stored(name, found, has_groups=is_per_class)


def normed(scores: Scores) -> Iterator[tuple[str, Tensor]]:
    """Yield each of `SCORES` and its values, float32, ``(rows, channel)``."""
    for name, amounts in (("sum", scores.total), ("max", scores.peak)):
        raw = amounts.float()
        yield f"{name}_normed", raw / _norm(raw)
        yield name, raw


def _norm(raw: Tensor) -> Tensor:
    """Return the stabilised sum of magnitudes, ``(rows, 1)``; NaN where it is not finite.

    Halves are added until one is left, element by element: so no kernel chooses an order, and the
    bits depend neither on the other rows nor on the device.
    """
    sums = raw.abs()
    while (n := sums.shape[1]) > 1:
        half = n // 2
        paired = sums[:, :half] + sums[:, half : 2 * half]
        sums = torch.cat([paired, sums[:, 2 * half :]], 1) if n % 2 else paired
    return torch.where(sums.isfinite(), sums + STABILISER, torch.nan)


def _check(sample: Tensor) -> None:
    if len(sample) and not 0 <= int(sample.min()) <= int(sample.max()) <= order.LAST_SAMPLE:
        raise ValueError(
            f"got sample indices from {int(sample.min())} to {int(sample.max())}, expected 0 to "
            f"{order.LAST_SAMPLE}; number the samples from 0"
        )


def _check_channels(name: str, found: Sequence[Table]) -> None:
    widths = sorted({table.keys.shape[1] for table in found})
    if len(widths) > 1:
        raise ValueError(
            f"states have {widths[0]} and {widths[1]} channels in {name!r}, expected as many; "
            "merge states of one network and one choice of concepts only"
        )
