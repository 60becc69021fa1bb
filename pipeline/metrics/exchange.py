"""What the network says on the way from one input to another, features changing over in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from pipeline.metrics import removal

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.targets import Target
    from explainers.trace import Trace


@dataclass(frozen=True, eq=False)
class Exchange:
    """Two inputs of each sample, and what is explained at both of them.

    The same for all explainers; these give the order in which features change over.
    """

    trace: Trace
    """The samples as they are."""
    weights: Tensor
    """Of the target, ``(batch, classes)``."""
    space: Literal["probability", "logit"]
    """What is measured."""
    start: Tensor
    """Input before, ``(batch, channels | 1, features | 1)``."""
    end: Tensor
    """Input after; one of the two has all channels and features."""
    first: Tensor
    """What is explained at the start, ``(batch,)``."""
    last: Tensor
    """What is explained at the end, ``(batch,)``."""

    @classmethod
    def removing(
        cls,
        trace: Trace,
        target: Target,
        absent: Tensor,
        space: Literal["probability", "logit"],
        *,
        by_pixel: bool = True,
    ) -> Exchange:
        """Return the way from the samples to what stands for absence; one forward pass.

        Parameters
        ----------
        trace
            The samples.
        target
            What was explained.
        absent
            As `removal.absent` returns it.
        space
            What is measured.
        by_pixel
            What a feature is, as `removal.features` has it.

        Raises
        ------
        ValueError
            If probabilities are asked for of a network that has one output.
        """
        removal.check_space(trace.output.shape[1], space)
        weights = trace.cotangent(target)
        start = removal.features(trace.inputs, by_pixel=by_pixel)
        blank = absent.expand_as(start).reshape(trace.inputs.shape)
        with torch.no_grad():
            first = removal.selected(trace.output, weights, space)
            last = removal.selected(trace.network(blank), weights, space)
        return cls(trace, weights, space, start, absent, first, last)

    def reversed(self) -> Exchange:
        """Return the way back."""
        return replace(self, start=self.end, end=self.start, first=self.last, last=self.first)

    def curve(self, places: Tensor, counts: Tensor, n_places: int) -> Tensor:
        """Return what is explained after each step, ``(batch, steps)``.

        Parameters
        ----------
        places
            Place of each feature in the order in which they change, ``(batch, features)``; those
            that change together have the same.
        counts
            How many places have changed at each step, ascending, int64 ``(steps,)``, on the host.
        n_places
            How many there are; nothing and all of them take no forward pass.
        """
        inner = counts[(counts > 0) & (counts < n_places)]
        shape = (len(places), len(inner))
        sample = torch.arange(shape[0]).repeat_interleave(shape[1])
        found = self.outputs(places, sample, inner.repeat(shape[0])).view(shape)
        n_first, n_last = int((counts == 0).sum()), int((counts == n_places).sum())
        first, last = self.first[:, None], self.last[:, None]
        return torch.cat([first.expand(-1, n_first), found, last.expand(-1, n_last)], dim=1)

    def outputs(self, places: Tensor, sample: Tensor, counts: Tensor) -> Tensor:
        """Return what is explained, ``(rows,)``, when the first places of samples have changed.

        Parameters
        ----------
        places
            As for `curve`.
        sample
            Row of the batch that is meant, int64 ``(rows,)``.
        counts
            How many of its places have changed, int64 ``(rows,)``.
        """
        shape, chunk = self.trace.inputs.shape[1:], removal.rows_at_once(self.trace.inputs)
        sample, counts = sample.to(places.device), counts.to(places.device)
        found = [self.first.new_empty(0)]
        for begin in range(0, len(sample), chunk):
            row = sample[begin : begin + chunk]
            count = counts[begin : begin + chunk, None]
            has_changed = places[row] < count  # (rows, features)
            changed = torch.where(has_changed[:, None], self.end[row], self.start[row])
            with torch.no_grad():
                output = self.trace.network(changed.reshape(-1, *shape))
            found.append(removal.selected(output, self.weights[row], self.space))
        return torch.cat(found)
