"""Which rule a function of each value alone has: by the function's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from explainers.operators import Activation, Unary
from explainers.rules.moments.refusing import refuse
from explainers.rules.moments.table import moments

if TYPE_CHECKING:
    from collections.abc import Callable

    from explainers.rules.moments.forms import Form, Moments

R = TypeVar("R", bound="Callable[[Any, Moments, Form], Moments]")


class Functions:
    """Rules by a function's name, and the one that serves all others.

    ``rule(op, value, form) -> Moments`` is given the moments of the one input, which is uncertain.
    """

    def __init__(self) -> None:
        self._rules: dict[tuple[str, str], Callable[[Any, Moments, Form], Moments]] = {}

    def rule(self, *words: str, name: str) -> Callable[[R], R]:
        """Return a decorator that registers a rule for functions of these names.

        Parameters
        ----------
        words
            ``relu``, ``gelu``, ...: ``kind`` of an `Activation`, ``word`` of a `Unary`; ``*`` for
            all that have none.
        name
            Of the form, ``variance`` or ``factor``.
        """

        def enter(rule: R) -> R:
            for word in words:
                self._rules[word, name] = rule
            return rule

        return enter

    def find(self, op: Activation | Unary, name: str) -> Callable[[Any, Moments, Form], Moments]:
        """Return the rule for an operator.

        Raises
        ------
        NotImplementedError
            If there is none.
        """
        rule = self._rule(op, name)
        if rule is None:
            refuse(op, name)
        return rule

    def serves(self, op: Activation | Unary, name: str) -> bool:
        """Return whether there is a rule for an operator."""
        return self._rule(op, name) is not None

    def _rule(
        self, op: Activation | Unary, name: str
    ) -> Callable[[Any, Moments, Form], Moments] | None:
        word = op.kind if isinstance(op, Activation) else op.word
        return self._rules.get((word, name)) or self._rules.get(("*", name))


activations = Functions()


@moments.rule(Activation, Unary, name="variance")
@moments.rule(Activation, Unary, name="factor")
def by_name(op: Activation | Unary, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Ask for the rule of the function."""
    (value,) = inputs
    return activations.find(op, form.kind)(op, value, form)
