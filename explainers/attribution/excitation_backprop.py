"""Excitation backpropagation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from explainers.accounts import account
from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.composites import Composite, find

if TYPE_CHECKING:
    from collections.abc import Mapping

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace


@register("excitation_backprop")
@dataclass(frozen=True)
class ExcitationBackprop(Attribution):
    """Probability that a top-down walk along excitations ends at an input (Zhang et al. 2018).

    doi:10.1007/s11263-017-1059-x. It starts with the target's weights, so with 1 at the output of
    one class, and each value passes its share on to those before it in proportion to their positive
    contributions, ``a_i w+``. Rules are zennit's: sums and average pools share by value,
    convolutions and matrix products by positive contribution (also of negative inputs with negative
    weights), everything else takes the gradient. What the stabiliser keeps in sums and pools there
    is handed on here, about 1e-6 of the relevance by value: the rule `norm`. The map sums to the
    start but for what biases and stabilisers absorb and what is lost, which is given for each
    sample beside it.
    """

    stabiliser: float | dict[str, object] = 1e-6
    """Added to denominators; or a mapping, `{epsilon: 1e-6, clip: true, norm_scale: true}`."""
    zero_params: str | tuple[str, ...] = ()
    """`bias` leaves biases out, as the paper does; in zennit, and by default here, positive ones
    count as contributions."""

    cost = Cost(forward=1, backward=2)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"zennit": {}}
    requires = frozenset({"lrp"})

    def __post_init__(self) -> None:
        _ = self._composite

    def check(self, network: Network) -> None:
        """Refuse what is not a program."""
        self._composite.choose(network)

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return probabilities, for one class; with weights, their weighted sum."""
        start = trace.cotangent(target)
        choose = self._composite.choose(trace.network)
        key = ("excitation_backprop", self._composite)
        walked = trace.walk(choose, target, key=key, start=start)
        return Explained(walked.relevance, account(start, walked))

    @cached_property
    def _composite(self) -> Composite:
        options = {"stabiliser": self.stabiliser, "zero_params": self.zero_params}
        return find("excitation_backprop").with_defaults(**options)
