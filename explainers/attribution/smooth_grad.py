"""The mean of a method's maps over noisy copies of the sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from explainers.base import Explained
from explainers.catalogue import register
from explainers.postprocess import Postprocess, apply, check_name
from explainers.sampling.noisy import Noisy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from explainers.targets import Target
    from explainers.trace import Trace


@register("smooth_grad")
@dataclass(frozen=True)
class SmoothGrad(Noisy):
    """Mean map of noisy copies of the sample (Smilkov et al. 2017, arXiv:1706.03825).

    ``1 / n * sum_k map(x + noise_k)``; the map is the gradient unless another method is named.
    The array ``standard_error``, shaped like the map, is that of the mean (before `postprocess`):
    the deviation over noisy copies, over the root of their number; NaN for fewer than two.
    """

    postprocess: Postprocess = "none"
    """What is done to the mean; what is done to each copy's map stands in `parameters`."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **Noisy.presets,
        # every copy's gradient is squared before the mean is taken
        "rde": {"n_samples": 64, "noise_level": 0.3, "parameters": {"postprocess": "square"}},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.postprocess)

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the mean map and its ``standard_error``."""
        mean, _, error = self.spread(trace, target)
        return Explained(apply(self.postprocess, mean), {"standard_error": error})
