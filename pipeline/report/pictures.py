"""Arrays as small pictures that a page can hold: inputs, heat maps, their colour bars."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from pipeline.report.formats import number

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLOURS = {"signed": "RdBu_r", "unsigned": "magma", "grey": "gray"}
"""Colour maps of matplotlib; the signed one is white at zero."""
SATURATION = 99.5
"""Percentile of magnitudes at which colours saturate: one hot pixel must not hide the others."""

_PIXELATED_UP_TO = 96
"""Pictures at most so wide are enlarged without smoothing: each pixel of the input is seen."""


NO_VALUE = "#8d929b"
"""Colour of what has no number: a grey that the signed scale does not have."""
DARK = 0.45
"""Luminance below which white letters are read more easily than dark ones."""


@dataclass(frozen=True)
class Colour:
    """What a number looks like."""

    ground: str
    """As CSS has it, like the next."""
    ink: str
    """Of letters on the ground."""


@dataclass(frozen=True)
class Picture:
    """A picture for a page."""

    uri: str
    """``data:`` URI."""
    width: int
    height: int

    @property
    def is_coarse(self) -> bool:
        """Whether pixels should be seen as such."""
        return max(self.width, self.height) <= _PIXELATED_UP_TO


@dataclass(frozen=True)
class HeatMap:
    """A picture of relevance and what its colours mean."""

    picture: Picture
    low: float
    """Value of the first colour."""
    high: float
    """Value of the last colour."""
    kind: str
    """``signed`` (symmetric about zero), ``unsigned`` (from zero or the least up) or ``grey``."""

    @property
    def bar(self) -> Markup:
        """The colour bar with its ends, and zero in the middle of a signed one."""
        return bar(self.low, self.high, self.kind)

    @property
    def in_words(self) -> str:
        """What its colours range over, for who does not see them."""
        return f"from {number(self.low, 2)} to {number(self.high, 2)}"


def bar(low: float, high: float, kind: str) -> Markup:
    """Return a colour bar with its ends, and zero in the middle of a signed one."""
    middle = Markup("<span>0</span>") if kind == "signed" else Markup("")
    # ends of a narrow range far from zero may differ further on
    digits = 2 if number(low, 2) != number(high, 2) else 5
    return Markup(
        '<div class="bar {}"></div><div class="ends"><span>{}</span>{}<span>{}</span></div>'
    ).format(kind, number(low, digits), middle, number(high, digits))


def colour(value: float, limit: float) -> Colour:
    """Return the colour of a number on the signed scale from ``-limit`` to ``limit``."""
    if not math.isfinite(value) or not limit:
        return Colour(NO_VALUE, "#1d1f23")
    shades = colormaps[COLOURS["signed"]](0.5 + 0.5 * max(-1.0, min(1.0, value / limit)))
    red, green, blue = (float(shade) for shade in shades[:3])
    is_dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < DARK
    return Colour(to_hex((red, green, blue)), "#ffffff" if is_dark else "#1d1f23")


def heat_map(
    relevance: NDArray[np.floating], side: int, *, is_signed: bool, has_zero: bool = True
) -> HeatMap | None:
    """Return one sample's relevance as a heat map; None for what is no picture or not finite.

    Parameters
    ----------
    relevance
        ``(height, width)``, or ``(channel, height, width)``, which is summed over channels.
    side
        Longest side in pixels; larger maps are averaged down.
    is_signed
        Colours symmetric about zero, else from zero up.
    has_zero
        Whether zero is no relevance; if not, and not signed, from the least value up.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = plane(relevance)
    if values is None or not np.isfinite(values).all():
        return None
    limit = float(np.percentile(np.abs(values), SATURATION)) or float(np.abs(values).max())
    if is_signed:
        return _coloured(values, side, -limit, limit, "signed")
    return _coloured(values, side, 0.0 if has_zero else float(values.min()), limit, "unsigned")


def image(values: NDArray[np.floating], side: int) -> HeatMap | None:
    """Return a picture in the units of an input, grey from its least to its greatest value."""
    flat = plane(values / len(values) if values.ndim == 3 else values)
    if flat is None or not np.isfinite(flat).all():
        return None
    return _coloured(flat, side, float(flat.min()), float(flat.max()), "grey")


def _coloured(
    values: NDArray[np.floating], side: int, low: float, high: float, kind: str
) -> HeatMap:
    # in float64 differences do not overflow
    share = (shrink(values, side).astype(np.float64) - low) / ((high - low) or 1.0)
    indices = np.clip(np.rint(share * 255), 0, 255).astype(np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(_palette(COLOURS[kind]))
    return HeatMap(_encode(picture), low, high, kind)


def photograph(values: NDArray[np.floating], side: int) -> Picture | None:
    """Return an input in [0, 1], ``(channel, height, width)`` or ``(height, width)``."""
    stack = values[None] if values.ndim == 2 else values
    if stack.ndim != 3 or stack.shape[0] not in (1, 3):
        flat = plane(values)
        if flat is None:
            return None
        stack = flat[None]
    channels = [shrink(channel, side) for channel in stack]
    pixels = np.rint(np.clip(np.nan_to_num(np.stack(channels, axis=-1)), 0, 1) * 255)
    pixels = pixels.astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    is_large = max(picture.size) > _PIXELATED_UP_TO
    return _encode(picture, as_jpeg=is_large and picture.mode == "RGB")


def plane(values: NDArray[np.floating]) -> NDArray[np.floating] | None:
    """Return values as ``(height, width)``: channels summed, a vector as a strip."""
    if values.ndim == 1:
        return values[None]
    if values.ndim == 3:
        return np.asarray(values.sum(axis=0))
    return values if values.ndim == 2 else None


def shrink(values: NDArray[np.floating], side: int) -> NDArray[np.floating]:
    """Return a plane no larger than `side`, averaged down; small ones as they are."""
    height, width = values.shape
    if max(height, width) <= side:
        return values
    scale = side / max(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    smaller = Image.fromarray(values.astype(np.float32)).resize(target, Image.Resampling.BOX)
    return np.asarray(smaller)


def gradient(name: str) -> str:
    """Return a colour map as a CSS gradient."""
    stops = [colormaps[name](share, bytes=True)[:3] for share in np.linspace(0, 1, 17)]
    return f"linear-gradient(to right, {', '.join(f'rgb({r},{g},{b})' for r, g, b in stops)})"


def _palette(name: str) -> bytes:
    colours = colormaps[name](np.arange(256), bytes=True)
    return np.ascontiguousarray(colours[:, :3]).tobytes()


def _encode(picture: Image.Image, *, as_jpeg: bool = False) -> Picture:
    buffer = BytesIO()
    if as_jpeg:
        picture.save(buffer, "JPEG", quality=85)
    else:
        picture.save(buffer, "PNG", optimize=True)
    kind = "jpeg" if as_jpeg else "png"
    text = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/{kind};base64,{text}", *picture.size)
