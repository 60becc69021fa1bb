"""Runs a program: operators in order, values kept or dropped after their last use."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from explainers.operators import Activation, Add, Convolution, Linear, MaxPool

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container

    from torch import Tensor

    from explainers.operators import Operator
    from explainers.reading.program import Program


def run(
    program: Program, values: dict[str, Tensor], unread: Container[str] | None
) -> dict[str, Tensor]:
    """Add the value of every operator that is not there yet, and return all.

    Parameters
    ----------
    program
        What is run.
    values
        Those that are given, the inputs at least; what is computed is added.
    unread
        Names of values that are dropped when nothing after them reads them; None for all but the
        output, and then no positions of maxima are kept either.
    """
    fresh = _fresh(program) - values.keys()
    for op in program.operators:
        last = program.last_uses[op.name]
        dropped = [name for name in last if unread is None or name in unread]
        if op.name not in values:
            is_free = op.inputs == tuple(dropped) and fresh.issuperset(dropped)
            _compute(op, values, has_switches=unread is not None, is_free=is_free)
        for name in dropped:
            del values[name]
    return values


def show(
    program: Program,
    values: dict[str, Tensor],
    names: Collection[str],
    seen: Callable[[str, Tensor], None],
) -> None:
    """Compute no more than some operators' values need, and show these as they come.

    Parameters
    ----------
    program
        What is run.
    values
        Those that are given; it is used up.
    names
        Of the operators.
    seen
        Called with each name and value, in the order of the program; the value is lost afterwards.
    """
    needed = set(names)
    for op in reversed(program.operators):
        if op.name in needed and op.name not in values:
            needed |= set(op.inputs)
    fresh = _fresh(program) - values.keys()
    for op in program.operators:
        if op.name not in needed:
            continue
        dropped = program.last_uses[op.name]
        if op.name not in values:
            is_free = op.inputs == tuple(dropped) and fresh.issuperset(dropped)
            _compute(op, values, has_switches=False, is_free=is_free)
        if op.name in names:
            seen(op.name, values[op.name])
        for name in dropped:
            values.pop(name, None)


_MAKING = Add | Convolution | Linear


def _fresh(program: Program) -> frozenset[str]:
    """Return the operators whose value shares memory with no other, views of it included."""
    n_readers = Counter(name for op in program.operators for name in op.inputs)
    making = (op.name for op in program.operators if isinstance(op, _MAKING))
    return frozenset(name for name in making if n_readers[name] == 1)


def _compute(op: Operator, values: dict[str, Tensor], *, has_switches: bool, is_free: bool) -> None:
    inputs = [values[name] for name in op.inputs]
    if has_switches and isinstance(op, MaxPool):
        values[op.name], values[op.switches_name] = op.with_indices(*inputs)
    elif is_free and isinstance(op, Activation) and op.kind == "relu":
        values[op.name] = torch.relu_(inputs[0])
    else:
        values[op.name] = op.run(*inputs)


def laid_out(inputs: Tensor, is_channels_last: bool) -> Tensor:
    """Return images channels last if asked for, and on the CPU, as convolutions' weights are."""
    if inputs.ndim == 4 and (is_channels_last or inputs.device.type == "cpu"):
        batch, channels, height, width = inputs.shape
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        # With one channel both layouts are the same memory, and torch takes it for contiguous;
        # only strides as channels last has them keep the layout (twice as fast on digits).
        strides = (height * width * channels, 1, width * channels, channels)
        return inputs.as_strided((batch, channels, height, width), strides)
    return inputs
