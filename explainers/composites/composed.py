"""What explainers that hand on relevance by a composite have in common: which rules they take."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from explainers.composites import Assignment, Composite, find
from explainers.interop.zennit import Hooks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from explainers.network import Network


@dataclass(frozen=True)
class Composed:
    """A composite of rules and what is changed of it."""

    composite: str | dict[str, Any] | Composite | Hooks = "epsilon_plus_flat"
    """Which rule an operator gets: the name of a composite, or a mapping with its name and
    parameters, `{name: epsilon_gamma_box, low: -2.1, high: 2.6}`. zennit's are `epsilon_plus`,
    `epsilon_plus_flat`, `epsilon_alpha2_beta1`, `epsilon_alpha2_beta1_flat`, `epsilon_gamma_box`
    (low, high, gamma), `excitation_backprop`, `beta_smooth` (beta); iNNvestigate's `lrp_z`,
    `lrp_epsilon`, `lrp_alpha_2_beta_1`, `lrp_alpha_1_beta_0` (each also with `_ib`, without
    biases), `lrp_alpha_beta` (alpha, beta, bias), `lrp_w_square`, `lrp_flat`, `lrp_z_plus`,
    `lrp_z_plus_fast`, `lrp_sequential_preset_a`, `lrp_sequential_preset_b` (either also with
    `_flat`), `lrp_sequential_preset_b_flat_until_idx` (until_layer_idx), `deep_taylor` (first),
    `deep_taylor_bounded` (low, high), also written as there: `lrp.z`. In Python also a `Composite`;
    for `lrp` also a composite of zennit's own."""
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

    @cached_property
    def resolved(self) -> Composite:
        """The composite with everything that is changed of it."""
        if isinstance(self.composite, Hooks):
            raise TypeError(
                "a composite of zennit's own serves lrp alone; name one of ours: "
                "composite='epsilon_plus_flat'"
            )
        given = {name: value for name, value in self.options.items() if value is not None}
        own = [Assignment.written(layers, rule) for layers, rule in self.rules.items()]
        return find(self.composite).with_defaults(**given).after(*own)

    @property
    def options(self) -> dict[str, Any]:
        """Parameters of rules; None where they are the composite's."""
        return {
            "epsilon": self.epsilon,
            "stabiliser": self.stabiliser,
            "zero_params": self.zero_params,
        }

    def check_composite(self, network: Network, ends: Iterable[str] | None = None) -> None:
        """Refuse what is not a program, and operators that have no rule.

        Parameters
        ----------
        network
            What is to be explained.
        ends
            Operators at whose values relevance ends; by default the input.

        Raises
        ------
        NotImplementedError
            If it is such a network.
        """
        if not network.is_program:
            raise NotImplementedError(
                f"{getattr(self, 'name', 'relevance')} needs the operators of the network, and "
                f"this model could not be read as a program: {network.reason}; use a method that "
                "needs gradients alone, or change the model"
            )
        self.resolved.choose(network, ends)

    def notes_of_composite(
        self, network: Network, ends: Iterable[str] | None = None
    ) -> tuple[str, ...]:
        """Return which of its rules cannot conserve relevance, if there are such."""
        lossy = self.resolved.lossy(network, ends)
        rules = ", ".join(sorted({name.partition(".")[0] for name in lossy.values()}))
        return (f"rules that cannot conserve relevance: {rules}",) if rules else ()
