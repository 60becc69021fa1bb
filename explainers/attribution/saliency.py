"""The size of the gradient."""

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


@register("saliency")
@dataclass(frozen=True)
class Saliency(Attribution):
    """Absolute gradient of the target with respect to the input (Simonyan et al. 2013).

    arXiv:1312.6034.
    """

    postprocess: Postprocess = "abs"
    """`abs` is saliency, `square` is sensitivity, `none` keeps the sign."""

    cost = Cost(forward=1, backward=1)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deepexplain": {},
        "innvestigate": {},
        "rde": {"postprocess": "square"},
    }
    requires = frozenset({"gradient"})

    def __post_init__(self) -> None:
        check_name(self.postprocess)

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return the absolute gradient."""
        return apply(self.postprocess, trace.gradient(target))
