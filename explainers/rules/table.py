"""Rule tables: what becomes of relevance, or of moments, at each operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

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

R = TypeVar("R", bound=Callable[..., Any])


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

    A class without a rule uses that of its nearest base class. Rules of a table have one signature:
    `Rule`, or what whoever asks the table says (`explainers.rules.moments`).

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
        self._rules: dict[tuple[type[Operator], str], Callable[..., Any]] = {}
        self._lossy: set[Callable[..., Any]] = set()
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

    def find(self, op: Operator, name: str = "default") -> Callable[..., Any]:
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

    def check(self, network: Network, name: str = "default") -> None:
        """Refuse what is not a program, and operators on the way back that have no rule.

        Parameters
        ----------
        network
            Whose operators need a rule, those between input and output.
        name
            Of the rules.

        Raises
        ------
        NotImplementedError
            If there is such an operator, or the model could not be read.
        """
        reached = {network.output_name}
        for op in reversed(network.operators[1:]):
            if op.name in reached and op.name in network.dependent:
                self.find(op, name)
                reached |= op.sources

    def adopt(self, other: RuleTable, *operators: type[Operator], name: str = "default") -> None:
        """Enter the default rules that another table has for operator classes."""
        for operator in operators:
            rules = [other._rules.get((kind, "default")) for kind in operator.__mro__]
            self._rules[operator, name] = next(rule for rule in rules if rule is not None)

    def functions(self) -> dict[str, tuple[Callable[..., Any], ...]]:
        """Return, for every name, the rules that some class has under it; sorted by name."""
        found: dict[str, tuple[Callable[..., Any], ...]] = {}
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
