"""Values for many walks over the same batch: its rows are repeated, and nothing is run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from explainers.operators import MaxPool

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.rules.table import Values
    from explainers.trace import Trace

Key: TypeAlias = tuple[Any, ...]
"""What is derived: the operator whose rows it has, and all else that it depends on but values."""


class Repeated(Mapping[str, "Tensor"]):
    """Every operator's value for rows of a batch, gathered when a rule asks for it.

    Nobody reads what rules keep back of these rows, see `explainers.rules.accounting`.

    Parameters
    ----------
    network
        Must be a program.
    values
        Every operator's value for the batch.
    rows
        Which row of the batch each row here is, int64, ``(rows,)``.
    made
        What rules derived from the values of the batch; one mapping serves all that repeat the
        same batch.
    """

    is_accounted = False

    def __init__(
        self,
        network: Network,
        values: Values,
        rows: Tensor,
        made: dict[Key, Tensor] | None = None,
    ) -> None:
        self._network = network
        self._values = values
        self._operators = {op.name: op for op in network.operators}
        self._switches = {
            op.switches_name: op for op in network.operators if isinstance(op, MaxPool)
        }
        self._n_rows = len(values[network.operators[0].name])
        self._made = {} if made is None else made
        self._gathered: dict[str, Tensor] = {}
        device = values[network.operators[0].name].device
        self._is_whole = _is_whole(rows, self._n_rows)
        self._rows = rows.to(device)

    @classmethod
    def of(cls, trace: Trace, rows: Tensor) -> Repeated:
        """Return the values of a trace for rows of it; what is derived is shared by all of them."""
        made: dict[Key, Tensor] = trace.once("derived values", dict)
        return cls(trace.network, trace.values, rows, made)

    def at(self, rows: Tensor) -> Repeated:
        """Return the values for other rows of the same batch; what is derived is shared."""
        return Repeated(self._network, self._values, rows, self._made)

    def __getitem__(self, name: str) -> Tensor:
        """Return a value for the rows; it is kept until it is released."""
        if name not in self._gathered:
            pool = self._switches.get(name)
            if pool is None:
                self._gathered[name] = self.gathered(name, self._values[name])
            else:
                self._gathered[name] = self.derived((pool, "switches"), pool.switches)
        return self._gathered[name]

    def release(self, name: str) -> None:
        """Drop what was gathered of an operator, but for the network's inputs."""
        op = self._operators[name]
        if op.inputs:
            self._gathered.pop(name, None)
        if isinstance(op, MaxPool):
            self._gathered.pop(op.switches_name, None)

    def derived(self, key: Key, make: Callable[[Values], Tensor]) -> Tensor:
        """Return what is made of the values of the batch, for the rows; see `derived`."""
        if key not in self._made:
            self._made[key] = make(self._values)
        made = self._made[key]
        return made.clone() if self._is_whole else self.gathered(key[0].name, made)

    def gathered(self, name: str, value: Tensor) -> Tensor:
        """Return, for the rows, a value of the batch whose rows lie as those of an operator.

        Raises
        ------
        NotImplementedError
            If it is not known where the rows are.
        """
        if self._is_whole:
            return value
        if name == self._network.output_name:
            return _selected(value, 0, self._rows)
        layout = self._network.layout(name)
        if layout is None and name in self._network.dependent:
            raise NotImplementedError(
                f"the samples in the value of {name!r} do not lie along one axis, so that rows "
                "of it cannot be repeated; explain one condition at a time by lrp"
            )
        if layout is None:
            return value
        axis, outer = layout.axis, self._operators[name].batch_outer
        if layout.n_places == 1:
            return _selected(value, axis, self._rows)
        shape = (*value.shape[:axis], outer, self._n_rows, -1, *value.shape[axis + 1 :])
        return value.reshape(shape).index_select(axis + 1, self._rows).flatten(axis, axis + 2)

    def __contains__(self, name: object) -> bool:
        """Return whether there is such a value."""
        return name in self._operators or name in self._switches

    def __iter__(self) -> Iterator[str]:
        """Return the names, those of the positions of maxima last."""
        return iter([*self._operators, *self._switches])

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._operators) + len(self._switches)


def derived(values: Values, key: Key, make: Callable[[Values], Tensor]) -> Tensor:
    """Return what `make` makes of the values: of a batch whose rows are repeated only once.

    Parameters
    ----------
    values
        Operator name to value.
    key
        Names what is made: first the operator whose value has its rows along the same axis, then
        whatever else than values it depends on. It has to be hashable.
    make
        Given values, of the rows or of the batch; what it returns belongs to whoever asks, who may
        overwrite it, and may share no memory with a value.
    """
    return values.derived(key, make) if isinstance(values, Repeated) else make(values)


def _selected(value: Tensor, axis: int, rows: Tensor) -> Tensor:
    """Return rows of a value, laid out in memory as it is."""
    if value.is_contiguous():
        return value.index_select(axis, rows)
    # a selection is laid out row by row: of a convolution's channels that lie last too
    order = sorted(range(value.ndim), key=value.stride, reverse=True)
    chosen = value.permute(order).index_select(order.index(axis), rows)
    return chosen.permute([order.index(dim) for dim in range(value.ndim)])


def _is_whole(rows: Tensor, n_rows: int) -> bool:
    # rows are on the host as a rule; elsewhere looking at them would wait for the device
    if len(rows) != n_rows or rows.device.type != "cpu":
        return False
    return torch.equal(rows, torch.arange(n_rows))
