"""Distortion by draws of the noise, the same in every call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.noise import Noise
    from explainers.targets import Target
    from explainers.trace import Trace


class Sampled:
    """Mean of ``1/2 (t - f(s x + (1-s) n))^2`` over draws that all masks of a sample share.

    Parameters
    ----------
    trace
        Of the clean samples; of any network.
    target
        What is explained of them.
    noise
        See `noise.resolve`.
    n_draws
        Of each sample.
    """

    def __init__(self, trace: Trace, target: Target, noise: Noise, n_draws: int = 16) -> None:
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
