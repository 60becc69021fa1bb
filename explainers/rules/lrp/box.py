"""LRP rule ``z_box``: for inputs that lie between a lowest and a highest value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.operators import Convolution, Linear
from explainers.rules.lrp.pairs import Pair
from explainers.rules.lrp.parameters import Bound, check_box
from explainers.rules.lrp.sharing import divided
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser, Stabilising
from explainers.rules.lrp.table import lrp
from explainers.rules.lrp.weights import (
    ZeroParams,
    output_without,
    without,
)
from explainers.rules.table import Shares

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.lrp.weights import Weighted
    from explainers.rules.table import Values


@lrp.rule(Convolution, Linear, name="bounded", check=check_box)
@lrp.rule(Convolution, Linear, name="z_box", check=check_box)
def z_box(
    op: Convolution | Linear,
    relevance: Tensor,
    values: Values,
    low: Bound,
    high: Bound,
    stabiliser: Stabilising = STABILISER,
    zero_params: ZeroParams = (),
) -> Shares:
    """Share by distance from the box ``low <= x <= high`` of all inputs (Montavon et al. 2017).

    arXiv:1512.02479; for the first layer, whose inputs have known bounds: pixels, before or after
    they are normalised. ``z = (x - l) W+ + (x - h) W-``, of nonnegative terms inside the box, and
    ``(x - l) * W+^T (R / stab(z)) + (x - h) * W-^T (R / stab(z))``. Margins of zeros stay zero in
    l and h as well, and get nothing. The bias is on both sides of the difference and keeps nothing;
    iNNvestigate's bounded input layer is this rule.
    """
    used = without(op, zero_params)
    x = values[op.inputs[0]]
    low, high = _like(op, low, x), _like(op, high, x)
    n_rows = max(len(low), len(high))
    bounds = [bound.expand(n_rows, *x.shape[1:]) for bound in (low, high)]
    z = output_without(op, used, values) - Pair(used, *bounds).linear(1, used.bias)
    share, absorbed = divided(op, relevance, z, Stabiliser.of(stabiliser))
    distances = Pair(used, *(x - bound for bound in bounds))
    return Shares((distances.transpose(share),), absorbed)


def _like(op: Weighted, bound: Bound, x: Tensor) -> Tensor:
    """Return a bound as an input of one row, or of all where it has a batch axis.

    Raises
    ------
    ValueError
        If it does not fit the input.
    """
    given = torch.as_tensor(bound, dtype=x.dtype, device=x.device)
    of_channels = (-1,) if isinstance(op, Linear) else (-1, *(1,) * (x.ndim - 2))
    fitting = given.reshape(of_channels) if given.ndim == 1 else given
    n_rows = len(x) if given.ndim == x.ndim and len(given) == len(x) else 1
    try:
        return torch.empty_like(x[:n_rows]).copy_(fitting)
    except RuntimeError:
        raise ValueError(
            f"got a bound of shape {tuple(given.shape)} for inputs of shape {tuple(x.shape[1:])}, "
            f"expected a number, or one for each channel"
        ) from None
