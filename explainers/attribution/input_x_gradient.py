"""The gradient times the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from explainers.base import Attribution, Cost
from explainers.catalogue import register
from explainers.postprocess import Postprocess, apply, check_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.targets import Target
    from explainers.trace import Trace


@register("input_x_gradient")
@dataclass(frozen=True)
class InputXGradient(Attribution):
    """Input times the gradient of the target (Shrikumar et al. 2016).

    arXiv:1605.01713.  For a network of ReLUs and max-pools without biases it sums to the target.
    """

    postprocess: Postprocess = "none"
    """What is done to the product."""

    cost = Cost(forward=1, backward=1)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deepexplain": {},
        "innvestigate": {},
        "rde": {},
    }
    requires = frozenset({"gradient"})

    def __post_init__(self) -> None:
        check_name(self.postprocess)

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return the product."""
        return apply(self.postprocess, trace.inputs * trace.gradient(target))
