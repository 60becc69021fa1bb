"""Operators without a network: what their rules of moments need to know of one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from explainers.reading.program import Layout
from explainers.rules.moments import Form, Moments, moments

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.operators import Operator


def moments_behind(
    op: Operator,
    mean: Tensor,
    *,
    variance: Tensor | None = None,
    factor: Tensor | None = None,
    is_smooth: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mean and spread of the value of an operator whose one input is called ``x``."""
    layout = Layout(0, 1, tuple(mean.shape[1:]), torch.float64)
    source = SimpleNamespace(name="x", batch_outer=1)
    network: Any = SimpleNamespace(
        operators=(source, op), output_name="", layout=lambda name: layout
    )
    if factor is None:
        form = Form("variance", network, is_smooth=is_smooth)
        made = moments.find(op, form.kind)(op, (Moments(mean, variance),), form)
        return made.mean, made.uncertainty
    form = Form("factor", network, factor.shape[1], is_smooth=is_smooth)
    made = moments.find(op, form.kind)(op, (Moments(mean, factor.flatten(0, 1)),), form)
    return made.mean, made.uncertainty.view(*factor.shape[:2], *made.mean.shape[1:])
