"""Parts behind functions of values at the same place that do not clip: both parts in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.operators import Activation, Elementwise, Quotient, Selection, Unary
from explainers.rules.decomposition.refusing import refuse
from explainers.rules.decomposition.relu import relevant_first
from explainers.rules.decomposition.table import decomposition
from explainers.rules.decomposition.two_part import given, played

if TYPE_CHECKING:
    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.rules.decomposition.parts import Parts
    from explainers.rules.decomposition.streams import Streams

_TRIED = (-3.0, -2.0, -1.0, -0.4, 0.0, 0.3, 1.0, 2.5)
"""Where a function has to be defined: it is asked at parts of either sign."""

_NEAR = (-1e-20, 0.0, 1e-20)
"""Parts of nothing."""

_DEFINED = frozenset({"mul", "add", "sub", "rsub", "clamp", "clamp_min", "clamp_max", "hypot"})
"""Functions of several numbers that are defined at zero and everywhere else."""


@decomposition.rule(Activation, name="two_part")
@decomposition.rule(Unary)
def smooth(op: Activation | Unary, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Take both parts in turn; see `explainers.rules.decomposition.two_part`."""
    (value,) = inputs
    if _is_rectifier(op):
        # of straight pieces, and zero at zero
        return relevant_first(op, inputs, streams)
    return played(op, inputs, streams, op.run(value.of_rows.new_zeros(())))


@decomposition.rule(Elementwise)
def of_several(op: Elementwise, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Take the relevant parts of all values in turn with the irrelevant ones.

    What is no number only chooses, and is what the whole values make it.
    """
    places = given(op, inputs, streams)
    whole = op.run(*(total for _, _, total in places))
    if not whole.is_floating_point():
        return streams.both(whole, torch.zeros_like(whole))
    nothing = [
        torch.zeros_like(total) if part.is_split and total.is_floating_point() else total
        for part, (_, _, total) in zip(inputs, places, strict=True)
    ]
    return played(op, inputs, streams, op.run(*nothing))


def check_function(op: Operator, network: Network) -> None:
    """Refuse functions that are not defined at every number, as parts of a value may be any.

    Raises
    ------
    NotImplementedError
        If a function is no number somewhere, or that is not known of one of several values.
    """
    if isinstance(op, Activation | Unary):
        if not _is_rectifier(op) and not bool(op.run(_tried(op)).isfinite().all()):
            refuse(op, "is not defined at every number, while parts of a value may be any")
        if not _is_rectifier(op) and bool(
            (op.run(_tried(op, _NEAR)).diff(dim=0).abs() > 0.1).any()
        ):
            refuse(op, "jumps at zero, where shares of nothing are")
    elif isinstance(op, Elementwise) and not isinstance(op, Selection | Quotient):
        layout = network.layout(op.name)
        if (layout is None or layout.dtype.is_floating_point) and op.word not in _DEFINED:
            refuse(op, "is not known to be defined where parts of the values are zero")


def _is_rectifier(op: Operator) -> bool:
    return isinstance(op, Unary) and op.word == "prelu"


def _tried(op: Activation | Unary, numbers: tuple[float, ...] = _TRIED) -> torch.Tensor:
    """Return numbers that broadcast against tensors among an operator's arguments."""
    given_too = getattr(op, "arguments", ())
    fixed = [one for one in given_too if isinstance(one, torch.Tensor)]
    device = fixed[0].device if fixed else None
    n_axes = max((one.ndim for one in fixed), default=0)
    return torch.tensor(numbers, dtype=torch.float64, device=device).view(-1, *[1] * n_axes)
