"""Squares of the strips: pictures cropped and whole, heat maps in the colours of the report."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageFilter

from pipeline.report import pictures as report_pictures

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 64
"""Pixels of a tile's side; pictures that are smaller are enlarged by a whole factor."""
COARSE = 96
"""Pictures at most so large are enlarged without smoothing: each pixel of the input is seen."""
BLANK = 128
"""Grey of tiles without a picture, and of what lies beyond one."""
DIMMED = 0.45
"""Share of brightness that is left outside the mask."""
MASKED_BELOW = 0.2
"""Share of the greatest blurred magnitude below which a picture is dimmed."""
BLUR = 3.2 / 224
"""Standard deviation of the blur before masking, as a share of the picture's longer side: that of
a kernel of 19 pixels for pictures of 224."""
LEAST_CROP = 1 / 14
"""Least side of a crop, as a share of the picture's shorter side: fewer pixels show nothing."""

Size = tuple[int, int]


def side_of(size: Size) -> int:
    """Return the side of the tiles for pictures of a size."""
    longest = max(size)
    return longest * max(1, round(SIDE / longest)) if longest <= COARSE else SIDE


def is_coarse(size: Size) -> bool:
    """Whether pictures are so small that each of their pixels should be seen."""
    return max(size) <= COARSE


def squared(crop: NDArray[np.int64], size: Size) -> NDArray[np.int64]:
    """Return boxes widened to squares within the picture, as far as there is room.

    Parameters
    ----------
    crop
        ``(..., 4)``: top, left, bottom, right, the last two exclusive. Empty boxes are replaced
        by the whole picture.
    size
        Height and width of the picture.
    """
    least = max(1, math.ceil(LEAST_CROP * min(size)))
    length = crop[..., 2:] - crop[..., :2]
    side = np.maximum(length.max(axis=-1, keepdims=True), least)
    wanted = np.minimum(side, np.array(size))
    start = crop[..., :2] - (wanted - length) // 2
    start = np.clip(start, 0, np.array(size) - wanted)
    square = np.concatenate([start, start + wanted], axis=-1)
    return np.where((length > 0).all(axis=-1, keepdims=True), square, np.array([0, 0, *size]))


def fitted(values: NDArray[Any], side: int, boxes: NDArray[np.int64] | None = None) -> NDArray[Any]:
    """Return pictures, or boxes of them, scaled into squares; what is left over is `BLANK`.

    Parameters
    ----------
    values
        ``(n, height, width, 3)`` bytes, or ``(n, height, width)`` float32, where what is left
        over is NaN.
    side
        Of the squares.
    boxes
        ``(n, 4)``: top, left, bottom, right; the whole pictures if not given.
    """
    size = values.shape[1], values.shape[2]
    is_heat = values.ndim == 3
    found = np.full((len(values), side, side, *values.shape[3:]), np.nan if is_heat else BLANK)
    found = found.astype(values.dtype)
    resample = Image.Resampling.NEAREST if is_coarse(size) else Image.Resampling.BICUBIC
    if is_heat and not is_coarse(size):
        resample = Image.Resampling.BOX if boxes is None else Image.Resampling.BILINEAR
    for row, picture in enumerate(values):
        top, left, bottom, right = (0, 0, *size) if boxes is None else map(int, boxes[row])
        scale = side / max(bottom - top, right - left)
        height, width = round((bottom - top) * scale), round((right - left) * scale)
        target = (max(1, width), max(1, height))
        smaller = Image.fromarray(picture).resize(target, resample, (left, top, right, bottom))
        y, x = (side - target[1]) // 2, (side - target[0]) // 2
        found[row, y : y + target[1], x : x + target[0]] = np.asarray(smaller)
    return found


def enlarged(heat: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Return heat maps ``(n, height, width)`` in the size of their pictures, if they are smaller.

    Crops are in pixels of the picture; a scan may store averages over several of them.
    """
    if heat.shape[1:] == size or not len(heat):
        return heat
    height, width = size
    whole = [
        Image.fromarray(one).resize((width, height), Image.Resampling.BILINEAR) for one in heat
    ]
    return np.stack([np.asarray(one) for one in whole])


def coloured(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return heat maps ``(n, side, side)`` in signed colours; each has a scale of its own."""
    if not len(heat):
        return np.empty((*heat.shape, 3), np.uint8)
    flat = np.abs(np.nan_to_num(heat)).reshape(len(heat), -1)
    limit = np.percentile(flat, report_pictures.SATURATION, axis=1)
    limit = np.where(limit > 0, limit, flat.max(axis=1, initial=0.0))
    share = np.nan_to_num(heat) / np.where(limit > 0, limit, 1.0)[:, None, None]
    colours = _palette()[np.rint((np.clip(share, -1, 1) + 1) * 127.5).astype(np.uint8)]
    return np.where(np.isnan(heat)[..., None], np.uint8(BLANK), colours)


def dimmed(small: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return pictures darkened where their heat maps are weak; both are tiles.

    The mask is where the blurred magnitude exceeds `MASKED_BELOW` of its maximum.
    """
    blur = ImageFilter.GaussianBlur(BLUR * heat.shape[1])
    found = np.empty_like(small)
    for row, (picture, values) in enumerate(zip(small, heat, strict=True)):
        strength = np.abs(np.nan_to_num(values))
        greatest = float(strength.max())
        if greatest <= 0:
            found[row] = picture
            continue
        magnitude = np.rint(strength / greatest * 255).astype(np.uint8)
        blurred = np.asarray(Image.fromarray(magnitude).filter(blur), np.float32)
        is_seen = blurred > MASKED_BELOW * max(float(blurred.max()), 1.0)
        found[row] = np.where(is_seen[..., None], picture, (picture * DIMMED).astype(np.uint8))
    return found


@lru_cache(maxsize=1)
def _palette() -> NDArray[np.uint8]:
    colours = colormaps[report_pictures.COLOURS["signed"]](np.arange(256), bytes=True)
    return np.ascontiguousarray(colours[:, :3])
