"""Screening: which neurons are verified exactly, and how many of those that count it finds.

Neurons are ranked by first-order estimates; the strongest are verified by exact interventions, and
so are some of the others, drawn at random. What is selected among the drawn ones says how many were
missed: that is measured in every run, in place of being believed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.sampling.counted import seed_of, word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

FEWEST = 4
"""Neurons of a class and layer that are audited, if there are so many besides the strongest."""

State = dict[str, "torch.Tensor"]


def empty(n_classes: int, n_neurons: int) -> State:
    """Return sums of no estimates."""
    return {
        "count": torch.zeros(n_classes, dtype=torch.int64),
        "sum": torch.zeros(n_classes, n_neurons, dtype=torch.float64),
        "squares": torch.zeros(n_classes, n_neurons, dtype=torch.float64),
    }


def added(state: State, member: Tensor, estimates: Tensor) -> State:
    """Return the sums with estimates of further rows.

    Parameters
    ----------
    state
        So far.
    member
        Position of each row's class, int64 ``(rows,)``; rows of -1 do not count.
    estimates
        ``(rows, n_neurons)``.
    """
    kept = (member >= 0).nonzero()[:, 0]
    member = member[kept].to(state["sum"].device)
    estimates = estimates[kept.to(estimates.device)].double().to(state["sum"].device)
    return {
        "count": state["count"] + torch.bincount(member, minlength=len(state["count"])),
        "sum": state["sum"].index_add(0, member, estimates),
        "squares": state["squares"].index_add(0, member, estimates.square()),
    }


def merged(left: State, right: State) -> State:
    """Return the sums over what both have seen."""
    return {name: left[name] + right[name] for name in left}


def moments(state: State) -> tuple[Tensor, Tensor]:
    """Return mean and standard error of the estimates, float64 ``(classes, n_neurons)``.

    Both are 0 where there is no row; the standard error also where there is one.
    """
    count = state["count"].double()[:, None]
    mean = state["sum"] / count.clamp(min=1)
    scatter = (state["squares"] - count * mean.square()).clamp_(min=0)
    return mean, (scatter / (count * (count - 1)).clamp(min=1)).sqrt()


def strength(mean: Tensor, error: Tensor) -> Tensor:
    """Return by what neurons are ranked: ``|mean| / standard error``, by which tests select them.

    Nothing (0) where the mean is zero, and infinite where it is not but all estimates are the same.
    """
    return torch.where(mean == 0, 0.0, mean.abs() / error)


@dataclass(frozen=True, eq=False)
class Chosen:
    """The neurons of a layer that are verified, for each class."""

    verified: Tensor
    """Bool ``(classes, n_neurons)``."""
    audited: Tensor
    """Bool ``(classes, n_neurons)``: those of them that were drawn from what is not strongest."""
    share: Tensor
    """Float64 ``(classes,)``: of what is not strongest, how much was drawn; 1 where nothing is
    left over."""

    @property
    def n_audited(self) -> Tensor:
        """How many were drawn, int64 ``(classes,)``."""
        return self.audited.sum(1)


def chosen(
    strengths: Tensor,
    *,
    screening: float,
    audit: float,
    seed: int,
    layer: str,
    classes: Sequence[int],
) -> Chosen:
    """Return the strongest neurons of each class, and some of the others.

    Parameters
    ----------
    strengths
        ``(classes, n_neurons)``; of equal ones the first neuron counts as stronger.
    screening
        Share of the neurons that are the strongest, 0 to 1, rounded up.
    audit
        Share of the others that are drawn besides, rounded up, `FEWEST` at least; with 0 none are.
    seed
        Of the run; a class draws the same with any others beside it.
    layer
        Its name, part of the seed.
    classes
        Numbers of the classes, in the order of the rows.
    """
    strengths = strengths.cpu()
    n_classes, n_neurons = strengths.shape
    n_strongest = min(n_neurons, math.ceil(screening * n_neurons - 1e-9))
    n_left = n_neurons - n_strongest
    n_drawn = min(n_left, max(FEWEST, math.ceil(audit * n_left))) if audit else 0
    order = strengths.argsort(dim=1, descending=True, stable=True)
    strongest = torch.zeros(n_classes, n_neurons, dtype=torch.bool)
    strongest.scatter_(1, order[:, :n_strongest], True)
    lots = word(_seeds(seed, layer, classes)[:, None], torch.arange(n_neurons)[None])
    lots = lots.masked_fill(strongest, torch.iinfo(torch.int64).max)
    audited = torch.zeros_like(strongest)
    audited.scatter_(1, lots.argsort(dim=1, stable=True)[:, :n_drawn], True)
    share = n_drawn / n_left if n_left else 1.0
    shares = torch.full((n_classes,), share, dtype=torch.float64)
    return Chosen(strongest | audited, audited, shares)


def _seeds(seed: int, layer: str, classes: Sequence[int]) -> Tensor:
    return torch.tensor([seed_of(f"{seed}\0audit\0{layer}\0{one}") for one in classes])


def recall(selected: Tensor, chosen: Chosen) -> Tensor:
    """Return which share of the neurons that exact tests select was among the strongest.

    ``S / (S + A / share)`` with S selected neurons among the strongest and A among the audited, of
    which each stands for ``1 / share`` of those that were left: an estimate of what would have been
    found without screening, at the thresholds that were used.

    Parameters
    ----------
    selected
        Bool ``(classes, n_neurons)``, of exact tests.
    chosen
        What was verified.

    Returns
    -------
    Tensor
        Float64 ``(classes,)``, 0 to 1; NaN where nothing was selected, or some neurons were left
        over and none of them was audited.
    """
    selected, audited = selected.cpu(), chosen.audited
    found = (selected & chosen.verified & ~audited).sum(1).double()
    missed = (selected & audited).sum(1) / chosen.share
    is_known = chosen.share > 0
    return torch.where(is_known, found / (found + missed), torch.nan)


def recall_of_strongest(strengths: Tensor, chosen: Chosen) -> Tensor:
    """Return which share of the K truly strongest neurons was among the K that were verified.

    K is how many are verified for their estimates, so that this says how good the order is: it can
    be 1 where many more neurons than K are selected by exact tests, and `recall` is then low. From
    the strongest on, neurons are counted until there are K, an audited one ``1 / share`` times.

    Parameters
    ----------
    strengths
        Of exact effects, ``(classes, n_neurons)``, ranked as the estimates were; read where they
        were verified.
    chosen
        What was verified.

    Returns
    -------
    Tensor
        Float64 ``(classes,)``, 0 to 1; NaN where nothing was verified for its estimate, or some
        neurons were left over and none of them was audited.
    """
    is_strongest = chosen.verified & ~chosen.audited
    weight = torch.where(is_strongest, 1.0, chosen.audited / chosen.share[:, None]).double()
    order = (
        strengths.cpu()
        .double()
        .masked_fill(~chosen.verified, -1)
        .argsort(dim=1, descending=True, stable=True)
    )
    weight, is_strongest = weight.gather(1, order), is_strongest.gather(1, order)
    wanted = is_strongest.sum(1, keepdim=True)
    counted = (wanted - (weight.cumsum(1) - weight)).clamp(min=0).minimum(weight)
    share = (counted * is_strongest).sum(1) / wanted[:, 0]
    return torch.where(chosen.share > 0, share, torch.nan)


def correlation(estimates: Tensor, exact: Tensor, where: Tensor) -> Tensor:
    """Return Spearman's rank correlation of estimated and exact effects, equal values tied.

    Parameters
    ----------
    estimates, exact
        Means, ``(classes, n_neurons)``.
    where
        Bool ``(classes, n_neurons)``: the neurons that count.

    Returns
    -------
    Tensor
        Float64 ``(classes,)``, -1 to 1; NaN where fewer than two count, or all are equal.
    """
    where = where.cpu()
    left, right = (_centred_ranks(part.cpu().double(), where) for part in (estimates, exact))
    spread = left.square().sum(1) * right.square().sum(1)
    return torch.where(spread > 0, (left * right).sum(1) / spread.sqrt(), torch.nan)


def _centred_ranks(values: Tensor, where: Tensor) -> Tensor:
    """Return ranks less their mean, those of equal values averaged; 0 where none is counted."""
    values = values.masked_fill(~where, torch.inf)  # behind all that count
    ordered = values.sort(1).values
    first = torch.searchsorted(ordered, values)
    last = torch.searchsorted(ordered, values, right=True)
    doubled = first + last - where.sum(1, keepdim=True)
    return torch.where(where, doubled.double() / 2, 0.0)
