"""Moments behind linear maps without weights: margins, sums, interpolations.

In the form ``variance`` copies of a value, which reflecting and replicating margins and
interpolations make, count as independent of it and of each other, as all values do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional

from explainers.operators import LinearMap, Pad
from explainers.rules.moments.forms import Moments
from explainers.rules.moments.refusing import refuse
from explainers.rules.moments.table import moments

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.moments.forms import Form

_ADDING = ("sum", "cumsum", "tril", "triu", "im2col", "col2im")
"""Maps with weights of zero and one, which are their own squares."""
_ALONG: WeakKeyDictionary[LinearMap, dict[tuple[torch.dtype, torch.device], tuple[Tensor, ...]]]
_ALONG = WeakKeyDictionary()


@moments.rule(Pad, name="variance")
@moments.rule(Pad, name="factor")
def padded(op: Pad, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Surround by values without spread, or by copies with that of the original."""
    (value,) = inputs
    if value.spread is None or op.mode != "constant":
        around = None if value.spread is None else op.run(value.uncertainty)
    else:
        around = functional.pad(value.spread, op.padding)
    return Moments(op.run(value.mean), around)


@moments.rule(LinearMap, name="factor")
def mapped_rows(op: LinearMap, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Map the rows."""
    mean = op.run(*(part.mean for part in inputs))
    return Moments(mean, op.run(*_spreads(inputs)))


@moments.rule(LinearMap, name="variance")
def mapped(op: LinearMap, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Map the variances with squared weights.

    Raises
    ------
    NotImplementedError
        If it is not known what they are.
    """
    mean = op.run(*(part.mean for part in inputs))
    spread, *further = _spreads(inputs)
    if op.word in _ADDING:
        return Moments(mean, op.run(spread, *further))
    if not op.word.startswith(("upsample", "_upsample")) or further:
        refuse(op, form.kind)
    for axis, matrix in enumerate(_interpolating(op, spread), start=2):
        spread = (spread.movedim(axis, -1) @ matrix).movedim(-1, axis)
    return Moments(mean, spread)


def _spreads(inputs: tuple[Moments, ...]) -> list[Tensor]:
    return [part.mean if part.spread is None else part.spread for part in inputs]


def _interpolating(op: LinearMap, value: Tensor) -> tuple[Tensor, ...]:
    """Return the squared weights along each axis behind the channels, ``(size, new size)``.

    Interpolations work axis by axis, and the weights along each of them sum to one: the others
    have one place here, from which all of theirs are filled.
    """
    of_op = _ALONG.setdefault(op, {})
    kind = value.dtype, value.device
    if kind not in of_op:
        found = []
        n_axes = value.ndim - 2
        for axis in range(n_axes):
            size = value.shape[2 + axis]
            places = [size if other == axis else 1 for other in range(n_axes)]
            units = torch.eye(size, dtype=value.dtype, device=value.device)
            made = op.run(units.view(1, size, *places))[0]
            first = made.movedim(1 + axis, 1).reshape(size, made.shape[1 + axis], -1)[:, :, 0]
            found.append(first.square())
        of_op[kind] = tuple(found)
    return of_op[kind]
