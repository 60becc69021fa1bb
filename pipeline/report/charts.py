"""Line charts as inline SVG: they take the page's colours, light or dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from pipeline.report.formats import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_WIDTH, _HEIGHT = 640, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 46
N_COLOURS = 8
"""Series colours that the style sheet knows; bands of more lines would hide each other."""
CONTROL = -1
"""Colour of a line that explainers are compared with."""
N_DASHES = 4
"""Ways to break a line, for series beyond the colours."""


@dataclass(frozen=True)
class Series:
    """One line with its band."""

    name: str
    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    colour: int
    """Index of the colour; from `N_COLOURS` on, colours come again on broken lines. `CONTROL` for
    the grey of a control."""


def lines(x: NDArray[np.float64], series: Sequence[Series], x_label: str, y_label: str) -> Markup:
    """Return a chart of the series over their common `x`."""
    every = np.concatenate([np.concatenate([s.low, s.high, s.values]) for s in series])
    y_ticks = _ticks(min(float(np.nanmin(every)), 0.0), float(np.nanmax(every)))
    x_ticks = _within(_ticks(float(x.min()), float(x.max())), x)
    to_x = _Scale((float(x.min()), float(x.max())), (_LEFT, _WIDTH - _RIGHT))
    to_y = _Scale((y_ticks[0], y_ticks[-1]), (_HEIGHT - _BOTTOM, _TOP))
    parts = [_grid(x_ticks, y_ticks, to_x, to_y), _labels(x_label, y_label)]
    if sum(s.colour != CONTROL for s in series) <= N_COLOURS:
        parts += [_band(to_x(x), to_y(s.low), to_y(s.high), s) for s in series]
    parts += [_line(to_x(x), to_y(s.values), s) for s in series]
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(_WIDTH, _HEIGHT, f"{y_label} over {x_label}", Markup("").join(parts))


def look(colour: int) -> str:
    """Return the classes of the style sheet for the line, or the key, of a series."""
    if colour == CONTROL:
        return "control"
    return f"c{colour % N_COLOURS} d{colour // N_COLOURS % N_DASHES}"


class _Scale:
    """A linear map from values to pixels."""

    def __init__(self, values: tuple[float, float], pixels: tuple[float, float]) -> None:
        self.start, self.first = values[0], pixels[0]
        self.slope = (pixels[1] - pixels[0]) / ((values[1] - values[0]) or 1.0)

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.first + (np.asarray(values) - self.start) * self.slope


def _ticks(low: float, high: float) -> NDArray[np.float64]:
    return np.asarray(MaxNLocator(nbins=5, min_n_ticks=3).tick_values(low, high), np.float64)


def _within(ticks: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ticks that are not beside the chart, unless fewer than two are left."""
    slack = 1e-9 * (x.max() - x.min())
    found = ticks[(ticks >= x.min() - slack) & (ticks <= x.max() + slack)]
    return found if len(found) > 1 else ticks


def _grid(
    x_ticks: NDArray[np.float64], y_ticks: NDArray[np.float64], to_x: _Scale, to_y: _Scale
) -> Markup:
    across = Markup(
        '<line class="grid" x1="{x1}" x2="{x2}" y1="{y:.1f}" y2="{y:.1f}"/>'
        '<text class="tick" x="{x0}" y="{y:.1f}" dy="0.32em" text-anchor="end">{text}</text>'
    )
    below = Markup('<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{text}</text>')
    rows = [
        across.format(x0=_LEFT - 8, x1=_LEFT, x2=_WIDTH - _RIGHT, y=float(to_y(tick)), text=text)
        for tick, text in zip(y_ticks, _texts(y_ticks), strict=True)
    ]
    columns = [
        below.format(x=float(to_x(tick)), y=_HEIGHT - _BOTTOM + 18, text=text)
        for tick, text in zip(x_ticks, _texts(x_ticks), strict=True)
    ]
    return Markup("").join(rows + columns)


def _labels(x_label: str, y_label: str) -> Markup:
    middle_y = (_TOP + _HEIGHT - _BOTTOM) / 2
    return Markup(
        '<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>'
        '<text class="axis" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>'
    ).format((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_label, middle_y, y_label)


def _band(
    x: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], series: Series
) -> Markup:
    if np.isnan(low).any() or np.isnan(high).any():
        return Markup("")
    outline = _points(np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]]))
    colour = "control" if series.colour == CONTROL else f"c{series.colour % N_COLOURS}"
    return Markup('<polygon class="band {}" points="{}"/>').format(colour, outline)


def _line(x: NDArray[np.float64], y: NDArray[np.float64], series: Series) -> Markup:
    return Markup('<polyline class="line {}" points="{}"><title>{}</title></polyline>').format(
        look(series.colour), _points(x, y), series.name
    )


def _points(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _texts(ticks: NDArray[np.float64]) -> list[str]:
    """Return ticks with the decimals that their distance needs."""
    step = float(ticks[1] - ticks[0])
    if not 1e-3 <= step < 1e4:
        return [number(float(tick), 2) for tick in ticks]
    first = max(0, -math.floor(math.log10(step) + 1e-9))
    # steps of a quarter need one more than those of a half
    decimals = first + (round(step, first) != round(step, first + 1))
    return [f"{tick:.{decimals}f}".replace("-", "\N{MINUS SIGN}") for tick in ticks]
