"""What conditional relevance starts with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from explainers import numeric

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from explainers.concepts.conditions import Condition
    from explainers.rules.repeated import Repeated
    from explainers.targets import Target
    from explainers.trace import Trace

Initial: TypeAlias = "float | Tensor | Callable[[Tensor], Tensor] | None"
"""A number, values shaped as those of a layer, or what makes them of the layer's own; None for
these themselves."""

Start: TypeAlias = "Callable[[Repeated, Tensor, Tensor], Tensor]"
"""Given values of rows, their samples and their conditions, the relevance that they start with."""


def start_of(
    trace: Trace,
    target: Target,
    conditions: Sequence[Condition],
    *,
    start: str | None,
    initial: Initial,
) -> Start:
    """Return what gives the relevance that rows start with; see `conditional`.

    Raises
    ------
    TypeError
        If `initial` is nothing that relevance can start with.
    ValueError
        If it does not fit.
    """
    network = trace.network
    name = network.output_name if start is None else network.operator(start).name
    given = None if initial is None else initial_of(initial, trace.values[name], start)

    def amounts(values: Repeated) -> Tensor:
        return values[name] if given is None else values.gathered(name, given)

    if start is not None:
        return lambda values, samples, asked: amounts(values)
    weights = _Weights(trace, target, conditions)
    return lambda values, samples, asked: amounts(values) * weights(samples, asked)


def initial_of(initial: Initial, value: Tensor, layer: str | None) -> Tensor:
    """Return what relevance starts with for a batch, shaped as the value.

    Raises
    ------
    TypeError, ValueError
        As `start_of` says.
    """
    where = "the output" if layer is None else f"layer {layer!r}"
    found = initial(value) if callable(initial) else initial
    if isinstance(found, bool) or not isinstance(found, int | float | Tensor):
        raise TypeError(
            f"got initial={initial!r} for {where}, expected a number, a tensor, or a callable that "
            "makes one of the value"
        )
    amounts = torch.as_tensor(found, dtype=value.dtype, device=value.device).detach()
    if not bool(amounts.isfinite().all()):
        raise ValueError(
            f"got an initial relevance for {where} that is not finite; expected numbers"
        )
    try:
        return amounts.expand(value.shape)
    except RuntimeError:
        raise ValueError(
            f"got an initial relevance of shape {tuple(amounts.shape)} for {where}, whose value is "
            f"{tuple(value.shape)}; give one of its shape, or of one sample's"
        ) from None


class _Weights:
    """Which outputs count, for pairs of samples and conditions."""

    def __init__(self, trace: Trace, target: Target, conditions: Sequence[Condition]) -> None:
        self._trace = trace
        targets = [
            target if each.target is None and each.classes is None else each.target
            for each in conditions
        ]
        known = list(dict.fromkeys(one for one in targets if one is not None))
        self._targets = known
        # which of the known targets a condition has; -1 where it lists classes
        self._which = torch.tensor([-1 if one is None else known.index(one) for one in targets])
        listed = [
            (row, label) for row, each in enumerate(conditions) for label in each.classes or ()
        ]
        self._listed = torch.zeros(len(conditions), trace.network.n_outputs, dtype=torch.bool)
        if listed:
            self._listed[tuple(torch.tensor(listed).T)] = True

    def __call__(self, samples: Tensor, conditions: Tensor) -> Tensor:
        """Return the weights of the outputs, ``(rows, classes)``."""
        output = self._trace.output
        weights = self._listed[conditions].to(output.device, output.dtype)
        which = self._which[conditions]
        for number, target in enumerate(self._targets):
            rows = (which == number).nonzero()[:, 0]
            if len(rows):
                chosen = samples[rows].to(output.device)
                weights[rows.to(output.device)] = self._trace.cotangent(target)[chosen]
        return weights


def check_initial(initial: Initial) -> None:
    """Refuse what no relevance can start with, whatever the network is.

    Raises
    ------
    TypeError
        If it is no number, tensor or callable.
    ValueError
        If it is not finite.
    """
    if initial is None or callable(initial) or isinstance(initial, Tensor):
        return
    numeric.check_finite("initial", initial, -math.inf)
