"""Moments of the inputs over a data set, by statstream within a shard and exactly across shards."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from explainers import numeric, register
from explainers.base import Cost, Round, Scan
from explainers.statistics import factors, moment_groups
from explainers.statistics.streaming import stream_factors, stream_moments

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from explainers.base import Result, Samples, State
    from explainers.network import Network
    from explainers.trace import Trace

OVERSAMPLING = 4
"""Rows that a shard keeps per row of the result; merged shards then reach the optimum's error to
1e-5 (5,000 digits at rank 30, class-sorted shards included)."""
LEAST_ROWS = 128
"""Rows that a shard keeps at least: at rank 10, forty rows would be 4e-5 off the optimum."""
SCATTER_BYTES = 1 << 30
"""Largest exact covariance; every shard stores one and the reduction holds two."""
FOLD_BYTES = 1 << 28
"""Inputs that a fold holds at once; a longer shard, or a whole data set, is folded in pieces."""
FACTOR_BYTES = 1 << 28
"""Up to this size merged factors keep as many rows as there are features, so that merging
shards loses nothing; beyond, as many as a shard keeps."""


@register("moments")
@dataclass(frozen=True)
class Moments(Scan):
    """Count, mean, variance, extrema and covariance of the inputs, in float64.

    Within a shard statstream streams (Maces 2019); shards are merged by Chan, Golub and LeVeque
    (1979), so that uneven, class-sorted, one-sample and empty shards give what one pass over all
    samples gives, to rounding. The low-rank covariance needs the mean of the whole data set and
    takes a second round.
    """

    covariance: Literal["none", "exact"] = "none"
    """``exact`` adds ``covariance``, ``(d, d)`` over the flattened inputs."""
    rank: int | None = None
    """Adds ``factor``, ``(rank, ...)`` with ``factor^T factor`` the best approximation of the
    covariance, and ``eigenvalues``, both in descending order."""
    per_class: bool = False
    """Adds ``per_class``: the same statistics with a leading axis over ``label``; samples of
    unknown class have label -1."""

    @property
    def cost(self) -> Cost:
        """Nothing: the inputs are there already."""
        return Cost()

    def __post_init__(self) -> None:
        if self.covariance not in ("none", "exact"):
            raise ValueError(
                f"covariance is {self.covariance!r}; expected 'none' or 'exact'; "
                "for a low-rank covariance set rank"
            )
        if self.rank is not None:
            numeric.check_whole("rank", self.rank)

    def check(self, network: Network) -> None:
        """Refuse an exact covariance that is too large."""
        features = math.prod(network.input_shape)
        n_groups = network.n_outputs + 1 if self.per_class else 1
        size = 8 * features**2 * n_groups
        if self.covariance == "exact" and size > SCATTER_BYTES:
            raise ValueError(
                f"the exact covariance of {features} input values in {n_groups} groups takes "
                f"{size / 2**30:.1f} GiB per shard, more than {SCATTER_BYTES / 2**30:.0f} GiB; "
                "set covariance: none and a rank"
            )

    def init(self) -> State:
        """Return the table without groups."""
        return moment_groups.empty()

    def fold(self, batches: Iterable[tuple[Trace, Samples]]) -> State:
        """Return the moments of a shard."""
        with_scatter = self.covariance == "exact"
        state = self.init()
        for piece in _grouped_rows(batches, per_class=self.per_class):
            groups = {
                label: (len(rows), stream_moments(rows, with_scatter=with_scatter))
                for label, rows in piece.items()
            }
            state = self.merge(state, moment_groups.table(groups))
        return state

    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        """Return the state with one batch added."""
        return self.merge(state, self.fold([(trace, samples)]))

    def merge(self, left: State, right: State) -> State:
        """Return the moments of both parts."""
        return moment_groups.merge(left, right)

    def finalise(self, state: State) -> Result:
        """Return the statistics; of no samples, a count of 0 and nothing else."""
        overall = moment_groups.total(state)
        if not len(overall["label"]):
            return {"count": torch.tensor(0)}
        result = {name: value[0] for name, value in moment_groups.moments(overall).items()}
        if self.per_class:
            result["per_class"] = {"label": state["label"], **moment_groups.moments(state)}
        return result

    def rounds(self, results: Mapping[str, Result]) -> Round | None:
        """Return the exact statistics and then, with a rank, the low-rank covariance."""
        if not results:
            return Round("exact", self)
        exact = results["exact"]
        if self.rank is None or "low_rank" in results or not int(exact["count"]):
            return None
        # Without classes the one group is all samples. Results may have been read from a store.
        groups = exact.get("per_class") or {
            "label": [-1],
            "mean": torch.as_tensor(exact["mean"])[None],
            "count": torch.as_tensor(exact["count"])[None],
        }
        means = {name: torch.as_tensor(groups[name]) for name in ("label", "count", "mean")}
        return Round("low_rank", LowRank(self.rank, self.per_class, means))

    def conclude(self, results: Mapping[str, Result]) -> Result:
        """Return the union of both rounds, within ``per_class`` too."""
        per_class = {
            name: value
            for result in results.values()
            for name, value in result.get("per_class", {}).items()
        }
        union = super().conclude(results)
        return {**union, "per_class": per_class} if per_class else union


@dataclass(frozen=True, eq=False)
class LowRank(Scan):
    """Second round of `Moments`: factors of the covariance around means that are known.

    A state holds ``label`` and ``count`` (group,), and the groups' factors one below the other:
    ``factor`` (rows, ...), of which ``n_rows`` (group,) belong to each. ``factor^T factor`` of a
    group is its sum of outer products of deviations from its mean.
    """

    name = Moments.name

    rank: int
    """Rows of the result."""
    per_class: bool
    """Whether groups are classes."""
    means: Mapping[str, Tensor]
    """``label``, ``count`` and ``mean`` of every group, over the whole data set."""

    @property
    def cost(self) -> Cost:
        """Nothing: the inputs are there already."""
        return Cost()

    def init(self) -> State:
        """Return the table without groups."""
        return _factor_table({}, {})

    def fold(self, batches: Iterable[tuple[Trace, Samples]]) -> State:
        """Return the factors of a shard."""
        state = self.init()
        for piece in _grouped_rows(batches, per_class=self.per_class):
            counts = {label: len(rows) for label, rows in piece.items()}
            parts = {label: self._factor(label, rows) for label, rows in piece.items()}
            state = self.merge(state, _factor_table(counts, parts))
        return state

    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        """Return the state with one batch added."""
        return self.merge(state, self.fold([(trace, samples)]))

    def merge(self, left: State, right: State) -> State:
        """Return the factors of both parts; exact while ``FACTOR_BYTES`` allow."""
        counts: dict[int, int] = defaultdict(int)
        parts: dict[int, list[Tensor]] = defaultdict(list)
        for state in (left, right):
            for label, (count, factor) in _groups(state).items():
                counts[label] += count
                parts[label].append(factor)
        combined = {label: factors.combine(part, self._limit) for label, part in parts.items()}
        return _factor_table(counts, combined)

    def finalise(self, state: State) -> Result:
        """Return ``factor`` (rank, ...) and ``eigenvalues``, overall and per class if asked."""
        groups = _groups(state)
        if not groups:
            return {}
        # Around the overall mean a class has its own scatter and its mean's offset, count times.
        share = self.means["count"].double() / self.means["count"].sum()
        mean = torch.einsum("g,g...->...", share, self.means["mean"])
        rows = [factor for _, factor in groups.values()]
        if self.per_class:
            rows += [
                ((self._mean(label) - mean) * math.sqrt(count)).unsqueeze(0)
                for label, (count, _) in groups.items()
            ]
        result = self._covariance_factor(torch.cat(rows), int(state["count"].sum()))
        if self.per_class:
            each = [self._covariance_factor(factor, count) for count, factor in groups.values()]
            stacked = {name: torch.stack([one[name] for one in each]) for name in result}
            result["per_class"] = {"label": state["label"], **stacked}
        return result

    @property
    def _kept(self) -> int:
        """Rows of a group that a shard keeps at most."""
        return max(OVERSAMPLING * self.rank, LEAST_ROWS)

    @property
    def _limit(self) -> int:
        """Rows of a group that merging keeps at least."""
        n_groups, features = self.means["mean"].flatten(1).shape
        return max(self._kept, min(features, FACTOR_BYTES // (8 * features * n_groups)))

    def _factor(self, label: int, rows: Tensor) -> Tensor:
        """Return the factor of some rows of one group, as a shard keeps it."""
        factor = rows.new_zeros((0, *rows.shape[1:]), dtype=torch.float64)
        for block in stream_factors(rows, self._mean(label)):
            factor = factors.combine([factor, block], self._limit)
        return factors.truncate(factor, self._kept)

    def _mean(self, label: int) -> Tensor:
        rows = torch.nonzero(self.means["label"] == label)[:, 0]
        if not len(rows):
            raise ValueError(
                f"a sample has label {label}, but the first round saw labels "
                f"{self.means['label'].tolist()} only; both rounds need the same samples"
            )
        return self.means["mean"][int(rows[0])]

    def _covariance_factor(self, factor: Tensor, count: int) -> Result:
        """Return the factor of the covariance; NaN for one sample, which has none."""
        n_rows = min(self.rank, math.prod(factor.shape[1:]))
        strongest = factors.pad_rows(factors.truncate(factor, self.rank), n_rows)
        scaled = strongest / torch.tensor(count - 1, dtype=torch.float64).sqrt()
        return {"factor": scaled, "eigenvalues": factors.energies(scaled)}


def _factor_table(counts: Mapping[int, int], parts: Mapping[int, Tensor]) -> State:
    labels = sorted(parts)
    table = {
        "label": torch.tensor(labels, dtype=torch.int64),
        "count": torch.tensor([counts[label] for label in labels], dtype=torch.int64),
        "n_rows": torch.tensor([len(parts[label]) for label in labels], dtype=torch.int64),
    }
    return {**table, "factor": torch.cat([parts[label] for label in labels])} if labels else table


def _groups(state: State) -> dict[int, tuple[int, Tensor]]:
    """Return count and factor by label."""
    if not len(state["label"]):
        return {}
    parts = torch.split(state["factor"], state["n_rows"].tolist())
    return dict(
        zip(state["label"].tolist(), zip(state["count"].tolist(), parts, strict=True), strict=True)
    )


def _grouped_rows(
    batches: Iterable[tuple[Trace, Samples]], *, per_class: bool
) -> Iterator[dict[int, Tensor]]:
    """Yield the inputs by class, or of all samples under the label -1, on the CPU.

    statstream has to see the rows once per statistic, so they are held: ``FOLD_BYTES`` at a time.
    """
    chunks: dict[int, list[Tensor]] = defaultdict(list)
    held = 0
    for trace, samples in batches:
        inputs = trace.inputs.detach().cpu()
        labels = samples.label.cpu() if per_class else torch.full((len(inputs),), -1)
        for label in torch.unique(labels).tolist():
            chunks[label].append(inputs[labels == label])
        held += inputs.nbytes
        if held >= FOLD_BYTES:
            yield _joined(chunks)
            chunks.clear()
            held = 0
    if chunks:
        yield _joined(chunks)


def _joined(chunks: Mapping[int, list[Tensor]]) -> dict[int, Tensor]:
    return {label: torch.cat(chunks[label]) for label in sorted(chunks)}
