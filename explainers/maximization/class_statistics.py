"""Which classes a channel scores most for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from explainers import numeric
from explainers.maximization.tables import PER_CLASS, SCORES
from explainers.registry import suggest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.base import Result


def class_statistics(
    result_layer: Mapping[str, Any],
    n_classes: int = 5,
    n_best: int = 10,
    score: str = "sum_normed",
) -> Result:
    """Return, for each channel, the classes with the greatest mean of their best scores.

    The mean is over the `n_best` best samples of a class, or over those that are listed, where they
    are fewer: because a class has no more, or because its lists are shorter (`per_class` of the
    scan); of equal means, the smaller class is first (Achtibat et al. 2023,
    doi:10.1038/s42256-023-00711-8, rank classes so).

    Parameters
    ----------
    result_layer
        What a maximization scan has for a layer, with ``per_class``.
    n_classes
        How many classes.
    n_best
        Over how many samples a mean goes, at most.
    score
        One of `SCORES`.

    Returns
    -------
    Result
        ``class`` (int64) and ``mean``, ``(rank, channel)`` each, best first; -1 and NaN where a
        channel has no further class. There are no more ranks than classes.

    Raises
    ------
    LookupError
        If there are no lists of classes, or no such score.
    """
    numeric.check_whole("n_classes", n_classes)
    numeric.check_whole("n_best", n_best)
    if score not in SCORES:
        raise LookupError(f"got score {score!r}; {suggest(score, SCORES)}")
    if PER_CLASS not in result_layer:
        raise LookupError(
            "got the lists of a layer without those of classes; scan with per_class: true, or make "
            "them from kept scores: of a run with pipeline.maxima.lists, else with "
            "lists_of_matrices"
        )
    classes, values = _values(result_layer[PER_CLASS], score)
    if not len(classes):
        n_channels = result_layer[score]["value"].shape[1]
        empty = torch.empty((0, n_channels))
        return {"class": empty.long(), "mean": empty}
    means = values[:, :n_best].double().nanmean(1)  # (class, channel)
    # The sort is stable and classes ascend.
    found = means.nan_to_num(nan=-torch.inf).sort(dim=0, descending=True, stable=True).indices
    found = found[:n_classes]
    means = means.gather(0, found)
    return {"class": classes[found].masked_fill(means.isnan(), -1), "mean": means.float()}


def _values(by_class: Mapping[Any, Any], score: str) -> tuple[Tensor, Tensor]:
    """Return classes, ascending, and their values, ``(class, rank, channel)``."""
    names = sorted(by_class, key=int)
    values = [torch.as_tensor(by_class[name][score]["value"]) for name in names]
    classes = torch.tensor([int(name) for name in names], dtype=torch.int64)
    return classes, torch.stack(values) if values else torch.empty(0)
