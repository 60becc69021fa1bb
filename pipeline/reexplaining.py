"""The explainers of a run, for metrics that explain its samples again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from explainers import Attribution, explaining
from pipeline.entries import build_explainers, with_results
from pipeline.sinks.maps import HALF_EXPONENT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from explainers import Target, Trace
    from pipeline.store import Run


@dataclass(frozen=True)
class Again:
    """One entry of a run, which explains any trace as the run explained its samples."""

    name: str
    """Of the entry: a stochastic method draws under it."""
    attribution: Attribution
    """With the results of scans that it needs."""
    dims: tuple[str, ...]
    """Of its maps before channels are summed."""
    channels: str
    """Whether the run stores them: ``keep`` or ``sum``."""
    dtype: str = "float32"
    """In which type the run stores maps."""

    def explain(self, trace: Trace, target: Target) -> Tensor:
        """Return maps as the run stores them, in float32."""
        named = trace.named(self.name)
        relevance = explaining.explained(self.attribution, named, target).relevance.float()
        stored = as_stored(relevance, self.dims, self.channels)
        return halved(stored) if self.dtype == "float16" else stored


def as_stored(relevance: Tensor, dims: tuple[str, ...], channels: str) -> Tensor:
    """Return maps with their channels, or with the sum of them.

    Parameters
    ----------
    relevance
        Its last axes are `dims`.
    dims
        Of a map before channels are summed.
    channels
        ``keep`` or ``sum``.
    """
    if channels == "sum" and "channel" in dims:
        # counted from the end, where the map's own dimensions are
        return relevance.sum(dims.index("channel") - len(dims))
    return relevance


def halved(relevance: Tensor) -> Tensor:
    """Return rows of float32 rounded as `pipeline.sinks.maps.halve` rounds them, in float32.

    Otherwise maps that are the same would differ from those that were stored by the rounding.
    """
    axes = tuple(range(1, relevance.ndim))
    largest = relevance.where(relevance.isfinite(), 0.0).abs().amax(axes, keepdim=True)
    exponent = (torch.frexp(largest).exponent - HALF_EXPONENT).clamp_min(-126)
    scale = torch.ldexp(torch.ones_like(largest), exponent).where(largest > 0, 1.0)
    return (relevance / scale).half().float() * scale


def again(run: Run, names: Iterable[str]) -> dict[str, Again]:
    """Return entries of a run by name, with the stored results of the scans that they need.

    Raises
    ------
    ConfigError
        If an entry is not what it was.
    KeyError
        If the result of a scan is missing.
    """
    built = build_explainers(run.config)
    found = {}
    for name in names:
        attribution = built[name]
        if not isinstance(attribution, Attribution):
            raise TypeError(f"{name!r} is a {type(attribution).__name__}, expected an attribution")
        needs = run.plan.needs.get(name, {})
        results = {scan: _tensors(run.scans[scan].load()) for scan in set(needs.values())}
        found[name] = Again(
            name,
            with_results(attribution, needs, results),
            attribution.dims(run.plan.input_shape),
            run.plan.channels,
            run.plan.dtype,
        )
    return found


def _tensors(stored: Any) -> Any:
    """Return a result as it was before it was stored: arrays are tensors."""
    if isinstance(stored, dict):
        return {key: _tensors(value) for key, value in stored.items()}
    # numbers of their own are numpy scalars
    return torch.as_tensor(stored) if hasattr(stored, "dtype") else stored
