"""The distortion that masks really have: by fresh draws, with the error of so many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers import numeric
from explainers.inference import outside_inference_mode
from explainers.perturbing.forward import outputs_at
from explainers.rate_distortion.clean import Clean
from explainers.rate_distortion.sampled import between
from explainers.sampling.chunks import pieces
from explainers.sampling.forward_chunks import as_memory_allows, forward_rows
from explainers.sampling.map_moments import MapMoments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from explainers.rate_distortion.noise import Noise
    from explainers.targets import Target
    from explainers.trace import Trace

DRAWN_AT_ONCE = 32
"""Draws that come from one generator: a constant, so that they do not depend on memory."""


@outside_inference_mode
def verify(
    trace: Trace, target: Target, noise: Noise, masks: Tensor, rows: Tensor, n_draws: int = 128
) -> tuple[Tensor, Tensor]:
    """Return distortions of masks by draws that no solver has seen, and their standard errors.

    ``D = mean of 1/2 (t - f(s x + (1-s) n))^2``, unbiased whatever the mode. The draws of a sample
    are the same for all of its masks, so that these can be compared.

    Parameters
    ----------
    trace
        Of the clean samples; of any network.
    target
        What is explained of them.
    noise
        See `noise.resolve`.
    masks
        ``(rows, ...)``, in [0, 1], shaped as the inputs.
    rows
        The sample in the batch that each mask belongs to, int64, ``(rows,)``.
    n_draws
        Of each mask.

    Returns
    -------
    Distortions and standard errors, ``(rows,)`` each; the errors of one draw are NaN.

    Raises
    ------
    TypeError
        If `n_draws` is no whole number.
    ValueError
        If it is below 1, or shapes do not fit.
    """
    numeric.check_whole("n_draws", n_draws)
    clean = Clean(trace, target, noise)
    masks = clean.masks(masks, rows)
    return as_memory_allows(clean.trace.network, lambda: _verified(clean, masks, rows, n_draws))


def _verified(clean: Clean, masks: Tensor, rows: Tensor, n_draws: int) -> tuple[Tensor, Tensor]:
    distortion, error = masks.new_empty(len(masks)), masks.new_empty(len(masks))
    if not len(masks):
        return distortion, error
    limit = forward_rows(clean.trace.network, clean.trace.inputs, _probe(clean.trace))
    for piece in pieces(len(rows), max(1, limit // min(n_draws, DRAWN_AT_ONCE))):
        found = MapMoments.over(_distortions(clean, masks[piece], rows[piece], n_draws, limit))
        distortion[piece], error[piece] = found.mean.to(masks), found.standard_error.to(masks)
    return distortion, error


def _distortions(
    clean: Clean, masks: Tensor, rows: Tensor, n_draws: int, limit: int
) -> Iterator[Tensor]:
    """Yield ``1/2 (t - f)^2`` of some draws, ``(draws, rows)`` in float64."""
    of_rows, draws = clean.at(rows), clean.noise.draws
    samples, positions = torch.unique(rows, return_inverse=True)
    randomness = clean.randomness(samples)
    at_once = max(1, limit // len(rows))
    for first in range(0, n_draws, DRAWN_AT_ONCE):
        n_here = min(DRAWN_AT_ONCE, n_draws - first)
        codes = draws.codes(randomness, f"verify.{first}", n_here)
        codes = codes[positions.to(codes.device)]
        for some in pieces(n_here, at_once):
            points = between(masks, of_rows.inputs, draws.values(codes[:, some]))
            every = rows.repeat_interleave(points.shape[1])
            outputs = outputs_at(clean.trace, points.flatten(0, 1), every)
            yield of_rows.residuals(outputs).double().square().T / 2


def _probe(trace: Trace) -> Callable[[int], object]:
    def probe(n_rows: int) -> None:
        rows = torch.zeros(n_rows, dtype=torch.int64, device=trace.inputs.device)
        outputs_at(trace, trace.inputs[rows], rows)

    return probe
