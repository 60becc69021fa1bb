"""Noise for some rows of a batch, of which more can be drawn than fits in memory at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.trace import Trace


class RowNoise:
    """Standard normal numbers, copy after copy, from one generator for each row.

    What a copy gets depends on seed, namespace and sample, and on how many copies came before; not
    on the batch, nor on how many are drawn together.

    Parameters
    ----------
    trace
        Whose rows these are.
    rows
        Which of them.
    """

    def __init__(self, trace: Trace, rows: slice) -> None:
        self._like = trace.inputs[rows]
        positions = range(len(trace.inputs))[rows]
        self._generators = [trace.generator("noise", row) for row in positions]

    def draw(self, n_copies: int) -> Tensor:
        """Return the next numbers, ``(copies, rows, ...)``, shaped like the inputs."""
        noise = torch.empty(n_copies, *self._like.shape, dtype=self._like.dtype)
        for copy in noise:
            for row, generator in zip(copy, self._generators, strict=True):
                row.normal_(generator=generator)
        return noise.to(self._like.device)
