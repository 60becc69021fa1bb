"""Small pictures as other people's files hold them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data import Source, open_source, read_one

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SIZE = (6, 5)


def pixels(n: int) -> np.ndarray:
    """Noise, ``(n, height, width, channel)``."""
    return np.random.default_rng(0).integers(0, 256, (n, *SIZE, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(image).save(held, "PNG")
    return held.getvalue()


def as_input(image: np.ndarray) -> Tensor:
    """What a model gets of 8-bit pixels, ``(channel, height, width)`` in [0, 1]."""
    return torch.from_numpy(image.astype(np.float32) / np.float32(255)).movedim(-1, 0)


def source_of(kind: str, base: Path, path: str, **fields: Any) -> Source:
    return open_source(DataConfig(source=kind, path=path, **fields), base)


def read_all(source: Source) -> list[Any]:
    """Samples, or why they cannot be used, by two threads as in a worker."""
    return [read_one(source, record) for record in source.records()]


def is_same(found: list[Any], images: np.ndarray) -> bool:
    return len(found) == len(images) and all(
        isinstance(sample, torch.Tensor) and torch.equal(sample, as_input(image))
        for sample, image in zip(found, images, strict=True)
    )
