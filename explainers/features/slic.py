"""Superpixels: cells of similar and nearby pixels, for each sample its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from explainers.features.axes import axes
from explainers.features.labels import Labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from explainers.features.labels import Rows

_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Inputs to the superpixels that were found in them, for as long as the inputs live."""


@dataclass(frozen=True)
class Slic:
    """Superpixels by clustering of colour and place (Achanta et al. 2012, TPAMI 34(11)).

    A sample is divided as it is given to the network, rescaled to [0, 1]: a preprocessing that
    scales and shifts all channels alike changes nothing. Three channels are compared as colours,
    in Lab; anything else as lightness, of the same range from 0 to 100.
    """

    n_segments: int = 50
    """About how many superpixels there should be."""
    compactness: float = 10.0
    """Nearness in space against likeness in colour: the more, the more even the superpixels."""
    sigma: float = 0.0
    """Width of the Gaussian that smooths a sample first, in pixels."""

    def __post_init__(self) -> None:
        for name, least, kind in (("n_segments", 1, int), ("compactness", 0, float)):
            value = getattr(self, name)
            _refuse_unless_number(name, value, kind)
            if value < least or not value > 0:
                raise ValueError(f"got {name} {value!r} for slic, expected more than 0")
        _refuse_unless_number("sigma", self.sigma, float)
        if not self.sigma >= 0:
            raise ValueError(f"got sigma {self.sigma!r} for slic, expected 0 or more")

    def labels(self, shape: tuple[int, ...], rows: Rows | None) -> Labels | None:
        """Return the superpixels of each sample.

        Raises
        ------
        ImportError
            If scikit-image is not installed.
        ValueError
            If the values are no picture or volume.
        """
        slic = _slic()
        places = axes(shape).places
        if len(places) < 2:
            raise ValueError(
                f"got features 'slic' for values of shape {shape}, expected a picture (channels, "
                "height, width) or a volume (channels, depth, height, width)"
            )
        if rows is None:
            return None
        if rows.whole not in _known:
            _known[rows.whole] = {}
        found: dict[tuple[str, Slic], Labels] = _known[rows.whole]
        key = (rows.name, self)
        if key not in found:
            found[key] = self._divided(rows.values, slic)
        return found[key]

    def suits(self, shape: tuple[int, ...], are_tokens: bool) -> bool:
        """Whether it is a picture or a volume."""
        return len(shape) > 2 and not are_tokens

    def _divided(self, values: Tensor, slic: Callable[..., Any]) -> Labels:
        cells, counts = [], []
        for sample in values.detach().double().cpu():
            low, high = sample.min(), sample.max()
            scaled = (sample - low) / (high - low if high > low else 1.0)
            # Lab's lightness goes to 100, scikit-image compares other channels as they are
            is_colour = len(sample) == 3
            found = slic(
                scaled.numpy(),
                n_segments=self.n_segments,
                compactness=self.compactness / (1 if is_colour else 100),
                sigma=self.sigma,
                convert2lab=is_colour,
                start_label=0,
                channel_axis=0,
            )
            present, numbers = torch.unique(torch.from_numpy(found), return_inverse=True)
            cells.append(numbers[None, None])
            counts.append(len(present))
        return Labels(torch.cat(cells), tuple(counts), are_of_samples=True)


def _refuse_unless_number(name: str, value: Any, kind: type) -> None:
    wanted = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted):
        expected = "a whole number" if kind is int else "a number"
        raise TypeError(f"got {name} {value!r} for slic, expected {expected}")


def _slic() -> Callable[..., Any]:
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError(
            "features 'slic' need scikit-image, which is not installed; "
            "run: pip install 'xpipe-xai[superpixels]'"
        ) from error
    found: Callable[..., Any] = slic
    return found
