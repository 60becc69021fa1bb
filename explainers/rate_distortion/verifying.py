"""The distortion that masks really have: by fresh draws, with the error of so many."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.noise import Noise
    from explainers.targets import Target
    from explainers.trace import Trace


def verify(
    trace: Trace, target: Target, noise: Noise, masks: Tensor, rows: Tensor, n_draws: int = 128
) -> tuple[Tensor, Tensor]:
    """Return distortions and their standard errors, ``(rows,)`` each."""
    raise NotImplementedError("it is being written")
