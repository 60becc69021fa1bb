"""Composites: which LRP rule each operator of a network gets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from explainers.composites.assignment import (
    Assignment,
    Parameters,
    check_defaults,
    parameters_of,
    values,
)
from explainers.operators import Constant, Convolution, Input, Linear
from explainers.rules.gates import receiving, signals
from explainers.rules.lrp import lrp
from explainers.rules.lrp.linear import not_passing
from explainers.rules.ranges import ranges
from explainers.rules.walking import leading_to

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.rules.ranges import Range
    from explainers.rules.table import Choose, Rule


@dataclass(frozen=True)
class Composite:
    """Rules for the operators of any network; the first assignment that fits an operator counts.

    What no assignment names gets the table's own rule for its class: activations and unfolded
    batch norms pass, sums and average pools share by value, max-pools, reshapes, joins and margins
    route, norms of the sample share with their normaliser held fixed, attention follows its values,
    products give all to the signal that a gate lets pass, or half to each of two. Convolutions and
    linear maps have no such rule and need an assignment. *First* means first in execution order,
    where zennit takes the order in which modules were registered; where a model registers in the
    order of use they agree.

    A network that was cut (``Network.root``) is given the rules that its operators have in the
    whole network: the first layer behind a cut is not the first.
    """

    assignments: tuple[Assignment, ...]
    defaults: Parameters = ()
    """Parameters of every rule that has them, wherever its assignment does not set them."""

    def __post_init__(self) -> None:
        check_defaults(dict(self.defaults))

    def with_defaults(self, **parameters: Any) -> Composite:
        """Return the composite with these parameters as defaults; its own are replaced."""
        return replace(self, defaults=values(dict(self.defaults) | parameters))

    def after(self, *assignments: Assignment) -> Composite:
        """Return the composite with assignments that count before its own."""
        return replace(self, assignments=(*assignments, *self.assignments))

    def choose(self, network: Network, ends: Iterable[str] | None = None) -> Choose:
        """Return the rule of every operator that relevance reaches; made once for each network.

        Parameters
        ----------
        network
            Must be a program.
        ends
            Operators at whose values a `Course` ends, so that none before them needs a rule; by
            default the network's input.

        Raises
        ------
        LookupError
            If an assignment names a layer that the network does not have.
        NotImplementedError
            If an operator has no rule, it is named with its module path; and without `ends`, if the
            network has several inputs.
        TypeError
            If an assignment gives a rule parameters that it does not have for an operator.
        ValueError
            If a layer that changes the shape of values is to pass relevance.
        """
        return self._chosen(network, ends)

    def rules(self, network: Network, ends: Iterable[str] | None = None) -> dict[str, str]:
        """Return the name of the rule of every operator that has one in `choose`, in its order."""
        return {op: name for op, (name, _) in self._chosen(network, ends).rules.items()}

    def lossy(self, network: Network, ends: Iterable[str] | None = None) -> dict[str, str]:
        """Return, of these, the rules that cannot conserve relevance whatever the input is.

        What they drop or multiply is accounted for as ``lost``.
        """
        operators = {op.name: op for op in network.operators}
        return {
            op: name
            for op, name in self.rules(network, ends).items()
            if not lrp.conserves(operators[op], name)
        }

    def _chosen(self, network: Network, ends: Iterable[str] | None) -> _Rules:
        key = self, None if ends is None else frozenset(ends)
        made = _made.setdefault(network, {})
        if key not in made:
            made[key] = _Rules(_rules(self, network, key[1]))
        return made[key]


@dataclass(frozen=True)
class _Rules:
    rules: dict[str, tuple[str, Rule]]

    def __call__(self, op: Operator) -> Rule:
        return self.rules[op.name][1]


_Key: TypeAlias = "tuple[Composite, frozenset[str] | None]"

_made: WeakKeyDictionary[Network, dict[_Key, _Rules]] = WeakKeyDictionary()


def _rules(
    composite: Composite, network: Network, ends: frozenset[str] | None
) -> dict[str, tuple[str, Rule]]:
    whole = network.root
    known = ranges(network)
    gated = signals(network, known) | (signals(whole) if whole is not network else {})
    kinds = {op.name: type(op) for op in whole.operators}
    assigned = _assigned(composite, whole)
    defaults = dict(composite.defaults)
    reached = {network.output_name}
    rules: dict[str, tuple[str, Rule]] = {}
    for op in _on_the_way(network, ends):
        if op.name not in reached:
            continue
        if isinstance(op, Input):
            raise _of_one_input(network)
        # where a cut leaves a norm of a convolution that had taken it in, it has that one's name
        assignment = assigned.get(op.name) if type(op) is kinds.get(op.name) else None
        rule = "default" if assignment is None else assignment.rule
        name = _name(op, rule, known, gated.get(op.name))
        _check_shapes(network, op, name)
        rules[op.name] = name, _bound(op, name, assignment, defaults)
        kept = gated if ".signal_" in name else {}
        reached |= (op.sources if rule == "gradient" else receiving(op, kept)) & network.dependent
    return dict(reversed(rules.items()))


def _on_the_way(network: Network, ends: frozenset[str] | None) -> Iterator[Operator]:
    """Yield, last first, the operators that may have to hand relevance on."""
    leading = None if ends is None else leading_to(network, ends)
    for op in reversed(network.operators[1:]):
        if isinstance(op, Constant) or (leading is not None and op.sources.isdisjoint(leading)):
            continue
        yield op


def _of_one_input(network: Network) -> NotImplementedError:
    names = ", ".join(op.name for op in network.operators if isinstance(op, Input))
    return NotImplementedError(
        f"LRP explains networks of one input, got the inputs {names}; use {lrp.instead}, or make "
        "the others part of the model"
    )


def _check_shapes(network: Network, op: Operator, name: str) -> None:
    """Refuse to pass relevance where a layer changes the shape."""
    if name != "pass" or not isinstance(op, Convolution | Linear):
        return
    given, made = network.layout(op.inputs[0]), network.layout(op.name)
    if given is not None and made is not None and given.shape != made.shape:
        raise not_passing(op, given.shape, made.shape)


def _assigned(composite: Composite, network: Network) -> dict[str, Assignment]:
    assigned: dict[str, Assignment] = {}
    for one in composite.assignments:
        for name in one.names(network):
            assigned.setdefault(name, one)
    return assigned


def _bound(
    op: Operator, name: str, assignment: Assignment | None, defaults: dict[str, Any]
) -> Rule:
    rule = lrp.find(op, name)
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


def _name(op: Operator, rule: str, known: dict[str, Range], signal: int | None) -> str:
    """Return the name of the rule's variant for what is known of the operator, if it has one."""
    if signal is not None:
        special = f"{rule}.signal_{signal}"
    else:
        is_nonnegative = all(known[name][0] >= 0 for name in op.inputs)
        special = f"{rule}.nonnegative" if is_nonnegative else rule
    return special if special in lrp.names(type(op)) else rule
