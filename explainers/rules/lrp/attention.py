"""LRP rules of attention: relevance takes the path of the values.

The weights that a softmax gives are held fixed, as gates: what a query attends to decides how the
values are mixed and gets no relevance for it. That is the rule for attention heads of Ali et al.
(2022, arXiv:2202.07304), under which transformers conserve relevance; Achtibat et al. (2024,
arXiv:2402.05602) hand a part to queries and keys too, which needs a Taylor expansion of the
softmax whose constant term absorbs relevance. Attention that is written out as products and a
softmax gets the same: see `explainers.rules.gates`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import Attention, Softmax
from explainers.rules.lrp.sharing import divided
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser, Stabilising, check_stabiliser
from explainers.rules.lrp.table import lrp
from explainers.rules.repeated import derived
from explainers.rules.table import Relevances, Shares, Values

if TYPE_CHECKING:
    from torch import Tensor


@lrp.rule(Attention, name="values", check=check_stabiliser)
@lrp.rule(Attention, check=check_stabiliser)
def along_values(
    op: Attention, relevance: Tensor, values: Values, stabiliser: Stabilising = STABILISER
) -> Shares:
    """Share among the attended values by contribution: ``R_V = V * A^T (R / stab(A V))``.

    Query, key and mask get nothing. ``A`` is the softmax's ``(..., heads, queries, keys)``.
    """
    attended = values[op.inputs[2]]
    share, absorbed = divided(op, relevance, values[op.name], Stabiliser.of(stabiliser))
    weights = derived(
        values, (op, "weights"), lambda of: op.weights(*(of[name] for name in op.inputs))
    )
    back = weights.mT @ share
    if op.enable_gqa and back.shape[-3] != attended.shape[-3]:
        grouped = (*back.shape[:-3], attended.shape[-3], -1, *back.shape[-2:])
        back = back.reshape(grouped).sum(-3)
    found = back.sum_to_size(attended.shape) * attended
    return Shares((None, None, found, *(None for _ in op.inputs[3:])), absorbed)


@lrp.rule(Softmax, name="pass")
@lrp.rule(Softmax)
def exponential_passed(op: Softmax, relevance: Tensor, values: Values) -> Relevances:
    """Hand on what arrives, unchanged, where a softmax is no gate.

    Its normaliser is held fixed, as that of a norm is; what is left, an exponential, acts on each
    value alone, and is passed as activations are.
    """
    return (relevance,)
