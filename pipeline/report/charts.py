"""Charts of a run: lines with bands, and how values are spread; see `figures` for their colours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Polygon
from matplotlib.ticker import MaxNLocator

from pipeline.report import figures
from pipeline.report.formats import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

N_COLOURS = len(figures.SERIES)
"""Series colours that the style sheet knows; the bands of more lines would hide each other."""
CONTROL = -1
"""Colour of a line that explainers are compared with."""
N_DASHES = 4
"""Ways to break a line, for series beyond the colours."""
_DASHES = ("solid", (0, (7, 3)), (0, (2.5, 2.5)), (0, (9, 3, 2, 3)))
_DOTTED = (0, (1, 4))
_BAND = 0.15
"""Opacity of bands."""
_SLACK = 0.01
"""Of the height, above and below what is drawn."""
_MOST_DESCRIBED = 12
"""Lines whose ends are told to who does not see a chart."""


@dataclass(frozen=True)
class Series:
    """One line with its band."""

    name: str
    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    colour: int
    """Index of the colour; from `N_COLOURS` on, colours come again on broken lines. `CONTROL` for
    that of a control."""


def lines(
    x: NDArray[np.float64],
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    title: str = "",
    x_names: Sequence[str] = (),
) -> Markup:
    """Return a chart of the series over their common `x`.

    Parameters
    ----------
    x
        Where the values are, ``(steps,)``.
    series
        Lines; the last is drawn on top.
    x_label, y_label
        What the axes are.
    title
        What it shows, for who does not see it; the labels if not given.
    x_names
        What the places are called, if they are no numbers, as many as there are.
    """
    with figures.style():
        figure, axes = figures.figure()
        _axes(axes, x, series, x_names)
        axes.set(xlabel=x_label, ylabel=y_label)
        for each in series:
            _band(axes, x, each)
        for each in series:
            (line,) = axes.plot(x, each.values, **_pen(each.colour))
            figures.name(line, each.name, f"line {look(each.colour)}")
        title = title or f"{y_label} over {x_label}"
        return figures.markup(figure, title, _described(x, series, x_label, x_names))


def has_bands(series: Sequence[Series]) -> bool:
    """Whether `lines` draws any band: one is where its ends are known."""
    return any(_has_band(each) for each in series)


def histogram(
    values: Mapping[str, NDArray[np.float64]],
    colours: Mapping[str, int],
    x_label: str,
    title: str,
    *,
    is_logarithmic: bool = False,
    n_bins: int = 40,
) -> Markup:
    """Return how the values of each series are spread, as the share of them in each bin.

    Parameters
    ----------
    values
        Name to finite values, at least one in all.
    colours
        Name to what `Series.colour` is.
    x_label
        What the values are.
    title
        What it shows, for who does not see it.
    is_logarithmic
        Whether bins are equal in the logarithm; values up to zero then count as the least.
    n_bins
        Number of bins over the range of all values.
    """
    edges = _edges(np.concatenate(list(values.values())), n_bins, is_logarithmic=is_logarithmic)
    with figures.style():
        figure, axes = figures.figure(640, 260)
        if is_logarithmic:
            axes.set_xscale("log")
            axes.tick_params(which="minor", bottom=False)
        for name, found in values.items():
            counts, _ = np.histogram(np.clip(found, edges[0], edges[-1]), edges)
            share = counts / max(1, len(found))
            outline = axes.stairs(share, edges, baseline=0, **_pen(colours[name]))
            figures.name(outline, name, f"line {look(colours[name])}")
        axes.set(xlabel=x_label, ylabel="share of samples", xlim=(edges[0], edges[-1]))
        axes.set_ylim(bottom=0)
        if is_logarithmic:
            _power_ticks(axes, edges)
        return figures.markup(figure, title, _medians(values))


def look(colour: int) -> str:
    """Return the classes of the style sheet for the line, or the key, of a series."""
    if colour == CONTROL:
        return "control"
    return f"c{colour % N_COLOURS} d{colour // N_COLOURS % N_DASHES}"


def _pen(colour: int) -> dict[str, Any]:
    """Return how a series is drawn."""
    if colour == CONTROL:
        return {"color": figures.INK, "linestyle": _DOTTED, "linewidth": 1.5}
    dashes = _DASHES[colour // N_COLOURS % N_DASHES]
    return {"color": figures.SERIES[colour % N_COLOURS], "linestyle": dashes, "linewidth": 2.25}


def _axes(
    axes: Axes, x: NDArray[np.float64], series: Sequence[Series], x_names: Sequence[str]
) -> None:
    every = np.concatenate([np.concatenate([s.low, s.high, s.values]) for s in series])
    every = every[np.isfinite(every)]
    y_ticks, y_limits = _upright(min(float(every.min()), 0.0), float(every.max()))
    if x_names:
        slant = 0 if max(map(len, x_names)) * len(x_names) < 80 else 35
        axes.set_xticks(x, labels=x_names, rotation=slant, rotation_mode="anchor")
        for label in axes.get_xticklabels() if slant else ():
            label.set_horizontalalignment("right")
    else:
        is_whole = bool((x == np.rint(x)).all())  # there is nothing between steps
        x_ticks = _within(_ticks(float(x.min()), float(x.max()), is_whole=is_whole), x)
        axes.set_xticks(x_ticks, labels=_texts(x_ticks))
    axes.set_yticks(y_ticks, labels=_texts(y_ticks))
    # of a single step there is no line, but there are its ends
    margin = 0.0 if x.max() > x.min() else 0.5
    axes.set(xlim=(x.min() - margin, x.max() + margin), ylim=y_limits)


def _upright(low: float, high: float) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Return ticks from the least to the greatest value, and limits that hold the lines' width."""
    ticks = _within(_ticks(low, high), np.array([low, high]))
    low, high = min(low, float(ticks[0])), max(high, float(ticks[-1]))
    slack = _SLACK * (high - low)
    return ticks, (low - slack, high + slack)


