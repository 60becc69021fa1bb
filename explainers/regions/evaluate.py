"""What is explained, with one box of the input filled in at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.inference import outside_inference_mode
from explainers.regions.parts import planned
from explainers.regions.patches import table, taken
from explainers.regions.running import Recomputation, Unperturbed
from explainers.sampling import chunks
from explainers.sampling.forward_chunks import as_memory_allows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.perturbing.fills import Fill
    from explainers.perturbing.valuation import Valuation, Which
    from explainers.regions.boxes import Boxes
    from explainers.regions.patches import Places
    from explainers.regions.plan import Plan

CPU_BYTES = 2**25
"""What pieces and values that are read and made together may take."""

MOST = 2**11
"""Boxes and rows that are evaluated at once, however small."""


def values_without(
    valuation: Valuation, boxes: Boxes, fill: Fill, replicates: Tensor | None = None
) -> Tensor:
    """Return what is explained where a box is filled in, ``(rows, boxes)``.

    Parameters
    ----------
    valuation
        Of the samples.
    boxes
        Each is filled in alone.
    fill
        What takes its place.
    replicates
        Of each box, int64, on the CPU: those with the same number see the same draw of what is
        random in the fill. Each its own by default.
    """
    draws = torch.arange(len(boxes)) if replicates is None else replicates
    parts = planned(valuation.trace.network, boxes)
    if not parts:
        return Filled(valuation, boxes, fill, draws).values(None)
    found = valuation.full.new_empty(valuation.n_rows, len(boxes))
    for part in parts:
        these = Filled(valuation, part.plan.boxes, fill, draws[part.positions])
        found[:, part.positions.to(found.device)] = these.values(part.plan)
    return found


class Filled:
    """Rows of a batch with boxes filled in."""

    def __init__(self, valuation: Valuation, boxes: Boxes, fill: Fill, draws: Tensor) -> None:
        self.valuation, self.boxes, self.fill, self.draws = valuation, boxes, fill, draws
        self.every = torch.arange(len(boxes), device=valuation.inputs.device)

    def values(self, plan: Plan | None) -> Tensor:
        """Return all values, ``(rows, boxes)``."""
        if plan is None:
            return self.valuation.values(len(self.boxes), self._inputs)
        network = self.valuation.trace.network
        return as_memory_allows(network, lambda: self._recomputed(plan))

    def _inputs(self, which: Which, some: slice) -> Tensor:
        """Return whole inputs, ``(boxes, rows, ...)``."""
        inside = self.boxes.inside(self.every[some])[:, None]
        absent = self._absent(which, some)
        return torch.where(inside, absent, self.valuation.inputs[which])

    def _absent(self, which: Which, some: slice) -> Tensor:
        """Return what is filled in, ``(1 | boxes, 1 | rows, ...)``."""
        draws = self.draws[some]
        if bool((draws == draws[0]).all()):
            draws = draws[:1]
        return self.fill.at(self.valuation.rows[which], draws)

    @outside_inference_mode
    def _recomputed(self, plan: Plan) -> Tensor:
        valuation, trace = self.valuation, self.valuation.trace
        needed = {name: trace.values[name] for name in plan.needed}
        found = valuation.inputs.new_empty(
            valuation.n_rows, len(self.boxes), dtype=valuation.full.dtype
        )
        for rows, pieces in self._pieces(plan):
            with torch.inference_mode():
                own = Unperturbed(trace.network, needed, valuation.rows[rows])
                for some in pieces:
                    run = Recomputation(plan, own, self.every[some])
                    outputs = run.outputs(self._filled(run, rows, some))
                    found[rows, some] = valuation.of(outputs, valuation.weights[rows]).T
        return found

    def _pieces(self, plan: Plan) -> Iterator[tuple[slice, list[slice]]]:
        """Yield rows, and the boxes that are filled in in them together."""
        limit = self.limit(plan)
        at_once = min(limit, len(self.boxes))
        for rows in chunks.pieces(self.valuation.n_rows, max(1, limit // at_once)):
            yield rows, list(chunks.pieces(len(self.boxes), at_once))

    def limit(self, plan: Plan) -> int:
        """Return how many boxes and rows are evaluated at once."""
        inputs = self.valuation.inputs
        if inputs.device.type == "cpu":
            return min(max(1, CPU_BYTES // (plan.n_values * inputs.element_size())), MOST)
        return max(1, self.valuation.limit() * plan.n_values_before // plan.n_values)

    def _filled(self, run: Recomputation, rows: slice, some: slice) -> Tensor:
        """Return pieces of the input, ``(boxes * rows, channels, *sizes)``."""
        region, places = run.plan.region, run.places(run.plan.region)
        none = ((0, 0),) * len(region)
        absent = self._absent(rows, some)
        n_draws, n_rows = absent.shape[:2]
        lead = torch.arange(n_draws * n_rows, device=self.every.device).view(n_draws, n_rows)
        lead = lead.expand(run.lead.shape)
        filled = taken(table(absent.flatten(0, 1), none, 0.0), lead, places)
        inside = self._inside(run, some, places)
        if inside is not None:
            own = taken(run.own.table(run.plan.source, none, 0.0), run.lead, places)
            filled = torch.where(inside, filled, own)
        return filled.flatten(0, 1).movedim(-1, 1)

    def _inside(self, run: Recomputation, some: slice, places: Places) -> Tensor | None:
        """Return what of pieces is in the boxes, ``(boxes, 1, *sizes, channels)``; None if all."""
        which = self.boxes.along(self.every[some])
        found: Tensor | None = None
        for axis, (intervals, one) in enumerate(zip(self.boxes.axes, which, strict=True)):
            size = places.sizes[axis - 1] if axis else intervals.size
            if all(b - a == size for a, b in zip(intervals.starts, intervals.stops, strict=True)):
                continue
            first = places.starts[axis - 1] if axis else torch.zeros_like(one)
            along = first[:, None] + torch.arange(size, device=one.device)
            ones = [1] * len(which)
            ones[axis - 1] = size
            is_in = intervals.holds(one, along).view(len(one), 1, *ones)
            found = is_in if found is None else found & is_in
        return found
