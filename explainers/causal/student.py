"""Paired t tests of total effects, for all neurons of all classes at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from explainers.causal.decision import nothing, rounding, stepped_up

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.base import State

_ENTRIES = 1 << 22
"""Of replicates, classes and neurons at a time; 32 MiB of each thing that is held."""


@dataclass(frozen=True, eq=False)
class StudentTest:
    r"""The statistic :math:`t = \bar{TE} / (s / \sqrt n)` (Student 1908, doi:10.2307/2331554).

    It is 0 where the mean effect is within rounding of none, where nothing was tested and of fewer
    than two samples; it is infinite where all effects are the same, and not none.
    """

    statistic: Tensor
    """t, ``(classes, neurons)``."""
    mean: Tensor
    """Of the effects, logits."""
    error: Tensor
    """Standard error of the mean, logits."""
    is_tested: Tensor
    """Bool ``(classes, neurons)``."""
    n: Tensor
    """Samples of each class, int64 ``(classes,)``."""
    least: Tensor
    """Mean effects up to this are none, ``(classes, 1)``, logits."""
    doubt: Tensor
    """By how much rounding may move an effect, ``(classes, 1)``, logits."""

    @classmethod
    def of(cls, state: State, dtype: torch.dtype) -> StudentTest:
        """Return the tests of a tally; `dtype`: in which the network computed the logits."""
        n, mean = state["reference_n"], state["te_mean"]
        error = (state["te_m2"] / ((n - 1) * n).clamp(min=1)[:, None]).sqrt()
        largest = state["reference_max"][:, None]
        is_tested, least = state["n"] > 0, nothing(largest, dtype)
        statistic = _ratio(mean, error).masked_fill_(~(mean.abs() > least), 0.0)
        statistic.masked_fill_(~is_tested | (n < 2)[:, None], 0.0)
        return cls(statistic, mean, error, is_tested, n, least, rounding(largest, dtype))

    def two_sided(self) -> Tensor:
        """Return p, ``(classes, neurons)``; 1 where there is no effect or no test."""
        return 2 * self._tail(-self.statistic.abs())

    def one_sided(self, sign: Tensor) -> Tensor:
        """Return p of effects that are negative for sign 1 and positive for -1; else 1."""
        p = self._tail(self.statistic * sign)
        is_none = (sign == 0) | ~(self.mean.abs() > self.least)
        return p.masked_fill(is_none, 1.0)

    def thresholds(self, level: float, n_all: int) -> Tensor:
        """Return the magnitude of t at which p is ``level k / n_all``, ``(classes, neurons)``.

        For k = 1, 2, ...: descending. Infinite for fewer than two samples.
        """
        ranks = torch.arange(1, self.mean.shape[1] + 1, dtype=torch.float64)
        tails = (level / (2 * n_all) * ranks).numpy()
        counts, place = torch.unique(self.n, return_inverse=True)
        degrees = (counts - 1).clamp(min=1).double()[:, None]
        found = -torch.from_numpy(_scipy().stdtrit(degrees.cpu().numpy(), tails))
        found[counts.cpu() < 2] = torch.inf
        return found.to(self.mean.device)[place]

    def signs(self, selected: Tensor) -> Tensor:
        """Return int8: 1 where a selected effect is negative, -1 where positive, else 0."""
        return torch.where(selected, -self.mean.sign(), 0.0).to(torch.int8)

    def margins(self, thresholds: Tensor, selected: Tensor) -> Tensor:
        """Return by how much t is beyond what it would need, everything else staying as it is."""
        n_selected = selected.sum(1, keepdim=True)
        # one that is not selected yet would be one more
        last = (n_selected - selected.long()).clamp(max=selected.shape[1] - 1)
        needed = thresholds.gather(1, last)
        return (self.statistic.abs() - needed).masked_fill(needed.isinf(), torch.nan)

    def within_rounding(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest and the smallest selection that rounding could lead to.

        Moving each effect by up to d moves a mean by up to d and its standard error, the length of
        a vector, by up to ``d / sqrt(n - 1)``. The step-up procedure is monotone: with all means
        up and all errors down nothing that could be selected is missing, and vice versa.
        """
        size = self.mean.abs()
        shift = self.doubt / (self.n - 1).clamp(min=1).sqrt()[:, None]
        ends = []
        for towards in (1, -1):
            moved = size + towards * self.doubt
            t = _ratio(moved, (self.error - towards * shift).clamp(min=0))
            is_none = ~(moved > self.least) | ~self.is_tested | (self.n < 2)[:, None]
            ends.append(stepped_up(t.masked_fill(is_none, 0.0), thresholds))
        return ends[0], ends[1]

    def replicates(self, state: State, thresholds: Tensor) -> Tensor:
        """Return the signs that bootstrap replicates find, int8 ``(replicates, classes, neurons)``.

        The weights of a replicate are scaled to sum to n.
        """
        n_classes, n_replicates, n_neurons = state["drawn_te"].shape
        found = torch.zeros(
            n_replicates, n_classes, n_neurons, dtype=torch.int8, device=self.mean.device
        )
        block = max(1, _ENTRIES // max(1, n_replicates * n_neurons))
        for begin in range(0, n_classes if found.numel() else 0, block):
            part = slice(begin, begin + block)
            drawn = state["drawn"][part, :, None]
            mean = state["drawn_te"][part] / drawn
            spread = (state["drawn_te2"][part] / drawn - mean.square()).clamp_(min=0)
            error = (spread / (self.n[part] - 1).clamp(min=1)[:, None, None]).sqrt_()
            t = _ratio(mean, error).abs_().masked_fill_(~(mean.abs() > self.least[part, None]), 0)
            t.masked_fill_((self.n[part] < 2)[:, None, None], 0.0)
            selected = stepped_up(t, thresholds[part, None])
            found[:, part] = torch.where(selected, -mean.sign(), 0.0).to(torch.int8).transpose(0, 1)
        return found

    def _tail(self, t: Tensor) -> Tensor:
        degrees = (self.n - 1).clamp(min=1).double()[:, None]
        p = torch.as_tensor(_scipy().stdtr(degrees.cpu().numpy(), t.cpu().numpy()))
        return p.to(t.device)


def _ratio(mean: Tensor, error: Tensor) -> Tensor:
    """Return their ratio; infinite for an error of 0, and 0 where it is undefined."""
    return (mean / error).nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


def _scipy() -> Any:
    import scipy.special  # only where it is needed

    return scipy.special
