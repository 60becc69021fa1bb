"""Distortion by draws of the noise, the same in every call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers import numeric
from explainers.kept import Kept, unread_by_gradients
from explainers.rate_distortion.measured import Measured
from explainers.rules.gradient import gradient
from explainers.rules.walking import walk
from explainers.sampling.chunks import pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.rate_distortion.clean import Rows
    from explainers.rate_distortion.noise import Noise
    from explainers.targets import Target
    from explainers.trace import Trace

KEPT_BYTES = 2**28
"""Of what draws are made of; beyond, they are drawn again in every call, from the same seeds."""


class Sampled(Measured):
    """Mean of ``1/2 (t - f(s x + (1-s) n))^2`` over draws that all masks of a sample share.

    Its gradient is exact for these draws: ``mean of -(t - f) f' (x - n)``. Any network can be
    sampled, and noise of any distribution; draws depend on the run's seed and the sample alone.

    Parameters
    ----------
    trace
        Of the clean samples; of any network.
    target
        What is explained of them.
    noise
        See `noise.resolve`.
    n_draws
        Of each sample.

    Raises
    ------
    TypeError
        If `n_draws` is no whole number.
    ValueError
        If `n_draws` is below 1, or the noise that of another input.
    """

    def __init__(self, trace: Trace, target: Target, noise: Noise, n_draws: int) -> None:
        numeric.check_whole("n_draws", n_draws)
        super().__init__(trace, target, noise, 1)
        self.n_maps = n_draws
        self._codes: Tensor | None = None
        every = torch.arange(trace.n_rows)
        if trace.n_rows:
            first = self._drawn(every[:1])
            if trace.n_rows * first.nbytes <= KEPT_BYTES:
                self._codes = self._drawn(every)

    def _with_gradients(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = masks.new_zeros(len(masks)), torch.zeros_like(masks)
        for piece, codes in self._pieces(rows):
            clean = self._clean.at(rows[piece])
            change = self._noise.draws.values(codes)  # (rows, draws, ...), of the noise
            points = between(masks[piece], clean.inputs, change)
            change = clean.inputs.unsqueeze(1) - change
            carried = self._clean.carried(rows[piece].repeat_interleave(codes.shape[1]))
            residuals, slopes = self._slopes(points, clean, carried)
            values[piece] += residuals.square().sum(1) / (2 * self.n_maps)
            gradients[piece] += change.mul_(slopes).sum(1)
        return values, gradients

    def _values(self, masks: Tensor, rows: Tensor) -> Tensor:
        values = masks.new_zeros(len(masks))
        for piece, codes in self._pieces(rows):
            clean = self._clean.at(rows[piece])
            points = between(masks[piece], clean.inputs, self._noise.draws.values(codes))
            carried = self._clean.carried(rows[piece].repeat_interleave(codes.shape[1]))
            outputs = self._clean.trace.network(points.flatten(0, 1), carried)
            residuals = clean.residuals(outputs)
            values[piece] += residuals.square().sum(1) / (2 * self.n_maps)
        return values

    def _slopes(
        self, points: Tensor, clean: Rows, carried: dict[str, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Return ``f - t``, ``(rows, draws)``, and its share of the gradient at the points."""
        network = self._clean.trace.network
        flat = points.flatten(0, 1)
        if network.is_program:
            unread = unread_by_gradients(network)
            values = Kept(network, network.run(flat, carried, unread))
            residuals = clean.residuals(values[network.output_name])
            start = self._start(residuals, clean)
            with torch.no_grad():
                slopes = walk(
                    network, values, start, gradient.find, release=values.release
                ).relevance
        else:
            leaf, output = network.recorded(flat, carried)
            residuals = clean.residuals(output.detach())
            start = self._start(residuals, clean)
            (slopes,) = torch.autograd.grad(output, leaf, start, materialize_grads=True)
        return residuals, slopes.reshape(points.shape)

    def _start(self, residuals: Tensor, clean: Rows) -> Tensor:
        weights = clean.weights.unsqueeze(1) / self.n_maps
        return (residuals.unsqueeze(2) * weights).flatten(0, 1)

    def _pieces(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows with the codes of some of their draws, ``(rows, draws, ...)``."""
        limit = self._budget.n_rows
        if not len(rows):
            return
        for piece in pieces(len(rows), max(1, limit // self.n_maps)):
            codes = self._codes_of(rows[piece])
            for draws in pieces(self.n_maps, limit):
                yield piece, codes[:, draws]

    def _codes_of(self, rows: Tensor) -> Tensor:
        if self._codes is not None:
            return self._codes[rows.to(self._codes.device)]
        samples, positions = torch.unique(rows, return_inverse=True)
        codes = self._drawn(samples)
        return codes[positions.to(codes.device)]

    def _drawn(self, samples: Tensor) -> Tensor:
        randomness = self._clean.randomness(samples)
        return self._noise.draws.codes(randomness, "distortion", self.n_maps)


def between(masks: Tensor, inputs: Tensor, noise: Tensor) -> Tensor:
    """Return ``s x + (1 - s) n``, ``(rows, draws, ...)``.

    Parameters
    ----------
    masks
        ``s``, ``(rows, ...)``.
    inputs
        ``x``, ``(rows, ...)``.
    noise
        ``n``, ``(rows, draws, ...)``.
    """
    return torch.lerp(noise, inputs.unsqueeze(1), masks.unsqueeze(1))
