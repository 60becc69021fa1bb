"""The gradient of the target."""

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


@register("gradient")
@dataclass(frozen=True)
class Gradient(Attribution):
    """Gradient of the target with respect to the input."""

    postprocess: Postprocess = "none"
    """`none` keeps the sign, `abs` is saliency, `square` is sensitivity."""

    cost = Cost(forward=1, backward=1)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "innvestigate": {},
        "zennit": {},
        "rde": {"postprocess": "square"},
    }
    requires = frozenset({"gradient"})

    def __post_init__(self) -> None:
        check_name(self.postprocess)

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return the gradient."""
        return apply(self.postprocess, trace.gradient(target))
