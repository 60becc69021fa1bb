"""Which neurons cause a class: decided from a tally, with intervals and false discoveries bounded.

Rule ``paired``: a two-sided paired t test of the total effect TE = Y' - Y of each neuron, and among
all neurons of a class and layer the procedure of Benjamini and Hochberg (1995,
doi:10.1111/j.2517-6161.1995.tb02031.x), which bounds the expected share of false discoveries
where the tests are independent or depend positively. Neurons that were screened out have p = 1 and
count, so the bound holds whatever screened them. The t test supposes that mean effects are about
normal. Where effects without a mean are skewed, small samples have false discoveries beyond the
level: of lognormal ones, a share of 0.35 of 20 samples and 0.14 of 100 at level 0.05, by
simulation. Take 100 samples and more, and look at what held-out ones confirm.
Rule ``compat`` is that of the original (arXiv 2305.08950), see `explainers.causal.z_rule`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from explainers.causal import intervals, z_rule
from explainers.causal.decision import HOW, PAIRED, TOO_FEW, Decision, adjusted
from explainers.causal.student import StudentTest

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.base import State

__all__ = ["HOW", "RULES", "Retest", "Selection", "decide", "retest"]

RULES = ("paired", "compat")
"""How neurons may be selected."""


@dataclass(frozen=True, eq=False)
class Selection:
    """What was decided for each class and neuron; float64 ``(classes, neurons)`` if not said.

    Effects, statistic and margin are NaN for neurons that were not tested; these have p = q = 1.
    """

    te: Tensor
    """Mean total effect Y' - Y, logits."""
    te_low: Tensor
    """Lower end of its 95 % bootstrap interval; NaN with too few replicates."""
    te_high: Tensor
    """Upper end."""
    relative: Tensor
    """Mean of Y' / Y - 1."""
    divergence: Tensor
    """Mean of KL(P' || P), nats, at least 0."""
    statistic: Tensor
    """t of the paired test, or z; negative where removal lowers the logit."""
    p: Tensor
    """Probability of as extreme a statistic without an effect, in [0, 1]."""
    q: Tensor
    """p adjusted by Benjamini and Hochberg, in [0, 1]."""
    sign: Tensor
    """int8: 1 a positive cause (removal lowers the logit), -1 a negative one, 0 none."""
    is_borderline: Tensor
    """Bool: what rounding may change of the logits could change the sign."""
    margin: Tensor
    """How far beyond its threshold the statistic is, negative if it is short of it: in units of
    t or z, and of the relative effect where `how` is the fallback."""
    frequency: Tensor
    """Share of the replicates in which the same rule selects the neuron with the same sign, that of
    its mean effect where it is not selected, in [0, 1]; NaN without replicates."""
    replicates: Tensor
    """int8 ``(replicates, classes, neurons)``: the signs that each replicate finds."""
    n: Tensor
    """Samples of each class, int64 ``(classes,)``."""
    how: Tensor
    """int8 ``(classes,)``: 0 paired, 1 z, 2 the original's fallback, 3 too few samples, 4 the
    original's rule for one sample."""


class Retest(NamedTuple):
    """What held-out samples say about what was selected, ``(classes, neurons)``."""

    te: Tensor
    """Mean total effect, logits; NaN where it was not tested again."""
    p: Tensor
    """One-sided, in the direction found before; NaN where it was not tested again."""
    q: Tensor
    """p adjusted over the neurons of a class that were selected; NaN likewise."""
    is_confirmed: Tensor
    """Bool: q is at most the level."""


