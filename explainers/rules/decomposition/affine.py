"""Parts behind norms that are affine maps of each value, sums, margins and joined values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from explainers.operators import Add, Affine, Concat, Pad
from explainers.rules.decomposition.biases import shared, shared_constant
from explainers.rules.decomposition.parts import Parts
from explainers.rules.decomposition.sharing import share, shared_of_rows
from explainers.rules.decomposition.table import decomposition

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.decomposition.streams import Streams


@decomposition.rule(Affine)
def affine(op: Affine, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Scale both parts and share the constant as a batch norm does."""
    (value,) = inputs
    if streams.is_strict and value.irrelevant is not None:
        return normed(op, value.of_rows, value.irrelevant)
    if op.shift is None:
        return Parts(op.run(value.of_rows))
    relevant = value.of_rows.clone() if op.scale is None else value.of_rows * op.scale
    return Parts(share(streams, op.name, relevant, None, op.shift))


def normed(op: Affine, relevant: Tensor, irrelevant: Tensor) -> Parts:
    """Return both parts scaled, with their shares of the constant.

    The irrelevant one is what the relevant one leaves, and gets all of it where both are zero.
    """
    if op.shift is None:
        return Parts(op.run(relevant), op.run(irrelevant))
    whole = op.run(relevant + irrelevant)
    if op.scale is not None:
        relevant, irrelevant = relevant * op.scale, irrelevant * op.scale
    relevant = shared_constant(relevant, irrelevant, op.shift)
    return Parts(relevant, whole - relevant)


@decomposition.rule(Add)
def added(op: Add, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Add the parts; something that is not split is a bias, and is shared as one."""
    first, second = inputs
    if first.relevant is not None and second.relevant is not None:
        relevant = op.run(first.relevant, second.relevant)
        if first.irrelevant is None or second.irrelevant is None:
            return Parts(relevant)
        return Parts(relevant, op.run(first.irrelevant, second.irrelevant))
    position = 0 if second.relevant is None else 1
    name, value = op.inputs[position], inputs[position]
    bias = streams.constant(op.inputs[1 - position])
    scale = 1.0 if position == 0 else op.alpha
    bias = bias if op.alpha == 1.0 or position == 1 else bias * op.alpha
    relevant, irrelevant = value.of_rows, streams.irrelevant(name, value)
    if scale != 1.0:
        relevant, irrelevant = relevant * scale, irrelevant * scale
    if streams.is_strict:
        return Parts(*shared(relevant, irrelevant, bias))
    return Parts(shared_of_rows(streams, op.name, relevant, irrelevant, bias))


@decomposition.rule(Concat)
def joined(op: Concat, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Join the parts; what is not split is irrelevant."""
    relevant, irrelevant = [], []
    for name, part in zip(op.inputs, inputs, strict=True):
        if part.relevant is not None:
            relevant.append(part.relevant)
            irrelevant.append(part.irrelevant)
            continue
        value = streams.constant(name)
        relevant.append(torch.zeros_like(value))
        irrelevant.append(value)
    if not streams.is_strict:
        return Parts(op.run(*relevant))
    others = [one for one in irrelevant if one is not None]
    return Parts(op.run(*relevant), op.run(*others))


@decomposition.rule(Pad)
def padded(op: Pad, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Surround both parts by zeros or copies; a constant around them is a bias: half to each."""
    (value,) = inputs
    if op.mode != "constant" or op.value == 0.0:
        return streams.run(op, inputs)
    halved = replace(op, value=op.value / 2)
    return streams.run(halved, (value,))
