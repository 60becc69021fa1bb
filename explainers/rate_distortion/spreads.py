"""Moments of noise that are given, in the form that a mode carries through the network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from explainers.propagation import square_root
from explainers.statistics import factors

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode = Literal["diag", "half", "full"]

MOST_FACTORS = 2**12
"""Rows of a factor: each is one more map of every layer. 4,096 maps of a photograph in a ResNet
would take 100 GB, and even of a digit in a LeNet half of one."""

GRID = 2**22
"""Steps from zero to the largest value of what a scan found: float32 has as many at that value."""

_GIVEN = frozenset({"mean", "variance", "factor", "covariance"})


class Given:
    """Mean and spread of noise, in float64, checked against the shape of an input.

    Parameters
    ----------
    moments
        ``mean`` with ``variance``, ``factor`` (K, ...) or ``covariance`` (d, d): what the scan
        `moments` has found, or numbers and tensors of one's own.
    shape
        Of one input.

    Raises
    ------
    ValueError
        If shapes do not fit, or values are not finite or variances negative.
    """

    def __init__(self, moments: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        self.is_scanned = "count" in moments
        _check_names(moments, is_scanned=self.is_scanned)
        self.moments, self.shape = moments, shape
        mean = shaped("mean", moments["mean"], shape)
        _check_finite("mean", mean)
        self.mean = self._settled(mean)

    def variance(self) -> Tensor:
        """Return the variance of each value, ``(...)``."""
        if "variance" in self.moments:
            variance = shaped("variance", self.moments["variance"], self.shape)
            return self._settled(checked_variance(variance))
        if "factor" in self.moments:
            return self._factor().square().sum(0)
        return checked_variance(self._covariance().diagonal().reshape(self.shape))

    def factor(self, mode: Mode, rank: int | None) -> Tensor | None:
        """Return the factor ``(K, ...)``; None where values are independent.

        Raises
        ------
        ValueError
            If the mode needs what is not given.
        """
        if mode == "full":
            wanted = self._root() if "covariance" in self.moments else None
        elif "factor" in self.moments:
            factor = self._factor()
            wanted = factor if rank is None else factors.truncate(factor, rank)
        elif "covariance" in self.moments:
            root = self._root()
            wanted = root if rank is None else root[:rank]
        else:
            wanted = None
        if wanted is None and (self.is_scanned or "variance" not in self.moments):
            raise ValueError(_asked(mode, is_scanned=self.is_scanned))
        return wanted

    def _factor(self) -> Tensor:
        factor = floating("factor", self.moments["factor"])
        if factor.ndim < 2 or tuple(factor.shape[1:]) != self.shape or not len(factor):
            raise ValueError(
                f"noise has a factor of shape {tuple(factor.shape)}, expected (K, "
                f"{', '.join(map(str, self.shape))}) with K at least 1: its rows are shaped as the "
                "input, and their outer products add up to the covariance"
            )
        _check_finite("factor", factor)
        return self._settled(factor)

    def _covariance(self) -> Tensor:
        covariance = floating("covariance", self.moments["covariance"])
        n_values = math.prod(self.shape)
        if tuple(covariance.shape) != (n_values, n_values):
            raise ValueError(
                f"noise has a covariance of shape {tuple(covariance.shape)}, expected "
                f"({n_values}, {n_values}): of the {n_values} flattened values of an input"
            )
        _check_finite("covariance", covariance)
        return covariance

    def _root(self) -> Tensor:
        return self._settled(of_covariance(self._covariance()).reshape(-1, *self.shape))

    def _settled(self, values: Tensor) -> Tensor:
        """Return what a scan found without the digits that the order of its shards decides.

        Solvers make much of the last bit: masks were off by a tenth where the statistics differed
        by 1e-15. What is finer than a part in `GRID` of the largest value is dropped.
        """
        largest = values.abs().amax()
        if not self.is_scanned or not bool(largest > 0):
            return values
        step = torch.exp2(largest.log2().ceil()) / GRID
        return (values / step).round() * step


def of_covariance(covariance: Tensor) -> Tensor:
    """Return the square root ``(K, d)`` of a covariance ``(d, d)``, strongest row first.

    It has no rows for directions in which, to rounding, nothing varies; but one row at least.

    Raises
    ------
    ValueError
        If the matrix is not symmetric, or has an eigenvalue that is negative beyond rounding.
    """
    rows = square_root(covariance).flip(0)
    energies = factors.energies(rows)
    rounding = len(rows) * torch.finfo(covariance.dtype).eps * float(energies[0])
    return rows[: max(1, int((energies > rounding).sum()))]


def of_independent(variance: Tensor, rank: int | None, mode: Mode) -> Tensor:
    """Return the factor ``(d, ...)`` of ``d`` independent values.

    Raises
    ------
    ValueError
        If that are too many, or fewer are asked for, which would leave most of the noise out.
    """
    n_values = variance.numel()
    if rank is not None and rank < n_values:
        raise ValueError(
            f"rank is {rank}, but noise of {n_values} independent values needs a factor of as many "
            "rows, and fewer would leave most of it out; leave rank out or set mode: diag, or give "
            "noise that has a factor, such as the scan moments with a rank"
        )
    check_n_factors(n_values, mode)
    return torch.diag(variance.flatten().sqrt()).reshape(n_values, *variance.shape)


def of_rows(rows: Tensor, rank: int | None) -> Tensor:
    """Return the factor of the covariance of real rows ``(n, ...)``."""
    centred = (rows - rows.mean(0)) / math.sqrt(len(rows) - 1)
    if rank is None and len(rows) <= rows[0].numel():
        return centred
    n_values = rows[0].numel()
    return factors.truncate(centred, n_values if rank is None else rank)


def check_n_factors(n_factors: int, mode: Mode) -> None:
    """Refuse factors of very many rows."""
    if n_factors > MOST_FACTORS:
        raise ValueError(
            f"noise has a factor of {n_factors} rows, at most {MOST_FACTORS} can go through the "
            f"network in mode {mode!r}; set mode: diag, or mode: half with a rank for noise whose "
            "values covary, or sample the distortion (solver: monte_carlo)"
        )


def checked_variance(variance: Tensor) -> Tensor:
    """Return a variance, unless it is none."""
    _check_finite("variance", variance)
    if bool((variance < 0).any()):
        raise ValueError(
            f"noise has the variance {float(variance.min()):.3g}, expected at least 0; a standard "
            "deviation has to be squared"
        )
    return variance


def shaped(name: str, given: Any, shape: tuple[int, ...]) -> Tensor:
    """Return numbers as a tensor ``(*shape)``: one for all values, one a channel, or one each.

    Raises
    ------
    ValueError
        If there are not as many.
    """
    values = floating(name, given)
    if values.ndim == 0:
        return values.expand(shape)
    if values.shape in (shape, (1, *shape)):
        return values.reshape(shape)
    if len(shape) > 1 and values.shape == shape[:1]:
        return values.view(-1, *(1,) * (len(shape) - 1)).expand(shape)
    raise ValueError(
        f"noise has a {name} of shape {tuple(values.shape)}, expected {shape}, the shape of one "
        "input; or a number, or one number a channel. Noise for a layer has the shape of its "
        "value: statistics of the inputs do not serve there"
    )


def floating(name: str, given: Any) -> Tensor:
    """Return numbers in float64, unless they are given in another floating-point type.

    Raises
    ------
    TypeError
        If they are no numbers.
    """
    try:
        # results that are read from a store are arrays that cannot be written to
        values = given.detach() if isinstance(given, Tensor) else torch.asarray(given, copy=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"noise has a {name} of type {type(given).__name__!r}, expected numbers or a tensor"
        ) from error
    if isinstance(given, float | int | list | tuple) or not values.is_floating_point():
        return values.double()
    return values


def _check_finite(name: str, values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise ValueError(
            f"noise has a {name} with NaN or infinite values, expected finite ones; statistics of "
            "a single sample have no spread: take them over more samples"
        )


def _check_names(moments: Mapping[str, Any], *, is_scanned: bool) -> None:
    if is_scanned and "mean" not in moments:
        raise ValueError(
            "noise is a result of the scan moments over no samples; give it at least two"
        )
    unknown = not is_scanned and not _GIVEN.issuperset(moments)
    has_spread = {"variance", "factor", "covariance"} & set(moments)
    if unknown or "mean" not in moments or not has_spread:
        raise ValueError(
            f"got noise with {', '.join(map(repr, moments)) or 'nothing'}, expected 'mean' and at "
            "least one of 'variance', 'factor' (K, ...) and 'covariance' (d, d)"
        )


def _asked(mode: Mode, *, is_scanned: bool) -> str:
    if mode == "half":
        entry, tensor, others = "rank: 30", "factor= (K, ...)", "set mode: diag"
    else:
        entry, tensor, others = "covariance: exact", "covariance= (d, d)", "set mode: half or diag"
    if is_scanned:
        return (
            f"mode {mode!r} needs noise with a {tensor.partition('=')[0]}, and the statistics have "
            f"none; set {entry} on the entry of the scan moments, or {others}"
        )
    return (
        f"mode {mode!r} needs noise with a {tensor.partition('=')[0]}; give {tensor}, or {others}"
    )
