"""Exact moments of groups of samples, and their merge (Chan, Golub, LeVeque 1979).

A table holds one row per group, sorted by label: ``label`` and ``count`` (group,) int64; ``mean``,
``squares`` (the sum of squared deviations), ``minimum`` and ``maximum`` (group, ...) float64; and
``scatter`` (group, d, d), the sum of outer products of deviations, where it was asked for. The
table without groups has ``label`` and ``count`` alone and is neutral.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.base import Result, State

NEUTRAL = {"minimum": float("inf"), "maximum": float("-inf")}
"""What a group without samples holds; zero for everything else."""


def empty() -> State:
    """Return the table without groups."""
    return {name: torch.zeros(0, dtype=torch.int64) for name in ("label", "count")}


def table(groups: Mapping[int, tuple[int, State]]) -> State:
    """Return the table of some groups.

    Parameters
    ----------
    groups
        Label to the number of samples, at least one, and their statistics.
    """
    if not groups:
        return empty()
    labels = sorted(groups)
    counts = torch.tensor([groups[label][0] for label in labels])
    names = groups[labels[0]][1]
    stacked = {name: torch.stack([groups[label][1][name] for label in labels]) for name in names}
    return {"label": torch.tensor(labels), "count": counts, **stacked}


def merge(left: State, right: State) -> State:
    """Return the table of the samples of both.

    Neutral elements change no bit; the order of the operands changes rounding only.
    """
    if not len(left["label"]) or not len(right["label"]):
        return dict(left if len(left["label"]) else right)
    labels = torch.unique(torch.cat([left["label"], right["label"]]))
    left, right = _aligned(left, labels), _aligned(right, labels)
    count = left["count"] + right["count"]
    share = right["count"].double() / count  # exactly 0 or 1 where one side has no sample
    weight = left["count"] * share
    delta = right["mean"] - left["mean"]
    merged = {
        "label": labels,
        "count": count,
        "mean": left["mean"] + delta * _column(share, delta),
        "squares": left["squares"] + right["squares"] + delta.square() * _column(weight, delta),
        "minimum": torch.minimum(left["minimum"], right["minimum"]),
        "maximum": torch.maximum(left["maximum"], right["maximum"]),
    }
    if "scatter" in left:
        outer = torch.einsum("gi,gj,g->gij", delta.flatten(1), delta.flatten(1), weight)
        merged["scatter"] = left["scatter"] + right["scatter"] + outer
    return merged


def total(groups: State) -> State:
    """Return the table of all samples as one group with label -1."""
    result = empty()
    for row in range(len(groups["label"])):
        group = {name: values[row : row + 1] for name, values in groups.items()}
        group["label"] = torch.full_like(group["label"], -1)
        result = merge(result, group)
    return result


def moments(groups: State) -> Result:
    """Return count, mean, variance, minimum, maximum and, if held, covariance of each group.

    Variance and covariance divide by ``count - 1``: they are NaN for a group of one sample.
    """
    count = groups["count"]
    degrees = (count - 1).double()
    result: Result = {
        "count": count,
        "mean": groups["mean"],
        "variance": groups["squares"] / _column(degrees, groups["squares"]),
        "min": groups["minimum"],
        "max": groups["maximum"],
    }
    if "scatter" in groups:
        result["covariance"] = groups["scatter"] / _column(degrees, groups["scatter"])
    return result


def _aligned(groups: State, labels: Tensor) -> State:
    positions = torch.searchsorted(labels, groups["label"])
    aligned: State = {"label": labels}
    for name, values in groups.items():
        if name != "label":
            shape = (len(labels), *values.shape[1:])
            aligned[name] = values.new_full(shape, NEUTRAL.get(name, 0))
            aligned[name][positions] = values
    return aligned


def _column(per_group: Tensor, like: Tensor) -> Tensor:
    return per_group.reshape(-1, *[1] * (like.dim() - 1))
