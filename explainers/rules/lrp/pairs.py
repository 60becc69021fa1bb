"""Two inputs with weights of their own: what rules of contributions by sign are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from explainers.operators import Convolution, Linear
from explainers.rules.lrp.weights import negative_weight, positive_weight, stacked_weight
from explainers.rules.repeated import derived

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch import Tensor

    from explainers.rules.lrp.weights import Weighted
    from explainers.rules.table import Values


@dataclass(frozen=True, eq=False)
class Single:
    """One input that is not negative: a `Pair` of signs whose second would be zero."""

    op: Weighted
    x: Tensor

    @classmethod
    def of_signs(cls, op: Weighted, x: Tensor) -> Single:
        """Return what stands for the pair of ``max(x, 0)`` and ``min(x, 0)``."""
        return cls(op, x)

    def linear(self, sign: int, bias: Tensor | None = None) -> Tensor:
        """Return what `Pair.linear` does."""
        return self.op.linear(self.x, positive_weight(self.op, sign), bias)

    def transpose(self, share: Tensor, other: Tensor | None = None, factor: float = 1.0) -> Tensor:
        """Return what `Pair.transpose` does."""
        back = self.op.transpose(share, self.x, positive_weight(self.op))
        if other is not None:
            back.add_(self.op.transpose(other, self.x, positive_weight(self.op, -1)), alpha=factor)
        return back.mul_(self.x)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two inputs of an operator, of which the first goes with weights of a sign.

    The second goes with weights of the other sign. Positive contributions of inputs of either sign
    are ``x+ W+ + x- W-``; negative ones are those of ``-W``, but for their sign. Where weights have
    no groups, both inputs are stacked along their channels: a convolution of few channels takes
    hardly longer for twice as many, and all of them write, or read, the wide output once instead of
    twice.
    """

    op: Weighted
    first: Tensor
    second: Tensor

    @classmethod
    def of_signs(cls, op: Weighted, x: Tensor) -> Pair:
        """Return the pair of ``max(x, 0)`` and ``min(x, 0)``."""
        return cls(op, x.clamp(min=0), x.clamp(max=0))

    def linear(self, sign: int, bias: Tensor | None = None) -> Tensor:
        """Return ``first W+ + second W-``; for a negative sign, with those of ``-W``."""
        if self._is_stacked:
            return self.op.linear(self._stacked, stacked_weight(self.op, sign), bias)
        z = self.op.linear(self.first, positive_weight(self.op, sign), bias)
        return z.add_(self.op.linear(self.second, negative_weight(self.op, sign)))

    def transpose(self, share: Tensor, other: Tensor | None = None, factor: float = 1.0) -> Tensor:
        """Return each input times what comes back along its weights, added.

        Parameters
        ----------
        share
            What comes back along the weights of `linear` of a positive sign.
        other
            Along those of a negative sign, if anything does; in the unit of `share`.
        factor
            By which that is multiplied.
        """
        if self._is_stacked:
            above, below = self._back(self._stacked, stacked_weight, (share, other, factor)).chunk(
                2, self._axis
            )
            return above + below
        shares = share, other, factor
        back = self._back(self.first, positive_weight, shares)
        return back.add_(self._back(self.second, negative_weight, shares))

    def _back(
        self,
        x: Tensor,
        weight: Callable[[Weighted, int], Tensor],
        shares: tuple[Tensor, Tensor | None, float],
    ) -> Tensor:
        share, other, factor = shares
        back = self.op.transpose(share, x, weight(self.op, 1))
        if other is not None:
            back.add_(self.op.transpose(other, x, weight(self.op, -1)), alpha=factor)
        return back.mul_(x)

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


def sums_by_sign(
    by_sign: Pair | Single,
    sign: int,
    bias: Tensor | None,
    *,
    values: Values,
    key: Hashable,
) -> Tensor:
    """Return ``by_sign.linear(sign, bias)``, made once for a batch whose rows are repeated.

    Parameters
    ----------
    by_sign
        Of the signs of the operator's input.
    sign
        Of the contributions that are added up.
    bias
        The last term of the sums.
    values
        Every operator's value.
    key
        What the bias depends on, but for the operator's own.
    """
    op, kind = by_sign.op, type(by_sign)

    def made(of: Values) -> Tensor:
        own = by_sign if of is values else kind.of_signs(op, of[op.inputs[0]])
        return own.linear(sign, bias)

    return derived(values, (op, kind, sign, key), made)
