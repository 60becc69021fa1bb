"""The input that stands for absence: what a path starts from and an ablation puts in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from explainers import numeric

Word = Literal["min", "max", "mean", "data_mean"]
"""The sample's own least, greatest or mean value, or the mean of the data set."""

Made = Literal["blur", "noise"]
"""What is made of the sample, or drawn for it, with one number that says how."""

Baseline: TypeAlias = float | tuple[float, ...] | Tensor | Word | Mapping[Made, float] | None

Statistics: TypeAlias = Any
"""The result of the scan `moments`, whose ``mean`` is the baseline ``data_mean``."""

Draw: TypeAlias = Callable[[Sequence[int]], Tensor]
"""Standard normal numbers, ``(batch, *shape)``, for a shape of one sample."""

DATA_MEAN = "data_mean"
TRUNCATION = 4.0
"""Standard deviations after which a Gaussian ends, as in scipy.ndimage; 6e-5 of it are beyond."""


def resolve(baseline: Baseline, inputs: Tensor, draw: Draw | None = None) -> Tensor:
    """Return `baseline` as a tensor that broadcasts against `inputs`.

    Parameters
    ----------
    baseline
        None (zero), a number, one number a channel, or a tensor: of one sample without the batch
        axis, or ``(1, ...)`` for all rows, or ``(batch, ...)``. ``"min"``, ``"max"`` and ``"mean"``
        are of each sample itself, the mean channel by channel. ``{"blur": sigma}`` is the image
        under a Gaussian of that many pixels, mirrored at its borders; ``{"noise": stdev}`` normal
        numbers around zero (both Fong and Vedaldi 2017, arXiv:1704.03296). ``"data_mean"`` has to
        be `settled` before.
    inputs
        ``(batch, ...)``.
    draw
        Gives noise.

    Returns
    -------
    Tensor
        ``(1, ...)`` or ``(batch, ...)`` with the device and dtype of the inputs.

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If the shapes do not fit, or a value is not finite.
    """
    if isinstance(baseline, str) and baseline in get_args(Word):
        return _of_word(baseline, inputs)
    if is_made(baseline):
        return _made(baseline, inputs, draw)
    sample_shape = inputs.shape[1:]
    values = _values(baseline, inputs)
    if not isinstance(baseline, Tensor) and values.ndim == 0:
        return values.expand(1, *sample_shape)
    if values.shape == sample_shape:
        return values[None]
    if values.ndim == inputs.ndim and values.shape[1:] == sample_shape:
        if len(values) in (1, len(inputs)):
            return values
    elif inputs.ndim > 2 and values.shape == sample_shape[:1]:
        ones = (1,) * (len(sample_shape) - 1)
        return values.view(1, -1, *ones).expand(1, *sample_shape)
    forms = (sample_shape, (1, *sample_shape), inputs.shape)
    *others, last = dict.fromkeys(str(tuple(form)) for form in forms)
    raise ValueError(
        f"baseline has shape {tuple(values.shape)}, the inputs {tuple(inputs.shape)}; give a "
        f"number, one number a channel, or a tensor {', '.join(others)} or {last}"
    )


def check(baseline: Baseline, shape: Sequence[int]) -> None:
    """Refuse a baseline that does not fit samples of a shape; see `resolve` for what it raises."""
    if not is_data_mean(baseline):
        resolve(baseline, torch.zeros(1, *shape), _nothing)


def is_made(baseline: Any) -> bool:
    """Whether a baseline is made of the sample, and not a mapping of several inputs' baselines."""
    return isinstance(baseline, Mapping) and len(baseline) == 1 and {*baseline} <= {*get_args(Made)}


def is_drawn(baseline: Any) -> bool:
    """Whether a baseline has random numbers in it, of one of several inputs too."""
    if isinstance(baseline, Mapping):
        return "noise" in baseline or any(is_drawn(each) for each in baseline.values())
    return isinstance(baseline, tuple | list) and any(is_drawn(each) for each in baseline)


def is_data_mean(baseline: Any) -> bool:
    """Whether a baseline is the mean of the data set, which a scan has to find."""
    return isinstance(baseline, str) and baseline == DATA_MEAN


