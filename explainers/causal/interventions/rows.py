"""Rows of values, wherever the batch is in them, taken as they lie in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainers.operators import Constant

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator


@dataclass(frozen=True)
class Place:
    """Where the rows of the batch are in a value: ``(..., outer * batch * inner, ...)``."""

    axis: int
    outer: int
    inner: int

    @property
    def is_plain(self) -> bool:
        """Whether the value is ``(batch, ...)``."""
        return (self.axis, self.outer, self.inner) == (0, 1, 1)

    def taken(self, value: Tensor, rows: Tensor) -> Tensor:
        """Return the value of other rows, laid out as the value is.

        Parameters
        ----------
        value
            Of an operator.
        rows
            int64 ``(new rows,)``.
        """
        if self.outer == self.inner == 1:
            return chosen(value, self.axis, rows)
        found = chosen(self._apart(value), self.axis + 1, rows)
        return found.flatten(self.axis, self.axis + 2)

    def front(self, value: Tensor) -> Tensor:
        """Return a value as ``(batch, ...)``; what shares its axis with rows gets axes before."""
        return value if self.is_plain else self._apart(value).movedim(self.axis + 1, 0)

    def back(self, value: Tensor) -> Tensor:
        """Return what `front` has changed, of as many rows as it now has, as it lies."""
        if self.is_plain:
            return value
        return value.movedim(0, self.axis + 1).flatten(self.axis, self.axis + 2)

    def _apart(self, value: Tensor) -> Tensor:
        before, after = value.shape[: self.axis], value.shape[self.axis + 1 :]
        return value.reshape(*before, self.outer, -1, self.inner, *after)


def has_rows(network: Network, op: Operator) -> bool:
    """Return whether a value has one for each sample, as opposed to a constant."""
    if isinstance(op, Constant):
        return False
    return op.name in network.dependent or network.layout(op.name) is not None


def place_of(network: Network, op: Operator) -> Place:
    """Return where the rows are in an operator's value.

    Raises
    ------
    NotImplementedError
        If they are not along one axis.
    """
    if op.name == network.output_name:
        return Place(0, 1, 1)
    layout = network.layout(op.name)
    if layout is None or layout.n_places % op.batch_outer:
        where = op.module_path or "the network itself"
        raise NotImplementedError(
            f"the samples in the value of {op.name!r} (in {where!r}) do not lie along one axis, so "
            "that it cannot be told what an intervention leaves as it is"
        )
    return Place(layout.axis, op.batch_outer, layout.n_places // op.batch_outer)


def chosen(value: Tensor, axis: int, index: Tensor) -> Tensor:
    """Return ``value.index_select(axis, index)`` with the memory order of the value.

    The function of torch returns what lies channels last as if it did not.
    """
    strides = value.stride()
    order = sorted(range(value.ndim), key=lambda one: -strides[one])
    found = value.permute(order).index_select(order.index(axis), index)
    inverse = sorted(range(value.ndim), key=order.__getitem__)
    return found.permute(inverse)
