"""Distortion by assumed density filtering: moments of the noise go through the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.noise import Noise
    from explainers.targets import Target
    from explainers.trace import Trace


class AssumedDensity:
    """``1/2 [(E f(y) - t)^2 + Var f(y)]``, with moments as the rule table ``moments`` has them.

    Parameters
    ----------
    trace
        Of the clean samples.
    target
        What is explained of them.
    noise
        See `noise.resolve`, whose mode says which moments go through the network.
    """

    def __init__(self, trace: Trace, target: Target, noise: Noise) -> None:
        raise NotImplementedError("it is being written")

    @property
    def selected(self) -> Tensor:
        """What is explained of each clean sample, ``t``, ``(samples,)``."""
        raise NotImplementedError("it is being written")

    def __call__(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distortions ``(rows,)`` and their gradients, shaped as the masks."""
        raise NotImplementedError("it is being written")

    def value(self, masks: Tensor, rows: Tensor) -> Tensor:
        """Return the distortions alone, ``(rows,)``."""
        raise NotImplementedError("it is being written")
