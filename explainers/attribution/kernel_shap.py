"""Shapley values of features by KernelSHAP's weighted least squares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from explainers.catalogue import register
from explainers.shapley.kernel import Kernel
from explainers.shapley.method import ByEstimator

if TYPE_CHECKING:
    from collections.abc import Mapping


@register("kernel_shap")
@dataclass(frozen=True)
class KernelShap(ByEstimator):
    """Shapley values as the linear model of coalitions that the Shapley kernel weighs.

    ``phi = argmin sum_S w_S (f(x with S) - f(baseline) - sum_{i in S} phi_i)^2`` with ``sum phi =
    f(x) - f(baseline)``, which holds to rounding (Lundberg and Lee 2017, arXiv:1705.07874).
    Coalitions are the same for all samples of a run. By default they come in pairs with their
    complement, as many of each size, none twice; see `explainers.shapley.design`. The same is the
    estimator `kernel` of `shapley_value_sampling`, where `odd` needs fewer evaluations.

    Arrays beside the map: ``standard_error``, shaped like it, is what values owe to the coalitions
    that were drawn; ``residual``, ``(batch,)``, is the root mean square error in predicting a
    coalition (a pair: half of its difference) that is held out, in units of the output, each NaN
    where no coalition can be held out; ``n_evaluations``, ``(batch,)``, is what was used. With a
    background, a pair of coalitions sees the same row of it, drawn for the sample, and values sum
    to ``f(x) - mean f(b)``.
    """

    n_evaluations: int | None = None
    """Forward passes per sample at most, those of all and of no features among them; no less than
    ``2 n + 2`` for n features. None for ``20 n``, or all ``2^n`` where they are fewer."""
    paired: bool = True
    """Whether each coalition comes with its complement."""
    stratified: bool = True
    """Whether every size gets as many coalitions, as far as it has them; otherwise sizes are drawn
    by the Shapley kernel."""
    replacement: bool = False
    """Whether a coalition may come several times."""
    tolerance: float | None = None
    """If set, a sample is done when the root mean square of its standard errors is at most this
    times that of its values; the budget is then the most that it takes."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "captum": {"paired": False, "stratified": False, "replacement": True},
    }

    @cached_property
    def _estimator(self) -> Kernel:
        return Kernel(self.paired, self.stratified, self.replacement)
