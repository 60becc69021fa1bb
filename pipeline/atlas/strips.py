"""One picture per concept with all that its card shows, as WebP."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipeline.atlas import tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.atlas.samples import Pictures
    from pipeline.atlas.views import References

QUALITY = 76
"""Of WebP with loss."""
EFFORT = 2
"""Of the encoder, of 6: beyond, files are hardly smaller and take twice the time."""
HEATED = 4
"""Rows of a strip with heat maps: crops, their heat, whole pictures with what is outside the mask
darkened, their heat."""


def concept(
    pictures: Pictures,
    samples: Sequence[NDArray[np.int64]],
    references: Sequence[References | None],
    n: int,
    place: int,
) -> NDArray[np.uint8]:
    """Return the strips of a concept in all views, one below the other.

    Parameters
    ----------
    pictures
        Of all samples.
    samples
        Of some concepts in each view, ``(rank, channel)``.
    references
        Of the same concepts.
    n
        Tiles in a row.
    place
        Which of the concepts.
    """
    return np.concatenate(
        [
            strip(pictures, chosen[:, place], held, place, n)
            for chosen, held in zip(samples, references, strict=True)
        ]
    )


def strip(
    pictures: Pictures,
    sample: NDArray[np.int64],
    references: References | None,
    place: int,
    n: int,
) -> NDArray[np.uint8]:
    """Return what a view shows of one concept, ``(rows * side, n * side, 3)``.

    Parameters
    ----------
    pictures
        Of all samples.
    sample
        Best first, ``(rank,)``; -1 where there are no more.
    references
        Of the concept among others; without them there is one row of whole pictures.
    place
        Which concept of theirs.
    n
        Tiles in a row.
    """
    side = pictures.side
    rows = pictures.place[sample]
    is_here = (sample >= 0) & (rows >= 0)
    n_rows = 1 if references is None else HEATED
    found = np.full((n_rows, n, side, side, 3), tiles.BLANK, np.uint8)
    ranks, rows = np.flatnonzero(is_here), rows[is_here]
    small = np.asarray(pictures.small[rows])
    if references is None:
        found[0, ranks] = small
    else:
        heat = references.heatmap[ranks, place].astype(np.float32)
        heat = tiles.enlarged(heat, pictures.size)
        boxes = tiles.squared(references.crop[ranks, place], pictures.size)
        found[0, ranks] = tiles.fitted(np.asarray(pictures.whole[rows]), side, boxes)
        found[1, ranks] = tiles.coloured(tiles.fitted(heat, side, boxes))
        whole = tiles.fitted(heat, side)
        found[2, ranks] = tiles.dimmed(small, whole)
        found[3, ranks] = tiles.coloured(whole)
    return found.transpose(0, 2, 1, 3, 4).reshape(n_rows * side, n * side, 3)


def encode(pixels: NDArray[np.uint8], *, is_exact: bool) -> bytes:
    """Return pixels as WebP; without loss where single pixels are to be seen."""
    buffer = BytesIO()
    image = Image.fromarray(pixels)
    if is_exact:
        image.save(buffer, "WEBP", lossless=True, quality=40, method=EFFORT)
    else:
        image.save(buffer, "WEBP", quality=QUALITY, method=EFFORT)
    return buffer.getvalue()
