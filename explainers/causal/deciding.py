"""From tallies of a layer to what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from explainers.causal import selection, stability
from explainers.causal.results import NOT_REACHED, UNTESTED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from explainers.base import State

_KEPT = (
    "te",
    "te_low",
    "te_high",
    "relative",
    "divergence",
    "statistic",
    "p",
    "q",
    "sign",
    "margin",
    "frequency",
    "is_borderline",
    "n",
    "how",
)


@dataclass(frozen=True)
class Rule:
    """By which causes are selected."""

    name: Literal["paired", "compat"]
    level: float
    """Of false discoveries."""
    dtype: torch.dtype
    """Of the network's numbers."""
    most_inputs: int | None = None
    """Neurons of a layer from which on the original tests only some; None where it is not
    followed."""

    @property
    def is_compat(self) -> bool:
        """Whether it is the original's."""
        return self.name == "compat"

    def sets(self, sign: Tensor) -> Tensor:
        """Return the pairs of neuron and sign that were selected, bool ``(..., pairs)``.

        A neuron whose sign differs is another cause. The original has positive ones alone.
        """
        return sign > 0 if self.is_compat else torch.cat([sign > 0, sign < 0], -1)

    @property
    def fewest(self) -> int:
        """Samples of a class without which there is no test."""
        return 1 if self.is_compat else 2


def decided(
    tallies: Iterable[State], rule: Rule, n_neurons: int, reached: Tensor
) -> dict[str, Tensor]:
    """Return what is decided of a layer, by name: ``(classes, neurons)`` or ``(classes,)`` each.

    What `explainers.causal.selection.Selection` has, ``tested`` (bool), and from the bootstrap
    ``jaccard``, the mean over replicates of the index between the pairs of neuron and sign that one
    selects and those that were selected, and ``nogueira``, the stability among replicates; both are
    NaN of classes without a test.

    Parameters
    ----------
    tallies
        Of some classes each, in order, together of all.
    rule
        By which causes are selected.
    n_neurons
        Of the layer, as false discoveries are counted.
    reached
        Whether the layer has effects, bool ``(classes,)``.
    """
    blocks = [_block(state, rule, n_neurons) for state in tallies]
    found = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
    found["how"] = found["how"].long().masked_fill(~reached, NOT_REACHED)
    found["jaccard"] = found["jaccard"].masked_fill(is_untested(found["how"]), torch.nan)
    return found


def is_untested(how: Tensor) -> Tensor:
    """Return where there was no test, so that no selection can be like another one."""
    return torch.isin(how, torch.tensor(UNTESTED))


def _block(state: State, rule: Rule, n_neurons: int) -> dict[str, Tensor]:
    made = selection.decide(
        state, rule=rule.name, level=rule.level, n_tested_of=n_neurons, dtype=rule.dtype
    )
    replicates, selected = rule.sets(made.replicates), rule.sets(made.sign)
    return {
        **{name: getattr(made, name) for name in _KEPT},
        "tested": state["n"] > 0,
        "jaccard": stability.jaccard(replicates, selected).mean(0),
        "nogueira": stability.nogueira(replicates),
    }
