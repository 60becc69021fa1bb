"""Two inputs with weights of their own: what rules of contributions by sign are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from explainers.operators import Convolution, Linear
from explainers.rules.lrp.weights import negative_weight, positive_weight, stacked_weight

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.lrp.weights import Weighted


@dataclass(frozen=True, eq=False)
class Pair:
    """Two inputs of an operator, of which the first goes with weights of a sign.

    The second goes with weights of the other sign. Positive contributions of inputs of either sign
    are ``x+ W+ + x- W-``, negative ones ``x+ W- + x- W+``. Where weights have no groups, both
    inputs are stacked along their channels: a convolution of few channels takes hardly longer for
    twice as many, and all of them write, or read, the wide output once instead of twice.
    """

    op: Weighted
    first: Tensor
    second: Tensor

    @classmethod
    def of_signs(cls, op: Weighted, x: Tensor) -> Pair:
        """Return the pair of ``max(x, 0)`` and ``min(x, 0)``."""
        return cls(op, x.clamp(min=0), x.clamp(max=0))

    def linear(self, sign: int, bias: Tensor | None = None) -> Tensor:
        """Return ``first W+ + second W-``; for a negative sign, ``first W- + second W+``."""
        if self._is_stacked:
            return self.op.linear(self._stacked, stacked_weight(self.op, sign), bias)
        of_first, of_second = self._weights(sign)
        z = self.op.linear(self.first, of_first, bias)
        return z.add_(self.op.linear(self.second, of_second))

    def transpose(self, sign: int, share: Tensor) -> Tensor:
        """Return each input times what comes back along its weights, added."""
        if self._is_stacked:
            weight = stacked_weight(self.op, sign)
            back = self.op.transpose(share, self._stacked, weight).mul_(self._stacked)
            above, below = back.chunk(2, self._axis)
            return above + below
        of_first, of_second = self._weights(sign)
        back = self.op.transpose(share, self.first, of_first).mul_(self.first)
        return back.addcmul_(self.op.transpose(share, self.second, of_second), self.second)

    def _weights(self, sign: int) -> tuple[Tensor, Tensor]:
        parts = positive_weight(self.op), negative_weight(self.op)
        return parts if sign > 0 else parts[::-1]

    @property
    def _is_stacked(self) -> bool:
        op = self.op
        return not isinstance(op, Convolution) or (op.groups == 1 and not op.transposed)

    @property
    def _axis(self) -> int:
        return -1 if isinstance(self.op, Linear) else 1

    @cached_property
    def _stacked(self) -> Tensor:
        return torch.cat([self.first, self.second], self._axis)
