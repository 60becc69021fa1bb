"""Integrated gradients averaged over baselines that are drawn from the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from explainers import backgrounds, numeric
from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.postprocess import Postprocess, apply, check_name
from explainers.sampling import chunks
from explainers.sampling.map_moments import MapMoments
from explainers.sampling.row_noise import RowNoise
from explainers.targets import Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from explainers.network import Network
    from explainers.trace import Trace


_ASKED = (
    "expected_gradients got no background; pass background=, baselines (n, ...) to draw from, or "
    "the result of explainers.scan(model, 'background', loader)"
)


@register("expected_gradients")
@dataclass(frozen=True)
class ExpectedGradients(Attribution):
    """Mean over random baselines and places of ``(x - b) * gradient`` (Erion et al. 2021).

    ``E over b from the background and a from U(0, 1) of (x - b) * d target / d x at
    b + a (x - b)``, arXiv:1906.10670; Captum's GradientShap. The class that is explained is that of
    the sample itself. The array ``standard_error``, shaped like the map, is that of the mean of
    independent draws, so that with `is_stratified` it is an upper estimate; NaN for one draw.
    ``convergence_delta`` is, for each sample, what the sum of the map exceeds
    ``target(x) - mean target(b)`` by, over the baselines that were drawn.
    """

    background: backgrounds.Background = None
    """Baselines ``(n, ...)`` to draw from, or the result of the scan `background`; for several
    inputs a tuple or dict of such tensors, as the inputs are, and token ids for tokens."""
    n_samples: int = 5
    """Draws per sample: a baseline, a place on the way and a gradient each."""
    stdev: float = 0.0
    """Standard deviation of noise that is added to the sample in every draw."""
    is_stratified: bool = True
    """Whether each draw takes its place from an n-th of the way of its own, and no baseline twice
    before all were drawn; otherwise draws are independent, as in Captum. Both are unbiased."""
    multiply_by_inputs: bool = True
    """Whether gradients are multiplied by the difference to their baseline."""
    postprocess: Postprocess = "none"
    """What is done to the map; the arrays are of the map before it."""

    requires = frozenset({"gradient"})
    needs: ClassVar[Mapping[str, str]] = {"background": "background"}
    stochastic = True

    def __post_init__(self) -> None:
        check_name(self.postprocess)
        numeric.check_whole("n_samples", self.n_samples)
        numeric.check_finite("stdev", self.stdev)

    @property
    def cost(self) -> Cost:
        """A forward and a backward a draw, and a forward of the sample."""
        return Cost(forward=self.n_samples + 1, backward=self.n_samples)

    def check(self, network: Network) -> None:
        """Refuse a background that does not fit the inputs, or the layer that is explained."""
        if self.background is not None:
            backgrounds.check(self.background, network, _ASKED)

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map, its ``standard_error`` and ``convergence_delta``, ``(batch,)``."""
        rows = backgrounds.rows(self.background, _ASKED)
        # of a layer that hangs on what is not explained, each row of the batch has its own
        background = torch.stack([trace.baseline(row) for row in rows])
        draws = self._draws(trace, len(background))
        weights = trace.cotangent(target)
        sums = torch.zeros_like(draws.places[:, 0])
        parts = []
        for piece in chunks.row_pieces(trace.inputs):
            slopes = self._slopes(trace, weights, piece, background, draws)
            parts.append(MapMoments.over(self._summed(slopes, sums[piece])))
        moments = MapMoments.joined(parts)
        outputs = _outputs(trace, background).expand(len(sums), -1, -1)
        before = outputs.take_along_dim(draws.baselines[..., None], 1).mean(1)
        rise = trace.selected(target) - (before * weights).sum(1)
        arrays = {
            "standard_error": moments.standard_error,
            "convergence_delta": sums / self.n_samples - rise,
        }
        return Explained(apply(self.postprocess, moments.mean), arrays)

    def _draws(self, trace: Trace, n_baselines: int) -> _Draws:
        n_draws = self.n_samples
        places = trace.uniform("place", (n_draws,))
        if not self.is_stratified:
            chosen = trace.uniform("baseline", (n_draws,)) * n_baselines
            return _Draws(chosen.long().clamp_(max=n_baselines - 1), places)
        strata = torch.arange(n_draws).to(places)
        n_rounds = -(-n_draws // n_baselines)
        order = trace.uniform("baseline", (n_rounds, n_baselines)).argsort(-1)
        return _Draws(order.flatten(1)[:, :n_draws], (strata + places) / n_draws)

    def _slopes(
        self, trace: Trace, weights: Tensor, rows: slice, background: Tensor, draws: _Draws
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield differences to baselines and gradients on the way, ``(draws, rows, ...)`` each."""
        inputs = trace.inputs[rows]
        here = torch.arange(len(trace.inputs), device=inputs.device)[rows]
        noise = RowNoise(trace, rows) if self.stdev else None
        for some in chunks.repeat_pieces(inputs, len(inputs), self.n_samples):
            chosen = draws.baselines[rows, some].T
            baselines = background[chosen, here if background.shape[1] > 1 else 0]
            places = draws.places[rows, some].T.reshape(-1, len(inputs), *[1] * (inputs.ndim - 1))
            ends = inputs if noise is None else inputs + self.stdev * noise.draw(len(places))
            difference = ends - baselines
            points = baselines + places * difference
            every = here.repeat(len(places))
            at_points = trace.at(points.flatten(0, 1), every)
            gradient = at_points.gradient(Target("weights", weights[every]))
            yield difference, gradient.view_as(difference)

    def _summed(self, slopes: Iterator[tuple[Tensor, Tensor]], sums: Tensor) -> Iterator[Tensor]:
        """Yield the maps of draws, ``(draws, rows, ...)``, adding what each comes to to `sums`."""
        for difference, gradient in slopes:
            contributions = difference * gradient
            sums += contributions.flatten(2).sum((0, 2))
            yield contributions if self.multiply_by_inputs else gradient


@dataclass(frozen=True)
class _Draws:
    baselines: Tensor
    """Which of the background, ``(batch, draws)``."""
    places: Tensor
    """How far from the baseline to the sample, in [0, 1), ``(batch, draws)``."""


def _outputs(trace: Trace, background: Tensor) -> Tensor:
    """Return the outputs at a background ``(n, 1 | batch, ...)``, ``(1 | batch, n, classes)``."""
    if trace.carried or background.shape[1] > 1:
        # what the part of a network takes over is each row's own
        every = (trace.at(row.expand_as(trace.inputs)).output for row in background)
        return torch.stack(list(every), 1)
    background = background[:, 0]
    nobody = torch.zeros(len(background), dtype=torch.int64)
    pieces = chunks.pieces(len(background), chunks.rows_at_once(background))
    return torch.cat([trace.at(background[rows], nobody[rows]).output for rows in pieces])[None]
