"""Shapley values of features, by one of several estimators."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch

from explainers import numeric
from explainers.catalogue import register
from explainers.cut import Cut
from explainers.features import Partition
from explainers.shapley.estimator import estimators, made
from explainers.shapley.method import ByEstimator
from explainers.shapley.permutation import Order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from explainers.network import Network
    from explainers.shapley.estimator import Estimator
    from explainers.trace import Trace


@register("shapley_value_sampling")
@dataclass(frozen=True)
class ShapleyValueSampling(ByEstimator):
    """Mean of what a feature adds to the output when features join in random orders.

    ``phi_i = mean over orders of f(x with those before i, and i) - f(x with those before i)``
    (Shapley 1953; sampled by Castro et al. 2009, doi:10.1016/j.cor.2008.04.004, and by Strumbelj
    and Kononenko 2014, doi:10.1007/s10115-013-0679-x). Values of all features sum to
    ``f(x) - f(baseline)``. Orders, or coalitions, are the same for all samples of a run.

    Arrays beside the map: ``standard_error``, shaped and spread like it, NaN where it cannot be
    known; ``n_evaluations``, ``(batch,)``, the forward passes that a sample took; from `odd` and
    `kernel` also ``residual``, ``(batch,)``, their root mean square error in predicting
    evaluations that were held out, in units of the output.

    With a background, each order or pair of orders sees one of its rows, drawn for the sample,
    and values sum to ``f(x) - mean f(b)`` over the rows that were drawn.
    """

    estimator: str = "auto"
    """``permutation``: random orders; unbiased. ``odd`` and ``kernel``: regressions on coalitions
    and their complements; biased, less with each evaluation, and `odd` mostly closest. ``exact``:
    all coalitions, of at most 16 features. ``auto``: `exact` where the budget allows for it, or
    there is none and at most 12 features; `permutation` below four evaluations a feature, above
    200 features, with a background, and with `n_samples`; else `odd`."""
    n_evaluations: int | None = None
    """Forward passes per sample at most, those of all and of no features among them. None for the
    estimator's default: all coalitions of `exact`, about ten pairs of orders of `permutation`."""
    n_samples: int | None = None
    """Orders, in place of `n_evaluations`: Captum's n_samples and DeepExplain's samples. Antithetic
    ones come in pairs, from 29 on in fours, and are as many more as that takes."""
    tolerance: float | None = None
    """If set, a sample is done when the root mean square of its standard errors is at most this
    times that of its values; the budget is then the most that it takes."""
    antithetic: bool = True
    """Whether `permutation` takes each order with its reverse, where that pays also with both of
    their halves reversed, which has less variance."""
    order: Order = "insertion"
    """Whether features join the baseline one after the other, as in Captum, or leave the sample,
    as in DeepExplain; the law of the result is the same."""
    sampling_dims: tuple[int, ...] | None = None
    """DeepExplain's form of `features`: axes, 1 being the first of a sample, whose indices are
    features; values along the others belong together, and get the same number in the map."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deepexplain": {
            "estimator": "permutation",
            "n_samples": 5,
            "antithetic": False,
            "order": "removal",
            "baseline": 0.0,
        },
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in get_args(Order):
            raise ValueError(f"got order={self.order!r}, expected 'insertion' or 'removal'")
        estimator = estimators.get(self.estimator)
        if self.n_samples is not None:
            self._check_samples(estimator)
        if self.sampling_dims is not None:
            self._check_dims(self.sampling_dims)

    def _check_samples(self, estimator: type[Estimator]) -> None:
        numeric.check_whole("n_samples", self.n_samples)
        if self.n_evaluations is not None:
            raise ValueError(
                f"got n_samples={self.n_samples} and n_evaluations={self.n_evaluations}, expected "
                "one of them: orders, or forward passes; set the other to null"
            )
        known = [field.name for field in fields(estimator)]  # type: ignore[arg-type]
        if "n_samples" not in known and self.estimator != "auto":
            raise ValueError(
                f"got n_samples={self.n_samples} for the estimator {self.estimator!r}, which has "
                "no orders of features; give n_evaluations, or set estimator: permutation"
            )

    def _check_dims(self, dims: tuple[int, ...]) -> None:
        for axis in dims:
            numeric.check_whole("sampling_dims", axis)
        if not dims or len(set(dims)) < len(dims):
            raise ValueError(f"got sampling_dims={dims!r}, expected at least one axis, each once")
        if self.features is not None:
            raise ValueError(
                f"got sampling_dims={dims!r} and features={self.features!r}, expected one of "
                "them: both say what a feature is"
            )

    @cached_property
    def _estimator(self) -> Estimator:
        is_of_orders = self.n_samples is not None or self._is_random
        name = "permutation" if self.estimator == "auto" and is_of_orders else self.estimator
        return made(name, {field.name: getattr(self, field.name) for field in fields(self)})

    def n_features(self, network: Network) -> int | None:
        """Return the features of one sample; None where they depend on the sample."""
        if self.sampling_dims is None:
            return super().n_features(network)
        return math.prod(self._sampled(tuple(network.input_shape)))

    def check(self, network: Network) -> None:
        """Refuse a budget that the estimator cannot work with, or too many features for it."""
        if self.sampling_dims is not None and self.layer is None and isinstance(network, Cut):
            self._check_tensor(network)
        super().check(network)

    def _check_tensor(self, network: Cut) -> None:
        if network.is_begun:
            raise ValueError(
                f"got sampling_dims={self.sampling_dims!r} for tokens or several inputs, expected "
                "one tensor of numbers; say by features what belongs together"
            )

    def briefer(self, network: Network) -> Iterator[Mapping[str, Any]]:
        """Yield few features, in place of axes too, with several budgets."""
        for change in super().briefer(network):
            yield {**change, "sampling_dims": None} if "features" in change else change

    def partition(self, trace: Trace) -> Partition:
        """Return the features of a batch."""
        if self.sampling_dims is None:
            return super().partition(trace)
        shape = tuple(trace.inputs.shape[1:])
        sizes = self._sampled(shape)
        n_features = math.prod(sizes)
        cells = torch.arange(n_features, device=trace.inputs.device).view(1, *sizes)
        return Partition(cells, (n_features,), shape)

    def _sampled(self, shape: tuple[int, ...]) -> list[int]:
        """Return the shape of one sample with 1 for what stays together."""
        dims = self.sampling_dims or ()
        if max(dims) > len(shape):
            raise ValueError(
                f"got sampling_dims={dims!r} for samples of shape {shape}, expected axes from 1 to "
                f"{len(shape)}; 0 is the batch"
            )
        return [size if axis in dims else 1 for axis, size in enumerate(shape, 1)]
