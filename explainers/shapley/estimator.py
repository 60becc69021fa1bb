"""What an estimator of Shapley values is, and which there are.

An estimator talks to a game and knows nothing of networks, images or features. A new one is a new
file in this package; the method `shapley_value_sampling` finds it by its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from explainers.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from explainers.perturbing.estimate import Estimate

E = TypeVar("E", bound="type[Estimator]")


class GameLike(Protocol):
    """Values of coalitions of features, for some rows: `perturbing.game.Game`, or a table."""

    n_features: int

    @property
    def is_random(self) -> bool:
        """Whether what stands for absent features is drawn, the same for those of a replicate."""

    @property
    def n_rows(self) -> int:
        """Rows, each with a game of its own."""

    @property
    def full(self) -> Tensor:
        """Value of all features together, ``(rows,)``; evaluated once."""

    @property
    def empty(self) -> Tensor:
        """Value of no feature, ``(rows,)``; evaluated once."""

    def values(
        self, coalitions: Tensor, rows: Tensor | None = None, replicates: Tensor | None = None
    ) -> Tensor:
        """Return values ``(rows, coalitions)`` of coalitions ``(coalitions, features)``.

        Coalitions and `rows` are on the device of `full`, `replicates` on the CPU.
        """


class Estimator(ABC):
    """From a game and a budget to Shapley values; subclasses are frozen dataclasses.

    Their fields have defaults. Those that are called like a parameter of the method that uses the
    estimator get its value: see `made`.
    """

    name: ClassVar[str] = ""
    has_standard_error: ClassVar[bool] = False
    """Whether it says how far each value can be trusted, so that a tolerance can be met."""
    most_features: ClassVar[int | None] = None
    """Of one sample."""
    most_evaluations: ClassVar[int | None] = None
    """Beyond which time or memory explode."""

    @abstractmethod
    def least(self, n_features: int) -> int:
        """Return the smallest budget with which it can do anything, full and empty included."""

    @abstractmethod
    def default(self, n_features: int) -> int:
        """Return the budget where none is asked for, at least `least`."""

    def default_drawn(self, n_features: int, n_rows: int) -> int:
        """Return that budget where absent features are drawn from so many rows."""
        return self.default(n_features)

    @abstractmethod
    def estimate(
        self, game: GameLike, n_evaluations: int, seed: int, tolerance: float | None = None
    ) -> Estimate:
        """Return the Shapley values of every row.

        Parameters
        ----------
        game
            Of all rows.
        n_evaluations
            Values of coalitions that may be looked at for each row, full and empty among them;
            checked before.
        seed
            Of the design, which all rows share.
        tolerance
            Where it has a standard error: a row is done when the root mean square of its errors
            is at most this times the root mean square of its values.
        """

    def used(self, n_features: int, n_evaluations: int, *, is_random: bool = False) -> int:
        """Return how many of the evaluations that may be looked at will be, without tolerance."""
        return n_evaluations

    def least_with_error(self, n_features: int, *, is_random: bool = False) -> int:
        """Return the smallest budget with which it knows its standard errors, if it ever does."""
        return self.least(n_features)

    def chosen(self, n_features: int, n_evaluations: int | None) -> Estimator:
        """Return the estimator that does the work, for one that leaves it to others."""
        return self

    def check(
        self, n_features: int, n_evaluations: int | None, tolerance: float | None = None
    ) -> None:
        """Refuse a game that is too large, a budget that does not do, a tolerance without error.

        Raises
        ------
        ValueError
            If one of these is so; the message names the limit.
        """
        # the first thing that a message names is what has to be changed
        what = f"the estimator {self.name}"
        if self.most_features is not None and n_features > self.most_features:
            raise ValueError(
                f"{what} got {n_features} features, expected at most {self.most_features}; take "
                "coarser features, such as {grid: 4}, or estimator: auto"
            )
        if tolerance is not None and not self.has_standard_error:
            raise ValueError(
                f"got tolerance={tolerance} for {what}, which has no standard error that could "
                "meet it; take permutation, or leave the tolerance out"
            )
        if n_evaluations is None:
            return
        least, most = self.least(n_features), self.most_evaluations
        if n_evaluations < least:
            raise ValueError(
                f"got n_evaluations={n_evaluations} for {what}, expected at least {least} for "
                f"{n_features} features; give more, or coarser features"
            )
        if most is not None and n_evaluations > most:
            raise ValueError(
                f"got n_evaluations={n_evaluations} for {what}, expected at most {most}; give "
                "fewer, or set estimator: permutation"
            )


estimators: Registry[type[Estimator]] = Registry(
    "estimator", ("explainers.shapley",), "xpipe.shapley_estimators"
)


def register(name: str) -> Callable[[E], E]:
    """Return a class decorator that enters an estimator under `name` and tells it so."""

    def enter(estimator: E) -> E:
        estimator.name = name
        estimators.register(name)(estimator)
        return estimator

    return enter


def made(name: str, parameters: Mapping[str, Any]) -> Estimator:
    """Return an estimator whose fields have the values that `parameters` has under their names.

    Raises
    ------
    LookupError
        If there is no such estimator; the message names the nearest.
    """
    estimator = estimators.get(name)
    known = [field.name for field in fields(estimator)]  # type: ignore[arg-type]
    return estimator(**{field: parameters[field] for field in known if field in parameters})
