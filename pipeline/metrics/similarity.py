"""How alike two maps are: rank correlation, correlation, structural similarity; batched."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional

from pipeline.metrics import removal

if TYPE_CHECKING:
    from torch import Tensor

Similarity = Literal["spearman", "pearson", "ssim"]

WINDOW = 7
"""Side of the windows of structural similarity: scikit-image's."""

_C1, _C2 = 0.01**2, 0.03**2
"""Of Wang et al. 2004, in units of the squared range of values."""


def maps(relevance: Tensor, inputs: Tensor, *, by_value: bool = False) -> Tensor:
    """Return maps as they are compared, ``(batch, ...)``.

    Parameters
    ----------
    relevance
        ``(batch, ...)``, for each value of the inputs, or of images the sum over the channels.
    inputs
        Of images the result is ``(batch, height, width)``, relevance summed over the channels; of
        anything else a row.
    by_value
        Whether each value has a place of its own: rows of all values, of images too.
    """
    found = removal.relevance_of_features(relevance, inputs, by_pixel=not by_value)
    is_image = inputs.ndim == 4 and not by_value
    return found.view(-1, *inputs.shape[2:]) if is_image else found


def prepared(kind: Similarity, given: Tensor) -> Tensor:
    """Return what is compared of maps: their ranks, or values over the greatest magnitude; float64.

    Parameters
    ----------
    kind
        Of the similarity.
    given
        ``(batch, ...)``.
    """
    if kind == "spearman":
        return ranks(given.flatten(1))
    given = given.double()
    greatest = given.flatten(1).abs().amax(dim=1).view(-1, *[1] * (given.ndim - 1))
    return given / greatest.where(greatest > 0, 1.0)


def alike(kind: Similarity, one: Tensor, other: Tensor) -> Tensor:
    """Return how alike prepared maps are, ``(batch,)``, 1 for equal ones, at least -1.

    A map of equal values has no order, and varies with nothing: its correlation is 0, and 1 with
    another such map.
    """
    return ssim(one, other) if kind == "ssim" else correlation(one.flatten(1), other.flatten(1))


def varies(given: Tensor) -> Tensor:
    """Return which maps have more than one value, ``(batch,)``."""
    rows = given.flatten(1)
    return (rows != rows[:, :1]).any(dim=1)


def ranks(values: Tensor) -> Tensor:
    """Return places in ascending order, from 1, float64 ``(batch, features)``; of ties the mean."""
    ordered, order = values.sort(dim=1)
    index = torch.arange(values.shape[1], device=values.device).expand_as(order)
    border = torch.ones_like(ordered[:, :1], dtype=torch.bool)
    changes = ordered[:, 1:] != ordered[:, :-1]
    is_first = torch.cat([border, changes], dim=1)
    is_last = torch.cat([changes, border], dim=1)
    first = index.where(is_first, 0).cummax(dim=1).values
    last = index.where(is_last, values.shape[1]).flip(1).cummin(dim=1).values.flip(1)
    # places are halves, which float64 holds as they are
    places = (first + last + 2).double() / 2
    return torch.empty_like(places).scatter_(1, order, places)


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Return Pearson's correlation of rows, ``(batch,)``; what is constant is said in `alike`."""
    is_constant = [~varies(rows) for rows in (one, other)]
    one, other = (rows - rows.mean(dim=1, keepdim=True) for rows in (one, other))
    size = (one.square().sum(dim=1) * other.square().sum(dim=1)).sqrt()
    found = ((one * other).sum(dim=1) / size).clamp(-1.0, 1.0)
    found = found.masked_fill(is_constant[0] | is_constant[1], 0.0)
    return found.masked_fill(is_constant[0] & is_constant[1], 1.0)


def ssim(one: Tensor, other: Tensor) -> Tensor:
    r"""Return the mean structural similarity, ``(batch,)`` (Wang et al. 2004).

    doi:10.1109/TIP.2003.819861. In windows w of 7 places a side, all within the map, smaller ones
    where a side is shorter,

    .. math:: \frac{1}{|W|} \sum_{w \in W}
        \frac{(2 \mu_a \mu_b + c_1)(2 \sigma_{ab} + c_2)}
             {(\mu_a^2 + \mu_b^2 + c_1)(\sigma_a^2 + \sigma_b^2 + c_2)}

    with sample variances, :math:`c_1 = (0.01 L)^2`, :math:`c_2 = (0.03 L)^2` and L the range of
    both maps together. Equal maps of one value are alike: 1.

    Parameters
    ----------
    one, other
        ``(batch, ...)`` of one to three axes of places.
    """
    both = torch.stack([one, other], dim=1).flatten(2)
    extent = both.amax(dim=(1, 2)) - both.amin(dim=(1, 2))
    squared = extent.square().view(-1, *[1] * (one.ndim - 1))
    of_one, of_other = _windowed(one), _windowed(other)
    n_places = math.prod(_window(one))
    sample = n_places / max(1, n_places - 1)
    variances = _windowed(one.square()) + _windowed(other.square())
    variances = sample * (variances - of_one.square() - of_other.square())
    covariance = sample * (_windowed(one * other) - of_one * of_other)
    luminance = 2 * of_one * of_other + _C1 * squared
    top = luminance * (2 * covariance + _C2 * squared)
    bottom = (of_one.square() + of_other.square() + _C1 * squared) * (variances + _C2 * squared)
    found = (top / bottom).flatten(1).mean(dim=1)
    return found.masked_fill(extent == 0, 1.0)


def _window(given: Tensor) -> tuple[int, ...]:
    """Return the sides of a window, odd ones, in a map."""
    return tuple(min(WINDOW, side - (side + 1) % 2) for side in given.shape[1:])


def _windowed(given: Tensor) -> Tensor:
    """Return means over all windows within the maps."""
    averages = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)
    return averages[given.ndim - 2](given[:, None], _window(given), stride=1)[:, 0]
