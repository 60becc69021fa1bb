"""LRP rules of convolutions and matrix products that share by contribution."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from explainers.operators import Convolution, Linear
from explainers.rules.accounting import is_accounted
from explainers.rules.lrp.pairs import Pair, Single, sums_by_sign
from explainers.rules.lrp.parameters import check_common
from explainers.rules.lrp.sharing import accounted, divided, divided_by_sums
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser, Stabilising, check_stabiliser
from explainers.rules.lrp.table import lrp
from explainers.rules.lrp.weights import (
    ZeroParams,
    output_without,
    positive_bias,
    without,
)
from explainers.rules.table import Shares

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.operators import Operator
    from explainers.rules.table import Values


@lrp.rule(Convolution, Linear, name="epsilon", check=check_common)
def epsilon(
    op: Convolution | Linear,
    relevance: Tensor,
    values: Values,
    epsilon: Stabilising = STABILISER,
    zero_params: ZeroParams = (),
) -> Shares:
    """Share by contribution: ``x * W^T (R / stab(z))``, z being the operator's own output.

    The stabiliser is called epsilon here, as its size is what the rule is named for; zero gives
    LRP-0 (Bach et al. 2015).
    """
    used = without(op, zero_params)
    x = values[op.inputs[0]]
    z = output_without(op, used, values)
    with_account = is_accounted(values)
    stabiliser = Stabiliser.of(epsilon)
    share, absorbed = divided(op, relevance, z, stabiliser, with_account=with_account)
    back = used.transpose(share, x).mul_(x)
    if not with_account:
        return Shares((back,))
    return accounted(used, back, share, used.bias, absorbed)


@lrp.rule(Convolution, Linear, name="norm", check=check_stabiliser)
def norm(
    op: Convolution | Linear,
    relevance: Tensor,
    values: Values,
    stabiliser: Stabilising = STABILISER,
) -> Shares:
    """Share by contribution, as `epsilon` does; the bias and the stabiliser keep their part.

    It is what zennit's Norm, ``x * J^T (R / stab(z))``, does at a module with parameters: they are
    left as they are, and so is the bias in z.
    """
    return epsilon(op, relevance, values, stabiliser)


@lrp.rule(Convolution, Linear, name="pass")
def passed(op: Convolution | Linear, relevance: Tensor, values: Values) -> Shares:
    """Hand on what arrives, unchanged, where input and output have the same shape.

    Raises
    ------
    ValueError
        If they have not; a composite refuses it beforehand, where sizes are known.
    """
    shape = values[op.inputs[0]].shape
    if shape != relevance.shape:
        raise not_passing(op, tuple(shape), tuple(relevance.shape))
    return Shares((relevance,))


def not_passing(op: Operator, given: tuple[int, ...], made: tuple[int, ...]) -> ValueError:
    """Return the error for a rule `pass` whose operator changes the shape."""
    return ValueError(
        f"got the rule 'pass' for {op.name!r}, which makes values of shape {made} from values of "
        f"shape {given}, expected the same shape; take 'epsilon' or 'flat'"
    )


@lrp.rule(Convolution, Linear, name="z_plus", check=check_common)
def z_plus(
    op: Convolution | Linear,
    relevance: Tensor,
    values: Values,
    stabiliser: Stabilising = STABILISER,
    zero_params: ZeroParams = (),
) -> Shares:
    """Share by positive contribution (Montavon et al. 2017, arXiv:1512.02479), for signed inputs.

    ``z = x+ W+ + x- W- + b+``; ``x+ * W+^T (R / stab(z)) + x- * W-^T (R / stab(z))``. Outputs
    without a positive contribution lose their relevance.
    """
    by_sign = Pair.of_signs(without(op, zero_params), values[op.inputs[0]])
    return _z_plus(by_sign, relevance, values, stabiliser)


@lrp.rule(Convolution, Linear, name="z_plus.nonnegative", check=check_common)
def z_plus_of_nonnegative(
    op: Convolution | Linear,
    relevance: Tensor,
    values: Values,
    stabiliser: Stabilising = STABILISER,
    zero_params: ZeroParams = (),
) -> Shares:
    """Share by positive contribution where ``x- = 0``: ``x * W+^T (R / stab(x W+ + b+))``."""
    single = Single(without(op, zero_params), values[op.inputs[0]])
    return _z_plus(single, relevance, values, stabiliser)


def _z_plus(
    by_sign: Pair | Single, relevance: Tensor, values: Values, stabiliser: Stabilising
) -> Shares:
    op, stabilises = by_sign.op, Stabiliser.of(stabiliser)
    sums = partial(sums_by_sign, by_sign, 1, values=values, key=stabilises)
    share, absorbed = divided_by_sums(
        op, relevance, sums, positive_bias(op), stabilises, with_account=is_accounted(values)
    )
    return Shares((by_sign.transpose(share),), absorbed)
