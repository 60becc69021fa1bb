"""The two forms that moments have on their way, and how factors lie among the rows of a value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from explainers.operators import Carried

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of a value for the batch."""

    mean: Tensor
    """Shaped as the value."""
    spread: Tensor | None
    """Of form ``variance`` shaped as the mean; of form ``factor`` laid out as the program lays out
    the value of ``batch * n_factors`` rows, those of a sample together. None: it is certain."""

    @property
    def uncertainty(self) -> Tensor:
        """The spread of a value that is uncertain, as that of an operator's one input always is.

        Raises
        ------
        ValueError
            If there is none.
        """
        if self.spread is None:
            raise ValueError("got a value that is certain, expected one with a spread")
        return self.spread


@dataclass(frozen=True, eq=False)
class Form:
    """What the spread of moments is.

    ``variance``: of each value, and values are taken as independent of each other. ``factor``: K
    rows ``L`` with covariance ``L^T L``, on which linear operators work as on a batch. Names in the
    methods are those of the operators whose value it is: they say where its rows are.
    """

    kind: Literal["variance", "factor"]
    network: Network
    n_factors: int = 1
    """Rows of a sample's factor, K; 1 for variances, which lie as the mean does."""
    is_smooth: bool = False
    """Whether moments must not jump where those of the input change a little, as solvers need it;
    max-pools are then further off. See `explainers.rules.moments.maxima`."""

    def variance(self, name: str, spread: Tensor) -> Tensor:
        """Return ``sum_k L_k^2``, shaped as the mean; a variance is returned as it is."""
        if self.kind == "variance":
            return spread
        axis, apart = self.apart(name, spread)
        return self.together(name, apart.square().sum(axis, keepdim=True))

    def spread_over(self, name: str, per_value: Tensor, spread: Tensor) -> Tensor:
        """Return the spread with every row multiplied by something shaped as the mean."""
        if self.kind == "variance":
            return per_value * spread
        _, apart = self.apart(name, spread)
        _, shared = self.apart(name, per_value, n_factors=1)
        return self.together(name, shared * apart)

    def repeated(self, name: str, value: Tensor) -> Tensor:
        """Return something shaped as the mean as the spread lies: each row K times.

        What has no rows, a constant, is returned as it is.
        """
        if self.kind == "variance" or not self._has_rows(name):
            return value
        axis, shared = self.apart(name, value, n_factors=1)
        shape = list(shared.shape)
        shape[axis] = self.n_factors
        return self.together(name, shared.expand(shape))

    def apart(self, name: str, value: Tensor, n_factors: int | None = None) -> tuple[int, Tensor]:
        """Return the axis of the K rows, and the spread viewed with one; see `together`.

        Parameters
        ----------
        name
            Of the operator whose spread it is.
        value
            The spread; or something shaped as the mean, with `n_factors` 1.
        n_factors
            Rows of a sample in it, by default `n_factors`.
        """
        n_rows = self.n_factors if n_factors is None else n_factors
        axis, outer, inner = self._place(name)
        sizes = (-1, n_rows) if outer == inner == 1 else (outer, -1, n_rows, inner)
        shape = (*value.shape[:axis], *sizes, *value.shape[axis + 1 :])
        return axis + len(sizes) // 2, value.reshape(shape)

    def together(self, name: str, apart: Tensor) -> Tensor:
        """Return what `apart` took apart, whatever the length of the axis of rows now is."""
        axis, outer, inner = self._place(name)
        return apart.flatten(axis, axis + 1 if outer == inner == 1 else axis + 3)

    def is_plain(self, name: str) -> bool:
        """Return whether a value is ``(batch, ...)``, its spread ``(batch * K, ...)``."""
        return self._place(name) == (0, 1, 1)

    def _has_rows(self, name: str) -> bool:
        if name == self.network.output_name or self.network.layout(name) is not None:
            return True
        op = self._operators[name]
        return isinstance(op, Carried) or name in self.network.dependent

    @cached_property
    def _operators(self) -> dict[str, Operator]:
        return {op.name: op for op in self.network.operators}

    def _place(self, name: str) -> tuple[int, int, int]:
        """Return the axis of a value's rows, and what is outside and inside of them on it."""
        if name == self.network.output_name:
            return 0, 1, 1
        layout = self.network.layout(name)
        if layout is None:
            raise NotImplementedError(
                f"the samples in the value of {name!r} do not lie along one axis, so that factors "
                "of it cannot be told apart; use mode: diag, or sampling (monte_carlo)"
            )
        op = self._operators[name]
        return layout.axis, op.batch_outer, layout.n_places // op.batch_outer
