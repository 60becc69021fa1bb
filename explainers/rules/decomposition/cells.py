"""One step of an LSTM, a GRU or a plain recurrence, on relevant and irrelevant parts.

Whatever a gate takes is the sum of three: relevant, irrelevant, and constant, where biases and
certain initial states are. The constant part of a gate is its value at the constant alone; what
remains is split by the Shapley value of the other two::

    f(a + b + c) = A + B + f(c)
    A = 1/2 [f(a + c) - f(c) + f(a + b + c) - f(b + c)]

A product of two such sums is relevant where a relevant factor meets no irrelevant one, constant
where two constant factors meet, and irrelevant elsewhere.

Of LSTMs these are the rules of Murdoch, Liu and Yu 2018 (arXiv:1801.05453) as their program has
them, ``cd_text``; those of GRUs and plain recurrences are made by analogy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class Split:
    """A value in three parts, whose sum it is."""

    parts: Tensor
    """Relevant, then irrelevant: ``(2, rows, units)``."""
    constant: Tensor | None = None
    """What depends on no input, broadcasting against ``(rows, units)``; None where it is zero."""

    def __add__(self, other: Split) -> Split:
        """Return the sum."""
        constant = self.constant
        if constant is None:
            constant = other.constant
        elif other.constant is not None:
            constant = constant + other.constant
        return Split(self.parts + other.parts, constant)

    @property
    def shares(self) -> Tensor:
        """What share of something constant each part gets that goes with it, ``(2, rows, 1)``."""
        amounts = self.parts.abs().sum(-1, keepdim=True)
        both = amounts.sum(0)
        return torch.where(both > 0, amounts / both, 0.5)

    def shared(self, shares: Tensor) -> Split:
        """Return the value with its constant part shared among the others."""
        if self.constant is None:
            return self
        return Split(torch.addcmul(self.parts, shares, self.constant))

    def beside(self, other: Split) -> Split:
        """Return the units of two values together."""
        return Split(torch.cat((self.parts, other.parts), -1))


@dataclass(frozen=True, eq=False)
class State(Generic[V]):
    """What a recurrence hands from step to step."""

    hidden: V
    cell: V | None = None
    """Of an LSTM."""

    @property
    def remembered(self) -> V:
        """The cell of an LSTM.

        Raises
        ------
        ValueError
            If there is none.
        """
        if self.cell is None:
            raise ValueError("got a state without cell, expected an LSTM's with hidden and cell")
        return self.cell


@dataclass(frozen=True, eq=False)
class Weights:
    """Of one direction of one layer."""

    joined: Tensor
    """Of inputs and hidden state beside each other, ``(gates * units, features + size)``."""
    n_features: int
    """Of inputs."""
    input_bias: Tensor
    """``(gates * units,)``, zeros where there is none."""
    hidden_bias: Tensor
    """As `input_bias`."""
    projection: Tensor | None = None
    """Of an LSTM's output, ``(size, units)``."""

    @property
    def of_inputs(self) -> Tensor:
        """``(gates * units, features)``."""
        return self.joined[:, : self.n_features]

    @property
    def of_hidden(self) -> Tensor:
        """``(gates * units, size)``."""
        return self.joined[:, self.n_features :]

    def rows(self, start: int, stop: int) -> Weights:
        """Return the weights of some gates."""
        return Weights(
            self.joined[start:stop],
            self.n_features,
            self.input_bias[start:stop],
            self.hidden_bias[start:stop],
        )


def function_of(value: Split, f: Callable[[Tensor], Tensor]) -> Split:
    """Return a function of a value in three parts; see the module."""
    if value.constant is None:
        # f is then zero at zero
        alone = f(value.parts)
        total = f(value.parts.sum(0))
        return Split((alone - alone.flip(0) + total).mul_(0.5))
    beside = value.parts + value.constant
    alone, at_constant = f(beside), f(value.constant)
    total = f(beside[0] + value.parts[1])
    return Split((alone - alone.flip(0)).add_(total - at_constant).mul_(0.5), at_constant)


def product(left: Split, right: Split) -> Split:
    """Return the product of two values in three parts; see the module."""
    left_relevant = _sum(left.parts[0], left.constant)
    right_relevant = _sum(right.parts[0], right.constant)
    relevant = left.parts[0] * right_relevant
    if left.constant is not None:
        relevant = torch.addcmul(relevant, left.constant, right.parts[0])
    irrelevant = left.parts[1] * (right_relevant + right.parts[1])
    irrelevant = torch.addcmul(irrelevant, left_relevant, right.parts[1])
    constant = None
    if left.constant is not None and right.constant is not None:
        constant = left.constant * right.constant
    return Split(torch.stack((relevant, irrelevant)), constant)


