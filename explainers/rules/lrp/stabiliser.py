"""What keeps LRP's denominators from zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from explainers import numeric

if TYPE_CHECKING:
    from torch import Tensor

STABILISER = 1e-6
"""zennit's; relevance is lost to it where contributions nearly cancel."""


@dataclass(frozen=True)
class Stabiliser:
    """``stab(z) = z + epsilon * sgn(z)`` with ``sgn(0) = +1``, or one of its variants.

    Definitions are zennit's (Anders et al. 2021, arXiv:2106.13200). A negative zero counts as
    negative: torch makes one only from contributions that are all zero, which share nothing.
    """

    epsilon: float = STABILISER
    """What is added; at zero (LRP-0) outputs that are exactly zero share nothing."""
    clip: bool = False
    """Whether ``stab(z) = sgn(z) * max(abs(z), epsilon)``: only small denominators change."""
    norm_scale: bool = False
    """Whether epsilon is multiplied by the root mean square of z over all axes but the rows'."""

    def __post_init__(self) -> None:
        numeric.check_finite("epsilon", self.epsilon)

    @classmethod
    def of(cls, given: Stabilising) -> Stabiliser:
        """Return the stabiliser of a number, of a mapping of the fields, or of its items.

        Raises
        ------
        TypeError
            If it is none of these, or has fields that a stabiliser does not have.
        """
        if isinstance(given, Stabiliser):
            return given
        if not isinstance(given, Mapping | tuple):
            return cls(given)
        fields = dict(given)
        unknown = sorted(fields.keys() - {"epsilon", "clip", "norm_scale"})
        if unknown:
            raise TypeError(
                f"got a stabiliser with {', '.join(map(repr, unknown))}, expected a number, or "
                "any of epsilon, clip and norm_scale: {epsilon: 0.1, norm_scale: true}"
            )
        return cls(**fields)

    def part(self, z: Tensor, batch_axis: int = 0) -> Tensor:
        """Return what is added to the denominator ``z``, shaped as it; rows have an axis."""
        epsilon = torch.full((), self.epsilon, dtype=z.dtype, device=z.device)
        if self.norm_scale:
            axes = tuple(axis for axis in range(z.ndim) if axis != batch_axis)
            squares = z.square()
            squares = squares.mean(axes, keepdim=True) if axes else squares
            epsilon = epsilon * squares.sqrt()
        if self.clip:
            epsilon = (epsilon - z.abs()).clamp(min=0)
        return torch.copysign(epsilon, z)

    def __call__(self, z: Tensor) -> Tensor:
        """Return the stabilised denominator."""
        return z + self.part(z)

    @property
    def is_constant(self) -> bool:
        """Whether the same is added to all denominators of a sign."""
        return self.epsilon > 0 and not self.clip and not self.norm_scale

    @property
    def may_vanish(self) -> bool:
        """Whether a stabilised denominator can still be zero."""
        return self.epsilon == 0 or self.norm_scale


Stabilising: TypeAlias = "float | Stabiliser | Mapping[str, Any] | tuple[tuple[str, Any], ...]"
"""What a rule takes for a `Stabiliser`: its epsilon, itself, or its fields."""


def check_stabiliser(stabiliser: Stabilising = STABILISER) -> None:
    """Refuse a stabiliser without a meaning; the check of rules that have no other parameter."""
    Stabiliser.of(stabiliser)
