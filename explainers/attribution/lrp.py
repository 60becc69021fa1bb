"""Layer-wise relevance propagation with a composite of rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from explainers import numeric
from explainers.base import Attribution, Cost
from explainers.catalogue import register
from explainers.composites import Assignment, Composite, find

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace


RuleName = Literal["epsilon", "z_plus", "flat", "norm", "pass"]


@register("lrp")
@dataclass(frozen=True)
class LRP(Attribution):
    """Layer-wise relevance propagation (Bach et al. 2015) with a rule for each operator.

    doi:10.1371/journal.pone.0130140. The target's output is handed back from layer to layer; the
    map sums to it except for what biases and stabilisers absorb. See `explainers.rules.lrp` for
    the rules and their conventions.
    """

    composite: str | Composite = "epsilon_plus_flat"
    """Which rule an operator gets: `epsilon_plus`, `epsilon_plus_flat`, or a `Composite`."""
    rules: dict[str, RuleName] = field(default_factory=dict)
    """Layers, or patterns for their names, to the rule that they get in place of the composite's;
    the first that fits counts. `xpipe inspect` lists the layers of a run's network."""
    epsilon: float = 1e-6
    """Of the rule `epsilon`, where the composite does not set it."""

    cost = Cost(forward=2, backward=1)
    requires = frozenset({"lrp"})

    def __post_init__(self) -> None:
        find(self.composite)
        numeric.check_finite("epsilon", self.epsilon)

    def check(self, network: Network) -> None:
        """Refuse what is not a program, and operators that have no rule."""
        if not network.is_program:
            raise NotImplementedError(
                f"lrp needs the operators of the network, and this model could not be read as a "
                f"program: {network.reason}; use a method that needs gradients alone, or "
                "change the model"
            )
        self._resolved().choose(network)

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return the relevance of the inputs; that of the output is output times weights."""
        self.check(trace.network)
        composite = self._resolved()
        start = trace.cotangent(target) * trace.output
        choose = composite.choose(trace.network)
        return trace.backward(choose, target, key=("lrp", composite), start=start)

    def _resolved(self) -> Composite:
        own = tuple(Assignment(rule, (layers,)) for layers, rule in self.rules.items())
        composite = Composite((*own, *find(self.composite).assignments))
        return composite.with_defaults(epsilon=self.epsilon)
