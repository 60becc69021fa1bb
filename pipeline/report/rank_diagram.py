"""Critical difference diagrams: mean ranks on a line, bars over what cannot be told apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.report import figures, formats

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from pipeline.agreement import Ranking

_LINE = 440
"""Length of the line of ranks."""
_LETTER, _BESIDE = 6.6, 24
"""Width that a letter of a name may take, and of what is between a name and the line."""
_TICK = 28
"""Least distance of two ticks."""
_AXIS, _ROW, _BAR = 52, 22, 9


def _margins(ranking: Ranking) -> tuple[float, float]:
    """Return the pixels left and right of the line that the longest names there take."""
    labels = [_label(ranking, place) for place in range(len(ranking.explainers))]
    half = (len(labels) + 1) // 2
    left, right = (max(map(len, some)) for some in (labels[:half], labels[half:]))
    return _BESIDE + _LETTER * left, _BESIDE + _LETTER * right


def width(ranking: Ranking) -> float:
    """Return the width of the diagram in pixels of the page."""
    return sum(_margins(ranking)) + _LINE


def draw(ranking: Ranking, title: str) -> Markup:
    """Return the diagram of Demsar (2006): the best at the left, names on both sides."""
    n = len(ranking.explainers)
    bars = ranking.bars()
    first = _AXIS + 18 + _BAR * len(bars)
    height = first + _ROW * ((n + 1) // 2) + 2
    with figures.style():
        made, axes = figures.figure(width(ranking), height)
        made.set_layout_engine("none")  # or names would take their place from the line
        left, right = _margins(ranking)
        axes.set_position((0, 0, 1, 1))
        axes.set(xlim=(-left, _LINE + right), ylim=(height, 0))
        axes.set_axis_off()
        _scale(axes, n)
        if ranking.is_told_apart:
            _difference(axes, ranking)
        for level, (start, stop) in enumerate(bars):
            ends = [_x(ranking.test.mean_ranks[place], n) for place in (start, stop)]
            y = _AXIS + 12 + _BAR * level
            axes.plot([ends[0] - 3, ends[1] + 3], [y, y], color=figures.ACCENT, linewidth=4)
        for place in range(n):
            _named(axes, ranking, place, first)
        return figures.markup(made, title, _in_words(ranking))


def _x(rank: float, n: int) -> float:
    return _LINE * (rank - 1) / (n - 1)


def _scale(axes: Axes, n: int) -> None:
    axes.plot([0, _LINE], [_AXIS, _AXIS], color=figures.INK, linewidth=1.2)
    step = math.ceil(_TICK * (n - 1) / _LINE)
    for rank in range(1, n + 1, step):
        x = _x(rank, n)
        axes.plot([x, x], [_AXIS - 5, _AXIS], color=figures.INK, linewidth=1.2)
        axes.text(x, _AXIS - 9, str(rank), ha="center", va="bottom", size=12)


def _difference(axes: Axes, ranking: Ranking) -> None:
    """Draw the length of the critical difference above the line."""
    length = ranking.test.critical_difference
    n = len(ranking.explainers)
    stop = _x(1 + min(length, n - 1), n)
    axes.plot([0, stop], [15, 15], color=figures.ACCENT, linewidth=2)
    text = f"critical difference {length:.2f}"
    axes.text(stop + 8, 15, text, ha="left", va="center", size=12)


def _named(axes: Axes, ranking: Ranking, place: int, first: float) -> None:
    """Draw the line from a mean rank to its name: the better half left, the others right."""
    n = len(ranking.explainers)
    is_left = place < (n + 1) // 2
    y = first + _ROW * (place if is_left else n - 1 - place) + _ROW / 2
    x, edge = _x(ranking.test.mean_ranks[place], n), -14 if is_left else _LINE + 14
    axes.plot([x, x, edge], [_AXIS, y, y], color=figures.FAINT, linewidth=1)
    axes.plot([x], [_AXIS], marker="o", markersize=5, color=figures.INK)
    axes.text(
        edge - 5 if is_left else edge + 5,
        y,
        _label(ranking, place),
        ha="right" if is_left else "left",
        va="center",
        color=figures.INK,
        size=12,
    )


def _label(ranking: Ranking, place: int) -> str:
    """Return name and mean rank; the rank is beside the line."""
    words = [ranking.explainers[place], formats.number(ranking.test.mean_ranks[place], 3)]
    is_left = place < (len(ranking.explainers) + 1) // 2
    return "  ".join(words if is_left else reversed(words))


def _in_words(ranking: Ranking) -> str:
    pairs = zip(ranking.explainers, ranking.test.mean_ranks, strict=True)
    ranks = ", ".join(f"{name} {rank:.2f}" for name, rank in pairs)
    if not ranking.is_told_apart:
        return f"Mean ranks: {ranks}. They cannot be told apart."
    groups = [", ".join(ranking.explainers[start : stop + 1]) for start, stop in ranking.bars()]
    alike = f" Not told apart: {'; '.join(groups)}." if groups else ""
    return f"Mean ranks: {ranks}.{alike}"
