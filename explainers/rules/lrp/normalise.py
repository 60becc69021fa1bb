"""LRP rules of layer, group and root-mean-square norms: their normaliser is held fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.operators import Normalise
from explainers.rules.amounts import per_row
from explainers.rules.lrp.sharing import divided
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser, Stabilising, check_stabiliser
from explainers.rules.lrp.table import lrp
from explainers.rules.table import Relevances, Shares, Values

if TYPE_CHECKING:
    from torch import Tensor


@lrp.rule(Normalise, check=check_stabiliser)
def detached(
    op: Normalise,
    relevance: Tensor,
    values: Values,
    stabiliser: Stabilising = STABILISER,
) -> Shares:
    """Share by contribution to ``z = c w (x - mean(x)) + b``, the normaliser ``c`` held fixed.

    ``R_x = x * (g - mean(g))`` with ``g = c w R / stab(z)``: centring is linear, so a value also
    contributes to the others of its group (Ali et al. 2022, arXiv:2202.07304). The bias absorbs
    ``sum(R b / stab(z))``. A root-mean-square norm does not centre.
    """
    x = values[op.inputs[0]]
    share, absorbed = divided(op, relevance, values[op.name], Stabiliser.of(stabiliser))
    if op.bias is not None:
        absorbed["bias"] = per_row(op, share * _of_channels(op, op.bias, x))
    if op.weight is not None:
        share = share * _of_channels(op, op.weight, x)
    grouped = x.reshape(_groups(op, x))
    back = share.reshape(grouped.shape) * _normaliser(op, grouped)
    if op.kind != "rms":
        back = back - back.mean(-1, keepdim=True)
    return Shares((back.reshape(x.shape) * x,), absorbed)


@lrp.rule(Normalise, name="pass")
def passed(op: Normalise, relevance: Tensor, values: Values) -> Relevances:
    """Hand on what arrives, unchanged (Achtibat et al. 2024, arXiv:2402.05602)."""
    return (relevance,)


def _of_channels(op: Normalise, fixed: Tensor, x: Tensor) -> Tensor:
    """Return weight or bias such that it meets the input's axes."""
    return fixed.view(-1, *(1,) * (x.ndim - 2)) if op.kind == "group" else fixed


def _groups(op: Normalise, x: Tensor) -> tuple[int, ...]:
    """Return the input's shape with what is normalised together as the last axis."""
    if op.kind == "group":
        return (len(x), op.shape[0], -1)
    return (*x.shape[: x.ndim - len(op.shape)], -1)


def _normaliser(op: Normalise, grouped: Tensor) -> Tensor:
    """Return the factor of each group, ``1 / sqrt(variance + eps)``."""
    if op.kind == "rms":
        eps = torch.finfo(grouped.dtype).eps if op.eps is None else op.eps
        return (grouped.square().mean(-1, keepdim=True) + eps).rsqrt()
    eps = 1e-5 if op.eps is None else op.eps
    return (grouped.var(-1, correction=0, keepdim=True) + eps).rsqrt()
