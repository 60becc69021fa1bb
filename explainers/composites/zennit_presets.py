"""zennit's composites (Anders et al. 2021, arXiv:2106.13200) under the names that it gives them.

Deconvnet and guided backpropagation, which it has as composites too, are methods of their own here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.composites.assignment import Assignment, values
from explainers.composites.choice import Composite
from explainers.composites.named import composites, constant

if TYPE_CHECKING:
    from explainers.rules.lrp.parameters import Bound

CONVOLUTIONS = ("type:Convolution",)
LINEAR = ("type:Convolution", "type:Linear")

_EPSILON = Assignment("epsilon", ("type:Linear",))
_FLAT = Assignment("flat", LINEAR, "first")
_GRADIENT = Assignment("gradient", ("type:Operator",))
_Z_PLUS = Assignment("z_plus", CONVOLUTIONS)
_ALPHA_BETA = Assignment("alpha_beta", CONVOLUTIONS, parameters=(("alpha", 2.0), ("beta", 1.0)))

EPSILON_PLUS = constant("epsilon_plus", _Z_PLUS, _EPSILON)
"""Positive contributions in convolutions, all contributions in matrix products."""

EPSILON_PLUS_FLAT = constant("epsilon_plus_flat", _FLAT, _Z_PLUS, _EPSILON)
"""`EPSILON_PLUS`, but the first convolution or matrix product shares equally."""

EPSILON_ALPHA2_BETA1 = constant("epsilon_alpha2_beta1", _ALPHA_BETA, _EPSILON)
"""Twice the positive less the negative contributions in convolutions, all in matrix products."""

EPSILON_ALPHA2_BETA1_FLAT = constant("epsilon_alpha2_beta1_flat", _FLAT, _ALPHA_BETA, _EPSILON)
"""`EPSILON_ALPHA2_BETA1`, but the first convolution or matrix product shares equally."""

EXCITATION_BACKPROP = constant(
    "excitation_backprop",
    Assignment("norm", ("type:Add", "type:AveragePool")),
    Assignment("z_plus", LINEAR),
    _GRADIENT,
)
"""Positive contributions wherever there are weights, and the gradient of all activations."""


@composites.register("epsilon_gamma_box")
def epsilon_gamma_box(low: Bound, high: Bound, gamma: float = 0.25) -> Composite:
    """Return: the box in the first convolution, gamma in the others, epsilon in matrix products.

    Parameters
    ----------
    low, high
        The least and the greatest value that inputs can have; a number, or one for each channel.
    gamma
        How much more positive contributions count.
    """
    return Composite(
        (
            Assignment("z_box", CONVOLUTIONS, "first", values({"low": low, "high": high})),
            Assignment("gamma", CONVOLUTIONS, parameters=values({"gamma": gamma})),
            _EPSILON,
        )
    )


@composites.register("beta_smooth")
def beta_smooth(beta: float = 10.0) -> Composite:
    """Return: the gradient, but for ReLUs that of a softplus (Dombrowski et al. 2019).

    arXiv:1906.07983. As every composite, `lrp` starts it with the target's output, by which the
    gradient is then multiplied.

    Parameters
    ----------
    beta
        The greater, the closer the softplus is to the ReLU.
    """
    smooth = Assignment("beta_smooth", ("type:Activation",), parameters=values({"beta": beta}))
    return Composite((smooth, _GRADIENT))
