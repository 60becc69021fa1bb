"""What an intervention does to the outputs: the logit of a class, and how far they move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Outcome:
    """What is found of interventions."""

    logit: Tensor
    """Y', of the class of each row, ``(rows, neurons)`` or ``(pairs,)``; where nothing changes it
    is the reference, bit by bit."""
    divergence: Tensor
    """KL(P' || P) >= 0 in nats, over the softmax of all outputs; as `logit`."""


def of_logits(logits: Tensor, reference: Tensor, classes: Tensor) -> Outcome:
    """Return the outcome of outputs that may all have changed.

    Parameters
    ----------
    logits, reference
        ``(pairs, outputs)`` with and without the interventions.
    classes
        int64 ``(pairs,)``.
    """
    new, old = logits.log_softmax(1), reference.log_softmax(1)
    divergence = (new.exp() * (new - old)).sum(1).clamp_min(0)
    return Outcome(logits.gather(1, classes[:, None])[:, 0], divergence)


def of_columns(
    changed: Tensor, columns: Tensor, reference: Tensor, own: Tensor, classes: Tensor
) -> Outcome:
    """Return the outcome where few outputs have changed, without looking at the others again.

    With d the change of the logits, p the reference probabilities and s the logarithm by which the
    normalisation grows, ``KL = sum_columns p exp(d - s) d - s``.

    Parameters
    ----------
    changed
        Logits that may have changed, ``(pairs, columns)``.
    columns
        Which they are, int64 ``(columns,)``, ascending.
    reference
        All logits without interventions, ``(rows, outputs)``.
    own
        int64 ``(pairs,)``: the row of each pair.
    classes
        int64 ``(pairs,)``.
    """
    old = reference.log_softmax(1)
    others = torch.ones(reference.shape[1], dtype=torch.bool, device=reference.device)
    others[columns] = False
    rest = old[:, others].logsumexp(1, keepdim=True)
    change = changed - reference[:, columns][own]
    new = old[:, columns][own] + change
    growth = torch.cat((rest[own], new), 1).logsumexp(1)
    divergence = ((new - growth[:, None]).exp() * change).sum(1) - growth
    position = torch.searchsorted(columns, classes).clamp_max(len(columns) - 1)
    is_changed = columns[position] == classes
    inside = changed.gather(1, position[:, None])[:, 0]
    logit = torch.where(is_changed, inside, reference[own, classes])
    return Outcome(logit, divergence.clamp_min(0))
