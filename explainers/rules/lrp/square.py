"""LRP rule ``w_square``: inputs get shares by the size of their weights alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from explainers.operators import Convolution, Linear
from explainers.rules.lrp.parameters import check_common
from explainers.rules.lrp.sharing import divided_by_sums
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser, Stabilising
from explainers.rules.lrp.table import lrp
from explainers.rules.lrp.weights import ZeroParams, squared_weight, without
from explainers.rules.table import Shares

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.table import Values


@lrp.rule(Convolution, Linear, name="w_square", check=check_common)
def w_square(
    op: Convolution | Linear,
    relevance: Tensor,
    values: Values,
    stabiliser: Stabilising = STABILISER,
    zero_params: ZeroParams = (),
) -> Shares:
    """Share by squared weight: ``(W^2)^T (R / stab(1 W^2 + b^2))`` (Montavon et al. 2017).

    arXiv:1512.02479; for a first layer with unbounded inputs. What the input is does not matter;
    margins of zeros count for nothing. The squared bias keeps its share, unless `zero_params` says
    otherwise, as iNNvestigate has it.
    """
    used = without(op, zero_params)
    x = values[op.inputs[0]]
    bias = None if used.bias is None else used.bias.detach().square()
    sums = partial(used.linear, torch.ones_like(x[:1]), squared_weight(used))
    share, absorbed = divided_by_sums(used, relevance, sums, bias, Stabiliser.of(stabiliser))
    return Shares((used.transpose(share, x, squared_weight(used)),), absorbed)
