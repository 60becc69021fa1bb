"""One step of an LSTM, a GRU or a plain recurrence that carries the relevant part alone.

The rules are those of `explainers.rules.decomposition.cells`. Here what a gate takes is known for
the samples, ``t = a + b + c``, and only its relevant part a is carried for the rows, each a mask
over one of the samples::

    A = 1/2 [f(a + c) - f(c) + f(t) - f(t - a)]

so that the irrelevant part is never computed, nor is the value for each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from explainers.rules.decomposition.cells import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from explainers.rules.decomposition.cells import Weights


@dataclass(frozen=True, eq=False)
class Known:
    """A value whose relevant part is carried for rows, and which is known for samples."""

    relevant: Tensor
    """``(rows, units)``."""
    total: Tensor
    """``(samples, units)``."""
    samples: Tensor | None
    """Of each row its sample, int64; None where there is one sample."""
    constant: Tensor | None = None
    """What of it depends on no input, ``(units,)`` or ``(samples, units)``; None: zero."""

    @property
    def shares(self) -> Tensor:
        """What share of something constant is relevant that goes with it, ``(rows, 1)``."""
        (total,) = self.of_rows(self.total)
        relevant = self.relevant.abs().sum(-1, keepdim=True)
        both = relevant + (total - self.relevant).abs().sum(-1, keepdim=True)
        return torch.where(both > 0, relevant / both, 0.5)

    @property
    def fixed(self) -> Tensor:
        """The constant part of what a gate takes or gives.

        Raises
        ------
        ValueError
            If there is none.
        """
        if self.constant is None:
            raise ValueError("got a value without a constant part, expected a gate with biases")
        return self.constant

    def beside(self, other: Known) -> Known:
        """Return the units of two values together."""
        relevant = torch.cat((self.relevant, other.relevant), -1)
        return Known(relevant, torch.cat((self.total, other.total), -1), self.samples)

    def of_rows(self, *of_samples: Tensor) -> tuple[Tensor, ...]:
        """Return for each row what is known of samples; what is the same for all stays."""
        if self.samples is None or of_samples[0].ndim == 1:
            return of_samples
        joined = torch.cat(of_samples, -1).index_select(0, self.samples)
        return torch.split(joined, [one.shape[-1] for one in of_samples], -1)


def lstm(inputs: Known, shares: Tensor, state: State[Known], weights: Weights) -> State[Known]:
    """Return the next state of an LSTM; see `explainers.rules.decomposition.cells.lstm`."""
    n_units = len(weights.joined) // 4
    gates = _gates(inputs, state.hidden, weights.rows(0, 3 * n_units))
    written, kept = _chunks(_function_of(_units(gates, 0, 2 * n_units), torch.sigmoid), 2)
    candidate = _function_of(_units(gates, 2 * n_units, 3 * n_units), torch.tanh)
    cell = _shared_sum((written, candidate), (kept, state.remembered), shares)
    squashed = _function_of(cell, torch.tanh)
    shown = weights.rows(3 * n_units, 4 * n_units)
    output = torch.sigmoid(_total(inputs, state.hidden, shown))
    relevant = squashed.relevant.mul_(*cell.of_rows(output))
    total = squashed.total * output
    if weights.projection is not None:
        relevant = functional.linear(relevant, weights.projection)
        total = functional.linear(total, weights.projection)
    return State(Known(relevant, total, cell.samples), cell)


def gru(inputs: Known, shares: Tensor, state: State[Known], weights: Weights) -> State[Known]:
    """Return the next state of a GRU; see `explainers.rules.decomposition.cells.gru`."""
    n_units = state.hidden.total.shape[1]
    first, last = weights.rows(0, 2 * n_units), weights.rows(2 * n_units, 3 * n_units)
    reset, update = _chunks(_function_of(_gates(inputs, state.hidden, first), torch.sigmoid), 2)
    remembered = _linear(state.hidden, last.of_hidden, last.hidden_bias)
    entered = _linear(inputs, last.of_inputs, last.input_bias)
    taken = Known(
        _relevant_product(reset, remembered).add_(entered.relevant),
        entered.total + reset.total * remembered.total,
        inputs.samples,
        entered.fixed + reset.fixed * remembered.fixed,
    )
    new = _function_of(taken, torch.tanh)
    rest = Known(-update.relevant, 1 - update.total, inputs.samples, 1 - update.fixed)
    return State(_shared_sum((rest, new), (update, state.hidden), shares))


def rnn_tanh(inputs: Known, shares: Tensor, state: State[Known], weights: Weights) -> State[Known]:
    """Return the next state of a plain recurrence."""
    return _plain(_gates(inputs, state.hidden, weights), shares, torch.tanh)


def rnn_relu(inputs: Known, shares: Tensor, state: State[Known], weights: Weights) -> State[Known]:
    """Return the next state of a rectified recurrence."""
    return _plain(_gates(inputs, state.hidden, weights), shares, torch.relu)


RELEVANT_CELLS: dict[str, Callable[[Known, Tensor, State[Known], Weights], State[Known]]] = {
    "lstm": lstm,
    "gru": gru,
    "rnn_tanh": rnn_tanh,
    "rnn_relu": rnn_relu,
}


def _plain(gates: Known, shares: Tensor, f: Callable[[Tensor], Tensor]) -> State[Known]:
    found = _function_of(gates, f)
    relevant = found.relevant.addcmul_(shares, *found.of_rows(found.fixed))
    return State(Known(relevant, found.total, found.samples))


def _gates(inputs: Known, hidden: Known, weights: Weights) -> Known:
    """Return what gates take of inputs and hidden state."""
    of_inputs = functional.linear(inputs.relevant, weights.of_inputs)
    relevant = torch.addmm(of_inputs, hidden.relevant, weights.of_hidden.T)
    total = _total(inputs, hidden, weights)
    constant = weights.input_bias + weights.hidden_bias
    if hidden.constant is not None:
        constant = constant + functional.linear(hidden.constant, weights.of_hidden)
    return Known(relevant, total, inputs.samples, constant)


def _total(inputs: Known, hidden: Known, weights: Weights) -> Tensor:
    both = torch.cat((inputs.total, hidden.total), -1)
    return functional.linear(both, weights.joined, weights.input_bias + weights.hidden_bias)


def _linear(value: Known, weight: Tensor, bias: Tensor) -> Known:
    constant = bias
    if value.constant is not None:
        constant = functional.linear(value.constant, weight, bias)
    total = functional.linear(value.total, weight, bias)
    return Known(functional.linear(value.relevant, weight), total, value.samples, constant)


def _function_of(value: Known, f: Callable[[Tensor], Tensor]) -> Known:
    """Return a function of a value; it is zero at zero where nothing is constant."""
    found = f(value.total)
    if value.constant is None:
        total, known = value.of_rows(value.total, found)
        beside, at_constant = value.relevant, None
    else:
        at_constant = f(value.constant)
        total, known = value.of_rows(value.total, found - at_constant)
        beside = value.relevant + value.of_rows(value.constant)[0]
    relevant = f(beside).add_(known).sub_(f(total - value.relevant)).mul_(0.5)
    return Known(relevant, found, value.samples, at_constant)


def _shared_sum(first: tuple[Known, Known], second: tuple[Known, Known], shares: Tensor) -> Known:
    """Return the sum of two products, where what is constant is shared."""
    (written, new), (kept, old) = first, second
    relevant = _relevant_product(written, new).add_(_relevant_product(kept, old))
    constant = written.fixed * new.fixed
    if old.constant is not None:
        constant = constant + kept.fixed * old.constant
    relevant.addcmul_(shares, *new.of_rows(constant))
    return Known(relevant, written.total * new.total + kept.total * old.total, new.samples)


def _relevant_product(left: Known, right: Known) -> Tensor:
    """Return the relevant part of a product whose left factor is a gate."""
    found = (left.relevant + left.of_rows(left.fixed)[0]).mul_(right.relevant)
    if right.constant is None:
        return found
    return found.addcmul_(left.relevant, *right.of_rows(right.constant))


def _units(value: Known, start: int, stop: int) -> Known:
    constant = None if value.constant is None else value.constant[..., start:stop]
    relevant, total = value.relevant[:, start:stop], value.total[:, start:stop]
    return Known(relevant, total, value.samples, constant)


def _chunks(value: Known, n_chunks: int) -> list[Known]:
    n_units = value.total.shape[1] // n_chunks
    return [_units(value, k * n_units, (k + 1) * n_units) for k in range(n_chunks)]
