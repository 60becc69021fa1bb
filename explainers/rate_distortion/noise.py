"""What obfuscated values are replaced by: its moments, and draws of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.sampling.randomness import RandomRows

Mode = Literal["diag", "half", "full"]


@dataclass(frozen=True, eq=False)
class Noise:
    """Noise in place of values of the input, of the type and on the device of a network.

    In mode `diag` its values are independent, in `half` and `full` they covary by a factor.
    """

    mode: Mode
    mean: Tensor
    """``(...)``, shaped as one input."""
    spread: Tensor
    """In mode `diag` the variance ``(...)``; else the factor ``(K, ...)`` whose product with itself
    over ``K`` is the covariance."""

    def draw(self, rows: RandomRows, purpose: str, n_draws: int) -> Tensor:
        """Return draws ``(batch, draws, ...)`` for the rows of a trace, a sample's always equal."""
        raise NotImplementedError("it is being written")


def resolve(spec: Any, network: Network, mode: Mode = "half", rank: int | None = None) -> Noise:
    """Return the noise that `spec` says, for a network's input."""
    raise NotImplementedError("it is being written")
