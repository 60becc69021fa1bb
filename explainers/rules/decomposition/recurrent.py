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

from typing import TYPE_CHECKING, TypeVar

import torch

from explainers.operators import Recurrent
from explainers.rules.decomposition.cells import CELLS, Split, State, Weights
from explainers.rules.decomposition.relevant_cells import RELEVANT_CELLS, Known
from explainers.rules.decomposition.table import decomposition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from explainers.rules.decomposition.parts import Parts
    from explainers.rules.decomposition.streams import Streams


V = TypeVar("V", Split, Known)


@decomposition.rule(Recurrent)
def recurrence(op: Recurrent, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Split the chosen output of a recurrence.

    With one stream the values of states and gates are computed once for each sample, and only
    relevant parts are carried for the rows.

    Initial states that are certain are constants, as biases are; others bring their parts.

    Raises
    ------
    NotImplementedError
        If the sequence does not depend on the input, and only initial states do.
    """
    if inputs[0].relevant is None:
        raise NotImplementedError(
            f"the sequence of {op.name!r} (in {op.module_path or 'the network itself'!r}) does not "
            "depend on the input, only its initial states do; contextual decomposition shares what "
            "is constant by the sequence, use integrated_gradients or occlusion"
        )
    if streams.is_strict:
        found = [one.parts for one in _through_layers(op, *_both(op, inputs, streams), CELLS)]
        return streams.both(*(_laid_out(op, list(part)) for part in zip(*found, strict=True)))
    known = _through_layers(op, *_relevant(op, inputs, streams), RELEVANT_CELLS)
    return streams.both(_laid_out(op, [one.relevant for one in known]), None)


def _both(
    op: Recurrent, inputs: tuple[Parts, ...], streams: Streams
) -> tuple[list[Split], list[list[Split]]]:
    """Return both parts of the sequence by step, and of initial states by layer and direction."""
    sequence, *states = inputs
    irrelevant = streams.irrelevant(op.inputs[0], sequence)
    pairs = zip(_steps(op, sequence.of_rows), _steps(op, irrelevant), strict=True)
    starts = []
    for name, state in zip(op.inputs[1:], states, strict=True):
        if state.relevant is None:
            value = streams.constant(name)
            parts = torch.zeros_like(value[0]).expand(2, *value.shape[1:])
            starts.append([Split(parts, one) for one in value])
        else:
            both = torch.stack((state.relevant, streams.irrelevant(name, state)), 1)
            starts.append([Split(one) for one in both])
    return [Split(torch.stack(pair)) for pair in pairs], starts


def _relevant(
    op: Recurrent, inputs: tuple[Parts, ...], streams: Streams
) -> tuple[list[Known], list[list[Known]]]:
    """Return the relevant part of sequence and states, and their values for the samples."""
    sequence, *states = inputs
    totals = _steps(op, streams.values[op.inputs[0]])
    relevant = _steps(op, sequence.of_rows)
    samples = _samples(op, totals[0], streams)
    steps = [Known(*pair, samples) for pair in zip(relevant, totals, strict=True)]
    starts = []
    for name, state in zip(op.inputs[1:], states, strict=True):
        value = streams.values[name].expand(-1, len(totals[0]), -1)
        if state.relevant is None:
            nothing = value.new_zeros(len(relevant[0]), value.shape[2])
            starts.append([Known(nothing, one, samples, one) for one in value])
        else:
            pairs = zip(state.relevant, value, strict=True)
            starts.append([Known(*pair, samples) for pair in pairs])
    return steps, starts


def _samples(op: Recurrent, total: Tensor, streams: Streams) -> Tensor | None:
    """Return which row of what is known each row of the relevant part belongs to."""
    if len(total) == 1:
        return None
    rows = torch.arange(len(total), device=total.device)
    placed = rows[:, None, None] if op.batch_first else rows[None, :, None]
    return streams.repeated(op.inputs[0], placed).flatten()


def _steps(op: Recurrent, sequence: Tensor) -> tuple[Tensor, ...]:
    return sequence.unbind(1 if op.batch_first else 0)


def _laid_out(op: Recurrent, found: list[Tensor]) -> Tensor:
    """Return the chosen output, of values by step, or by layer and direction."""
    return torch.stack(found, 1 if op.item == 0 and op.batch_first else 0)


def _through_layers(
    op: Recurrent,
    steps: list[V],
    starts: list[list[V]],
    cells: Mapping[str, Callable[[V, Tensor, State[V], Weights], State[V]]],
) -> list[V]:
    """Return the chosen output: by step, or by layer and direction.

    Parameters
    ----------
    op
        The recurrence.
    steps
        The sequence.
    starts
        Initial hidden state and, of an LSTM, cell: by layer and direction.
    cells
        What makes the next state of a step, by kind of recurrence.
    """
    lasts: list[State[V]] = []
    for directions in _of_layers(op):
        shares = [one.shares for one in steps]
        outputs = []
        for direction, weights in enumerate(directions):
            state = State(*(start[len(lasts)] for start in starts))
            order = range(len(steps))
            states = []
            for at in reversed(order) if direction == 1 else order:
                state = cells[op.kind](steps[at], shares[at], state, weights)
                states.append(state)
            lasts.append(state)
            outputs.append([one.hidden for one in (states[::-1] if direction == 1 else states)])
        steps = outputs[0]
        if op.bidirectional:
            steps = [one.beside(other) for one, other in zip(*outputs, strict=True)]
    if op.item == 0:
        return steps
    return [one.hidden if op.item == 1 else one.remembered for one in lasts]


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
