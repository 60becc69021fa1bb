"""The one loop that carries relevance back through a program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from explainers.operators import Input
from explainers.rules.accounting import is_accounted
from explainers.rules.amounts import per_row
from explainers.rules.table import Shares

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.rules.table import Choose, Keeper, Values


@dataclass(frozen=True)
class Walked:
    """What a walk from the output to the input brings back."""

    relevance: Tensor
    """Of the network's input."""
    layers: Mapping[str, Tensor]
    """Of the outputs of the operators that were asked for, by operator name."""
    absorbed: Mapping[Keeper, Tensor] = field(default_factory=dict)
    """What rules kept back on the way, ``(batch,)``, summed over operators."""


def walk(
    network: Network,
    values: Values,
    start: Tensor,
    choose: Choose,
    record: Collection[str] = (),
    release: Callable[[str], None] | None = None,
) -> Walked:
    """Carry relevance from the network's output back to its input, summing over a value's users.

    Parameters
    ----------
    network
        Must be a program.
    values
        Every operator's value for the batch.
    start
        Relevance of the output, ``(batch, classes)``.
    choose
        Gives the rule of each operator that depends on the input.
    record
        Names of operators whose output's relevance is kept.
    release
        Called with the name of every operator whose value no rule will look at any more.
    """
    source = network.operators[0].name
    kept: dict[str, Tensor] = {}
    inputs = [op.name for op in network.operators if isinstance(op, Input)]
    course = Course(network, choose, ends=inputs, release=release)
    absorbed = course.carry(values, {network.output_name: start}, {*record, source}, kept)
    relevance = kept.get(source)
    if relevance is None:
        relevance = torch.zeros_like(values[source])
    layers = {name: found for name, found in kept.items() if name in record}
    return Walked(relevance.contiguous(), layers, absorbed)


class Course:
    """How relevance goes back through a program, from wherever it starts to where it ends.

    Only operators on a way from an end to a start are looked at.

    Parameters
    ----------
    network
        Must be a program.
    choose
        Gives the rule of each operator that depends on the input.
    ends
        Names of the operators to whose outputs relevance is carried; it goes beyond one of them
        only on its way to another.
    masks
        Operator to what becomes of its output's relevance before it goes on; what is kept of it is
        what arrives, before that.
    release
        Called with the name of every operator whose value no rule will look at any more.
    """

    def __init__(
        self,
        network: Network,
        choose: Choose,
        *,
        ends: Iterable[str],
        masks: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        release: Callable[[str], None] | None = None,
    ) -> None:
        self._network = network
        self._choose = choose
        self._masks = masks or {}
        self._release = release
        self._wanted = leading_to(network, ends)

    def carry(
        self,
        values: Values,
        starts: Mapping[str, Tensor],
        record: Collection[str],
        kept: dict[str, Tensor],
        seen: Callable[[str, Tensor], None] | None = None,
    ) -> dict[Keeper, Tensor]:
        """Carry relevance back, and return what rules kept back of each row.

        Parameters
        ----------
        values
            Every operator's value for the rows that relevance is of; of `Unaccounted` ones nothing
            is said about what rules keep back.
        starts
            Operator to the relevance of its output that starts there, shaped as its value.
        record
            Names of operators whose output's relevance is entered into `kept`, as it arrives and
            where any does; that of a start has what starts there in it.
        kept
            Is filled.
        seen
            Called with each recorded name and its relevance, in place of keeping it: whoever sums
            it up at once needs no memory for it. It must leave it as it is.
        """
        network = self._network
        context = network.passing.context()
        relevances = dict(starts)
        accounts = _accounts(network, values) if is_accounted(values) else None
        for op in reversed(network.operators):
            relevance = relevances.pop(op.name, None)
            if relevance is None:
                continue
            if op.name in record:
                if seen is None:
                    kept[op.name] = relevance
                else:
                    seen(op.name, relevance)
            if op.name in self._masks:
                relevance = self._masks[op.name](relevance)
            # another input, a value that is given, or nothing further back is asked for
            if op.sources & self._wanted:
                with context:
                    self._pass(op, relevance, values, relevances, accounts)
            if self._release is not None and op.inputs:
                self._release(op.name)
        return {} if accounts is None else accounts.total

    def _pass(
        self,
        op: Operator,
        relevance: Tensor,
        values: Values,
        relevances: dict[str, Tensor],
        accounts: _Accounts | None,
    ) -> None:
        found = self._choose(op)(op, relevance, values)
        parts = found.relevances if isinstance(found, Shares) else found
        if accounts is not None and isinstance(found, Shares):
            accounts.enter(op, relevance, found)
        for name, part in zip(op.inputs, parts, strict=True):
            if part is not None and name in self._wanted:
                sum_so_far = relevances.get(name)
                relevances[name] = part if sum_so_far is None else sum_so_far + part


def leading_to(network: Network, ends: Iterable[str]) -> frozenset[str]:
    """Return the operators that depend on the input, and from which an end is reached."""
    wanted = set(ends)
    for op in network.operators:
        if not op.sources.isdisjoint(wanted):
            wanted.add(op.name)
    return frozenset(wanted) & network.dependent


@dataclass(frozen=True)
class _Accounts:
    """What is kept back of each sample, added up over operators."""

    operators: Mapping[str, Operator]
    dependent: frozenset[str]
    batch: int
    total: dict[Keeper, Tensor] = field(default_factory=dict)

    def enter(self, op: Operator, relevance: Tensor, found: Shares) -> None:
        """Add what an operator's rule keeps back."""
        absorbed = {
            keeper: self._of_samples(op, amount) for keeper, amount in found.absorbed.items()
        }
        handed_on = [
            (self.operators[name], part)
            for name, part in zip(op.inputs, found.relevances, strict=True)
            if part is not None and name in self.dependent
        ]
        n_given = sum(part is not None for part in found.relevances)
        if found.rest is not None or len(handed_on) < n_given:
            rest = self._of_samples(op, per_row(op, relevance))
            for source, part in handed_on:
                rest = rest - self._of_samples(source, per_row(source, part))
            for amount in absorbed.values():
                rest = rest - amount
            self._add(found.rest or "bias", rest)
        for keeper, amount in absorbed.items():
            self._add(keeper, amount)

    def _add(self, keeper: Keeper, amount: Tensor) -> None:
        self.total[keeper] = self.total[keeper] + amount if keeper in self.total else amount

    def _of_samples(self, op: Operator, amount: Tensor) -> Tensor:
        """Return ``(batch,)`` of amounts by row: windows, heads or places may be rows."""
        outer, batch = op.batch_outer, self.batch
        if amount.ndim != 1 or len(amount) % (outer * batch):
            raise ValueError(
                f"got an account of {' x '.join(map(str, amount.shape)) or 'one'} rows for the "
                f"operator {op.name!r}, expected {batch} or a multiple: sum over all axes of its "
                f"value but {op.batch_axis}, as explainers.rules.amounts.per_row does"
            )
        return amount.reshape(outer, batch, -1).sum((0, 2))


def _accounts(network: Network, values: Values) -> _Accounts:
    operators = {op.name: op for op in network.operators}
    return _Accounts(operators, network.dependent, len(values[network.operators[0].name]))
