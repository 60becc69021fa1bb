"""Recurrences: every layer and direction step by step, all rows and all gates at once.

An LSTM is split as the published program for text does it, ``cd_text`` (Murdoch, Liu and Yu 2018,
arXiv:1801.05453; Singh, Murdoch and Yu 2019, arXiv:1806.05337); see
`explainers.rules.decomposition.cells` for the steps. What there depends on no input, the product of
the constant parts of input gate and candidate, belongs to the relevant part at the steps that are
relevant. Here a step's input may be relevant in part, and its share is::

    |x_rel| / (|x_rel| + |x_irr|)    sums over the features of a row at a step; 0 / 0 is a half

which is one or zero where masks choose whole tokens. Layers above the first take the share from
the hidden states below them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.operators import Recurrent
from explainers.rules.decomposition.cells import CELLS, Split, State, Weights
from explainers.rules.decomposition.table import decomposition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.rules.decomposition.parts import Parts
    from explainers.rules.decomposition.streams import Streams


@decomposition.rule(Recurrent)
def recurrence(op: Recurrent, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Split the chosen output of a recurrence; hidden states carry both parts in either mode.

    Initial states that are certain are constants, as biases are; others bring their parts.

    Raises
    ------
    NotImplementedError
        If the sequence does not depend on the input, and only initial states do.
    """
    sequence, *states = inputs
    if sequence.relevant is None:
        raise NotImplementedError(
            f"the sequence of {op.name!r} (in {op.module_path or 'the network itself'!r}) does not "
            "depend on the input, only its initial states do; contextual decomposition shares what "
            "is constant by the sequence, use integrated_gradients or occlusion"
        )
    time = 1 if op.batch_first else 0
    relevant, irrelevant = sequence.relevant, streams.irrelevant(op.inputs[0], sequence)
    steps = torch.stack((relevant.movedim(time, 0), irrelevant.movedim(time, 0)), 1)
    starts = [_start(*named, streams) for named in zip(op.inputs[1:], states, strict=True)]
    found = through_layers(op, steps, starts)
    if op.item == 0 and op.batch_first:
        found = found.transpose(0, 2).contiguous()  # (row, 2, step, unit)
    return streams.both(found[:, 0], found[:, 1])


def through_layers(op: Recurrent, steps: Tensor, starts: list[Split]) -> Tensor:
    """Return both parts of the chosen output.

    Parameters
    ----------
    op
        The recurrence.
    steps
        Relevant and irrelevant part of the sequence, ``(step, 2, row, feature)``.
    starts
        Initial hidden state and, of an LSTM, cell, each of ``layers * directions`` in the axis
        before the rows: parts ``(2, layers * directions, row, unit)``.

    Returns
    -------
    Tensor
        ``(step | layers * directions, 2, row, unit)``.
    """
    lasts = []
    n_directions = 2 if op.bidirectional else 1
    for layer, weights in enumerate(_of_layers(op)):
        shares = shares_of(steps)
        outputs = []
        for direction, of_direction in enumerate(weights):
            start = State(*(_of_layer(one, layer * n_directions + direction) for one in starts))
            outputs.append(
                _through_steps(op, steps, shares, start, of_direction, is_reverse=direction == 1)
            )
        steps = torch.cat([hidden for hidden, _ in outputs], -1)
        lasts += [last for _, last in outputs]
    if op.item == 0:
        return steps
    if op.item == 1:
        return torch.stack([last.hidden.parts for last in lasts])
    return torch.stack([last.cell.parts for last in lasts if last.cell is not None])


def shares_of(steps: Tensor) -> Tensor:
    """Return which share of what is constant each part gets, ``(step, 2, row, 1)``."""
    amounts = steps.abs().sum(-1, keepdim=True)
    both = amounts.sum(1, keepdim=True)
    return torch.where(both > 0, amounts / both, 0.5)


def _through_steps(
    op: Recurrent,
    steps: Tensor,
    shares: Tensor,
    state: State,
    weights: Weights,
    *,
    is_reverse: bool,
) -> tuple[Tensor, State]:
    """Return both parts of the hidden states, in the order of the steps, and the last state."""
    step = CELLS[op.kind]
    order = range(len(steps))
    hidden = []
    for position in reversed(order) if is_reverse else order:
        state = step(steps[position], shares[position], state, weights)
        hidden.append(state.hidden.parts)
    return torch.stack(hidden[::-1] if is_reverse else hidden), state


def _start(name: str, state: Parts, streams: Streams) -> Split:
    """Return an initial state of all layers: a constant where it is certain."""
    if state.relevant is None:
        constant = streams.constant(name)
        return Split(torch.zeros_like(constant).expand(2, *constant.shape), constant)
    return Split(torch.stack((state.relevant, streams.irrelevant(name, state))))


def _of_layer(start: Split, position: int) -> Split:
    constant = None if start.constant is None else start.constant[position]
    return Split(start.parts[:, position], constant)


def _of_layers(op: Recurrent) -> Iterator[tuple[Weights, ...]]:
    """Yield the weights of each layer's directions."""
    n_directions = 2 if op.bidirectional else 1
    size = len(op.weights) // (op.n_layers * n_directions)
    found = [_weights(op, op.weights[k : k + size]) for k in range(0, len(op.weights), size)]
    for k in range(0, len(found), n_directions):
        yield tuple(found[k : k + n_directions])


def _weights(op: Recurrent, given: tuple[Tensor, ...]) -> Weights:
    of_inputs, of_hidden, *others = given
    zeros = of_inputs.new_zeros(len(of_inputs))
    input_bias, hidden_bias = others[:2] if op.has_biases else (zeros, zeros)
    projection = others[2 if op.has_biases else 0 :]
    return Weights(
        torch.cat((of_inputs, of_hidden), 1),
        of_inputs.shape[1],
        input_bias,
        hidden_bias,
        projection[0] if projection else None,
    )