def _band(axes: Axes, x: NDArray[np.float64], series: Series) -> None:
    if not _has_band(series):
        return
    outline = np.concatenate([np.stack([x, series.high], 1), np.stack([x, series.low], 1)[::-1]])
    colour = figures.INK if series.colour == CONTROL else figures.SERIES[series.colour % N_COLOURS]
    patch = Polygon(outline, facecolor=colour, alpha=_BAND, linewidth=0)
    figures.name(patch, "", "band")
    axes.add_patch(patch)


def _has_band(series: Series) -> bool:
    return bool(np.isfinite(series.low).all() and np.isfinite(series.high).all())


def _described(
    x: NDArray[np.float64], series: Sequence[Series], x_label: str, x_names: Sequence[str]
) -> str:
    ends = (x_names[0], x_names[-1]) if x_names else (number(float(x[0])), number(float(x[-1])))
    said = [
        f"{each.name} from {number(float(each.values[0]))} to {number(float(each.values[-1]))}"
        for each in series[:_MOST_DESCRIBED]
    ]
    more = len(series) - len(said)
    others = f", and {more} more" if more else ""
    return f"{x_label} from {ends[0]} to {ends[1]}: {'; '.join(said)}{others}."


def _medians(values: Mapping[str, NDArray[np.float64]]) -> str:
    known = [(name, found) for name, found in values.items() if len(found)]
    said = [f"{name} {number(float(np.median(found)))}" for name, found in known[:_MOST_DESCRIBED]]
    return f"Medians: {'; '.join(said)}."


def _edges(every: NDArray[np.float64], n_bins: int, *, is_logarithmic: bool) -> NDArray[np.float64]:
    if is_logarithmic:
        every = every[every > 0]
        if not len(every):
            return np.geomspace(0.1, 1.0, n_bins + 1)
        low, high = math.floor(np.log10(every.min())), math.ceil(np.log10(every.max()))
        return np.logspace(low, max(high, low + 1), n_bins + 1)
    low, high = float(every.min()), float(every.max())
    return np.linspace(low, high if high > low else low + 1.0, n_bins + 1)


def _power_ticks(axes: Axes, edges: NDArray[np.float64]) -> None:
    low, high = (round(float(end)) for end in np.log10(edges[[0, -1]]))
    powers = np.arange(low, high + 1, max(1, (high - low) // 6))
    axes.set_xticks(10.0**powers, labels=[f"{10.0**power:g}" for power in powers])


def _ticks(low: float, high: float, *, is_whole: bool = False) -> NDArray[np.float64]:
    n = {"nbins": 10, "min_n_ticks": 1} if is_whole else {"nbins": 5, "min_n_ticks": 3}
    locator = MaxNLocator(**n, integer=is_whole)
    return np.asarray(locator.tick_values(low, high), np.float64)


def _within(ticks: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ticks that are not beside the chart, unless fewer than two are left."""
    slack = 1e-9 * (x.max() - x.min())
    found = ticks[(ticks >= x.min() - slack) & (ticks <= x.max() + slack)]
    return found if len(found) > 1 else ticks


def _texts(ticks: NDArray[np.float64]) -> list[str]:
    """Return ticks with the decimals that their distance needs."""
    step = float(ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    if not 1e-3 <= step < 1e4:
        return [number(float(tick), 2) for tick in ticks]
    first = max(0, -math.floor(math.log10(step) + 1e-9))
    # steps of a quarter need one more than those of a half
    decimals = first + (round(step, first) != round(step, first + 1))
    return [f"{tick:.{decimals}f}".replace("-", "\N{MINUS SIGN}") for tick in ticks]
