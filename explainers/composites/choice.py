"""Composites: which LRP rule each operator of a network gets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from explainers.composites.assignment import Assignment, Parameters, parameters_of, values
from explainers.operators import Constant, Multiply
from explainers.rules.lrp import lrp
from explainers.rules.ranges import ranges, signal

if TYPE_CHECKING:
    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.rules.ranges import Range
    from explainers.rules.table import Choose, Rule


@dataclass(frozen=True)
class Composite:
    """Rules for the operators of any network; the first assignment that fits an operator counts.

    What no assignment names gets the table's own rule for its class: activations and unfolded
    batch norms pass, sums and average pools share by value, max-pools, reshapes, joins and margins
    route, products give all to the signal. Convolutions and matrix products have no such rule and
    need an assignment. *First* means first in execution order, where zennit takes the order in
    which modules were registered; where a model registers in the order of use they agree.

    A network that was cut (``Network.root``) is given the rules that its operators have in the
    whole network: the first layer behind a cut is not the first.
    """

    assignments: tuple[Assignment, ...]
    defaults: Parameters = ()
    """Parameters of every rule that has them, wherever its assignment does not set them."""

    def with_defaults(self, **parameters: Any) -> Composite:
        """Return the composite with these parameters as defaults; its own are replaced."""
        return replace(self, defaults=values(dict(self.defaults) | parameters))

    def after(self, *assignments: Assignment) -> Composite:
        """Return the composite with assignments that count before its own."""
        return replace(self, assignments=(*assignments, *self.assignments))

    def choose(self, network: Network) -> Choose:
        """Return the rule of every operator that relevance reaches; made once for each network.

        Raises
        ------
        LookupError
            If an assignment names a layer that the network does not have.
        NotImplementedError
            If an operator has no rule; it is named with its module path.
        TypeError
            If an assignment gives a rule parameters that it does not have for an operator.
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
    assigned = _assigned(composite, getattr(network, "root", None) or network)
    reached = {network.output_name}
    rules: dict[str, Rule] = {}
    for op in reversed(network.operators[1:]):
        if op.name not in reached or isinstance(op, Constant):
            continue
        rules[op.name] = _bound(op, assigned.get(op.name), known, dict(composite.defaults))
        kept = signal(op, known) if isinstance(op, Multiply) else None
        sources = op.sources if kept is None else {op.inputs[kept]}
        reached |= sources & network.dependent
    return rules


def _assigned(composite: Composite, network: Network) -> dict[str, Assignment]:
    assigned: dict[str, Assignment] = {}
    for one in composite.assignments:
        for name in one.names(network):
            assigned.setdefault(name, one)
    return assigned


def _bound(
    op: Operator, assignment: Assignment | None, known: dict[str, Range], defaults: dict[str, Any]
) -> Rule:
    name = "default" if assignment is None else assignment.rule
    special = f"{name}.{_fact(op, known)}"
    rule = lrp.find(op, special if special in lrp.names(type(op)) else name)
    accepted = parameters_of(rule)
    given = {} if assignment is None else dict(assignment.parameters)
    for parameter in given:
        if parameter not in accepted:
            raise TypeError(
                f"rule {name!r} of the operator {op.name!r} has no parameter {parameter!r}; "
                f"it has: {', '.join(accepted) or 'none'}"
            )
    parameters = {key: value for key, value in defaults.items() if key in accepted} | given
    return partial(rule, **parameters) if parameters else rule


def _fact(op: Operator, known: dict[str, Range]) -> str:
    if isinstance(op, Multiply):
        return f"signal_{signal(op, known)}"
    return "nonnegative" if all(known[name][0] >= 0 for name in op.inputs) else ""
