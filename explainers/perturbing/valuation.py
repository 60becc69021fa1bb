"""What is explained, at inputs other than a batch's own: many variants of each row, in chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from explainers.inference import ordinary, outside_inference_mode
from explainers.perturbing.forward import outputs_at
from explainers.sampling import chunks
from explainers.sampling.forward_chunks import as_memory_allows, forward_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from explainers.targets import Target
    from explainers.trace import Trace

    Which: TypeAlias = Tensor | slice
    Make = Callable[[Which, slice], Tensor]

Space = Literal["logit", "probability"]
"""Whether outputs are explained as they are, or behind a softmax."""


class Valuation:
    """The value of what is explained, of some rows of a batch, as a function of the input.

    Parameters
    ----------
    trace
        Of the samples.
    target
        What is explained; what it means is decided at the samples themselves.
    rows
        Of the batch, int64; None for all.
    space
        Of the outputs.
    """

    def __init__(
        self, trace: Trace, target: Target, *, rows: Tensor | None = None, space: Space = "logit"
    ) -> None:
        self.trace = trace
        every = torch.arange(trace.n_rows, device=trace.inputs.device)
        self.rows = every if rows is None else rows.to(every)
        """Of the batch, int64 ``(rows,)``."""
        self.space = space
        weights, output = trace.cotangent(target), trace.output
        self.inputs = trace.inputs if rows is None else trace.inputs[self.rows]
        """Of the samples themselves, ``(rows, ...)``."""
        self.weights = weights if rows is None else weights[self.rows]
        """Of the outputs in what is explained, ``(rows, classes)``."""
        own = output if rows is None else output[self.rows]
        self.full = ordinary(self.of(own, self.weights))
        """Of the samples themselves, ``(rows,)``; costs no pass."""

    @property
    def n_rows(self) -> int:
        """Samples."""
        return len(self.rows)

    def of(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """Return what outputs ``(..., classes)`` come to."""
        if self.space == "probability":
            outputs = outputs.softmax(-1)
        return (outputs * weights).sum(-1)

    @outside_inference_mode
    def values(self, n_variants: int, make: Make, rows: Tensor | None = None) -> Tensor:
        """Return the values at variants of the inputs, each one forward pass of each row.

        Parameters
        ----------
        n_variants
            Of each row.
        make
            Called with positions among these rows (int64, or a slice) and a slice of variants;
            returns the inputs ``(variants, rows, ...)``.
        rows
            Positions among these rows, int64; None for all.

        Returns
        -------
        Tensor
            ``(rows, variants)``.
        """
        return as_memory_allows(self.trace.network, lambda: self._values(n_variants, make, rows))

    @outside_inference_mode
    def mean_of(self, points: Tensor) -> Tensor:
        """Return the mean value at points ``(m, ...)`` that all rows share, ``(rows,)``.

        They are looked at once, for all rows: nothing of a row may be carried along.
        """
        nobody = torch.zeros(len(points), dtype=torch.int64)
        with torch.inference_mode():
            limit = self.limit()
            outputs = torch.cat(
                [
                    outputs_at(self.trace, points[some], nobody[some])
                    for some in chunks.pieces(len(points), limit)
                ]
            )
            if self.space == "probability":
                outputs = outputs.softmax(-1)
            mean = outputs.mean(0)
        return ordinary((mean * self.weights).sum(-1))

    def _values(self, n_variants: int, make: Make, rows: Tensor | None) -> Tensor:
        n_rows = self.n_rows if rows is None else len(rows)
        found = self.inputs.new_empty(n_rows, n_variants, dtype=self.full.dtype)
        if not found.numel():
            # networks need not serve a batch of nothing
            return found
        for some_rows, some in self._pieces(n_rows, n_variants):
            which = some_rows if rows is None else rows[some_rows]
            # a network copies tensors that were made in inference mode
            with torch.no_grad():
                points = make(which, some)
            with torch.inference_mode():
                every = self.rows[which].expand(len(points), -1)
                outputs = outputs_at(self.trace, points.flatten(0, 1), every)
                outputs = outputs.view(*points.shape[:2], -1)
                found[some_rows, some] = self.of(outputs, self.weights[which]).T
        return found

    def _pieces(self, n_rows: int, n_variants: int) -> Iterator[tuple[slice, slice]]:
        limit = self.limit()
        for rows in chunks.pieces(n_rows, limit):
            at_once = max(1, limit // max(1, rows.stop - rows.start))
            for some in chunks.pieces(n_variants, at_once):
                yield rows, some

    def limit(self) -> int:
        """Return how many rows one forward pass should take."""
        return forward_rows(self.trace.network, self.inputs, self._probe)

    def _probe(self, n_rows: int) -> None:
        rows = torch.zeros(n_rows, dtype=torch.int64, device=self.rows.device)
        with torch.inference_mode():
            outputs_at(self.trace, self.inputs[rows], self.rows[rows])
