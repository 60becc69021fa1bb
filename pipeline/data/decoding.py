"""Image files to tensors, and to the size that a model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
)
"""Files that count as images."""

Mode = Literal["rgb", "gray"]
Interpolation = Literal["bilinear", "bicubic", "nearest"]


def decode(path: Path, mode: Mode = "rgb") -> Tensor:
    """Return the pixels of an image file, uint8 ``(channel, height, width)``.

    By PIL, as torchvision gives its decoders up (they took 0.6 times as long).

    Raises
    ------
    OSError, ValueError
        If the file cannot be read or is broken, also when only its end is missing.
    """
    if not path.stat().st_size:
        raise ValueError("the file is empty")
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB" if mode == "rgb" else "L")))
    return pixels.movedim(-1, 0) if pixels.ndim == 3 else pixels[None]


def decode_mask(path: Path) -> Tensor:
    """Return where an image is not zero in any of its channels, bool ``(height, width)``.

    Palette images count the index, not the colour: 0 is what is not the object.
    """
    with Image.open(path) as image:
        without_alpha = image.convert("RGB") if image.mode in {"RGBA", "LA", "PA"} else image
        values = torch.from_numpy(np.array(without_alpha) != 0)
    return values if values.ndim == 2 else values.any(dim=2)


def fit(
    image: Tensor,
    resize: int | tuple[int, int] | None,
    crop: int | tuple[int, int] | None,
    interpolation: Interpolation,
) -> Tensor:
    """Return an image resized, then cut out of its centre, ``(channel, height, width)``.

    Parameters
    ----------
    image
        Pixels; those of masks too, so that the two stay aligned.
    resize
        The shorter side, or height and width.
    crop
        Height and width, one number if they are equal.
    interpolation
        How pixels in between are found.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    if resize is not None:
        is_nearest = interpolation == "nearest"
        mode = "nearest-exact" if is_nearest else interpolation
        size = [resize] if isinstance(resize, int) else list(resize)
        image = functional.resize(
            image, size, interpolation=InterpolationMode(mode), antialias=not is_nearest
        )
    if crop is not None:
        size = [crop, crop] if isinstance(crop, int) else list(crop)
        image = functional.center_crop(image, size)
    return image
