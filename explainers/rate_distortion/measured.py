"""What distortions share however they are found: clean samples, and rows as memory allows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from explainers.inference import outside_inference_mode
from explainers.rate_distortion.budgets import Budget
from explainers.rate_distortion.clean import Clean

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.noise import Noise
    from explainers.targets import Target
    from explainers.trace import Trace


class Measured(ABC):
    """A distortion of masks of the samples of a trace; see `Distortion`.

    Parameters
    ----------
    trace
        Of the clean samples.
    target
        What is explained of them.
    noise
        See `noise.resolve`.
    maps_at_once
        That a row takes through the network in one pass.

    Raises
    ------
    ValueError
        If the noise is that of another input.
    """

    n_maps: int
    """Maps that a row takes through the network."""

    def __init__(self, trace: Trace, target: Target, noise: Noise, maps_at_once: int) -> None:
        self._clean = Clean(trace, target, noise)
        self._noise = noise
        self._budget = Budget(self._clean.trace, maps_at_once)

    @property
    def selected(self) -> Tensor:
        """What is explained of each clean sample, ``t``, ``(samples,)``."""
        return self._clean.selected

    @outside_inference_mode
    def __call__(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distortions ``(rows,)`` and their gradients, shaped as the masks."""
        masks = self._clean.masks(masks, rows)
        return self._budget.kept(lambda: self._with_gradients(masks, rows))

    @outside_inference_mode
    def value(self, masks: Tensor, rows: Tensor) -> Tensor:
        """Return the distortions alone, ``(rows,)``."""
        masks = self._clean.masks(masks, rows)
        with torch.no_grad():
            return self._budget.kept(lambda: self._values(masks, rows))

    @abstractmethod
    def _with_gradients(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a call does, `Budget.n_rows` rows at a time."""

    @abstractmethod
    def _values(self, masks: Tensor, rows: Tensor) -> Tensor:
        """Return what `value` does, `Budget.n_rows` rows at a time."""
