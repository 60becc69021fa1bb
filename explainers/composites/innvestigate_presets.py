"""iNNvestigate's LRP analysers (Alber et al. 2019, arXiv:1808.04260) under the names it gives them.

It puts 1e-7 in the place of denominators that are zero and adds nothing to others. Here smaller
ones become 1e-7 too, because convolution kernels round, and a rounding error is no denominator.
Batch norms are folded into the layer before, where iNNvestigate shares by ``x (y - beta)``;
sums and average pools share by value, as there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from explainers import numeric
from explainers.composites.assignment import Assignment, values
from explainers.composites.choice import Composite
from explainers.composites.named import composites, constant
from explainers.composites.zennit_presets import CONVOLUTIONS, LINEAR

if TYPE_CHECKING:
    from explainers.rules.lrp.parameters import Bound

_STABLE: dict[str, Any] = {"stabiliser": {"epsilon": 1e-7, "clip": True}}
_NO_BIAS = (("zero_params", "bias"),)
_ALPHA_2 = (("alpha", 2.0), ("beta", 1.0))

_EPSILON = Assignment("epsilon", ("type:Linear",))
_FLAT = Assignment("flat", LINEAR, "first")
_A = Assignment("z_plus", CONVOLUTIONS)
_B = Assignment("alpha_beta", CONVOLUTIONS, parameters=_ALPHA_2)


def _everywhere(name: str, rule: str, *parameters: tuple[str, Any], **defaults: Any) -> None:
    constant(name, Assignment(rule, LINEAR, parameters=parameters), **_STABLE, **defaults)


_everywhere("lrp_z", "epsilon", epsilon=_STABLE["stabiliser"])
_everywhere("lrp_z_ib", "epsilon", *_NO_BIAS, epsilon=_STABLE["stabiliser"])
_everywhere("lrp_epsilon", "epsilon", epsilon=1e-7)
_everywhere("lrp_epsilon_ib", "epsilon", *_NO_BIAS, epsilon=1e-7)
_everywhere("lrp_w_square", "w_square", *_NO_BIAS)
_everywhere("lrp_flat", "flat")
_everywhere("lrp_alpha_2_beta_1", "alpha_beta", *_ALPHA_2)
_everywhere("lrp_alpha_2_beta_1_ib", "alpha_beta", *_ALPHA_2, *_NO_BIAS)
_everywhere("lrp_alpha_1_beta_0", "z_plus")
_everywhere("lrp_alpha_1_beta_0_ib", "z_plus", *_NO_BIAS)
_everywhere("lrp_z_plus", "z_plus", *_NO_BIAS)
# Theirs takes inputs for nonnegative without looking; here it is the same rule, which leaves the
# second pass out wherever inputs are known to be nonnegative.
_everywhere("lrp_z_plus_fast", "z_plus", *_NO_BIAS)


@composites.register("lrp_alpha_beta")
def alpha_beta(alpha: float, beta: float | None = None, bias: bool = True) -> Composite:
    """Return: alpha of the positive less beta of the negative contributions, everywhere.

    Parameters
    ----------
    alpha, beta
        Their difference is one; beta is what that leaves where it is not given.
    bias
        Whether biases count as contributions; `zero_params: bias` says the same as false.
    """
    numeric.check_finite("alpha", alpha)
    shares = {"alpha": alpha, "beta": alpha - 1 if beta is None else beta}
    parameters = values(shares if bias else {**shares, **dict(_NO_BIAS)})
    return Composite((Assignment("alpha_beta", LINEAR, parameters=parameters),)).with_defaults(
        **_STABLE
    )


_SEQUENTIAL: dict[str, Any] = {"epsilon": 0.1, **_STABLE}

constant("lrp_sequential_preset_a", _A, _EPSILON, **_SEQUENTIAL)
constant("lrp_sequential_preset_a_flat", _FLAT, _A, _EPSILON, **_SEQUENTIAL)
constant("lrp_sequential_preset_b", _B, _EPSILON, **_SEQUENTIAL)
constant("lrp_sequential_preset_b_flat", _FLAT, _B, _EPSILON, **_SEQUENTIAL)


@composites.register("lrp_sequential_preset_b_flat_until_idx")
def sequential_preset_b_flat_until_idx(until_layer_idx: int) -> Composite:
    """Return: preset b, flat from the input up to and including a layer.

    Parameters
    ----------
    until_layer_idx
        The layer's index among those with weights, in execution order, from 0.
    """
    flat = Assignment("flat", LINEAR, until_layer_idx)
    return Composite((flat, _B, _EPSILON)).with_defaults(**_SEQUENTIAL)


@composites.register("deep_taylor")
def deep_taylor(first: Literal["w_square", "z_plus"] = "w_square") -> Composite:
    """Return: positive contributions everywhere, without biases (Montavon et al. 2017).

    arXiv:1512.02479; for networks of ReLUs, see the method of this name. Sums and average pools
    share by positive value. iNNvestigate takes their gradients: an average pool then shares
    equally, and a residual sum hands all of its relevance to both of its terms.

    Parameters
    ----------
    first
        Rule of the first layer: `w_square` where inputs may be any numbers; `z_plus` is what
        iNNvestigate takes.
    """
    return _deep_taylor(Assignment(first, LINEAR, "first", _NO_BIAS))


@composites.register("deep_taylor_bounded")
def deep_taylor_bounded(low: Bound, high: Bound) -> Composite:
    """Return: deep Taylor decomposition for inputs with bounds.

    Parameters
    ----------
    low, high
        The least and the greatest value that inputs can have; a number, or one for each channel.
    """
    bounds = values({"low": low, "high": high, **dict(_NO_BIAS)})
    return _deep_taylor(Assignment("z_box", LINEAR, "first", bounds))


def _deep_taylor(first: Assignment) -> Composite:
    others = Assignment("z_plus", LINEAR, parameters=_NO_BIAS)
    sums = Assignment("z_plus", ("type:Add", "type:AveragePool"))
    return Composite((first, others, sums)).with_defaults(**_STABLE)
