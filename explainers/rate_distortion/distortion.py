"""What solvers ask of a distortion, however it is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Distortion(Protocol):
    """How far masks are from keeping what is explained: ``D(s) = 1/2 E[(t - f(s x + (1-s) n))^2]``.

    Many masks may belong to one sample: each is a row, and what is found for a row does not depend
    on the other rows, beyond rounding. Nothing is kept from one call to the next.
    """

    @property
    def selected(self) -> Tensor:
        """What is explained of each clean sample, ``t``, ``(samples,)``."""

    @property
    def n_maps(self) -> int:
        """Maps of each layer that a row takes through the network."""

    def __call__(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distortions ``(rows,)`` and their gradients, shaped as the masks.

        Parameters
        ----------
        masks
            ``(rows, ...)``, in [0, 1], shaped as the inputs. They are converted to the type of the
            network, of which distortions and gradients are.
        rows
            The sample in the batch that each mask belongs to, int64, ``(rows,)``.
        """

    def value(self, masks: Tensor, rows: Tensor) -> Tensor:
        """Return the distortions alone, ``(rows,)``."""
