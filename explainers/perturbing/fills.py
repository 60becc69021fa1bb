"""What is put in place of features that are absent: a baseline, or draws from a background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from explainers import backgrounds
from explainers.cut import Cut
from explainers.inputs.sources import sources
from explainers.reference import at_inputs
from explainers.sampling import chunks

if TYPE_CHECKING:
    from explainers.perturbing.valuation import Valuation, Which
    from explainers.trace import Trace

ASKED = (
    "got no background; pass background=, samples (n, ...) to draw from, or the result of "
    "explainers.scan(model, 'background', loader)"
)


class Fill(Protocol):
    """Values of absent features."""

    is_random: ClassVar[bool]
    """Whether they are drawn, the same for coalitions of one replicate."""

    def at(self, rows: Tensor, replicates: Tensor) -> Tensor:
        """Return what is filled in, ``(1 | replicates, 1 | rows, ...)``, for rows of the batch.

        Replicates are int64, on the CPU.
        """

    def empty(self, valuation: Valuation) -> Tensor:
        """Return the value of rows where all features are absent, ``(rows,)``."""


@dataclass(frozen=True, eq=False)
class Fixed:
    """One baseline for each sample."""

    is_random: ClassVar[bool] = False

    baseline: Tensor
    """``(1 | batch, ...)``."""

    def at(self, rows: Tensor, replicates: Tensor) -> Tensor:
        """Return the baseline of these rows."""
        return (self.baseline if len(self.baseline) == 1 else self.baseline[rows])[None]

    def empty(self, valuation: Valuation) -> Tensor:
        """Return the value of the baseline: of one for all rows, by one pass."""
        return mean_value(valuation, self.baseline[None])


class Drawn:
    """Rows of a background, drawn for each sample: absent features take their values.

    The n-th draw of a sample depends on seed, namespace and sample alone. Every m draws, m being
    the number of rows in the background, take each of them once, in a random order.

    Parameters
    ----------
    background
        See `backgrounds.Background`.
    trace
        Of the samples.
    purpose
        Names the random numbers.

    Raises
    ------
    ValueError
        If there is no background, or it does not fit the inputs.
    """

    is_random: ClassVar[bool] = True

    def __init__(self, background: Any, trace: Trace, purpose: str = "background") -> None:
        self.background = rows_of(background, trace)
        """``(m, 1 | batch, ...)``."""
        self._generators = [trace.generator(purpose, row) for row in range(trace.n_rows)]
        self._order = torch.empty(trace.n_rows, 0, dtype=torch.int64)

    def at(self, rows: Tensor, replicates: Tensor) -> Tensor:
        """Return the background that rows see in replicates, ``(replicates, rows, ...)``."""
        chosen = self.chosen(replicates).to(rows.device).index_select(0, rows).T
        if self.background.shape[1] > 1:
            return self.background[chosen, rows]
        # a third of the time of indexing
        drawn = self.background[:, 0].index_select(0, chosen.flatten())
        return drawn.view(*chosen.shape, *drawn.shape[1:])

    def chosen(self, replicates: Tensor) -> Tensor:
        """Return which row of the background each sample sees, ``(batch, replicates)``."""
        n_rows = len(self.background)
        n_rounds = 1 + int(replicates.max()) // n_rows if len(replicates) else 0
        missing = n_rounds - self._order.shape[1] // n_rows
        if missing > 0:
            orders = [
                torch.cat([torch.randperm(n_rows, generator=generator) for _ in range(missing)])
                for generator in self._generators
            ]
            self._order = torch.cat([self._order, torch.stack(orders)], 1)
        return self._order[:, replicates]

    def empty(self, valuation: Valuation) -> Tensor:
        """Return the mean value over all rows of the background."""
        return mean_value(valuation, self.background)


def mean_value(valuation: Valuation, points: Tensor) -> Tensor:
    """Return the mean value of rows at points that are not theirs, ``(rows,)``.

    Parameters
    ----------
    valuation
        Of the rows.
    points
        ``(m, 1 | batch, ...)``: shared ones are looked at once, by m passes for all rows.
    """
    trace = valuation.trace
    if points.shape[1] > 1 or trace.carried:

        def make(which: Which, some: slice) -> Tensor:
            rows = valuation.rows[which]
            here = points[some] if points.shape[1] == 1 else points[some, rows]
            return here.expand(-1, len(rows), *points.shape[2:])

        return valuation.values(len(points), make).mean(1)
    return valuation.mean_of(points[:, 0])


def rows_of(background: Any, trace: Trace) -> Tensor:
    """Return the rows of a background as inputs of a trace, ``(m, 1 | batch, ...)``.

    Raises
    ------
    ValueError
        If there is none, or it does not fit.
    """
    given = backgrounds.rows(background, ASKED)
    home = _home(trace, given[0])
    if home is not None:
        inputs = rows_of(background, home)[:, 0]
        parts = [_layer_at(trace, home, inputs[some]) for some in chunks.row_pieces(inputs)]
        return torch.cat(parts)[:, None]
    found = [trace.baseline(row) for row in given]
    n_rows = max(len(row) for row in found)
    return torch.stack([row.expand(n_rows, *row.shape[1:]) for row in found]).to(trace.inputs)


def _home(trace: Trace, first: Any) -> Trace | None:
    """Return the trace whose inputs lead to the layer that a trace starts at.

    None where the trace starts at inputs, or the background holds values of the layer, or what is
    carried to the layer differs by row: rows are then looked at one by one.
    """
    network, parent = trace.network, trace.parent
    if not isinstance(network, Cut) or parent is None or not network.points:
        return None
    if isinstance(first, Tensor) and tuple(first.shape[1:]) == tuple(network.input_shape):
        return None
    of_inputs = {name for source in sources(network.root) for name in source.points}
    if any(point.layer in of_inputs for point in network.points):
        return None
    home = at_inputs(parent)
    return None if home.carried else home


def _layer_at(trace: Trace, home: Trace, inputs: Tensor) -> Tensor:
    """Return what a trace starts at, where the inputs of another are these."""
    nobody = torch.zeros(len(inputs), dtype=torch.int64)
    layers = tuple(point.layer for point in trace.network.points)  # type: ignore[attr-defined]
    return home.at(inputs, nobody).starting_at(layers).inputs
