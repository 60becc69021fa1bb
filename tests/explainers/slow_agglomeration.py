"""The published agglomeration of a picture, written out cell by cell, component by component.

Singh, Murdoch and Yu 2019, arXiv:1806.05337, and what their code adds to the paper: the percentile
that is lowered, smoothing, ids that correspond, and the merging of what is left. Not done as there:
components may have any number of ids, and merging serves every score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.bool_]
Score = Callable[[Cells], Any]
Labels = NDArray[np.int64]
SIDES = ((-1, 0), (1, 0), (0, -1), (0, 1))


def agglomerate(
    score: Score,
    shape: tuple[int, int],
    target: int,
    percentile: float,
    n_iterations: int,
    *,
    smooth: bool = True,
) -> tuple[list[Labels], list[dict[int, Any]]]:
    """Return labels and scores of each level, first those of growth."""
    track = np.empty(shape)
    for place in np.ndindex(shape):
        alone = np.zeros(shape, dtype=bool)
        alone[place] = True
        track[place] = score(alone)[target]
    chosen = over(track, percentile)
    labels: list[Labels] = []
    scores: list[dict[int, Any]] = []
    for step in range(n_iterations):
        found = flooded(chosen)
        labels.append(found if step == 0 else matched(labels[-1], found))
        scores.append({})
        for number in sorted(set(labels[-1].flatten().tolist()) - {0}):
            cells = labels[-1] == number
            scores[-1][number] = score(cells)
            for place in np.ndindex(shape):
                if not cells[place] and any(cells[beside] for beside in sides(place, shape)):
                    union = cells.copy()
                    union[place] = True
                    gained = score(union) - scores[-1][number]
                    track[place] = gained[target]
        track[chosen] = np.nan
        chosen = chosen | over(track, percentile)
        if smooth:
            counts = [sum(chosen[at] for at in sides(place, shape)) for place in np.ndindex(shape)]
            chosen = chosen | (np.reshape(counts, shape) >= 3)
    while len(scores[-1]) > 1:
        merge(score, target, labels, scores)
    return labels, scores


def merge(
    score: Score,
    target: int,
    labels: list[Labels],
    scores: list[dict[int, Any]],
) -> None:
    before, known = labels[-1], scores[-1]
    best, pair = -np.inf, (0, 0)
    for one in sorted(known):
        for other in sorted(known):
            if one < other:
                union = score((before == one) | (before == other))
                gain = union[target] - max(known[one][target], known[other][target])
                if gain > best:
                    best, pair = gain, (one, other)
    labels.append(np.where(before == pair[1], pair[0], before))
    merged = score(labels[-1] == pair[0])
    scores.append({number: own for number, own in known.items() if number != pair[1]})
    scores[-1][pair[0]] = merged


def over(scores: NDArray[np.float64], percentile: float) -> Cells:
    if np.isnan(scores).sum() > scores.size / 3:
        percentile -= 15
    threshold = np.nanpercentile(scores, percentile)
    return np.greater_equal(scores, threshold, where=~np.isnan(scores), out=np.isinf(scores))


def sides(place: tuple[int, ...], shape: tuple[int, int]) -> list[tuple[int, int]]:
    row, column = place
    beside = [(row + down, column + right) for down, right in SIDES]
    return [(r, c) for r, c in beside if 0 <= r < shape[0] and 0 <= c < shape[1]]


def flooded(chosen: Cells) -> Labels:
    """Return components that touch at sides or corners, in the order of their first cells."""
    labels = np.zeros(chosen.shape, dtype=np.int64)
    number = 0
    for first in np.argwhere(chosen):
        if labels[tuple(first)]:
            continue
        number += 1
        left = [tuple(first)]
        while left:
            row, column = left.pop()
            if labels[row, column]:
                continue
            labels[row, column] = number
            around = np.argwhere(chosen & (labels == 0))
            left += [tuple(at) for at in around if max(abs(at - (row, column))) == 1]
    return labels


def matched(before: Labels, after: Labels) -> Labels:
    found = np.zeros_like(after)
    new = []
    for number in range(1, after.max() + 1):
        held = set(before[after == number]) - {0}
        if held:
            found[after == number] = min(held)
        else:
            new.append(number)
    for number in reversed(new):
        free = min(set(range(1, found.size + 1)) - set(found.flat))
        found[after == number] = free
    return found
