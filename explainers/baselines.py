"""The input that stands for absence: what a path starts from and an ablation puts in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

Extreme = Literal["min", "max"]
"""The sample's own least or greatest value, everywhere."""

Baseline: TypeAlias = "float | Sequence[float] | Tensor | Extreme | None"


def resolve(baseline: Baseline, inputs: Tensor) -> Tensor:
    """Return `baseline` as a tensor that broadcasts against `inputs`.

    Parameters
    ----------
    baseline
        None (zero), a number, one number a channel, or a tensor: of one sample without the batch
        axis, or ``(1, ...)`` for all rows, or ``(batch, ...)``. ``"min"`` and ``"max"`` are the
        least and the greatest value of each sample itself.
    inputs
        ``(batch, ...)``.

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
    sample_shape = inputs.shape[1:]
    if isinstance(baseline, str) and baseline in get_args(Extreme):
        flat = inputs.flatten(1)
        extreme = flat.amin(1) if baseline == "min" else flat.amax(1)
        return extreme.view(-1, *[1] * len(sample_shape)).expand_as(inputs)
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
    raise ValueError(
        f"baseline has shape {tuple(values.shape)}, the inputs {tuple(inputs.shape)}; give a "
        f"number, one number a channel, or a tensor {tuple(sample_shape)}, "
        f"{(1, *sample_shape)} or {tuple(inputs.shape)}"
    )


def _values(baseline: Any, inputs: Tensor) -> Tensor:
    try:
        values = torch.as_tensor(0.0 if baseline is None else baseline, dtype=inputs.dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"got baseline {baseline!r}, expected None, a number, one number a channel, a tensor, "
            "or 'min' or 'max' of the sample"
        ) from error
    if not bool(values.isfinite().all()):
        raise ValueError(
            "got a baseline with NaN or infinite values, expected finite ones; replace them, for "
            "example by the mean of the inputs"
        )
    return values.to(inputs.device)
