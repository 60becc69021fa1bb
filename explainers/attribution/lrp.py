"""Layer-wise relevance propagation with a composite of rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from explainers.accounts import account
from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.composites.composed import Composed
from explainers.interop import zennit
from explainers.interop.zennit import Hooks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace


@register("lrp")
@dataclass(frozen=True)
class LRP(Composed, Attribution):
    """Layer-wise relevance propagation (Bach et al. 2015) with a rule for each operator.

    doi:10.1371/journal.pone.0130140. The target's output is handed back from layer to layer; the
    map sums to it except for what biases and stabilisers absorb and what is lost where nothing
    contributes, which is given for each sample beside the map. See `explainers.rules.lrp` for the
    rules and their conventions. The rules `alpha_beta`, `gamma`, `gradient` and `beta_smooth`
    cannot conserve relevance: what they drop, or hand on more than once, is counted as lost.
    """

    cost = Cost(forward=2, backward=1)
    requires = frozenset({"lrp"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "zennit": {"composite": "epsilon_plus_flat", "epsilon": 1e-6, "stabiliser": 1e-6},
        "innvestigate": {"composite": "lrp_epsilon"},
        "rde": {"composite": "lrp_epsilon", "epsilon": 0.2},
    }

    def __post_init__(self) -> None:
        if not zennit.is_composite(self.composite):
            _ = self.resolved
        elif self.rules or any(given is not None for given in self.options.values()):
            raise TypeError(
                "a composite of zennit's own has its rules and their parameters already; give "
                "them to the composite, or name one of ours: composite='epsilon_plus_flat'"
            )

    def check(self, network: Network) -> None:
        """Refuse what is not a program, and operators that have no rule."""
        if isinstance(self.composite, Hooks):
            zennit.check(network, self.composite)
            return
        self.check_composite(network)

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return which of its rules cannot conserve relevance, if there are such."""
        if isinstance(self.composite, Hooks):
            return ()
        return self.notes_of_composite(network)

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the relevance of the inputs; that of the output is output times weights."""
        start = trace.cotangent(target) * trace.output
        if isinstance(self.composite, Hooks):
            found = zennit.relevance(trace.network, self.composite, trace.inputs, start)
            return Explained(found, {"output_relevance": start.sum(1)})
        choose = self.resolved.choose(trace.network)
        walked = trace.walk(choose, target, key=("lrp", self.resolved), start=start)
        return Explained(walked.relevance, account(start, walked))
