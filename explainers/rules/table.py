"""Rule tables, and the one loop that carries relevance back through a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import torch

from explainers.rules.amounts import per_row

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator

Values = Mapping[str, "Tensor"]
"""Operator name to its value for the batch; ``values[op.inputs[0]]``, ``values[op.name]``."""

Relevances = tuple["Tensor | None", ...]

Keeper = Literal["bias", "stabiliser", "lost"]
"""What may keep relevance on its way: a bias, a stabiliser, or outputs to which nothing
contributed (``lost``)."""


@dataclass(frozen=True)
class Shares:
    """What a rule hands to each input, with an account of what it does not hand on."""

    relevances: Relevances
    """Of each input, in their order."""
    absorbed: Mapping[Keeper, Tensor] = field(default_factory=dict)
    """What is kept back of each row along the operator's ``batch_axis``; see
    `explainers.rules.amounts`. Nothing where there is no entry."""
    rest: Keeper | None = None
    """What keeps all that is neither handed on nor absorbed; the walk finds out how much that is.
    None where that is only what inputs get which do not depend on the network's input: they keep
    it as a bias does."""


class Rule(Protocol):
    """How relevance passes one operator.

    ``rule(op, relevance, values)`` is given the relevance of the operator's output and returns that
    of each of its inputs, in their order; None for an input that gets nothing (an index, a mask).
    What it returns for inputs that do not depend on the network's input is not carried on. A rule
    that accounts for what it keeps back returns `Shares`.
    """

    def __call__(self, op: Operator, relevance: Tensor, values: Values, /) -> Relevances | Shares:
        """Return the relevance of each input."""


Choose = Callable[["Operator"], Rule]
"""Which rule an operator gets: ``table.find``, or a composite."""

R = TypeVar("R", bound=Callable[..., "Relevances | Shares"])


NEEDING_GRADIENTS_ALONE = (
    "a method that needs gradients alone (gradient, saliency, input_x_gradient, "
    "integrated_gradients, expected_gradients, smooth_grad)"
)
"""What messages recommend; every operator can be differentiated."""


class RuleTable:
    """Rules by operator class and rule name.

    A rule is a small pure function, registered for the classes that it serves::

        lrp = RuleTable("lrp")

        @lrp.rule(Linear, name="epsilon")
        def epsilon(op: Linear, relevance: Tensor, values: Values, epsilon: float = 1e-6):
            x, z = values[op.inputs[0]], values[op.name]
            return (x * op.transpose(relevance / (z + epsilon * z.sgn()), x),)

    A class without a rule uses that of its nearest base class.

    Parameters
    ----------
    name
        What the table is called in messages.
    instead
        What messages recommend where the table has no rule: methods that would work.
    """

    def __init__(self, name: str, instead: str = NEEDING_GRADIENTS_ALONE) -> None:
        self.name = name
        self.instead = instead
        self._rules: dict[tuple[type[Operator], str], Callable[..., Relevances | Shares]] = {}
        self._lossy: set[Callable[..., Relevances | Shares]] = set()
        self._checks: dict[str, Callable[..., None]] = {}

    def rule(
        self,
        *operators: type[Operator],
        name: str = "default",
        conserves: bool = True,
        check: Callable[..., None] | None = None,
    ) -> Callable[[R], R]:
        """Return a decorator that registers a rule for operator classes.

        Parameters
        ----------
        operators
            Which it serves, with the classes derived from them.
        name
            Under which composites find it.
        conserves
            False if it drops, or multiplies, relevance of outputs to which something contributed.
        check
            Called with parameters of the rule, by name; raises where a value is not legal.
        """

        def enter(rule: R) -> R:
            for operator in operators:
                self._rules[operator, name] = rule
            if not conserves:
                self._lossy.add(rule)
            if check is not None:
                self._checks[name] = check
            return rule

        return enter

    def conserves(self, op: Operator, name: str = "default") -> bool:
        """Return whether a rule hands on all that bias, stabiliser and empty outputs do not keep.

        A rule that does not still accounts for what it drops: under ``lost``.
        """
        return self.find(op, name) not in self._lossy

    def check_values(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Refuse values that the rules of this name cannot take, before any input is seen.

        Raises
        ------
        TypeError, ValueError
            As the rule's own check does.
        """
        check = self._checks.get(name)
        if check is not None:
            check(**parameters)

    def find(self, op: Operator, name: str = "default") -> Callable[..., Relevances | Shares]:
        """Return the rule for an operator.

        Raises
        ------
        NotImplementedError
            If the table has none for it.
        """
        for kind in type(op).__mro__:
            rule = self._rules.get((kind, name))
            if rule is not None:
                return rule
        where = op.module_path or "the network itself"
        called = "" if name == "default" else f" called {name!r}"
        others = [one for one in self.names(type(op)) if "." not in one and one != "default"]
        if called and others:
            raise NotImplementedError(
                f"rule table {self.name!r} has no rule{called} for the operator {describe(op)} "
                f"(node {op.name!r} in {where!r}); it has: {', '.join(others)}"
            )
        raise NotImplementedError(
            f"rule table {self.name!r} has no rule{called} for the operator {describe(op)} "
            f"(node {op.name!r} in {where!r}); use {self.instead}, "
            f"or register one with @{self.name}.rule({type(op).__name__})"
        )

    def check(self, network: Network) -> None:
        """Refuse what is not a program, and operators on the way back that have no rule.

        Raises
        ------
        NotImplementedError
            If there is such an operator, or the model could not be read.
        """
        reached = {network.output_name}
        for op in reversed(network.operators[1:]):
            if op.name in reached and op.name in network.dependent:
                self.find(op)
                reached |= op.sources

    def adopt(self, other: RuleTable, *operators: type[Operator], name: str = "default") -> None:
        """Enter the default rules that another table has for operator classes."""
        for operator in operators:
            rules = [other._rules.get((kind, "default")) for kind in operator.__mro__]
            self._rules[operator, name] = next(rule for rule in rules if rule is not None)

    def functions(self) -> dict[str, tuple[Callable[..., Relevances | Shares], ...]]:
        """Return, for every name, the rules that some class has under it; sorted by name."""
        found: dict[str, tuple[Callable[..., Relevances | Shares], ...]] = {}
        for (_, name), rule in self._rules.items():
            found[name] = (*found.get(name, ()), rule)
        return dict(sorted(found.items()))

    def names(self, operator: type[Operator]) -> tuple[str, ...]:
        """Return the names of the rules that a class has, sorted."""
        bases = set(operator.__mro__)
        return tuple(sorted({name for kind, name in self._rules if kind in bases}))


