"""What is carried of the parts of values, and the plain values beside them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from explainers.operators import Carried, Input
from explainers.rules.decomposition.parts import Parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator


class Streams:
    """Rows whose values are split, each a mask over one of the samples, and the samples' values.

    With one stream only the relevant part is carried, and the irrelevant one is what it leaves of
    the whole. Behind the masks' rows there is one more for each of their samples, of which
    everything is relevant: the whole, as the same kernels round it. What is wholly relevant is
    equal to it then, bit by bit, and leaves nothing. Strict, both are carried by themselves and
    their sum is the value, rounded as the published code rounds it. Names in the methods are those
    of the operators whose value it is.

    Parameters
    ----------
    network
        A program.
    values
        Plain values of the samples, by operator.
    rows
        int64 ``(rows,)``, ascending: of each row its sample.
    is_strict
        Whether both parts are carried.
    has_output_bias
        Whether the bias of a linear map that gives the output is shared.
    """

    def __init__(
        self,
        network: Network,
        values: Mapping[str, Tensor],
        rows: Tensor,
        *,
        is_strict: bool = False,
        has_output_bias: bool = True,
    ) -> None:
        self.network = network
        self.values = values
        rows = rows.to(network.device)
        self.n_masks = len(rows)
        own, samples = rows, rows[:0]
        if not is_strict:
            samples, own = torch.unique(rows, return_inverse=True)
        self.samples = samples
        """Those that masks are of, which with one stream have a row each behind the masks'."""
        self.rows = torch.cat((rows, self.samples))
        """Of each row its sample."""
        self.own = torch.cat((own, torch.arange(len(self.samples), device=rows.device)))
        """Of each row where its sample is among `samples`; of one stream."""
        self.is_strict = is_strict
        self.has_output_bias = has_output_bias
        self.n_samples = len(values[network.operators[0].name])
        self.parts_of: dict[str, Parts] = {}
        """Of the operators whose value is still read."""
        self.is_spare = False
        """Whether the relevant part of the one input of the operator that is under way may be
        written over, as it is alone in its memory and read no more; of one stream."""
        self._totals: dict[str, Tensor] = {}

    @property
    def n_rows(self) -> int:
        """Of the masks, and of samples behind them."""
        return len(self.rows)

    def total(self, name: str) -> Tensor:
        """Return the whole value of an operator for each row, laid out as its relevant part.

        It may be a view that repeats a sample's value: it must not be written to.
        """
        if name not in self._totals:
            found = self.parts_of.get(name)
            if found is None or found.relevant is None:
                self._totals[name] = self.repeated(name, self.values[name])
            elif self.is_strict:
                self._totals[name] = self.whole(name, found)
            else:
                self._totals[name] = self.spread(name, self.of_samples(name, found.relevant))
        return self._totals[name]

    def made(self, op: Operator) -> Tensor:
        """Return the whole value of an operator for each row, given those of its inputs."""
        if self.is_strict:
            return op.run(*map(self.total, op.inputs))
        return self.spread(op.name, self._made(op))

    def settle(self, op: Operator, value: Tensor) -> None:
        """Write the whole values of an operator into the samples' rows, given those before it."""
        _, rows = self.apart(op.name, value)
        rows.copy_(self._made(op).reshape(rows.shape))

    def of_samples(self, name: str, value: Tensor) -> Tensor:
        """Return the rows of samples, where all is relevant: as many as `samples`.

        Parameters
        ----------
        name
            Of an operator.
        value
            Something laid out as its value for all rows.
        """
        axis, _, _ = self._place(name, self.values[name])
        return self.apart(name, value)[1].flatten(axis, axis + 2)

    def apart(self, name: str, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return views of the rows of masks and of samples; what shares their axis is beside it.

        Parameters
        ----------
        name
            Of an operator.
        value
            Something laid out as its value for all rows.
        """
        axis, outer, inner = self._place(name, self.values[name])
        found = _apart(value, axis, (outer, self.n_rows, inner))
        samples = found.narrow(axis + 1, self.n_masks, len(self.samples))
        return found.narrow(axis + 1, 0, self.n_masks), samples

    def _made(self, op: Operator) -> Tensor:
        wholes = []
        for name in op.inputs:
            part = self.parts_of[name].relevant
            if part is not None:
                wholes.append(self.of_samples(name, part))
            elif self.has_rows(name):
                wholes.append(self._taken(name, self.values[name], self.samples))
            else:
                wholes.append(self.values[name])
        return op.run(*wholes)

    def whole(self, name: str, parts: Parts) -> Tensor:
        """Return the sum of the parts of an operator's value; of a constant its value."""
        if parts.relevant is None:
            return self.constant(name)
        if parts.irrelevant is None:
            return self.total(name)
        return parts.relevant + parts.irrelevant

    def irrelevant(self, name: str, parts: Parts) -> Tensor:
        """Return the irrelevant part of an operator's value; of a constant its value."""
        if parts.relevant is None:
            return self.constant(name)
        if parts.irrelevant is not None:
            return parts.irrelevant
        return self.total(name) - parts.relevant

    def constant(self, name: str) -> Tensor:
        """Return a value that is not split, laid out to broadcast against those of the rows."""
        return self.total(name) if self.has_rows(name) else self.values[name]

    def both(self, relevant: Tensor, irrelevant: Tensor | None) -> Parts:
        """Return the parts, of which one stream keeps the relevant one alone."""
        return Parts(relevant, irrelevant if self.is_strict else None)

    def run(self, op: Operator, inputs: tuple[Parts, ...]) -> Parts:
        """Return what a linear operator without a constant makes of each part by itself.

        Inputs that are not split enter as they are: sizes are read off them.
        """
        relevant = [self._entering(*one) for one in zip(op.inputs, inputs, strict=True)]
        if not self.is_strict:
            return Parts(op.run(*relevant))
        irrelevant = [
            one if part.irrelevant is None else part.irrelevant
            for one, part in zip(relevant, inputs, strict=True)
        ]
        return Parts(op.run(*relevant), op.run(*irrelevant))

    def has_rows(self, name: str) -> bool:
        """Return whether a value has rows of the batch, so that each mask needs its sample's."""
        if isinstance(self._operators[name], Carried) or name in self.network.dependent:
            return True
        # what is certain may still have a row for each sample, as the initial states of an LSTM
        return self.network.layout(name) is not None

    def repeated(self, name: str, value: Tensor) -> Tensor:
        """Return something laid out as the samples' values of an operator, for each row.

        Raises
        ------
        NotImplementedError
            If it is not known where the samples are in it.
        """
        return self._taken(name, value, self.rows)

    def spread(self, name: str, value: Tensor) -> Tensor:
        """Return something laid out as the values of `samples`, for each row."""
        return self._taken(name, value, self.own, len(self.samples))

    def _taken(self, name: str, value: Tensor, rows: Tensor, n_given: int | None = None) -> Tensor:
        axis, outer, inner = self._place(name, self.values[name])
        n_given = self.n_samples if n_given is None else n_given
        if n_given == 1 and outer == inner == 1:
            shape = list(value.shape)
            shape[axis] = len(rows)
            return value.expand(shape)
        found = _apart(value, axis, (outer, n_given, inner))
        return found.index_select(axis + 1, rows).flatten(axis, axis + 2)

    def is_plain(self, name: str) -> bool:
        """Return whether the rows of a value are its first axis, each in one place or several."""
        axis, outer, _ = self._place(name, self.values[name])
        return axis == 0 and outer == 1

    def enter(self, name: str, parts: Parts) -> None:
        """Remember parts for as long as something reads them."""
        self.parts_of[name] = parts

    def drop(self, name: str) -> None:
        """Forget the parts of a value, and its sum."""
        del self.parts_of[name]
        self._totals.pop(name, None)

    def _entering(self, name: str, part: Parts) -> Tensor:
        return self.constant(name) if part.relevant is None else part.relevant

    @cached_property
    def _operators(self) -> dict[str, Operator]:
        return {op.name: op for op in self.network.operators}

    def _place(self, name: str, value: Tensor) -> tuple[int, int, int]:
        """Return the axis of a value's rows, and what is outside and inside of them on it."""
        op = self._operators[name]
        layout = self.network.layout(name)
        if layout is not None and name != self.network.output_name:
            return layout.axis, op.batch_outer, layout.n_places // op.batch_outer
        # the input, the output and what packs inputs or flattens a layer's value
        is_ours = isinstance(op, Input | Carried) or name not in self.network.root.layers
        if name != self.network.output_name and not is_ours:
            raise NotImplementedError(
                f"the samples in the value of {name!r} do not lie along one axis, so that its "
                "parts cannot be told apart by sample; use a method that needs outputs alone "
                "(occlusion, shapley_value_sampling)"
            )
        return 0, 1, max(1, value.shape[0] // max(1, self.n_samples))


def _apart(value: Tensor, axis: int, sizes: tuple[int, int, int]) -> Tensor:
    """Return a view whose axis is three."""
    return value.view(*value.shape[:axis], *sizes, *value.shape[axis + 1 :])
