"""What is known of the clean samples: inputs, what is explained of them, what is taken over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.base import Samples
from explainers.cut import Cut
from explainers.inference import ordinary, outside_inference_mode
from explainers.sampling.randomness import RandomRows

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.noise import Noise
    from explainers.targets import Target
    from explainers.trace import Trace

AT_ONCE = 8
"""Rows of which what is explained is found together, as many at every call: kernels round
differently for batches of different sizes, and solvers make much of the last bit."""


class Clean:
    """The clean samples of a batch, of which any rows can be taken, as often as they are named.

    Parameters
    ----------
    trace
        Of the samples.
    target
        What is explained; which class that is, and its value ``t``, is decided here.
    noise
        In place of the inputs.

    Raises
    ------
    ValueError
        If the noise is that of another input.
    """

    @outside_inference_mode
    def __init__(self, trace: Trace, target: Target, noise: Noise) -> None:
        trace, target = trace.ending_at(target)
        shape = tuple(trace.inputs.shape[1:])
        if tuple(noise.mean.shape) != shape:
            raise ValueError(
                f"got noise for inputs of shape {tuple(noise.mean.shape)}, the trace's are "
                f"{shape}; resolve it with the network of the trace: resolve(spec, trace.network)"
            )
        self.trace, self.noise = trace, noise
        self.weights = ordinary(trace.cotangent(target))
        """Of the outputs in what is explained, ``(samples, classes)``."""
        self.selected = self._selected()
        """What is explained, ``t``, ``(samples,)``."""

    def at(self, rows: Tensor) -> Rows:
        """Return some samples.

        Parameters
        ----------
        rows
            Positions in the batch, int64, ``(rows,)``.
        """
        here = rows.to(self.trace.inputs.device)
        return Rows(self.trace.inputs[here], self.weights[here], self.selected[here])

    def carried(self, rows: Tensor) -> dict[str, Tensor] | None:
        """Return what a part of a network takes over for some samples; None of a whole one."""
        network, carried = self.trace.network, self.trace.carried
        if not carried or not isinstance(network, Cut):
            return None
        return network.gathered(carried, rows.to(self.trace.inputs.device))

    @torch.no_grad()
    def _selected(self) -> Tensor:
        """Return ``t``, from `AT_ONCE` rows at a time, the last again in place of missing."""
        n_rows = len(self.weights)
        filled = torch.arange(n_rows + -n_rows % AT_ONCE).clamp(max=n_rows - 1)
        outputs = [self.weights[:0]]
        for rows in torch.split(filled, AT_ONCE):
            inputs = self.trace.inputs[rows.to(self.trace.inputs.device)]
            outputs.append(self.trace.network(inputs, self.carried(rows)))
        return (torch.cat(outputs)[:n_rows] * self.weights).sum(1)

    def masks(self, masks: Tensor, rows: Tensor) -> Tensor:
        """Return masks of the type and on the device of the inputs.

        Raises
        ------
        ValueError
            If they are not shaped as the inputs, or not one for each row.
        """
        inputs = self.trace.inputs
        if tuple(masks.shape) != (len(rows), *inputs.shape[1:]):
            raise ValueError(
                f"got masks of shape {tuple(masks.shape)} for {len(rows)} rows, expected "
                f"{(len(rows), *inputs.shape[1:])}: one for each row, shaped as the inputs"
            )
        return ordinary(masks.detach().to(inputs))

    def randomness(self, rows: Tensor) -> Randomness:
        """Return the randomness of some samples."""
        return Randomness(self.trace, rows)


@dataclass(frozen=True, eq=False)
class Rows:
    """Of some samples, one after the other."""

    inputs: Tensor
    """``(rows, ...)``."""
    weights: Tensor
    """Of the outputs, ``(rows, classes)``."""
    selected: Tensor
    """What is explained, ``(rows,)``."""

    def residuals(self, outputs: Tensor) -> Tensor:
        """Return ``f - t``, ``(rows, draws)``, of outputs ``(rows * draws, classes)``."""
        apart = outputs.reshape(len(self.weights), -1, outputs.shape[1])
        explained: Tensor = (apart * self.weights.unsqueeze(1)).sum(2)
        return explained - self.selected.unsqueeze(1)


class Randomness(RandomRows):
    """Random numbers of some samples of a trace, without a trace of them.

    Parameters
    ----------
    trace
        Whose seed and namespace these are.
    rows
        Positions in its batch, int64.
    """

    def __init__(self, trace: Trace, rows: Tensor) -> None:
        who, chosen = trace.who(), rows.cpu()
        self.samples = Samples(who.index[chosen], who.label[chosen])
        self.seed, self.namespace = trace.seed, trace.namespace
        self._numbers = trace.numbers

    @property
    def n_rows(self) -> int:
        """Of the samples."""
        return len(self.who().index)

    @property
    def numbers(self) -> tuple[torch.dtype, torch.device]:
        """Type and device of random numbers."""
        return self._numbers