def needs_of(parameters: Mapping[str, Any]) -> Mapping[str, str]:
    """Return what a method with the fields `baseline` and `statistics` needs of scans."""
    return {"statistics": "moments"} if is_data_mean(parameters.get("baseline")) else {}


def settled(baseline: Any, statistics: Statistics) -> Any:
    """Return a baseline with the mean of a data set in its place, if that is what it is.

    Parameters
    ----------
    baseline
        See `resolve`.
    statistics
        Of the data set: what the scan `moments` has found; None for other baselines.

    Raises
    ------
    ValueError
        If the mean is asked for and there is none, or statistics are given for nothing.
    """
    if not is_data_mean(baseline):
        if statistics is None:
            return baseline
        raise ValueError(
            f"got statistics with the baseline {baseline!r}, which takes none; set baseline to "
            f"{DATA_MEAN!r}, or leave statistics out"
        )
    if statistics is None:
        raise ValueError(
            "the baseline 'data_mean' got no statistics; pass statistics=, the result of "
            "explainers.scan(model, 'moments', loader)"
        )
    if not isinstance(statistics, Mapping) or "mean" not in statistics:
        raise ValueError(
            f"got statistics without a mean, {type(statistics).__name__}, expected the result of "
            "explainers.scan(model, 'moments', loader) over at least one sample"
        )
    return torch.as_tensor(statistics["mean"])


def _of_word(word: str, inputs: Tensor) -> Tensor:
    if word == DATA_MEAN:
        raise ValueError(
            "the baseline 'data_mean' serves one input of numbers; give a tensor for each input"
        )
    flat = inputs.flatten(1)
    if word == "mean":
        by_channel = inputs.flatten(2) if inputs.ndim > 2 else flat[:, None]
        found = by_channel.mean(2)
    else:
        found = (flat.amin(1) if word == "min" else flat.amax(1))[:, None]
    return found.view(*found.shape, *(1,) * (inputs.ndim - 2)).expand_as(inputs)


def _made(made: Any, inputs: Tensor, draw: Draw | None) -> Tensor:
    ((kind, amount),) = made.items()
    numeric.check_finite(kind, amount)
    if kind == "blur":
        return _blurred(inputs, float(amount))
    if draw is None:
        raise ValueError(
            f"got the baseline {made!r} where no samples are known to draw it for; pass a tensor"
        )
    return draw(inputs.shape[1:]).mul_(float(amount)).to(inputs)


def _blurred(inputs: Tensor, sigma: float) -> Tensor:
    if inputs.ndim != 4:
        raise ValueError(
            f"got the baseline 'blur' for inputs of shape {tuple(inputs.shape)}, expected images "
            "(batch, channels, height, width); take 'mean' or a number"
        )
    height, width = inputs.shape[2:]
    rows, columns = _blur(height, sigma).to(inputs), _blur(width, sigma).to(inputs)
    return torch.einsum("ih,bchw,jw->bcij", rows, inputs, columns)


def _blur(size: int, sigma: float) -> Tensor:
    """Return the matrix ``(size, size)`` that blurs an axis, beyond whose ends it is mirrored."""
    if sigma == 0:
        return torch.eye(size, dtype=torch.float64)
    radius = int(TRUNCATION * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    places = (torch.arange(size)[:, None] + offsets) % (2 * size)
    places = torch.minimum(places, 2 * size - 1 - places)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, places, (weights / weights.sum()).expand(size, -1))


def _nothing(shape: Sequence[int]) -> Tensor:
    return torch.zeros(1, *shape)


def _values(baseline: Any, inputs: Tensor) -> Tensor:
    try:
        values = torch.as_tensor(0.0 if baseline is None else baseline, dtype=inputs.dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"got baseline {baseline!r}, expected None, a number, one number a channel, a tensor, "
            "'min', 'max' or 'mean' of the sample, 'data_mean', {'blur': sigma} or {'noise': stdev}"
        ) from error
    if not bool(values.isfinite().all()):
        raise ValueError(
            "got a baseline with NaN or infinite values, expected finite ones; replace them, for "
            "example by the mean of the inputs"
        )
    return values.to(inputs.device)
