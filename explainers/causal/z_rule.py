"""The rule of the original: an unpaired one-sided z test of each neuron, and a fallback.

Of N samples with interventions and, if there is one more, N + 1 without (arXiv 2305.08950, as its
authors implement it): with mean m and deviation s (ddof 1) of the logit under an intervention, and
M and S of the reference, a neuron is a cause if ``m < M - 1.65 sqrt(s^2 / N + S^2 / N)``. Where no
neuron is, all with a mean relative effect below -0.001 are. Of a single sample those are whose
relative effect is below 0.05, which most are. Nothing corrects for the number of tests, and only
neurons whose removal lowers the logit are causes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.causal.decision import FALLBACK, ONE, TOO_FEW, Decision, Z, adjusted, rounding

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.base import State

QUANTILE = 1.65
"""In standard errors."""
RELATIVE = -0.001
"""Mean relative effect below which the fallback selects."""
RELATIVE_OF_ONE = 0.05
"""The same of a single sample; the sign is the original's."""


def decide(state: State, dtype: torch.dtype) -> Decision:
    """Return what the original selects.

    Raises
    ------
    ValueError
        If the tally was not made with ``is_compat=True``.
    """
    if "wider_n" not in state:
        raise ValueError(
            "got a tally without what the rule 'compat' needs, expected one made by "
            "empty(..., is_compat=True)"
        )
    n, is_tested = state["reference_n"], state["n"] > 0
    excess, z, z_doubt = _excess(state, dtype)
    rule = _Rule(n[:, None], is_tested)
    selected, is_z = rule.selected(excess, state["relative_mean"])
    p = torch.special.ndtr(z).nan_to_num(1.0).masked_fill(~is_tested, 1.0)
    how = torch.where(is_z, Z, FALLBACK).masked_fill(n == 1, ONE).masked_fill(n == 0, TOO_FEW)
    by_relative = rule.bound - state["relative_mean"]
    return Decision(
        statistic=z,
        p=p,
        q=adjusted(p.masked_fill(~is_tested, torch.inf), torch.full_like(n, p.shape[1])),
        sign=selected.to(torch.int8),
        is_borderline=_borderline(state, rule, excess, z_doubt, dtype),
        margin=torch.where(is_z[:, None], -QUANTILE - z, by_relative),
        replicates=_replicates(state, rule),
        how=how.to(torch.int8),
    )


@dataclass(frozen=True, eq=False)
class _Rule:
    n: Tensor
    """Samples, ``(classes, 1)``, or more axes behind the first."""
    is_tested: Tensor

    @property
    def bound(self) -> Tensor:
        """Below which the relative effect selects, where it does."""
        return torch.where(self.n == 1, RELATIVE_OF_ONE, RELATIVE)

    def selected(self, excess: Tensor, relative: Tensor) -> tuple[Tensor, Tensor]:
        """Return who is selected, and for which classes the z test did it.

        Parameters
        ----------
        excess
            By how much the mean logit is above the threshold of the z test, ``(..., neurons)``.
        relative
            Mean relative effects.
        """
        by_z = (excess < 0) & self.is_tested & (self.n > 1)
        by_relative = (relative < self.bound) & self.is_tested
        is_z = by_z.any(-1)
        return torch.where(is_z[..., None], by_z, by_relative), is_z


def _excess(state: State, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return m less the threshold, z, and by how much rounding may move the former."""
    n = state["reference_n"][:, None]
    degrees = (n - 1).clamp(min=1)
    variance = state["logit_m2"] / degrees
    wider = (state["wider_m2"] / (state["wider_n"] - 1).clamp(min=1))[:, None]
    error = ((variance + wider) / n.clamp(min=1)).sqrt()
    difference = state["logit_mean"] - state["wider_mean"][:, None]
    z = torch.where(difference == 0, 0.0, difference / error).masked_fill(n < 2, torch.nan)
    # m and M move by d each, s and S by up to d sqrt(n / (n - 1)) each
    doubt = rounding(state["reference_max"][:, None], dtype)
    return difference + QUANTILE * error, z, doubt * (2 + QUANTILE * (2 / degrees).sqrt())


def _borderline(
    state: State, rule: _Rule, excess: Tensor, z_doubt: Tensor, dtype: torch.dtype
) -> Tensor:
    low, high = _within_rounding(state, dtype)
    lenient, is_z = rule.selected(excess - z_doubt, low)
    strict, is_still_z = rule.selected(excess + z_doubt, high)
    # where the test might select or not, what the fallback selects may be the outcome as well
    is_open = (is_z & ~is_still_z)[:, None]
    fallback, _ = rule.selected(torch.full_like(excess, torch.inf), low)
    return torch.where(is_open, lenient | fallback, lenient & ~strict)


def _within_rounding(state: State, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the least and the largest mean relative effect that rounding could lead to.

    Moving TE and Y by up to d moves TE / Y by up to ``d / |Y| (1 + |TE / Y|)`` to first order. The
    mean of that is at most ``d r (1 + s)`` with r and s the roots of the mean squares of 1 / Y and
    of TE / Y (Cauchy and Schwarz). Where a logit is 0 there is no bound.
    """
    relative, n = state["relative_mean"], state["reference_n"].clamp(min=1)[:, None]
    inverse = (state["reference_inverse2"][:, None] / n).sqrt()
    size = (state["relative_m2"] / n + relative.square()).sqrt()
    doubt = rounding(state["reference_max"][:, None], dtype) * inverse * (1 + size)
    doubt = doubt.nan_to_num(torch.inf, torch.inf)
    is_open = doubt.isinf()
    return (
        (relative - doubt).masked_fill(is_open, -torch.inf),
        (relative + doubt).masked_fill(is_open, torch.inf),
    )


def _replicates(state: State, rule: _Rule) -> Tensor:
    """Return the rule's signs for bootstrap replicates, ``(replicates, classes, neurons)``."""
    if state["drawn_te"].numel() == 0:
        return state["drawn_te"].to(torch.int8).transpose(0, 1)
    drawn = state["drawn"][..., None]
    n, n_wider = state["reference_n"][:, None, None], state["wider_n"][:, None, None]
    mean, variance = _weighted(drawn, state["drawn_logit"], state["drawn_logit2"], n)
    wider_mean, wider = _weighted(
        state["wider_drawn"][..., None],
        state["wider_drawn_logit"][..., None],
        state["wider_drawn_logit2"][..., None],
        n_wider,
    )
    error = ((variance + wider) / n.clamp(min=1)).sqrt_()
    excess = mean - wider_mean + QUANTILE * error
    per_replicate = _Rule(n, rule.is_tested[:, None])
    selected, _ = per_replicate.selected(excess, state["drawn_relative"] / drawn)
    return selected.to(torch.int8).transpose(0, 1)


def _weighted(drawn: Tensor, total: Tensor, squares: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance (ddof 1) with weights that are scaled to sum to n."""
    mean = total / drawn
    spread = (squares / drawn - mean.square()).clamp(min=0)
    return mean, spread * n / (n - 1).clamp(min=1)
