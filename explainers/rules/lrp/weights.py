"""Weights as rules want them: parts by sign, squares, with parameters left out.

Weights never change in a network, so each is made once, and goes with the operator.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import torch

from explainers.operators import Convolution, Linear, Operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from explainers.rules.table import Values

Weighted: TypeAlias = Convolution | Linear

ZeroParams: TypeAlias = str | tuple[str, ...]
"""What of ``weight`` and ``bias`` a rule takes as zero; a name, or several."""

_parts: WeakKeyDictionary[Operator, dict[str, Tensor]] = WeakKeyDictionary()
_without: WeakKeyDictionary[Operator, dict[frozenset[str], Weighted]] = WeakKeyDictionary()


def positive_weight(op: Weighted, sign: int = 1) -> Tensor:
    """Return ``max(W, 0)``; for a negative sign, that of ``-W``."""
    return _part(op, f"positive {sign}", lambda weight: _positive(weight, sign))


def negative_weight(op: Weighted, sign: int = 1) -> Tensor:
    """Return ``min(W, 0)``; for a negative sign, that of ``-W``."""
    return _part(op, f"negative {sign}", lambda weight: -_positive(weight, -sign))


def absolute_weight(op: Weighted) -> Tensor:
    """Return ``abs(W)``."""
    return _part(op, "absolute", torch.abs)


def squared_weight(op: Weighted) -> Tensor:
    """Return ``W ** 2``."""
    return _part(op, "squared", torch.square)


def stacked_weight(op: Weighted, sign: int) -> Tensor:
    """Return ``[W+, W-]`` along input channels; for a negative sign, those of ``-W``."""

    def stacked(weight: Tensor) -> Tensor:
        return torch.cat([_positive(weight, sign), -_positive(weight, -sign)], 1)

    return _part(op, f"stacked {sign}", stacked)


def positive_bias(op: Weighted, sign: int = 1) -> Tensor | None:
    """Return ``max(b, 0)``; for a negative sign, that of ``-b``."""
    return None if op.bias is None else _positive(op.bias.detach(), sign)


def without(op: Weighted, zero_params: ZeroParams) -> Weighted:
    """Return the operator with parameters taken as zero; itself if there are none.

    Raises
    ------
    ValueError
        If it has no such parameter.
    """
    names = frozenset((zero_params,) if isinstance(zero_params, str) else zero_params)
    check_zero_params(zero_params)
    if not names or (names == {"bias"} and op.bias is None):
        return op
    made = _without.setdefault(op, {})
    if names not in made:
        weight = torch.zeros_like(op.weight) if "weight" in names else op.weight
        made[names] = replace(op, weight=weight, bias=None if "bias" in names else op.bias)
        if weight is op.weight:
            _parts[made[names]] = _parts.setdefault(op, {})
    return made[names]


def check_zero_params(zero_params: ZeroParams = (), **parameters: object) -> None:
    """Refuse names that are no parameters of an operator.

    Raises
    ------
    ValueError
        If there is such a name.
    """
    names = {zero_params} if isinstance(zero_params, str) else set(zero_params)
    if not names <= {"weight", "bias"}:
        raise ValueError(f"got zero_params={zero_params!r}, expected names out of: weight, bias")


def output_without(op: Weighted, used: Weighted, values: Values) -> Tensor:
    """Return the output of ``without(op, ...)``, from the operator's own where that is enough."""
    if used is op:
        return values[op.name]
    if used.weight is not op.weight or op.bias is None:
        return used.run(values[op.inputs[0]])
    return values[op.name] - _along_channels(op, op.bias.detach(), values[op.name].ndim)


def _along_channels(op: Weighted, bias: Tensor, n_axes: int) -> Tensor:
    return bias if isinstance(op, Linear) else bias.view(-1, *(1,) * (n_axes - 2))


def _part(op: Weighted, name: str, make: Callable[[Tensor], Tensor]) -> Tensor:
    made = _parts.setdefault(op, {})
    if name not in made:
        made[name] = make(op.weight.detach())
    return made[name]


def _positive(weight: Tensor, sign: int) -> Tensor:
    return weight.clamp(min=0) if sign > 0 else weight.clamp(max=0).neg_()
