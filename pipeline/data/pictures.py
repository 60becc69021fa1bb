"""What sources of images share: encoded bytes, or arrays, to what the model takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from pipeline.data import decoding, normalisation
from pipeline.data.source import Source

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Layout = Literal["channel_first", "channel_last"]

_TOKENS = (np.dtype("int32"), np.dtype("int64"), np.dtype("uint32"), np.dtype("uint64"))


@dataclass(frozen=True, kw_only=True)
class Pictures(Source):
    """A source of images, as `ImageFolder` makes them, or of other arrays of numbers."""

    resize: int | tuple[int, int] | None = None
    """Length of the shorter side, or [height, width]."""
    crop: int | tuple[int, int] | None = None
    """Size cut out of the centre, or [height, width]."""
    interpolation: decoding.Interpolation = "bilinear"
    """Of resizing; masks take the nearest pixel."""
    mode: decoding.Mode = "rgb"
    """Channels of encoded images."""
    layout: Layout = "channel_first"
    """Axes of arrays of three dimensions; encoded images need none."""
    mean: tuple[float, ...] = (0.0,)
    """Subtracted, per channel or one for all; pixels are in [0, 1]."""
    std: tuple[float, ...] = (1.0,)
    """Divided by, per channel or one for all."""

    decode_threads: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by or cut out."""
        normalisation.check(self.mean, self.std)
        decoding.check_sizes(resize=self.resize, crop=self.crop)

    def display(self, inputs: Tensor) -> Tensor:
        """Return images in [0, 1]."""
        return normalisation.restore(inputs, self.mean, self.std)

    def input_of(self, value: bytes | NDArray[Any]) -> Tensor:
        """Return an encoded image, or an array, as the model takes it.

        Bytes of 8 bits are pixels, scaled to [0, 1]; integers of 32 or 64 bits are tokens and stay
        as they are; other numbers become float32. Arrays of three dimensions are images.

        Raises
        ------
        OSError, ValueError
            If an image is broken, or an array is no image and is to be resized.
        """
        if isinstance(value, bytes):
            return self._fitted(decoding.decode(value, self.mode), 255)
        if value.dtype in _TOKENS:
            return torch.from_numpy(value.astype(np.int64))
        if value.dtype.kind not in "uifb":
            raise ValueError(f"got an array of {value.dtype}, expected numbers")
        pixels = value[None] if value.dtype == np.uint8 and value.ndim == 2 else value
        if value.ndim == 3 and self.layout == "channel_last":
            pixels = np.moveaxis(value, -1, 0)
        scale = 255 if value.dtype == np.uint8 else 1
        # torch knows few unsigned types, and wants memory of its own
        kept = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
        return self._fitted(torch.from_numpy(np.array(kept, order="C")), scale)

    def mask_of(self, value: bytes | NDArray[Any]) -> Tensor:
        """Return an encoded mask, or an array, as bool ``(height, width)``, fitted as its image."""
        if isinstance(value, bytes):
            mask = decoding.decode_mask(value)
        else:
            mask = torch.from_numpy(np.array(value != 0))
            if mask.ndim == 3:
                mask = mask.any(dim=0 if self.layout == "channel_first" else 2)
        return decoding.fit(mask[None].to(torch.uint8), self.resize, self.crop, "nearest")[0] > 0

    def _fitted(self, image: Tensor, scale: float) -> Tensor:
        is_changed = (self.resize, self.crop, self.mean, self.std) != (None, None, (0.0,), (1.0,))
        if image.ndim != 3:
            if is_changed:
                raise ValueError(
                    f"got an array of shape {tuple(image.shape)}, expected three dimensions: only "
                    "images are resized, cut out and normalised"
                )
            return image.to(torch.float32) / scale
        fitted = decoding.fit(image, self.resize, self.crop, self.interpolation)
        return normalisation.normalise(fitted.to(torch.float32) / scale, self.mean, self.std)
