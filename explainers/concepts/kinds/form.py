"""A value sample by sample, wherever the rows of the batch lie in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network


@dataclass(frozen=True)
class Form:
    """How the value of an operator becomes ``(batch, *shape)``, as a view.

    Sequences may come first, and windows, heads or places may share an axis with the batch; they
    become axes of the sample, where the rows were.
    """

    axis: int
    """Along which the rows are."""
    outer: int
    """How often all samples follow each other along it."""
    inner: int
    """How many places of a sample follow each other along it, within that."""
    rest: tuple[int, ...]
    """Sizes of the other axes."""
    dtype: torch.dtype

    @property
    def joined(self) -> tuple[int, ...]:
        """Sizes of the axes that share one with the batch."""
        return tuple(size for size in (self.outer, self.inner) if size > 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return (*self.rest[: self.axis], *self.joined, *self.rest[self.axis :])

    def place(self, axis: int) -> int:
        """Return where an axis of the value but that of the rows is in a sample.

        Parameters
        ----------
        axis
            Not counting that of the rows.
        """
        return axis if axis < self.axis else axis + len(self.joined)

    def samples(self, value: Tensor) -> Tensor:
        """Return a view ``(batch, *shape)``."""
        if self.joined:
            value = torch.unflatten(value, self.axis, (self.outer, -1, self.inner))
            value = value.movedim(self.axis + 1, 0)
            return value.reshape(len(value), *self.shape)
        return value.movedim(self.axis, 0) if self.axis else value

    def value(self, samples: Tensor) -> Tensor:
        """Return what `samples` was made of."""
        if not self.joined:
            return samples.movedim(0, self.axis) if self.axis else samples
        before, behind = self.rest[: self.axis], self.rest[self.axis :]
        found = samples.reshape(len(samples), *before, self.outer, self.inner, *behind)
        return found.movedim(0, self.axis + 1).flatten(self.axis, self.axis + 2)


def form_of(network: Network, operator: str, layer: str) -> Form:
    """Return the form of an operator's value.

    Raises
    ------
    ValueError
        If it has no rows along one axis, does not depend on the input, or is no floating-point
        value.
    """
    op = next(op for op in network.operators if op.name == operator)
    layout = network.layout(operator)
    if layout is None or layout.n_places % op.batch_outer:
        raise ValueError(
            f"the value of layer {layer!r} has no axis along which the samples of the batch lie, "
            "so it has no concepts for each of them; take a layer before or behind it"
        )
    if operator not in network.dependent or not layout.dtype.is_floating_point:
        raise ValueError(
            f"layer {layer!r} has no concepts: its value "
            f"{'is not floating-point' if operator in network.dependent else 'is constant'}; "
            "name a layer behind the input that holds features"
        )
    inner = layout.n_places // op.batch_outer
    return Form(layout.axis, op.batch_outer, inner, layout.shape, layout.dtype)
