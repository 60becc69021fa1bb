"""Distortion by assumed density filtering: moments of the noise go through the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from explainers.rate_distortion.measured import Measured
from explainers.rules.moments.carrying import carry, check
from explainers.rules.moments.forms import Form
from explainers.sampling.chunks import pieces

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.noise import Noise
    from explainers.targets import Target
    from explainers.trace import Trace


class AssumedDensity(Measured):
    """``1/2 [(E f(y) - t)^2 + Var f(y)]``, with moments as the rule table ``moments`` has them.

    Of ``y = s x + (1 - s) n`` the mean is ``s x + (1 - s) E n``, a variance ``(1 - s)^2`` times and
    each row of a factor ``(1 - s)`` times that of the noise (Macdonald et al. 2019,
    arXiv:1905.11092). How far it is from the distortion that is meant, `verifying` says.

    Parameters
    ----------
    trace
        Of the clean samples.
    target
        What is explained of them.
    noise
        See `noise.resolve`, whose mode says which moments go through the network.

    Raises
    ------
    NotImplementedError
        If the network is not a program, or has an operator without a rule.
    ValueError
        If the noise is that of another input.
    """

    def __init__(self, trace: Trace, target: Target, noise: Noise) -> None:
        is_diag = noise.mode == "diag"
        n_factors = 1 if is_diag else len(noise.spread)
        # of each row its mean, and its variance or factors
        self.n_maps = 1 + n_factors
        super().__init__(trace, target, noise, self.n_maps)
        kind: Literal["variance", "factor"] = "variance" if is_diag else "factor"
        network = self._clean.trace.network
        self._form = Form(kind, network, n_factors, is_smooth=True)
        check(network, kind)

    def _with_gradients(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = masks.new_empty(len(masks)), torch.empty_like(masks)
        for piece in self._pieces(len(masks)):
            leaf = masks[piece].clone().requires_grad_()
            with torch.enable_grad():
                distortion = self._distortion(leaf, rows[piece])
                # here, too: solvers call without gradients
                total = distortion.sum()
            (gradients[piece],) = torch.autograd.grad(total, leaf)
            values[piece] = distortion.detach()
        return values, gradients

    def _values(self, masks: Tensor, rows: Tensor) -> Tensor:
        values = masks.new_empty(len(masks))
        for piece in self._pieces(len(masks)):
            values[piece] = self._distortion(masks[piece], rows[piece])
        return values

    def _pieces(self, n_rows: int) -> list[slice]:
        return list(pieces(n_rows, self._budget.n_rows)) if n_rows else []

    def _distortion(self, masks: Tensor, rows: Tensor) -> Tensor:
        clean, carried = self._clean.at(rows), self._clean.carried(rows)
        mean, spread = obfuscated(masks, clean.inputs, self._noise)
        network = self._clean.trace.network
        found = carry(network, mean, spread, self._form, carried=carried)
        output = found[network.output_name]
        bias = (output.mean * clean.weights).sum(1) - clean.selected
        return 0.5 * (bias.square() + self._variance(output.spread, clean.weights))

    def _variance(self, spread: Tensor | None, weights: Tensor) -> Tensor:
        """Return the variance of the weighted sum of outputs, ``(rows,)``."""
        if spread is None:
            return weights.new_zeros(len(weights))
        if self._form.kind == "variance":
            return (spread * weights.square()).sum(1)
        apart = spread.reshape(len(weights), -1, weights.shape[1])  # (rows, K, classes)
        return (apart @ weights.unsqueeze(2)).square().sum((1, 2))


def obfuscated(masks: Tensor, inputs: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return mean and spread of ``s x + (1 - s) n``, as the rule table ``moments`` takes them.

    Parameters
    ----------
    masks
        ``s``, ``(rows, ...)``.
    inputs
        ``x``, ``(rows, ...)``.
    noise
        ``n``.

    Returns
    -------
    The mean ``(rows, ...)``, and the variance ``(rows, ...)`` in mode `diag`, else the factor
    ``(rows * K, ...)`` with the K rows of a sample together.
    """
    lost = 1 - masks
    mean = torch.lerp(inputs, noise.mean.expand_as(inputs), lost)
    if noise.mode == "diag":
        return mean, lost.square() * noise.spread
    return mean, (lost.unsqueeze(1) * noise.spread).flatten(0, 1)
