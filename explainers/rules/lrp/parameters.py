"""Values that rules refuse, before any input is seen."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

from explainers import numeric
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser, Stabilising
from explainers.rules.lrp.weights import ZeroParams, check_zero_params

Bound: TypeAlias = float | tuple[float, ...] | Tensor
"""A number, one for each channel, or values that broadcast against the input."""


def check_common(
    stabiliser: Stabilising = STABILISER,
    epsilon: Stabilising = STABILISER,
    zero_params: ZeroParams = (),
) -> None:
    """Refuse a stabiliser, or parameters to be taken as zero, that have no meaning."""
    Stabiliser.of(stabiliser)
    Stabiliser.of(epsilon)
    check_zero_params(zero_params)


def check_gamma(gamma: float = 0.25, **common: object) -> None:
    """Refuse a gamma that is no finite number, or negative."""
    numeric.check_finite("gamma", gamma)
    check_common(**common)  # type: ignore[arg-type]


def check_alpha_beta(alpha: float = 2.0, beta: float = 1.0, **common: object) -> None:
    """Refuse alpha and beta unless both are nonnegative and ``alpha - beta = 1``.

    Raises
    ------
    ValueError
        If relevance would be multiplied.
    """
    numeric.check_finite("alpha", alpha)
    numeric.check_finite("beta", beta)
    if abs(alpha - beta - 1) > 1e-12:
        raise ValueError(
            f"got alpha={alpha} and beta={beta}, expected alpha - beta = 1: alpha of the relevance "
            f"goes to positive contributions, beta is taken from negative ones; "
            f"write alpha={beta + 1}"
        )
    check_common(**common)  # type: ignore[arg-type]


def check_box(low: Bound, high: Bound, **common: object) -> None:
    """Refuse bounds that are no numbers, or a lowest value above the highest."""
    for name, bound in (("low", low), ("high", high)):
        if not isinstance(bound, Tensor | tuple | list):
            numeric.check_finite(name, bound, -math.inf)
    lowest, highest = (torch.as_tensor(bound, dtype=torch.float64) for bound in (low, high))
    if not bool((lowest <= highest).all()):
        raise ValueError(f"got low={low!r} and high={high!r}, expected low <= high everywhere")
    check_common(**common)  # type: ignore[arg-type]
