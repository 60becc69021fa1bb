"""Concepts that are parts of a layer's value: each has its own places, and each place is one's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.concepts.kinds.base import Concepts
from explainers.concepts.kinds.reducing import reduced

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.concepts.kinds.form import Form
    from explainers.concepts.scores import Scores


@dataclass(frozen=True, eq=False, kw_only=True)
class Parts(Concepts):
    """Concepts along some axes of a sample's value; the other axes hold the positions."""

    form: Form
    """Of the operator's value."""
    axes: tuple[int, ...]
    """Of a sample, along which the concepts lie, in row-major order."""

    def scores(self, amounts: Tensor, value: Tensor | None = None) -> Scores:
        """Return sum, maximum and its position; relevance needs no value here."""
        return reduced(self._arranged(amounts), len(self.axes))

    def masked(self, relevance: Tensor, value: Tensor, chosen: Tensor) -> Tensor:
        """Return the relevance with zeros at the places of other concepts."""
        samples = self.form.samples(relevance)
        sizes = [1] * (samples.ndim - 1)
        for axis in self.axes:
            sizes[axis] = self.form.shape[axis]
        kept = chosen.view(len(chosen), *sizes)
        return self.form.value(torch.where(kept, samples, samples.new_zeros(())))

    def at_positions(
        self,
        relevance: Tensor,
        value: Tensor,
        concept: Tensor,
        position: Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the relevance with zeros everywhere but at the neurons."""
        if rows is None:
            rows = torch.arange(len(concept), device=concept.device)
        sizes = tuple(self.form.shape[axis] for axis in self.axes)
        place = (rows, *torch.unravel_index(concept, sizes))
        if self.shape:
            place += torch.unravel_index(position, self.shape)
        found = torch.zeros_like(relevance)
        self._arranged(found)[place] = self._arranged(relevance)[place]
        return found

    def rest(self, relevance: Tensor, value: Tensor) -> Tensor:
        """Return zeros: every place is a concept's."""
        return torch.zeros_like(relevance)

    def _arranged(self, value: Tensor) -> Tensor:
        """Return a view ``(batch, *concepts, *positions)``."""
        samples = self.form.samples(value)
        axes = tuple(axis + 1 for axis in self.axes)
        return samples.movedim(axes, tuple(range(1, len(axes) + 1)))


def parts(layer: str, operator: str, form: Form, axes: tuple[int, ...]) -> Parts:
    """Return the concepts along some axes of a sample's value."""
    others = (size for axis, size in enumerate(form.shape) if axis not in axes)
    return Parts(
        layer=layer,
        operator=operator,
        n=math.prod(form.shape[axis] for axis in axes),
        shape=tuple(others),
        form=form,
        axes=axes,
    )
