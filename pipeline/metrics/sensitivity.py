"""How much maps change when inputs change by little."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from explainers import numeric
from pipeline.metrics.again import ExplainingAgain, State, Variant, fixed_at
from pipeline.metrics.metric import Direction, register

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from explainers.trace import Trace
    from pipeline.metrics.metric import Case

_ROWS_TOGETHER = 64
"""Rows of a variant, where a batch has fewer: several draws of its samples go together."""


@dataclass(frozen=True)
class Sensitivity(ExplainingAgain):
    """What happens to the map of a sample at noisy copies of it.

    All explainers explain the same copies, for the target of the sample itself. Noise depends on
    seed, sample and draw alone. A stochastic method draws for a copy what it drew for the sample,
    so that the score is the method's sensitivity to the input. A map that is not finite, the
    sample's own or that of a copy, has no score.
    """

    n_draws: int = 10
    """Noisy copies of each sample. More make a maximum larger: compare equal numbers."""

    family: ClassVar[str] = "robustness"
    directions: ClassVar[Mapping[str, Direction]] = {"maximum": "lower", "mean": "lower"}

    def __post_init__(self) -> None:
        """Refuse to draw nothing."""
        numeric.check_whole("n_draws", self.n_draws)

    @property
    def direction(self) -> Direction:
        """Maps that stay are better."""
        return "lower"

    @abstractmethod
    def noise(self, trace: Trace, draw: int) -> Tensor:
        """Return what is added to each sample, shaped as the inputs."""

    @abstractmethod
    def distance(self, case: Case, relevance: Tensor, variant: Variant, again: Tensor) -> Tensor:
        """Return how far each map of a variant is from the sample's, ``(rows,)``."""

    def variants(self, case: Case) -> Iterator[Variant]:
        """Yield noisy copies, some draws at a time."""
        trace = case.network_trace()
        if not trace.inputs.is_floating_point():
            raise TypeError(
                f"got inputs of {trace.inputs.dtype}, expected floating-point numbers: "
                f"{self.name} adds noise to them"
            )
        together = max(1, _ROWS_TOGETHER // max(1, trace.n_rows))
        every = torch.arange(trace.n_rows, device=trace.inputs.device)
        for first in range(0, self.n_draws, together):
            draws = range(first, min(first + together, self.n_draws))
            noisy = torch.cat([trace.inputs + self.noise(trace, draw) for draw in draws])
            rows = every.repeat(len(draws))
            yield Variant(trace.at(noisy, rows), fixed_at(trace, case.target, rows), rows)

    def begun(self, case: Case, relevance: Tensor) -> State:
        """Return no distance yet."""
        zero = relevance.new_zeros(len(relevance), dtype=torch.float64)
        return {"greatest": zero - torch.inf, "sum": zero, "squares": zero}

    def compared(
        self, case: Case, relevance: Tensor, state: State, variant: Variant, again: Tensor
    ) -> State:
        """Return the greatest distance, sum and sum of squares with those of a variant."""
        distance = self.distance(case, relevance, variant, again).double()
        distance = distance.view(-1, len(relevance))  # (draws, batch)
        return {
            # torch's maximum keeps NaN
            "greatest": state["greatest"].maximum(distance.amax(0)),
            "sum": state["sum"] + distance.sum(0),
            "squares": state["squares"] + distance.square().sum(0),
        }

    def concluded(self, case: Case, relevance: Tensor, state: State) -> dict[str, Tensor]:
        """Return the headline, ``maximum``, ``mean`` and its Monte-Carlo standard error, float64.

        The error is NaN of a single draw.
        """
        mean = state["sum"] / self.n_draws
        freedom = self.n_draws - 1
        variance = (state["squares"] / self.n_draws - mean.square()).clamp_min(0)
        error = (variance / freedom).sqrt() if freedom else torch.full_like(mean, torch.nan)
        columns = {"maximum": state["greatest"], "mean": mean, "mean_error": error}
        defined = mean.isfinite()
        return {
            name: column.where(defined, torch.nan)
            for name, column in {self.headline: self.headline_of(columns), **columns}.items()
        }

    def headline_of(self, columns: dict[str, Tensor]) -> Tensor:
        """Return the score among the columns: the greatest distance."""
        return columns["maximum"]


@dataclass(frozen=True)
class RelativeChange(Sensitivity):
    r"""Sensitivity as the change of a map relative to the map itself."""

    radius: float = 0.02
    """Greatest change of an input value, in units of the inputs; noise is uniform from minus to
    plus this. That of Quantus is 0.2, with 200 draws."""

    def __post_init__(self) -> None:
        """Refuse to draw nothing, and a radius that is none."""
        super().__post_init__()
        numeric.check_finite("radius", self.radius)
        if self.radius <= 0:
            raise ValueError(f"got radius {self.radius!r}, expected more than 0")

    def noise(self, trace: Trace, draw: int) -> Tensor:
        """Return uniform numbers from ``-radius`` to ``radius``."""
        drawn = trace.uniform(f"draw {draw}", trace.inputs.shape[1:])
        return drawn.mul_(2 * self.radius).sub_(self.radius)

    def distance(self, case: Case, relevance: Tensor, variant: Variant, again: Tensor) -> Tensor:
        """Return the norm of the change over that of the map; NaN for a map of zeros."""
        before = relevance[variant.rows].flatten(1)
        size = _norm(before)
        return _norm(again.flatten(1) - before) / size.where(size > 0, torch.nan)


@register("max_sensitivity")
@dataclass(frozen=True)
class MaxSensitivity(RelativeChange):
    r"""Greatest relative change of a map within a small neighbourhood (Yeh et al. 2019).

    arXiv:1901.09392, as it is commonly measured: relative to the map's own size,

    .. math:: \max_{\lVert u \rVert_\infty \le r} \lVert \Phi(x + u) - \Phi(x) \rVert_2
        \big/ \lVert \Phi(x) \rVert_2

    over `n_draws` uniform draws of u, from 0; the defaults are Captum's. ``maximum`` is the same
    again, ``mean`` the mean over the draws, ``mean_error`` its Monte-Carlo standard error. A map of
    zeros has no score. It takes `n_draws` explanations of each sample.
    """

    headline: ClassVar[str] = "max_sensitivity"


@register("avg_sensitivity")
@dataclass(frozen=True)
class AvgSensitivity(RelativeChange):
    r"""Mean relative change of a map within a small neighbourhood (Yeh et al. 2019).

    arXiv:1901.09392: what `max_sensitivity` takes the maximum of, averaged,

    .. math:: \frac{1}{N} \sum_{n=1}^N \lVert \Phi(x + u_n) - \Phi(x) \rVert_2
        \big/ \lVert \Phi(x) \rVert_2

    over N uniform draws with :math:`\lVert u_n \rVert_\infty \le r`. The columns are those of
    `max_sensitivity`, which says the rest; of one run, one of the two metrics is enough.
    """

    headline: ClassVar[str] = "avg_sensitivity"

    def headline_of(self, columns: dict[str, Tensor]) -> Tensor:
        """Return the mean."""
        return columns["mean"]


@register("local_lipschitz")
@dataclass(frozen=True)
class LocalLipschitz(Sensitivity):
    r"""Greatest change of a map per change of the input (Alvarez-Melis & Jaakkola 2018).

    arXiv:1806.08049:

    .. math:: \max_n \lVert \Phi(x + u_n) - \Phi(x) \rVert_2 \big/ \lVert u_n \rVert_2

    over `n_draws` draws of Gaussian noise u, from 0. ``maximum`` is the same again, ``mean`` the
    mean over the draws, ``mean_error`` its Monte-Carlo standard error. It takes `n_draws`
    explanations of each sample.
    """

    stdev: float = 0.1
    """Standard deviation of the noise, in units of the inputs."""
    scale: Literal["relative", "absolute"] = "relative"
    """``relative``: maps are divided by the norm of the sample's own map, so that methods with
    large numbers compare with those with small ones (a map of zeros then has no score);
    ``absolute``: maps are taken as they are, as in the paper."""
    compat: Literal["quantus"] | None = None
    """``quantus``: the sample's maps and those of each draw are divided by the greatest magnitude
    of the finite ones of the whole batch, so that a score depends on the batch."""

    headline: ClassVar[str] = "local_lipschitz"

    def __post_init__(self) -> None:
        """Refuse to draw nothing, and noise that is none."""
        super().__post_init__()
        numeric.check_finite("stdev", self.stdev)
        if self.stdev <= 0:
            raise ValueError(f"got stdev {self.stdev!r}, expected more than 0")

    def noise(self, trace: Trace, draw: int) -> Tensor:
        """Return normal numbers of the standard deviation that was asked for."""
        return trace.noise(f"draw {draw}", trace.inputs.shape[1:]).mul_(self.stdev)

    def distance(self, case: Case, relevance: Tensor, variant: Variant, again: Tensor) -> Tensor:
        """Return the norm of the map's change over that of the input's."""
        trace = case.network_trace()
        moved = variant.trace.inputs - trace.inputs[variant.rows]
        step = _norm(moved.flatten(1))
        before = relevance[variant.rows].flatten(1)
        again = again.flatten(1)
        if self.compat == "quantus":
            by_draw = again.view(-1, *relevance.flatten(1).shape)
            before = before.view_as(by_draw)  # the whole batch, in each draw
            change = _over_greatest(by_draw) - _over_greatest(before)
            return _norm(change.flatten(0, 1)) / (step + 1e-10)
        change = _norm(again - before) / step
        if self.scale == "absolute":
            return change
        size = _norm(before)
        return change / size.where(size > 0, torch.nan)


def _over_greatest(by_draw: Tensor) -> Tensor:
    """Return maps over their greatest magnitude of the finite ones of a draw, as they came.

    Parameters
    ----------
    by_draw
        ``(draws, batch, features)``.
    """
    magnitudes = by_draw.abs()
    is_finite = magnitudes.isfinite().all(dim=2, keepdim=True)
    return by_draw / magnitudes.where(is_finite, 0.0).amax((1, 2), keepdim=True)


def _norm(rows: Tensor) -> Tensor:
    return rows.square().sum(1).sqrt()
