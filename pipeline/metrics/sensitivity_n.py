"""Whether relevance adds up to what the output loses, for subsets of every size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from explainers import numeric
from pipeline.metrics import removal, subsets
from pipeline.metrics.correlation import pearson
from pipeline.metrics.metric import Curve, Direction, Metric, Statistic, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from pipeline.metrics.metric import Case
    from pipeline.metrics.subsets import Removal

_SIZES = 8


@register("sensitivity_n")
@dataclass(frozen=True)
class SensitivityN(Metric):
    r"""Correlation of relevance and drop of the output, by the number of features removed.

    Ancona et al. 2018 (arXiv:1711.06104). For each of several sizes n, from one feature to
    `most`, spaced evenly by their logarithms, and random subsets S of n features,

    .. math:: \rho_n = \mathrm{corr}_{|S| = n} \Big( \sum_{i \in S} r_i,\;
        f(x) - f(x_{S \to b}) \Big),

    Pearson's, from -1 to 1. In images a feature is a pixel: its channels go together, and its
    relevance is their sum. The score does not depend on the map's scale.

    ``curve``, ``(batch, sizes)``, has a sample's correlation at every size, ``curve_error`` its
    Monte-Carlo standard error over the draws; ``sensitivity_n`` is the mean over the sizes at
    which there is one, with ``sensitivity_n_error``. Subsets follow from seed, sample and size;
    all explainers are judged by the same, and their ``n_sizes * n_draws`` forward passes are made
    once. A map whose features are all alike, and an output that no subset changes, correlate with
    nothing: NaN, which aggregates count as undefined.
    """

    n_sizes: int | None = None
    """Sizes, 8 by default; fewer where features are few. With `compat` there is one for each
    step."""
    n_draws: int = 100
    """Subsets of each size, at least 3."""
    most: float = 0.8
    """The largest size, as a share of the features."""
    baseline: removal.Absence = "black"
    """What a removed feature becomes: a number, ``black``, ``white``, ``mean``, ``uniform`` or
    ``{blur: sigma}``, as for `pixel_flipping`."""
    output_space: Literal["probability", "logit"] | None = None
    """What is measured: logits as in the paper, but probabilities with `compat`."""
    features_in_step: int = 1
    """With `compat`: features that are removed at a step."""
    compat: Literal["quantus"] | None = None
    """``quantus``: that library's definition, which is another one. Features, every channel value
    one, are removed cumulatively in the order of relevance; at each step it correlates the
    relevance of what was removed last with the drop since nothing was removed, across samples. One
    sample has no such score: its ``sensitivity_n`` is NaN, ``drops`` and ``sums``, ``(batch,
    steps)``, are stored, and `across` correlates those of a group. That library looks at the first
    batch only; this is what it finds where one batch holds all. Images only: of other inputs it
    takes no step."""

    family: ClassVar[str] = "faithfulness"
    headline: ClassVar[str] = "sensitivity_n"
    requires: ClassVar[frozenset[str]] = frozenset({"network"})

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        numeric.check_whole("n_draws", self.n_draws, 3)
        numeric.check_whole("features_in_step", self.features_in_step)
        if self.n_sizes is not None:
            numeric.check_whole("n_sizes", self.n_sizes)
        removal.check_absence(self.baseline)
        if self.compat:
            removal.check_quantus_absence(self.baseline)
        if not 0.0 < self.most <= 1.0:
            raise ValueError(f"got most {self.most!r}, expected a share above 0, 1 at most")
        if self.compat is None and self.features_in_step != 1:
            raise ValueError("got features_in_step without compat 'quantus', expected n_sizes")
        if self.compat is not None and self.n_sizes is not None:
            raise ValueError("got n_sizes with compat 'quantus', expected features_in_step")

    @property
    def direction(self) -> Direction:
        """Relevance should say what is lost."""
        return "higher"

    @property
    def space(self) -> Literal["probability", "logit"]:
        """The output space that was asked for."""
        return self.output_space or ("probability" if self.compat else "logit")

    def curves(self, shape: tuple[int, ...]) -> tuple[Curve, ...]:
        """Return the curve over the share of features removed; `across` has that of `compat`."""
        n_features = removal.count(shape, by_pixel=self._by_pixel)
        if self.compat:
            return ()
        x = tuple(size / n_features for size in self._sizes(n_features))
        return (
            Curve(
                "curve",
                x,
                "share of features removed",
                "correlation",
                "sensitivity_n",
                "higher",
                bounds=(-1.0, 1.0),
                error="curve_error",
            ),
        )

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse what cannot be removed, and probabilities of one output."""
        removal.check(network, shape, self.space, self.baseline)
        self._check_shape(shape)

    def prepare(self, case: Case) -> Case:
        """Share subsets of every size and what the output loses without each."""
        trace = case.network_trace()
        removing = subsets.removing(
            trace,
            trace.cotangent(case.target),
            self.baseline,
            self.space,
            by_pixel=self._by_pixel,
        )
        if self.compat:
            self._check_shape(tuple(trace.inputs.shape[1:]))
            return case.sharing(removing=removing)
        sizes = self._sizes(removing.n_features)
        drawn = [
            subsets.drawn(trace, removing.n_features, self.n_draws, size, len(sizes))
            for size in sizes
        ]
        drops = torch.stack([removing.without(each) for each in drawn], dim=1)
        return case.sharing(subsets=drawn, drops=drops, scale=removing.scale)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return the curve and its mean with their errors; terms of `across` with `compat`."""
        per_feature = removal.relevance_of_features(
            relevance.double(), case.network_trace().inputs, by_pixel=self._by_pixel
        )
        finite = per_feature.isfinite().all(dim=1)
        found = self._terms if self.compat else self._curve
        return {
            name: column.where(finite if column.ndim == 1 else finite[:, None], math.nan)
            for name, column in found(case, per_feature).items()
        }

    def across(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, Statistic]:
        """Return, with `compat`, the correlation across samples by step, ``curve``, and its mean.

        Intervals are Fisher's (1915, doi:10.2307/2331838); the mean has none, as its steps hang
        together.
        """
        if not self.compat or not {"drops", "sums"} <= set(columns):
            return {}
        pairs = torch.as_tensor(np.stack([columns["sums"], columns["drops"]])).double()
        pairs = pairs[:, pairs.isfinite().all(dim=2).all(dim=0)].transpose(1, 2)
        n_samples, nan = pairs.shape[2], np.full(pairs.shape[1], np.nan)
        if n_samples < 2:
            value, half = nan, nan
        else:
            # as they are stored, so are they compared: what differs at all varies
            exact = pairs.new_zeros(pairs.shape[1])
            value = pearson(pairs[0], pairs[1], exact, exact)[0].numpy()
            half = np.full_like(nan, 1.96 / math.sqrt(n_samples - 3) if n_samples > 3 else np.nan)
        with np.errstate(divide="ignore"):
            z = np.arctanh(value)
        mean = np.asarray(value.mean())
        unknown = np.full_like(mean, np.nan)
        return {
            "curve": Statistic(value, np.tanh(z - half), np.tanh(z + half)),
            "sensitivity_n": Statistic(mean, unknown, unknown),
        }

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if self.compat and len(shape) < 2:
            raise ValueError(
                f"got samples of shape {shape} with compat 'quantus', expected images: of others "
                "that library takes no step"
            )

    def _curve(self, case: Case, per_feature: Tensor) -> dict[str, Tensor]:
        shared = case.shared
        sums = torch.stack([drawn.sums(per_feature) for drawn in shared["subsets"]], dim=1)
        size = per_feature.abs().sum(dim=1, keepdim=True)
        curve, error = pearson(sums, shared["drops"], size, shared["scale"][:, None])
        n_defined = curve.isfinite().sum(dim=1)
        return {
            "curve": curve,
            "curve_error": error,
            "sensitivity_n": curve.nanmean(dim=1),
            "sensitivity_n_error": error.square().nansum(dim=1).sqrt() / n_defined,
        }

    def _terms(self, case: Case, per_feature: Tensor) -> dict[str, Tensor]:
        removing: Removal = case.shared["removing"]
        n_steps = self._n_steps(case.network_trace().inputs)
        ranks = removal.ranks(per_feature, descending=True).long()
        step = ranks // self.features_in_step
        # what goes last, and what never goes, share a column that is left out
        step = step.clamp_max(n_steps)
        sums = per_feature.new_zeros(len(step), n_steps + 1).scatter_add_(1, step, per_feature)
        n_rows, limit = len(step) * n_steps, removal.rows_at_once(case.network_trace().inputs)
        drops = []
        for start in range(0, n_rows, limit):
            row = torch.arange(start, min(start + limit, n_rows), device=step.device)
            sample, last = row // n_steps, row % n_steps
            drops.append(removing.drops(sample, step[sample] <= last[:, None]))
        every = torch.cat([removing.clean.new_empty(0), *drops]).view(-1, n_steps)
        alone = per_feature.new_full((len(step),), math.nan)
        return {"drops": every, "sums": sums[:, :-1], "sensitivity_n": alone}

    @property
    def _by_pixel(self) -> bool:
        return self.compat is None

    def _sizes(self, n_features: int) -> tuple[int, ...]:
        """Return the sizes of subsets, each once, ascending."""
        # all of the features make one subset only
        most = max(1, min(math.floor(self.most * n_features), n_features - 1))
        n_sizes = self.n_sizes or _SIZES
        spaced = np.geomspace(1, most, n_sizes) if n_sizes > 1 else np.array([most])
        return tuple(int(size) for size in np.unique(spaced.round()))

    def _n_steps(self, inputs: Tensor) -> int:
        """Return how many steps that library correlates: it counts no channels here."""
        return int(self.most * math.prod(inputs.shape[2:]) // self.features_in_step)
