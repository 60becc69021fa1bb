"""Assignments: a rule with its parameters, and the operators that get it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from explainers import operators
from explainers.registry import suggest
from explainers.rules.lrp import lrp
from explainers.rules.lrp.parameters import check_common

if TYPE_CHECKING:
    from explainers.network import Network
    from explainers.operators import Operator

Parameters = tuple[tuple[str, Any], ...]
"""Names and values, sorted by name; a value, so that composites can be compared and pickled."""


@dataclass(frozen=True)
class Assignment:
    """A rule, and the operators that get it.

    Raises
    ------
    LookupError
        If the rule table ``lrp`` has no such rule.
    TypeError
        If the rule has no such parameter.
    ValueError
        If there is no such position.
    """

    rule: str
    """Name in the rule table ``lrp``."""
    layers: tuple[str, ...]
    """Operator classes, ``type:Convolution``, or layers, as `Network.match` has them."""
    position: Literal["all", "first", "last"] | int = "all"
    """Which of them, in execution order: all, the first, the last, or all up to and including the
    one of this index, counted from 0."""
    parameters: Parameters = ()
    """Names and values of the rule's parameters; the others keep their defaults."""

    def __post_init__(self) -> None:
        check_rule(self.rule, dict(self.parameters))
        is_index = isinstance(self.position, int) and not isinstance(self.position, bool)
        if self.position not in ("all", "first", "last") and not is_index:
            raise ValueError(
                f"got position {self.position!r}, expected 'all', 'first', 'last' or an index"
            )
        if isinstance(self.position, int) and self.position < 0:
            raise ValueError(f"got index {self.position}, expected at least 0")

    @classmethod
    def written(cls, layers: str, rule: str | Mapping[str, Any]) -> Assignment:
        """Return the assignment that a run file writes as ``layers: rule``.

        Parameters
        ----------
        layers
            A layer's name, a pattern for names, or ``type:Convolution``.
        rule
            Name of a rule, or a mapping with its name as `rule` and its parameters.
        """
        if isinstance(rule, str):
            return cls(rule, (layers,))
        given = dict(rule)
        name = given.pop("rule", None)
        if not isinstance(name, str):
            raise ValueError(
                f"got {dict(rule)!r} for the layers {layers!r}, expected the name of a rule, or a "
                "mapping such as {rule: gamma, gamma: 0.1}"
            )
        return cls(name, (layers,), parameters=values(given))

    def names(self, network: Network) -> list[str]:
        """Return its operators in execution order; a class that does not occur is no mistake.

        Raises
        ------
        LookupError
            If a layer is named that the network does not have, or a class that there is not.
        """
        kinds = [name.removeprefix("type:") for name in self.layers if name.startswith("type:")]
        _check_kinds(kinds, network)
        paths = tuple(name for name in self.layers if not name.startswith("type:"))
        layers = network.match(paths) if paths else ()
        named = {network.operator(layer).name for layer in layers}
        found = [
            op.name
            for op in network.operators
            if op.name in network.dependent
            and (op.name in named or any(_is_kind(op, kind) for kind in kinds))
        ]
        if isinstance(self.position, int):
            return found[: self.position + 1]
        return {"all": found, "first": found[:1], "last": found[-1:]}[self.position]


def check_rule(rule: str, parameters: Mapping[str, Any]) -> None:
    """Refuse a rule that is not in the table ``lrp``, or parameters that it does not have.

    Raises
    ------
    LookupError
        If there is no such rule; the message names the nearest.
    TypeError
        If it has no such parameter; the message names the nearest.
    ValueError
        If a value is not legal.
    """
    functions = lrp.functions()
    if rule not in functions:
        known = [name for name in functions if "." not in name and name != "default"]
        raise LookupError(f"unknown rule {rule!r}; {suggest(rule, known)}")
    accepted = {name for function in functions[rule] for name in parameters_of(function)}
    for name in parameters:
        if name not in accepted:
            hint = suggest(name, sorted(accepted)) if accepted else "it takes none"
            raise TypeError(f"rule {rule!r} has no parameter {name!r}; {hint}")
    missing = set.intersection(*(_required(function) for function in functions[rule]))
    if missing - parameters.keys():
        raise TypeError(f"rule {rule!r} needs {' and '.join(sorted(missing, reverse=True))}")
    lrp.check_values(rule, parameters)


def check_defaults(defaults: Mapping[str, Any]) -> None:
    """Refuse parameters that no rule has, or whose values have no meaning.

    Raises
    ------
    TypeError, ValueError
        If there is such a one.
    """
    rules = [function for functions in lrp.functions().values() for function in functions]
    known = sorted({name for function in rules for name in parameters_of(function)})
    for name in defaults:
        if name not in known:
            raise TypeError(f"no rule has a parameter {name!r}; {suggest(name, known)}")
    common = {"epsilon", "stabiliser", "zero_params"}
    check_common(**{name: given for name, given in defaults.items() if name in common})


def parameters_of(function: Any) -> tuple[str, ...]:
    """Return the names of a rule's parameters: what it takes after operator, relevance, values."""
    return tuple(inspect.signature(function).parameters)[3:]


def _required(function: Any) -> set[str]:
    parameters = list(inspect.signature(function).parameters.values())[3:]
    return {one.name for one in parameters if one.default is one.empty}


def values(parameters: Mapping[str, Any]) -> Parameters:
    """Return parameters as a value: sorted, sequences as tuples, tensors as nested tuples."""
    return tuple(sorted((name, _value(given)) for name, given in parameters.items()))


def _value(given: Any) -> Any:
    if isinstance(given, Tensor):
        given = given.tolist()
    if isinstance(given, Mapping):
        return values(given)
    return tuple(_value(one) for one in given) if isinstance(given, list | tuple) else given


def _is_kind(op: Operator, pattern: str) -> bool:
    return any(fnmatchcase(kind.__name__, pattern) for kind in type(op).__mro__)


def _check_kinds(kinds: list[str], network: Network) -> None:
    for kind in kinds:
        is_known = any(fnmatchcase(name, kind) for name in operators.__all__)
        if not is_known and not any(_is_kind(op, kind) for op in network.operators):
            hint = suggest(kind, operators.__all__)
            raise LookupError(f"unknown operator class {kind!r} in 'type:{kind}'; {hint}")
