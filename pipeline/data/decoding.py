"""Image files to tensors, and to the size that a model takes."""

from __future__ import annotations

import contextlib
import io
import threading
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from pipeline.data import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
)
"""Files that count as images."""

Mode = Literal["rgb", "gray"]
_MODES: dict[Mode, str] = {"rgb": "RGB", "gray": "L"}
_NATIVE_MODES: dict[Mode, int] = {"rgb": 3, "gray": 1}
"""Of torchvision, by the values of its ImageReadMode."""
_IMPORTING = threading.Lock()
Interpolation = Literal["bilinear", "bicubic", "nearest"]

_PORTABLE = frozenset({"PPM", "PNG"})
"""Formats of which PIL gives 16 bits in its mode of 32, scaled to all of the 16."""
_TIFF_BITS, _TIFF_PHOTOMETRIC, _BLACK_IS_ZERO = 258, 262, 1
"""Tags of TIFF 6.0."""


def decode(image: bytes | str | Path, mode: Mode = "rgb") -> Tensor:
    """Return the pixels of an image file, uint8 ``(channel, height, width)``.

    Parameters
    ----------
    image
        Content of the file, or where it is: a path or a URL.
    mode
        Channels. Grey is the luma of colours (ITU-R 601-2), by PIL. Of 16 bits the upper 8 are
        taken, as PIL does with colours.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read or is broken, also when only its end is missing; or if its
        values have no known range: those of 32 bits and of floating point.
    """
    content = _content(image)
    if not content:
        raise ValueError("the file is empty")
    wanted = _MODES[mode]
    with _opened(content) as opened:
        # CMYK is left to PIL, and so is the grey of colours, of which JPEG has its own idea
        if opened.format == "JPEG" and opened.mode in {wanted, "L"}:
            pixels = _native(content, mode)
            if pixels is not None:
                return pixels
        known = of_8_bits(opened)
        converted = known if known.mode == wanted else known.convert(wanted)
        pixels = torch.from_numpy(np.array(converted))
    return pixels.movedim(-1, 0) if pixels.ndim == 3 else pixels[None]


def decode_mask(image: bytes | str | Path) -> Tensor:
    """Return where an image is not zero in any of its channels, bool ``(height, width)``.

    Palette images count the index, not the colour: 0 is what is not the object.
    """
    with _opened(_content(image)) as opened:
        without_alpha = opened.convert("RGB") if opened.mode in {"RGBA", "LA", "PA"} else opened
        values = torch.from_numpy(np.array(without_alpha) != 0)
    return values if values.ndim == 2 else values.any(dim=2)


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        # its own message names the address of the buffer, another one each time
        raise UnidentifiedImageError("this is no image that Pillow knows") from error
    with image:
        yield image


def of_8_bits(image: Image.Image) -> Image.Image:
    """Return an image whose values PIL can convert; of more than 8 bits, it would cut at 255.

    Raises
    ------
    ValueError
        If what black and white are is not known.
    """
    mode, kind = image.mode, image.format
    if mode != "F" and not mode.startswith("I"):
        return image
    is_known = mode.startswith("I;16") or (mode == "I" and kind in _PORTABLE)
    if is_known and kind == "TIFF":
        # 12 bits are not scaled, nor is what is white at zero turned round
        tags = image.tag_v2  # type: ignore[attr-defined]
        told = (tags.get(_TIFF_BITS), tags.get(_TIFF_PHOTOMETRIC))
        is_known = told == ((16,), _BLACK_IS_ZERO)
    if not is_known:
        raise ValueError(
            f"the picture has the mode {mode}, whose values from black to white are not known; "
            "expected 8 or 16 bits a channel"
        )
    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))


def _content(image: bytes | str | Path) -> bytes:
    return image if isinstance(image, bytes) else files.read(str(image))


def _native(content: bytes, mode: Mode) -> Tensor | None:
    """Return the pixels of a JPEG by torchvision's operator; None where it has none or refuses.

    It takes less time than PIL, above all in several threads, and gives the same pixels where both
    are built on one version of libjpeg-turbo (within a grey value elsewhere). It is called below
    the function that torchvision 0.29 announces the end of; once the operator is gone, PIL does it.
    """
    _load_torchvision()
    operator = getattr(torch.ops.image, "decode_jpeg", None)
    if operator is None:
        return None
    # a copy that may be written to, or torch warns
    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    try:
        pixels: Tensor = operator(encoded, _NATIVE_MODES[mode], False)
    except RuntimeError:
        # PIL tells what is wrong with it in words
        return None
    return pixels


def check_sizes(**sizes: int | tuple[int, int] | None) -> None:
    """Refuse sizes, given by the names of their parameters, that no picture has.

    Raises
    ------
    ValueError
        If one is below 1.
    """
    for name, value in sizes.items():
        if min((value,) if isinstance(value, int) else value or (1,)) < 1:
            raise ValueError(f"got {name} {value!r}, expected at least 1")


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
    _load_torchvision()
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


def _load_torchvision() -> None:
    """Import torchvision, with its operators, in one thread at a time.

    Its modules import each other, and two threads that begin at different ends of the circle would
    see half of it. Every command imports this module, so that it must not be done there.
    """
    with _IMPORTING:
        import torchvision.transforms.v2.functional  # noqa: F401