def describe(op: Operator) -> str:
    """Return an operator's class, with the function's name where it is a call."""
    function = getattr(op, "function", None) or getattr(op, "kind", None)
    return type(op).__name__ if function is None else f"{type(op).__name__}({function})"


@dataclass(frozen=True)
class Walked:
    """What a walk brings back."""

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
    record: Sequence[str] = (),
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
    relevances: dict[str, Tensor] = {network.output_name: start}
    recorded: dict[str, Tensor] = {}
    accounts = _Accounts({op.name: op for op in network.operators}, network.dependent, len(start))
    for op in reversed(network.operators[1:]):
        relevance = relevances.pop(op.name, None)
        if relevance is None:
            continue
        if op.name in record:
            recorded[op.name] = relevance
        if not op.inputs:  # another input, or a value that is given
            continue
        found = choose(op)(op, relevance, values)
        parts = found.relevances if isinstance(found, Shares) else found
        if isinstance(found, Shares):
            accounts.enter(op, relevance, found)
        for name, part in zip(op.inputs, parts, strict=True):
            if part is not None and name in network.dependent:
                sum_so_far = relevances.get(name)
                relevances[name] = part if sum_so_far is None else sum_so_far + part
        if release is not None:
            release(op.name)
    source = network.operators[0].name
    relevance = relevances.get(source)
    if relevance is None:
        relevance = torch.zeros_like(values[source])
    if source in record:
        recorded[source] = relevance
    return Walked(relevance.contiguous(), recorded, accounts.total)


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
