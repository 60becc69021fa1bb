"""Epsilon-LRP as DeepExplain defines it: by activation multipliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from explainers import numeric
from explainers.accounts import account
from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.rules.multipliers import ActivationMultipliers, epsilon_lrp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace


@register("epsilon_lrp")
@dataclass(frozen=True)
class EpsilonLRP(Attribution):
    """Input times a gradient with ``f(x) / (x + epsilon * sgn(x))`` for activation slopes.

    Epsilon-LRP (Bach et al. 2015, doi:10.1371/journal.pone.0130140) in the form and with the
    default of Ancona et al. 2018, arXiv:1711.06104; see `explainers.rules.multipliers`. For the
    form of zennit and iNNvestigate, which stabilises the outputs of linear maps, take `lrp` with
    the composite `lrp_epsilon`. The arrays tell where relevance went: ``output_relevance`` is the
    sum of the map, ``absorbed_by_bias`` and ``absorbed_by_stabiliser``; nothing is ever ``lost``,
    because the ratio of an activation that is not zero at zero counts as stabilised.
    """

    epsilon: float = 1e-4
    """Stabiliser; above zero."""

    cost = Cost(forward=1, backward=1)
    requires = frozenset({"epsilon_lrp"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"deepexplain": {"epsilon": 1e-4}}

    def __post_init__(self) -> None:
        numeric.check_finite("epsilon", self.epsilon)
        if self.epsilon == 0:
            raise ValueError(
                "got epsilon=0, expected more than zero: an activation whose input is zero has no "
                "multiplier without it; use a small one, 1e-9"
            )

    def check(self, network: Network) -> None:
        """Refuse what is not a program, and operators that have no rule."""
        epsilon_lrp.check(network)

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map and the amounts of relevance, ``(batch,)`` each."""
        rules = ActivationMultipliers(self.epsilon, trace.network.dependent)
        walked = trace.walk(rules, target, key=("epsilon_lrp", self.epsilon))
        arrays = account(trace.cotangent(target) * trace.output, walked)
        return Explained(trace.inputs * walked.relevance, arrays)
