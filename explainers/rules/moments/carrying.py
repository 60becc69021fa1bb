"""The one loop that carries moments forward through a program."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from explainers.operators import Activation, Input, Quotient, Unary
from explainers.reading.program import last_uses
from explainers.rules.moments.activations import activations
from explainers.rules.moments.forms import Moments
from explainers.rules.moments.fused import fused
from explainers.rules.moments.products import BY_AN_UNCERTAIN_ONE
from explainers.rules.moments.refusing import refuse
from explainers.rules.moments.table import moments
from explainers.rules.sizes import is_of_sizes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.rules.moments.forms import Form


_OPERATORS: WeakKeyDictionary[Network, dict[tuple[str, frozenset[str]], tuple[Operator, ...]]] = (
    WeakKeyDictionary()
)


def carry(
    network: Network,
    mean: Tensor,
    spread: Tensor | None,
    form: Form,
    *,
    carried: Mapping[str, Tensor] | None = None,
    record: Collection[str] = (),
) -> dict[str, Moments]:
    """Return the moments of the output, given those of the input, by operator name.

    Under autograd it is differentiable in mean and spread.

    Parameters
    ----------
    network
        Must be a program of one input.
    mean
        Of the input, ``(batch, ...)``.
    spread
        As `form` has it: variances ``(batch, ...)``, or factors ``(batch * K, ...)`` with the K
        rows of a sample together; None for an input that is certain.
    form
        What the spread is.
    carried
        Of a part of a network: the values that it takes over, for the same rows; they are certain.
    record
        Names of further operators whose moments are returned.

    Raises
    ------
    NotImplementedError
        If an operator of a value that is uncertain has no rule.
    """
    first = network.operators[0].name
    given = {first: Moments(laid_out(mean), None if spread is None else laid_out(spread))}
    given |= {name: Moments(value, None) for name, value in (carried or {}).items()}
    kept = frozenset((network.output_name, *record))
    operators = _operators(network, form.kind, kept)
    last = last_uses(operators, network.output_name)
    found = given
    for op in operators:
        if op.name not in found:
            found[op.name] = _next(op, tuple(found[name] for name in op.inputs), form)
        for name in last[op.name]:
            if name not in kept:
                del found[name]
    return {name: found[name] for name in kept}


def check(network: Network, kind: str) -> None:
    """Refuse networks that are no programs of one input, or have operators without a rule.

    Raises
    ------
    NotImplementedError
        Naming the operator, its node, its module and the table.
    """
    n_inputs = sum(isinstance(op, Input) for op in network.operators)
    if n_inputs > 1:
        raise NotImplementedError(
            f"moments are carried from one input, and the network has {n_inputs}; explain one of "
            "them (the others are then given), or use sampling (monte_carlo)"
        )
    uncertain = _uncertain(network)
    for op in _operators(network, kind, frozenset((network.output_name,))):
        if op.name not in uncertain or isinstance(op, Input):
            continue
        moments.find(op, kind)
        if isinstance(op, Activation | Unary):
            activations.find(op, kind)
        if isinstance(op, Quotient) and op.inputs[1] in uncertain:
            refuse(op, kind, BY_AN_UNCERTAIN_ONE)


def _uncertain(network: Network) -> frozenset[str]:
    """Return the names of the operators whose values, not only their sizes, are uncertain."""
    found = {op.name for op in network.operators if isinstance(op, Input)}
    for op in network.operators:
        if not is_of_sizes(op) and not op.sources.isdisjoint(found):
            found.add(op.name)
    return frozenset(found)


def _operators(network: Network, kind: str, kept: frozenset[str]) -> tuple[Operator, ...]:
    """Return the operators that lead to some, as moments are carried through them."""
    of_network = _OPERATORS.setdefault(network, {})
    if (kind, kept) not in of_network:
        of_network[kind, kept] = fused(network, kind, _uncertain(network), kept)
    return of_network[kind, kept]


def _next(op: Operator, inputs: tuple[Moments, ...], form: Form) -> Moments:
    by_name = zip(op.inputs, inputs, strict=True)
    if is_of_sizes(op) or all(part.spread is None for name, part in by_name if name in op.sources):
        return Moments(op.run(*(part.mean for part in inputs)), None)
    made: Moments = moments.find(op, form.kind)(op, inputs, form)
    return made


def laid_out(value: Tensor) -> Tensor:
    """Return images channels last on the CPU, as a network takes its inputs; differentiable.

    Also with one channel, where both layouts are the same memory but for the strides.
    """
    if value.ndim != 4 or value.device.type != "cpu":
        return value
    batch, channels, height, width = value.shape
    rows = value.permute(0, 2, 3, 1).reshape(-1)
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
