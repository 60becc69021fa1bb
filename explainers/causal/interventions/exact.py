"""Interventions on the weights of a layer, exactly, without a forward of the whole network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from explainers.causal.interventions.change import Change
from explainers.causal.interventions.outcomes import Outcome, of_columns, of_logits
from explainers.causal.interventions.partial import Partial
from explainers.causal.interventions.stack import Pairs, Reference, Stack
from explainers.causal.interventions.tail import Tail
from explainers.sampling.chunks import pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.causal.structure import WeightedLayer
    from explainers.network import Network
    from explainers.trace import Trace


class Interventions:
    """What ``do(n, u)`` at a layer does to the outputs, for any rows and neurons.

    The weights with which the effects E of a row read neuron n are set to u, all together and
    before a norm that was folded; other weights, biases and norms stay. As the layer is linear its
    new value follows from the cached one, and only what depends on it is computed again.

    Parameters
    ----------
    network
        A program; of a whole network.
    layer
        Of its structure (`explainers.causal.structure.structure_of`).

    Raises
    ------
    NotImplementedError
        If the rows of the layer's value do not lie along one axis.
    """

    def __init__(self, network: Network, layer: WeightedLayer) -> None:
        self.network, self.layer = network, layer
        known = _plans.setdefault(network, {})
        if layer.name not in known:
            known[layer.name] = (Change(network, layer), Tail(network, layer.operator.name))
        self._change, self._tail = known[layer.name]

    def pairs(
        self,
        trace: Trace,
        rows: Tensor,
        neurons: Tensor,
        effects: Tensor,
        classes: Tensor,
        u: float | Tensor = 0.0,
    ) -> Outcome:
        """Return what pairs of a row and a neuron come to.

        Parameters
        ----------
        trace
            Of the network; it has the values without interventions.
        rows
            Of the trace, int64 ``(pairs,)``.
        neurons
            int64 ``(pairs,)``.
        effects
            E of each row of the trace, bool ``(rows, n_outputs)``; or of each pair the one effect,
            int64 ``(pairs,)``.
        classes
            Whose logit is looked at, int64 ``(rows,)``.
        u
            What weights are set to; of each pair where it is a tensor ``(pairs,)``.

        Returns
        -------
        Outcome
            ``(pairs,)`` each. Where nothing changes, the logit is that of the trace to the bit.

        Raises
        ------
        ValueError
            If the trace is of another network, or shapes do not fit.
        """
        rows = rows.to(self.network.device)
        of_pairs = classes.to(rows.device)[rows]
        logit = trace.output.gather(1, classes.to(rows.device)[:, None])[:, 0][rows]
        divergence = torch.zeros_like(logit)
        for piece in self._pieces(trace, rows, neurons, effects, u):
            self._enter(trace, piece, of_pairs, logit, divergence)
        return Outcome(logit, divergence)

    def all(
        self, trace: Trace, effects: Tensor, classes: Tensor, u: float | Tensor = 0.0
    ) -> Outcome:
        """Return what every neuron comes to in every row, ``(rows, n_neurons)`` each.

        Parameters
        ----------
        trace, effects, classes, u
            As `pairs` takes them.
        """
        n_rows, n_neurons = trace.n_rows, self.layer.n_neurons
        rows = torch.arange(n_rows).repeat_interleave(n_neurons)
        neurons = torch.arange(n_neurons).repeat(n_rows)
        found = self.pairs(trace, rows, neurons, effects, classes, u)
        shape = (n_rows, n_neurons)
        return Outcome(found.logit.reshape(shape), found.divergence.reshape(shape))

    def logits(
        self,
        trace: Trace,
        rows: Tensor,
        neurons: Tensor,
        effects: Tensor,
        u: float | Tensor = 0.0,
    ) -> Tensor:
        """Return all outputs under interventions, ``(pairs, outputs)``; see `pairs`."""
        found = trace.output[rows.to(self.network.device)]
        for piece in self._pieces(trace, rows, neurons, effects, u):
            made = self._run(piece)
            if isinstance(made, Partial):
                made = piece.stack.completed(self.network.output_name, made)
            found[piece.where] = made
        return found

    def _run(self, piece: _Piece) -> Tensor | Partial:
        stack, columns = piece.stack, piece.columns
        with torch.no_grad():
            made = self._change.changed(stack.reference, stack.pairs, columns)
            axis = 1 if self._change.is_convolution else made.ndim - 1
            return self._tail.run(stack, Partial(made, axis, columns, self.layer.n_outputs))

    def _enter(
        self, trace: Trace, piece: _Piece, classes: Tensor, logit: Tensor, divergence: Tensor
    ) -> None:
        """Write what a piece comes to, in halves where memory runs out."""
        try:
            found = self._outcome(trace, piece, classes[piece.where])
        except torch.OutOfMemoryError:
            if len(piece.where) == 1:
                raise
            found = None
        if found is None:
            for half in piece.halves():
                self._enter(trace, half, classes, logit, divergence)
        else:
            logit[piece.where], divergence[piece.where] = found.logit, found.divergence

    def _outcome(self, trace: Trace, piece: _Piece, classes: Tensor) -> Outcome:
        found, pairs = self._run(piece), piece.stack.pairs
        if not isinstance(found, Partial):
            return of_logits(found, trace.output[pairs.rows], classes)
        reference = trace.output[piece.stack.reference.rows]
        return of_columns(found.value, found.columns, reference, pairs.own, classes)

    def _pieces(
        self, trace: Trace, rows: Tensor, neurons: Tensor, effects: Tensor, u: float | Tensor
    ) -> Iterator[_Piece]:
        """Yield the pairs that something changes for, those with the same effects together."""
        self._check(trace, rows, neurons, effects)
        device = self.network.device
        rows, neurons = rows.to(device), neurons.to(device)
        u = u if isinstance(u, int | float) else u.to(device)
        patterns, of_pair = self._patterns(effects.to(device), rows)
        source = trace.values[self.layer.operator.inputs[0]]
        is_live = self._change.is_active(source)[rows, neurons]
        touched = self._change.touched(u).to(patterns.dtype)
        is_live &= (patterns @ touched)[of_pair, neurons] > 0
        where = is_live.nonzero()[:, 0]
        kinds, of_neuron = self._change.kinds
        bundle = of_pair[where] * len(kinds) + of_neuron[neurons[where]]
        n_neurons, n_rows = self.layer.n_neurons, trace.n_rows
        key = (bundle * n_neurons + neurons[where]) * n_rows + rows[where]
        where = where[key.argsort(stable=True)]
        bundles, sizes = torch.unique(bundle, return_counts=True)
        for number, part in zip(bundles.tolist(), torch.split(where, sizes.tolist()), strict=True):
            effect = patterns[number // len(kinds)] > 0
            columns = (effect & kinds[number % len(kinds)]).nonzero()[:, 0]
            distinct, own = torch.unique(rows[part], return_inverse=True)
            reference = Reference(self.network, trace.values, distinct)
            for chunk in pieces(len(part), self._limit(len(columns))):
                chosen = part[chunk]
                level = u if isinstance(u, int | float) else u[chosen]
                pairs = Pairs(rows[chosen], own[chunk], neurons[chosen], level)
                yield _Piece(chosen, columns, Stack(reference, pairs))

    def _patterns(self, effects: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sets of effects that occur, ``(sets, n_outputs)``, and that of each pair."""
        dtype = self.network.dtype
        if effects.dtype == torch.bool:
            patterns, of_row = torch.unique(effects, dim=0, return_inverse=True)
            return patterns.to(dtype), of_row[rows]
        single, of_pair = torch.unique(effects, return_inverse=True)
        return torch.nn.functional.one_hot(single, self.layer.n_outputs).to(dtype), of_pair

    def _limit(self, n_columns: int) -> int:
        """Return how many pairs are stacked."""
        return self._tail.rows_at_once(n_columns / self.layer.n_outputs)

    def _check(self, trace: Trace, rows: Tensor, neurons: Tensor, effects: Tensor) -> None:
        if trace.network is not self.network:
            raise ValueError(
                "got a trace of another network; make it of the network that the interventions "
                "are of: Trace(network, inputs)"
            )
        if rows.ndim != 1 or rows.shape != neurons.shape:
            raise ValueError(
                f"got rows of shape {tuple(rows.shape)} and neurons of {tuple(neurons.shape)}, "
                "expected one of each for every pair"
            )
        by_row = (trace.n_rows, self.layer.n_outputs)
        is_choice = effects.dtype == torch.bool
        if effects.shape != (by_row if is_choice else rows.shape):
            raise ValueError(
                f"got effects of {effects.dtype}, shape {tuple(effects.shape)}; expected bool of "
                f"{by_row} for the rows of the trace, or int64 of {tuple(rows.shape)}, one of "
                f"each pair, for layer {self.layer.name!r}"
            )


@dataclass(frozen=True, eq=False)
class _Piece:
    """Pairs that are carried through the network together."""

    where: Tensor
    """Which of all they are."""
    columns: Tensor
    """The effects that they share."""
    stack: Stack

    def halves(self) -> Iterator[_Piece]:
        """Yield two pieces with half of the pairs each."""
        pairs, middle = self.stack.pairs, len(self.where) // 2
        for part in (slice(middle), slice(middle, None)):
            u = pairs.u if isinstance(pairs.u, int | float) else pairs.u[part]
            half = Pairs(pairs.rows[part], pairs.own[part], pairs.neurons[part], u)
            yield replace(self, where=self.where[part], stack=Stack(self.stack.reference, half))


_plans: WeakKeyDictionary[Network, dict[str, tuple[Change, Tail]]] = WeakKeyDictionary()
