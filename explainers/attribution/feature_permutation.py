"""What the output loses when a feature takes the values that it has in other samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from explainers.catalogue import register
from explainers.perturbing.ablation import Ablation
from explainers.perturbing.fills import mean_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.perturbing.fills import Fill
    from explainers.perturbing.valuation import Valuation
    from explainers.trace import Trace


@register("feature_permutation")
@dataclass(frozen=True)
class FeaturePermutation(Ablation):
    """Output at the sample minus its mean where a feature has the values of other samples.

    ``f(x) - 1 / n * sum_k f(x with feature i of b_k)``, the b_k drawn from the `background` for
    each sample, none twice before all were drawn. Without a background, which only the library
    allows, the batch itself is permuted, as by Captum's FeaturePermutation (after Breiman 2001,
    doi:10.1023/A:1010933404324, and Fisher et al. 2019, arXiv:1801.01489): every sample then takes
    the values of another one, and what is found depends on the batch.

    The array ``standard_error``, shaped like the map, is that of the mean over draws, NaN for one;
    ``n_evaluations``, ``(batch,)``, counts forward passes.
    """

    baseline: None = field(default=None, init=False, repr=False)
    statistics: None = field(default=None, init=False, repr=False)

    needs: ClassVar[Mapping[str, str]] = {"background": "background"}

    @classmethod
    def needs_of(cls, parameters: Mapping[str, Any]) -> Mapping[str, str]:
        """Return a background: in a run, results must not depend on batches."""
        return cls.needs

    @property
    def is_drawn(self) -> bool:
        """True: of a background, or of the batch."""
        return True

    def fill(self, trace: Trace) -> Fill:
        """Return draws from the background, or from the batch where there is none."""
        return Shuffled(trace) if self.background is None else super().fill(trace)


class Shuffled:
    """Values of the other rows of a batch: each replicate permutes it in one cycle.

    The cycle is drawn uniformly among all; in one, no row keeps its own values.

    Parameters
    ----------
    trace
        Of the batch.

    Raises
    ------
    ValueError
        If it has one row.
    """

    is_random: ClassVar[bool] = True

    def __init__(self, trace: Trace) -> None:
        if trace.n_rows < 2:
            raise ValueError(
                "feature_permutation got one sample and no background, so that there is nothing "
                "to permute; pass more samples, or background=, samples (n, ...) to draw from"
            )
        self._inputs = trace.inputs
        self._generator = trace.shared_generator("permutation")
        self._orders: list[Tensor] = []

    def at(self, rows: Tensor, replicates: Tensor) -> Tensor:
        """Return the values that rows see in replicates, ``(replicates, rows, ...)``."""
        n_orders = 1 + int(replicates.max()) if len(replicates) else 0
        while len(self._orders) < n_orders:
            self._orders.append(self._cycle())
        others = torch.stack(self._orders)[replicates].to(rows.device).index_select(1, rows)
        drawn = self._inputs.index_select(0, others.flatten())
        return drawn.view(*others.shape, *drawn.shape[1:])

    def empty(self, valuation: Valuation) -> Tensor:
        """Return the mean value over the batch."""
        return mean_value(valuation, self._inputs[:, None])

    def _cycle(self) -> Tensor:
        order = torch.randperm(len(self._inputs), generator=self._generator)
        return torch.empty_like(order).scatter_(0, order, order.roll(-1))
