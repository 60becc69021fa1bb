"""The neurons of a layer under several interventions do(n, u): one for each value of u."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.causal.first_order import node_estimates
from explainers.causal.interventions import Interventions, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from explainers.causal.structure import WeightedLayer
    from explainers.trace import Trace


def swept(
    trace: Trace,
    layer: WeightedLayer,
    effects: Tensor,
    classes: Tensor,
    values: Sequence[float],
) -> Iterator[Outcome]:
    """Yield the exact outcomes of all neurons of a layer under each of several values of u.

    The values of the trace are computed once for all. Where the layer gives the logits themselves
    and each row's effect is its own class alone, all follows in closed form: Y' is affine in u.

    Parameters
    ----------
    trace
        Of the rows.
    layer
        Of the structure.
    effects
        The effects E of each row, bool ``(rows, n_outputs)``.
    classes
        Of which output the logit is meant, ``(rows,)``.
    values
        What the weights are set to.

    Yields
    ------
    Outcome
        For each value, in their order: of ``(rows, n_neurons)``.
    """
    if _is_affine(trace, layer, effects, classes):
        yield from _of_logits(trace, layer, effects, classes, values)
        return
    interventions = Interventions(trace.network, layer)
    for u in values:
        yield interventions.all(trace, effects, classes, u)


def _is_affine(trace: Trace, layer: WeightedLayer, effects: Tensor, classes: Tensor) -> bool:
    if layer.operator.name != trace.network.output_name:
        return False
    own = torch.nn.functional.one_hot(classes, layer.n_outputs).bool()
    return bool((effects.to(own.device) == own).all())


def _of_logits(
    trace: Trace,
    layer: WeightedLayer,
    effects: Tensor,
    classes: Tensor,
    values: Sequence[float],
) -> Iterator[Outcome]:
    """Yield outcomes where only the logit of the row's class moves.

    With l the logarithm of the sum of exp over the other logits, ``log Z = log(e^Y + e^l)`` and
    ``KL(P' || P) = P'_class (Y' - Y) - (log Z' - log Z)``, in double precision.
    """
    at_zero, at_one = (
        node_estimates(trace, [layer], {layer.name: effects}, classes, u)[layer.name]
        for u in (0.0, 1.0)
    )
    output, own = trace.output, classes.to(trace.output.device)[:, None]
    reference = output.gather(1, own)
    others = output.double().scatter(1, own, -torch.inf).logsumexp(1, keepdim=True)
    before = torch.logaddexp(others, reference.double())
    for u in values:
        logit = reference + (at_zero + u * (at_one - at_zero))
        moved = logit.double() - reference.double()
        after = torch.logaddexp(others, logit.double())
        divergence = (logit.double() - after).exp() * moved - (after - before)
        yield Outcome(logit, divergence.clamp_(min=0).to(logit.dtype))
