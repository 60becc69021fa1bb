"""PatternNet and PatternAttribution's way back: by patterns in place of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from explainers.base import Attribution, Cost
from explainers.catalogue import register
from explainers.rules.pattern import assigned, pattern

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.rules.pattern import Variant
    from explainers.targets import Target
    from explainers.trace import Trace


@register("pattern_net")
@dataclass(frozen=True)
class PatternNet(Attribution):
    """Part of the input that the network's output can tell (Kindermans et al. 2018).

    arXiv:1705.05598. The output goes back through ReLUs as a gradient does, and through layers by
    their patterns, the directions in which data make their outputs vary, in place of their weights.
    For a linear network it is ``a y``, the estimate of the signal, in the units of the input: it
    starts from the output's value, as iNNvestigate's does, where a gradient starts from one.

    Values grow with depth: a pattern's size is set by its own layer's data and nothing brings what
    comes back to the scale of the input. In deep networks, above all with batch norms, maps can
    overflow float32, to infinities and NaN.
    """

    patterns: Mapping[str, Any] | None = None
    """Result of the scan `patterns`: a tensor shaped like the weight for each layer."""

    cost = Cost(forward=1, backward=1)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"innvestigate": {}}
    requires = frozenset({"pattern"})
    needs: ClassVar[Mapping[str, str]] = {"patterns": "patterns"}
    variant: ClassVar[Variant] = "default"

    def check(self, network: Network) -> None:
        """Refuse operators without a rule, and patterns that are not this network's."""
        pattern.check(network)
        if self.patterns is not None:
            assigned(network, self.patterns, self.variant)

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return what the output becomes on its way back.

        Raises
        ------
        ValueError
            If there are no patterns.
        """
        if self.patterns is None:
            raise ValueError(
                f"{self.name} got no patterns; pass patterns=, the result of "
                "explainers.scan(model, 'patterns', loader)"
            )
        rules = assigned(trace.network, self.patterns, self.variant)
        start = trace.cotangent(target) * trace.output
        return trace.backward(rules, target, key=(self.name, rules), start=start)
