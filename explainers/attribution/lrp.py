"""Layer-wise relevance propagation with a composite of rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from explainers.accounts import account
from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.composites import Assignment, Composite, find
from explainers.interop import zennit
from explainers.interop.zennit import Hooks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace


@register("lrp")
@dataclass(frozen=True)
class LRP(Attribution):
    """Layer-wise relevance propagation (Bach et al. 2015) with a rule for each operator.

    doi:10.1371/journal.pone.0130140. The target's output is handed back from layer to layer; the
    map sums to it except for what biases and stabilisers absorb and what is lost where nothing
    contributes, which is given for each sample beside the map. See `explainers.rules.lrp` for the
    rules and their conventions. The rules `alpha_beta`, `gamma`, `gradient` and `beta_smooth`
    cannot conserve relevance: what they drop, or hand on more than once, is counted as lost.
    """

    composite: str | dict[str, Any] | Composite | Hooks = "epsilon_plus_flat"
    """Which rule an operator gets: the name of a composite, or a mapping with its name and
    parameters, `{name: epsilon_gamma_box, low: -2.1, high: 2.6}`. zennit's are `epsilon_plus`,
    `epsilon_plus_flat`, `epsilon_alpha2_beta1`, `epsilon_alpha2_beta1_flat`, `epsilon_gamma_box`
    (low, high, gamma), `excitation_backprop`, `beta_smooth` (beta); iNNvestigate's `lrp_z`,
    `lrp_epsilon`, `lrp_alpha_2_beta_1`, `lrp_alpha_1_beta_0` (each also with `_ib`, without
    biases), `lrp_alpha_beta` (alpha, beta, bias), `lrp_w_square`, `lrp_flat`, `lrp_z_plus`,
    `lrp_z_plus_fast`, `lrp_sequential_preset_a`, `lrp_sequential_preset_b` (either also with
    `_flat`), `lrp_sequential_preset_b_flat_until_idx` (until_layer_idx), `deep_taylor` (first),
    `deep_taylor_bounded` (low, high), also written as there: `lrp.z`. In Python also a `Composite`,
    or a composite of zennit's own."""
    rules: dict[str, str | dict[str, Any]] = field(default_factory=dict)
    """Layers, patterns for their names, or `type:Convolution` to the rule that they get in place
    of the composite's, `epsilon`, or a mapping with its parameters, `{rule: gamma, gamma: 0.1,
    zero_params: bias}`; the first that fits counts. `xpipe inspect` lists the layers of a run's
    network."""
    epsilon: float | dict[str, Any] | None = None
    """Of the rule `epsilon`: a number, or a mapping as for `stabiliser`; by default the
    composite's, which is 1e-6 in zennit's."""
    stabiliser: float | dict[str, Any] | None = None
    """Of all other rules: a number that is added to denominators, or `{epsilon: 1e-6, clip: true,
    norm_scale: true}`; by default the composite's, which is 1e-6 in zennit's."""
    zero_params: str | tuple[str, ...] | None = None
    """`bias`, or `weight`, or both, to be taken as zero by every rule that has them."""

    cost = Cost(forward=2, backward=1)
    requires = frozenset({"lrp"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "zennit": {"composite": "epsilon_plus_flat", "epsilon": 1e-6, "stabiliser": 1e-6},
        "innvestigate": {"composite": "lrp_epsilon"},
        "rde": {"composite": "lrp_epsilon", "epsilon": 0.2},
    }

    def __post_init__(self) -> None:
        if not zennit.is_composite(self.composite):
            _ = self._resolved
        elif self.rules or any(given is not None for given in self._options.values()):
            raise TypeError(
                "a composite of zennit's own has its rules and their parameters already; give "
                "them to the composite, or name one of ours: composite='epsilon_plus_flat'"
            )

    def check(self, network: Network) -> None:
        """Refuse what is not a program, and operators that have no rule."""
        if isinstance(self.composite, Hooks):
            zennit.check(network, self.composite)
            return
        if not network.is_program:
            raise NotImplementedError(
                f"lrp needs the operators of the network, and this model could not be read as a "
                f"program: {network.reason}; use a method that needs gradients alone, or "
                "change the model"
            )
        self._resolved.choose(network)

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return which of its rules cannot conserve relevance, if there are such."""
        if isinstance(self.composite, Hooks):
            return ()
        lossy = self._resolved.lossy(network)
        rules = ", ".join(sorted({name.partition(".")[0] for name in lossy.values()}))
        return (f"rules that cannot conserve relevance: {rules}",) if rules else ()

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the relevance of the inputs; that of the output is output times weights."""
        start = trace.cotangent(target) * trace.output
        if isinstance(self.composite, Hooks):
            found = zennit.relevance(trace.network, self.composite, trace.inputs, start)
            return Explained(found, {"output_relevance": start.sum(1)})
        choose = self._resolved.choose(trace.network)
        walked = trace.walk(choose, target, key=("lrp", self._resolved), start=start)
        return Explained(walked.relevance, account(start, walked))

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "epsilon": self.epsilon,
            "stabiliser": self.stabiliser,
            "zero_params": self.zero_params,
        }

    @cached_property
    def _resolved(self) -> Composite:
        given = {name: value for name, value in self._options.items() if value is not None}
        own = [Assignment.written(layers, rule) for layers, rule in self.rules.items()]
        return find(self.composite).with_defaults(**given).after(*own)  # type: ignore[arg-type]
