"""PatternAttribution: which inputs the output's signal came from, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from explainers.attribution.pattern_net import PatternNet
from explainers.catalogue import register

if TYPE_CHECKING:
    from explainers.rules.pattern import Variant


@register("pattern_attribution")
@dataclass(frozen=True)
class PatternAttribution(PatternNet):
    """Share of each input in the output by its signal (Kindermans et al. 2018, arXiv:1705.05598).

    Deep Taylor decomposition whose root points lie along the patterns ``a``: the output's value
    goes back through ReLUs as a gradient does, and through layers by ``w * a`` in place of their
    weights. As ``w^T a = 1``, a layer hands on all that it gets (but for what zeros around its
    input get); a ReLU that is off keeps what reaches it.
    """

    variant: ClassVar[Variant] = "attribution"