@torch.no_grad()
def decide(
    state: State,
    *,
    rule: str = "paired",
    level: float = 0.05,
    n_tested_of: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Selection:
    """Decide which neurons are causes.

    Parameters
    ----------
    state
        Tally of one layer (`explainers.causal.tally`).
    rule
        ``"paired"``, or ``"compat"``: the z rule of the original.
    level
        Bound of the false discovery rate of the paired rule; the other has its own thresholds.
    n_tested_of
        Among how many neurons those tested were chosen, by which Benjamini and Hochberg count; all
        that the tally has if None.
    dtype
        In which the network computed the logits: what is rounding follows from it.

    Raises
    ------
    ValueError
        If a parameter is out of range, a neuron was tested on some of its class's samples only, or
        the tally lacks what the rule needs.
    """
    _check(state, rule, level)
    is_tested = state["n"] > 0
    if rule == "compat":
        found = z_rule.decide(state, dtype)
    else:
        found = _paired(state, level, _counted(is_tested, n_tested_of), dtype)
    te = state["te_mean"].masked_fill(~is_tested, torch.nan)
    low, high = intervals.of(state)
    opposed = -te.sign().nan_to_num(0.0).to(torch.int8)
    direction = torch.where(found.sign == 0, opposed, found.sign)
    same = (found.replicates == direction) & (direction != 0)
    return Selection(
        te=te,
        te_low=low,
        te_high=high,
        relative=state["relative_mean"].masked_fill(~is_tested, torch.nan),
        divergence=(state["divergence"] / state["n"].clamp(min=1)).masked_fill(
            ~is_tested, torch.nan
        ),
        statistic=found.statistic.masked_fill(~is_tested, torch.nan),
        p=found.p,
        q=found.q,
        sign=found.sign,
        is_borderline=found.is_borderline,
        margin=found.margin.masked_fill(~is_tested, torch.nan),
        frequency=same.double().mean(0),
        replicates=found.replicates,
        n=state["reference_n"],
        how=found.how,
    )


@torch.no_grad()
def retest(
    state: State, sign: Tensor, level: float = 0.05, *, dtype: torch.dtype = torch.float32
) -> Retest:
    """Test again, on other samples, what was selected.

    Parameters
    ----------
    state
        Tally of the held-out samples.
    sign
        What was selected, ``(classes, neurons)``: `Selection.sign`.
    level
        Bound of the false discovery rate among what was selected.
    dtype
        In which the network computed the logits.
    """
    _check(state, "paired", level)
    test = StudentTest.of(state, dtype)
    is_again = (sign != 0) & test.is_tested & (test.n[:, None] > 1)
    p = test.one_sided(sign).masked_fill(~is_again, torch.inf)
    q = adjusted(p, is_again.sum(1)).masked_fill(~is_again, torch.nan)
    p = p.masked_fill(~is_again, torch.nan)
    te = state["te_mean"].masked_fill(~is_again, torch.nan)
    return Retest(te, p, q, q <= level)


def _paired(state: State, level: float, n_all: int, dtype: torch.dtype) -> Decision:
    test = StudentTest.of(state, dtype)
    p = test.two_sided()
    q = adjusted(p.masked_fill(~test.is_tested, torch.inf), torch.full_like(test.n, n_all))
    selected = q <= level
    thresholds = test.thresholds(level, n_all)  # (classes, neurons), descending
    most, least = test.within_rounding(thresholds)
    return Decision(
        statistic=test.statistic,
        p=p,
        q=q,
        sign=test.signs(selected),
        is_borderline=most & ~least,
        margin=test.margins(thresholds, selected),
        replicates=test.replicates(state, thresholds),
        how=torch.where(test.n < 2, TOO_FEW, PAIRED).to(torch.int8),
    )


def _counted(is_tested: Tensor, n_tested_of: int | None) -> int:
    if n_tested_of is None:
        return is_tested.shape[1]
    if (is_tested.sum(1) > n_tested_of).any():
        raise ValueError(
            f"got n_tested_of={n_tested_of}, expected at least as many neurons as were tested; "
            "leave it out to count all of the layer"
        )
    return n_tested_of


def _check(state: State, rule: str, level: float) -> None:
    if rule not in RULES:
        raise ValueError(f"got rule={rule!r}, expected one of {', '.join(RULES)}")
    if not (math.isfinite(level) and 0 < level < 1):
        raise ValueError(f"got level={level}, expected a number between 0 and 1, such as 0.05")
    counts, n = state["n"], state["reference_n"][:, None]
    if not ((counts == 0) | (counts == n)).all():
        raise ValueError(
            "got neurons that were tested on some samples of their class only, expected all "
            "samples or none; give each class the same `tested` in every batch"
        )
