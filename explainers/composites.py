"""Composites: which LRP rule each operator of a network gets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from explainers.operators import Constant, Multiply
from explainers.registry import Registry
from explainers.rules.lrp import lrp
from explainers.rules.ranges import ranges, signal

if TYPE_CHECKING:
    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.rules.ranges import Range
    from explainers.rules.table import Choose, Rule

composites: Registry[Composite]


@dataclass(frozen=True)
class Assignment:
    """A rule, and the operators that get it."""

    rule: str
    """Name in the rule table ``lrp``."""
    layers: tuple[str, ...]
    """Operator classes, ``type:Convolution``, or layers, as `Network.match` has them."""
    is_first_only: bool = False
    """Whether only the first of them in execution order gets it."""
    parameters: tuple[tuple[str, float], ...] = ()
    """Names and values of the rule's parameters; the others keep their defaults."""


@dataclass(frozen=True)
class Composite:
    """Rules for the operators of any network; the first assignment that fits an operator counts.

    What no assignment names gets the table's own rule for its class: activations and unfolded
    batch norms pass, sums and average pools share by value, max-pools, reshapes, joins and margins
    route, products give all to the signal. Convolutions and matrix products have no such rule and
    need an assignment. *First* means first in execution order, where zennit takes the order in
    which modules were registered; where a model registers in the order of use they agree.
    """

    assignments: tuple[Assignment, ...]

    def with_default(self, rule: str, **parameters: float) -> Composite:
        """Return the composite with parameters for a rule wherever they are not set."""
        return Composite(
            tuple(
                replace(one, parameters=tuple(sorted((parameters | dict(one.parameters)).items())))
                if one.rule == rule
                else one
                for one in self.assignments
            )
        )

    def choose(self, network: Network) -> Choose:
        """Return the rule of every operator that relevance reaches; made once for each network.

        Raises
        ------
        LookupError
            If an assignment names a layer that the network does not have.
        NotImplementedError
            If an operator has no rule; it is named with its module path.
        """
        made = _chosen.setdefault(network, {})
        if self not in made:
            made[self] = _Rules(_rules(self, network))
        return made[self]


_chosen: WeakKeyDictionary[Network, dict[Composite, Choose]] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Rules:
    rules: dict[str, Rule]

    def __call__(self, op: Operator) -> Rule:
        return self.rules[op.name]


def _rules(composite: Composite, network: Network) -> dict[str, Rule]:
    known = ranges(network)
    assigned = _assigned(composite, network)
    reached = {network.output_name}
    rules: dict[str, Rule] = {}
    for op in reversed(network.operators[1:]):
        if op.name not in reached or isinstance(op, Constant):
            continue
        rules[op.name] = _bound(op, assigned.get(op.name), known)
        kept = signal(op, known) if isinstance(op, Multiply) else None
        sources = op.sources if kept is None else {op.inputs[kept]}
        reached |= sources & network.dependent
    return rules


def _assigned(composite: Composite, network: Network) -> dict[str, Assignment]:
    assigned: dict[str, Assignment] = {}
    for one in composite.assignments:
        names = _named(one.layers, network)
        for name in names[:1] if one.is_first_only else names:
            assigned.setdefault(name, one)
    return assigned


def _named(patterns: tuple[str, ...], network: Network) -> list[str]:
    """Return operators in execution order; a class that does not occur is no mistake."""
    kinds = [pattern.removeprefix("type:") for pattern in patterns if pattern.startswith("type:")]
    paths = tuple(pattern for pattern in patterns if not pattern.startswith("type:"))
    layers = network.match(paths) if paths else ()
    named = {network.operator(layer).name for layer in layers}
    return [
        op.name
        for op in network.operators
        if op.name in network.dependent
        and (op.name in named or any(_is_kind(op, kind) for kind in kinds))
    ]


def _is_kind(op: Operator, pattern: str) -> bool:
    return any(fnmatchcase(kind.__name__, pattern) for kind in type(op).__mro__)


def _bound(op: Operator, assignment: Assignment | None, known: dict[str, Range]) -> Rule:
    name = "default" if assignment is None else assignment.rule
    parameters = () if assignment is None else assignment.parameters
    special = f"{name}.{_fact(op, known)}"
    rule = lrp.find(op, special if special in lrp.names(type(op)) else name)
    return partial(rule, **dict(parameters)) if parameters else rule


def _fact(op: Operator, known: dict[str, Range]) -> str:
    if isinstance(op, Multiply):
        return f"signal_{signal(op, known)}"
    return "nonnegative" if all(known[name][0] >= 0 for name in op.inputs) else ""


composites = Registry("composite", (), "xpipe.composites")


def find(composite: str | Composite) -> Composite:
    """Return the composite of this name, or the composite itself.

    Raises
    ------
    LookupError
        If there is none of this name; the message names the nearest.
    """
    return composites.get(composite) if isinstance(composite, str) else composite


_LINEAR = ("type:Convolution", "type:Linear")

EPSILON_PLUS = Composite(
    (
        Assignment("z_plus", ("type:Convolution",)),
        Assignment("epsilon", ("type:Linear",)),
    )
)
"""Positive contributions in convolutions, all contributions in matrix products."""

EPSILON_PLUS_FLAT = Composite(
    (Assignment("flat", _LINEAR, is_first_only=True), *EPSILON_PLUS.assignments)
)
"""`EPSILON_PLUS`, but the first convolution or matrix product shares equally."""

composites.register("epsilon_plus")(EPSILON_PLUS)
composites.register("epsilon_plus_flat")(EPSILON_PLUS_FLAT)
