"""Features taken away in the order of their relevance: which, in which order, how many a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from explainers import baselines
from explainers.sampling import chunks

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.trace import Trace

Absence: TypeAlias = (
    float | Literal["black", "white", "mean", "uniform"] | Mapping[Literal["blur"], float]
)
"""What stands for an absent feature; see `absent`."""

DEFAULT_STEPS = 32

MOST_ROWS = 2**11
"""Of a forward pass: those of narrow networks are slower with more."""


def check_steps(
    n_steps: int | None, features_in_step: int | None, name_of_size: str = "features_in_step"
) -> None:
    """Refuse both ways to say how many steps there are at once, and steps of nothing.

    Raises
    ------
    ValueError
        If both are given, or one is below 1.
    """
    if n_steps is not None and features_in_step is not None:
        raise ValueError(f"got n_steps and {name_of_size}, expected one of them")
    for name, value in (("n_steps", n_steps), (name_of_size, features_in_step)):
        if value is not None and value < 1:
            raise ValueError(f"got {name} {value!r}, expected at least 1")


def counts(n_features: int, n_steps: int | None, features_in_step: int | None) -> Tensor:
    """Return how many features are gone after each step, int64 ``(steps,)``; the last is all.

    Parameters
    ----------
    n_features
        Of a sample.
    n_steps
        Steps of nearly equal size; 32 by default, never more than there are features.
    features_in_step
        Size of a step, instead; the last one may be smaller.
    """
    if features_in_step is not None:
        n_steps = -(-n_features // features_in_step)
        return (torch.arange(1, n_steps + 1) * features_in_step).clamp_max(n_features)
    n_steps = min(n_steps or DEFAULT_STEPS, n_features)
    return torch.arange(1, n_steps + 1) * n_features // n_steps


def counts_from_none(n_features: int, n_steps: int | None, features_in_step: int | None) -> Tensor:
    """Return `counts` behind a 0, for curves that begin with nothing gone."""
    after = counts(n_features, n_steps, features_in_step)
    return torch.cat([after.new_zeros(1), after])


def features(inputs: Tensor, *, by_pixel: bool) -> Tensor:
    """View inputs as ``(batch, channels, features)``; channels of a feature go together.

    Parameters
    ----------
    inputs
        ``(batch, ...)``.
    by_pixel
        Whether a feature is a pixel, with all its channels, where inputs are images ``(batch,
        channel, height, width)``. Otherwise, and elsewhere, each value is one.
    """
    if inputs.ndim == 4 and by_pixel:
        return inputs.flatten(2)
    return inputs.flatten(1)[:, None]


def check_absence(baseline: Any) -> None:
    """Refuse a blur without a width, and numbers that are not finite.

    Raises
    ------
    ValueError
        If it is one of these.
    """
    amounts = tuple(baseline.values()) if isinstance(baseline, Mapping) else (baseline,)
    if isinstance(baseline, Mapping) and (len(amounts) != 1 or amounts[0] < 0):
        raise ValueError(
            f"got baseline {dict(baseline)!r}, expected {{blur: sigma}} with a width in pixels of "
            "0 or more"
        )
    if not all(isinstance(amount, str) or math.isfinite(amount) for amount in amounts):
        raise ValueError(f"got baseline {baseline!r}, expected a finite number")


def check_quantus_absence(baseline: Any) -> None:
    """Refuse a baseline that Quantus does not have, or makes of what is already changed.

    Raises
    ------
    ValueError
        If it is one of these.
    """
    if baseline in ("mean", "uniform") or isinstance(baseline, Mapping):
        reason = "drifts from step to step" if baseline == "mean" else "is not the same thing"
        raise ValueError(
            f"got baseline {baseline!r} with compat 'quantus', where it {reason}; "
            "use 'black', 'white' or a number"
        )


def check(
    network: Network | None,
    shape: tuple[int, ...],
    space: Literal["probability", "logit"],
    baseline: Absence,
) -> None:
    """Refuse to remove features of samples of a shape; see `Metric.check`.

    Raises
    ------
    ValueError
        If probabilities are asked for of a network that has one output, or a blur of no images.
    """
    if network is not None:
        check_space(network.n_outputs, space)
    if isinstance(baseline, Mapping):
        baselines.check(dict(baseline), shape)  # type: ignore[arg-type]


def count(shape: tuple[int, ...], *, by_pixel: bool) -> int:
    """Return how many `features` a sample of a shape has."""
    return features(torch.empty(1, *shape, device="meta"), by_pixel=by_pixel).shape[2]


def _check_holds(dtype: torch.dtype, baseline: Absence) -> None:
    is_whole = baseline in ("black", "white") or (
        isinstance(baseline, int | float) and float(baseline).is_integer()
    )
    if not dtype.is_floating_point and not is_whole:
        raise TypeError(
            f"got inputs of {dtype} and baseline {baseline!r}, expected floating-point numbers; "
            "convert them, or set baseline to 'black', 'white' or a whole number"
        )


def absent(trace: Trace, baseline: Absence, by_pixel: bool = True) -> Tensor:
    """Return what stands for an absent feature, ``(batch, channels | 1, features | 1)``.

    Parameters
    ----------
    trace
        The samples.
    baseline
        A number; ``black``, ``white`` or ``mean``, the least, greatest or mean value of a channel
        of the sample (of the whole sample where there are no channels); ``uniform``, numbers
        between the least and the greatest, drawn once for each value of the sample; or the image
        under a Gaussian, ``{"blur": sigma}`` in pixels, see `explainers.baselines.resolve`.
    by_pixel
        What a feature is, see `features`.

    Raises
    ------
    ValueError
        If a blur is asked for and the inputs are no images.
    TypeError
        If the inputs are whole numbers, which the baseline need not be.
    """
    _check_holds(trace.inputs.dtype, baseline)
    values = features(trace.inputs, by_pixel=by_pixel)
    if isinstance(baseline, Mapping):
        blurred = baselines.resolve(dict(baseline), trace.inputs)  # type: ignore[arg-type]
        return features(blurred, by_pixel=by_pixel)
    if baseline == "mean":
        return values.mean(dim=2, keepdim=True)
    if not isinstance(baseline, str):
        return torch.full_like(values[:, :, :1], float(baseline))
    low, high = values.aminmax(dim=2, keepdim=True)
    if baseline == "uniform":
        drawn = trace.uniform("baseline", trace.inputs.shape[1:]).to(values)
        return low + (high - low) * drawn.view_as(values)
    return low if baseline == "black" else high


def relevance_of_features(relevance: Tensor, inputs: Tensor, *, by_pixel: bool) -> Tensor:
    """Return the relevance of each feature, ``(batch, features)``: its channels' sum.

    Maps of images may be sums over the channels, with or without an axis of length 1 for them;
    where each value is a feature, a sum stands for every channel.

    Raises
    ------
    ValueError
        If the maps do not fit the inputs.
    """
    if inputs.ndim == 4 and relevance.ndim == 3:
        relevance = relevance[:, None]
    is_summed = inputs.ndim == 4 and relevance.ndim == 4 and relevance.shape[1] == 1
    expected = (inputs.shape[0], 1, *inputs.shape[2:]) if is_summed else tuple(inputs.shape)
    if tuple(relevance.shape) != expected:
        raise ValueError(
            f"got maps of shape {tuple(relevance.shape)}, expected {tuple(inputs.shape)}, "
            "or the sum over its channels"
        )
    if not by_pixel:
        relevance = relevance.expand_as(inputs)
    return features(relevance, by_pixel=by_pixel).sum(dim=1)


def ranks(relevance: Tensor, *, descending: bool, ties: Tensor | None = None) -> Tensor:
    """Return the place of each feature in the order in which they go, int32 ``(batch, features)``.

    Parameters
    ----------
    relevance
        ``(batch, features)``.
    descending
        Whether the most relevant go first.
    ties
        Order in which features of equal relevance go, ``(batch, features)``: the features by
        their places. Their position by default.
    """
    if ties is not None:
        relevance = relevance.gather(1, ties)
    order = relevance.argsort(dim=1, descending=descending, stable=True)
    return places(order if ties is None else ties.gather(1, order))


def places(order: Tensor) -> Tensor:
    """Return the place of each feature in an order of features, int32 ``(batch, features)``."""
    place = torch.arange(order.shape[1], dtype=torch.int32, device=order.device)
    return torch.empty(order.shape, dtype=torch.int32, device=order.device).scatter_(
        1, order, place.expand_as(order)
    )


def check_space(n_outputs: int, space: Literal["probability", "logit", "none"]) -> None:
    """Refuse probabilities of a network that has one output, all of which are 1.

    Raises
    ------
    ValueError
        If they are asked for.
    """
    if space == "probability" and n_outputs == 1:
        raise ValueError(
            "got a network with one output, whose probability is always 1; set "
            "`output_space: logit` on the metric"
        )


def selected(output: Tensor, weights: Tensor, space: Literal["probability", "logit"]) -> Tensor:
    """Return what is explained, ``(rows,)``, in probabilities or logits; at least in float32.

    Parameters
    ----------
    output
        Logits, ``(rows, classes)``.
    weights
        Of the target, ``(rows, classes)``.
    space
        Which of the two.
    """
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    values = output.softmax(dim=1) if space == "probability" else output
    return (values * weights).sum(dim=1)


def rows_at_once(inputs: Tensor) -> int:
    """Return how many changed inputs one forward pass takes, at least one."""
    return min(MOST_ROWS, chunks.rows_at_once(inputs))
