"""How many causes classes share, as matrices of coloured squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.colors import to_hex

from pipeline.causal_links import overlap
from pipeline.report import pictures
from pipeline.report.formats import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.causal_links import LayerOfAll

MOST_MATRICES = 5
"""Layers whose overlap is shown by itself, spread over all, the last among them."""
MOST_SQUARES = 40
"""Classes of which every pair is a square with a number; of more there is a picture."""
MOST_LETTERS = 12
"""Of the name of a class."""
SIDE = 320
_SQUARE = 18
_SCALE = (0.0, 1.0)


def matrices(layers: Sequence[LayerOfAll], names: Sequence[str]) -> list[tuple[str, Markup]]:
    """Return what all layers, and some by themselves, say of two classes: name and drawing.

    Parameters
    ----------
    layers
        Those that are tested.
    names
        Of the classes; of one alone there is nothing to say.
    """
    if len(names) < 2:
        return []
    every = overlap(tuple(layers))
    if not np.isfinite(every).any():
        return []
    places = np.linspace(0, len(layers) - 1, min(MOST_MATRICES, len(layers))).round().astype(int)
    found = [("all layers", _drawing(every, names))]
    if len(layers) > 1:
        chosen = [layers[place] for place in places]
        found += [(each.name, _drawing(overlap((each,)), names)) for each in chosen]
    return found


def bar() -> Markup:
    """Return the colours that they have."""
    return pictures.bar(*_SCALE, "unsigned")


def _drawing(values: NDArray[np.float64], names: Sequence[str]) -> Markup:
    return _squares(values, names) if len(names) <= MOST_SQUARES else _picture(values)


def _squares(values: NDArray[np.float64], names: Sequence[str]) -> Markup:
    square = Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="{}"><title>{}</title></rect>')
    label = Markup('<text x="{}" y="{}" class="end">{}</text>')
    slanted = Markup('<text transform="translate({} {}) rotate(-90)">{}</text>')
    left = 8 + 6.5 * max(len(_short(name)) for name in names)
    parts = [
        square.format(
            left + _SQUARE * column,
            left + _SQUARE * row,
            _SQUARE,
            _SQUARE,
            _colour(float(value)),
            f"{names[row]} and {names[column]}: {number(float(value), 2)}",
        )
        for (row, column), value in np.ndenumerate(values)
    ]
    for place, name in enumerate(names):
        middle = left + _SQUARE * (place + 0.5)
        parts += [label.format(left - 5, middle, _short(name))]
        parts += [slanted.format(middle, left - 5, _short(name))]
    size = round(left + _SQUARE * len(names))
    return Markup(
        '<svg class="overlap" viewBox="0 0 {0} {0}" width="{0}" height="{0}" role="img" '
        'aria-label="overlap of classes">{1}</svg>'
    ).format(size, Markup("").join(parts))


def _colour(value: float) -> str:
    if not np.isfinite(value):
        return pictures.NO_VALUE
    return to_hex(colormaps[pictures.COLOURS["unsigned"]](value))


def _short(name: str) -> str:
    return (
        name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
    )


def _picture(values: NDArray[np.float64]) -> Markup:
    # the first value of a picture is the first of its colours
    shades = colormaps[pictures.COLOURS["unsigned"]](np.nan_to_num(values))[..., :3]
    shades[~np.isfinite(values)] = 0.55
    picture = pictures.photograph(np.moveaxis(shades, -1, 0), SIDE)
    if picture is None:
        return Markup("")
    return Markup('<img src="{}" alt="overlap of classes">').format(picture.uri)
