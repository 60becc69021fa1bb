"""What is explained, with one box of the input filled in at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.perturbing.forward import outputs_at
from explainers.sampling import chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from explainers.perturbing.fills import Fill
    from explainers.regions.boxes import Boxes
    from explainers.trace import Trace

    Weigh = Callable[[Tensor, Tensor], Tensor]


def values_without(trace: Trace, boxes: Boxes, fill: Fill, weigh: Weigh) -> Tensor:
    """Return what is explained where a box is filled in, ``(batch, boxes)``.

    Parameters
    ----------
    trace
        Of the samples.
    boxes
        Each is filled in alone.
    fill
        What takes its place; each box is a replicate.
    weigh
        From outputs ``(boxes, rows, classes)`` and the rows they are of to what is explained,
        ``(boxes, rows)``.
    """
    inputs = trace.inputs
    found = inputs.new_empty(len(inputs), len(boxes))
    every = torch.arange(max(len(boxes), len(inputs)), device=inputs.device)
    for rows, which in _pieces(inputs, len(boxes)):
        with torch.inference_mode():
            outputs = _outputs(trace, boxes, fill, every[rows], every[which])
            values = weigh(outputs, every[rows])
        found[rows, which] = values.T
    return found


def _pieces(inputs: Tensor, n_boxes: int) -> Iterator[tuple[slice, slice]]:
    limit = chunks.rows_at_once(inputs)
    for rows in chunks.pieces(len(inputs), limit):
        for which in chunks.pieces(n_boxes, max(1, limit // max(1, rows.stop - rows.start))):
            yield rows, which


def _outputs(trace: Trace, boxes: Boxes, fill: Fill, rows: Tensor, which: Tensor) -> Tensor:
    """Return outputs, ``(which, rows, classes)``, by one forward pass."""
    inside = boxes.inside(which)[:, None]
    points = torch.where(inside, fill.at(rows, which), trace.inputs[rows])
    outputs = outputs_at(trace, points.flatten(0, 1), rows.repeat(len(which)))
    return outputs.view(len(which), len(rows), -1)