def lstm(inputs: Split, shares: Tensor, state: State[Split], weights: Weights) -> State[Split]:
    """Return the next state of an LSTM, whose output gate stays whole.

    The product of the constant parts of input gate and candidate is shared.

    Parameters
    ----------
    inputs
        At this step.
    shares
        Of its parts in what is constant, ``(2, rows, 1)``.
    state
        Before this step.
    weights
        Of gates input, forget, candidate and output.
    """
    gates = _gates(inputs, state.hidden, weights)
    n_units = gates.parts.shape[-1] // 4
    written, kept = _chunks(function_of(_units(gates, 0, 2 * n_units), torch.sigmoid), 2)
    candidate = function_of(_units(gates, 2 * n_units, 3 * n_units), torch.tanh)
    opened = _units(gates, 3 * n_units, 4 * n_units)
    output = torch.sigmoid(_sum(opened.parts.sum(0), opened.constant))
    cell = (product(written, candidate) + product(kept, state.remembered)).shared(shares)
    hidden = function_of(cell, torch.tanh).parts * output
    if weights.projection is not None:
        hidden = functional.linear(hidden, weights.projection)
    return State(Split(hidden), cell)


def gru(inputs: Split, shares: Tensor, state: State[Split], weights: Weights) -> State[Split]:
    """Return the next state of a GRU; parameters as those of `lstm`.

    Reset and update gates are split, ``1 - z`` is ``-z_rel``, ``-z_irr`` and ``1 - z_const``.
    """
    n_units = state.hidden.parts.shape[-1]
    reset_update = weights.rows(0, 2 * n_units)
    gates = function_of(_gates(inputs, state.hidden, reset_update), torch.sigmoid)
    reset, update = _chunks(gates, 2)
    candidate = weights.rows(2 * n_units, 3 * n_units)
    remembered = product(reset, _linear(state.hidden, candidate.of_hidden, candidate.hidden_bias))
    entered = Split(functional.linear(inputs.parts, candidate.of_inputs), candidate.input_bias)
    new = function_of(entered + remembered, torch.tanh)
    constant = None if update.constant is None else 1 - update.constant
    hidden = product(Split(-update.parts, constant), new) + product(update, state.hidden)
    return State(hidden.shared(shares))


def rnn_tanh(inputs: Split, shares: Tensor, state: State[Split], weights: Weights) -> State[Split]:
    """Return the next state of a plain recurrence; parameters as those of `lstm`."""
    gates = _gates(inputs, state.hidden, weights)
    return State(function_of(gates, torch.tanh).shared(shares))


def rnn_relu(inputs: Split, shares: Tensor, state: State[Split], weights: Weights) -> State[Split]:
    """Return the next state of a rectified recurrence; parameters as those of `lstm`."""
    gates = _gates(inputs, state.hidden, weights)
    return State(function_of(gates, torch.relu).shared(shares))


CELLS: dict[str, Callable[[Split, Tensor, State[Split], Weights], State[Split]]] = {
    "lstm": lstm,
    "gru": gru,
    "rnn_tanh": rnn_tanh,
    "rnn_relu": rnn_relu,
}


def _gates(inputs: Split, hidden: Split, weights: Weights) -> Split:
    """Return what all gates take, in one product: inputs and hidden state beside each other."""
    parts = functional.linear(torch.cat((inputs.parts, hidden.parts), -1), weights.joined)
    constant = weights.input_bias + weights.hidden_bias
    if hidden.constant is not None:
        constant = constant + functional.linear(hidden.constant, weights.of_hidden)
    return Split(parts, constant)


def _linear(value: Split, weight: Tensor, bias: Tensor) -> Split:
    constant = bias
    if value.constant is not None:
        constant = functional.linear(value.constant, weight, bias)
    return Split(functional.linear(value.parts, weight), constant)


def _units(value: Split, start: int, stop: int) -> Split:
    constant = None if value.constant is None else value.constant[..., start:stop]
    return Split(value.parts[..., start:stop], constant)


def _chunks(value: Split, n_chunks: int) -> list[Split]:
    n_units = value.parts.shape[-1] // n_chunks
    return [_units(value, k * n_units, (k + 1) * n_units) for k in range(n_chunks)]


def _sum(left: Tensor, right: Tensor | None) -> Tensor:
    return left if right is None else left + right
