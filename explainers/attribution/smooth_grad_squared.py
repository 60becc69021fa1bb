"""The mean of a method's squared maps over noisy copies of the sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from explainers.base import Explained
from explainers.catalogue import register
from explainers.sampling.noisy import Noisy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from explainers.targets import Target
    from explainers.trace import Trace


@register("smooth_grad_squared")
@dataclass(frozen=True)
class SmoothGradSquared(Noisy):
    """Mean square of the maps of noisy copies of the sample (Hooker et al. 2019, arXiv:1806.10758).

    ``1 / n * sum_k map(x + noise_k)^2``; the map is the gradient unless another method is named.
    The array ``standard_error``, shaped like the map, is that of the mean: see `smooth_grad`.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **Noisy.presets,
        "rde": {"n_samples": 64, "noise_level": 0.3},
    }

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the mean squared map and its ``standard_error``."""
        mean, _, error = self.spread(trace, target, torch.square)
        return Explained(mean, {"standard_error": error})
