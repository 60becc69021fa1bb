"""Functions that a model computes in several steps, each value for itself: ``x * sigmoid(x)``.

Where ways of one uncertain value meet again, what comes along them is not independent. Between
that value and the meeting every step works on each value alone, so that all of them together are
one function of it, whose moments are found by `quadrature`: right to 1 % where it has a kink.
Steps that are maxima, choices or quotients of uncertain values are in no such function.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from explainers.operators import Activation, Add, Affine, Multiply, Operator, Unary
from explainers.rules.moments import quadrature
from explainers.rules.moments.activations import activations
from explainers.rules.moments.forms import Moments
from explainers.rules.moments.known import known
from explainers.rules.moments.table import moments

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor

    from explainers.network import Network
    from explainers.rules.moments.forms import Form

_JOINING = (Add, Multiply)
_ALONE = (Activation, Unary, Affine)


@dataclass(frozen=True, eq=False, kw_only=True)
class Fused(Operator):
    """Several operators as one function of the values of its first input; the others are certain.

    It has the name of the last.
    """

    steps: tuple[Operator, ...]

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the value of the last step."""
        found = dict(zip(self.inputs, inputs, strict=True))
        for op in self.steps:
            found[op.name] = op.run(*(found[name] for name in op.inputs))
        return found[self.name]


@dataclass(frozen=True)
class _Given:
    """A fused operator whose certain inputs are given."""

    op: Fused
    certain: tuple[Tensor, ...]

    def run(self, *inputs: Tensor) -> Tensor:
        return self.op.run(*inputs, *self.certain)


def fused(
    network: Network, kind: str, uncertain: Collection[str], kept: Collection[str]
) -> tuple[Operator, ...]:
    """Return the operators that lead to some, with one for all steps of such a function.

    Parameters
    ----------
    network
        A program.
    kind
        Of the form.
    uncertain
        Names of the operators whose values are.
    kept
        Names of operators whose values are wanted.
    """
    steps: dict[str, tuple[str, tuple[Operator, ...]]] = {}
    meetings: dict[str, Fused] = {}
    for op in network.operators:
        names = [name for name in dict.fromkeys(op.inputs) if name in uncertain]
        if op.name not in uncertain or not names or not _is_function(op, kind):
            continue
        ways = [steps.get(name, (name, ())) for name in names]
        (root, *others) = {root for root, _ in ways}
        if others or not _is_shaped_alike(network, op, root):
            continue
        joined = tuple(dict.fromkeys(step for _, way in ways for step in way))
        steps[op.name] = root, (*joined, op)
        # factors add up what comes along several ways as it is
        if len(names) > 1 and (kind == "variance" or isinstance(op, Multiply)):
            meetings[op.name] = _one(op, root, (*joined, op))
    wanted, found = set(kept), list[Operator]()
    for op in reversed(network.operators):
        if op.name in wanted:
            found.append(meetings.get(op.name, op))
            wanted.update(found[-1].inputs)
    return tuple(reversed(found))


def _one(last: Operator, root: str, steps: tuple[Operator, ...]) -> Fused:
    made = {op.name for op in steps} | {root}
    certain = dict.fromkeys(name for op in steps for name in op.inputs if name not in made)
    return Fused(
        name=last.name,
        module_path=last.module_path,
        inputs=(root, *certain),
        batch_axis=last.batch_axis,
        batch_outer=last.batch_outer,
        steps=steps,
    )


def _is_function(op: Operator, kind: str) -> bool:
    if isinstance(op, Activation | Unary):
        return len(op.inputs) == 1 and activations.serves(op, kind)
    return isinstance(op, _JOINING + _ALONE)


def _is_shaped_alike(network: Network, op: Operator, root: str) -> bool:
    layout = network.layout(op.name)
    return layout is not None and layout == network.layout(root)


@moments.rule(Fused, name="variance")
def computed(op: Fused, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Take the moments behind the function."""
    value, function = _prepared(op, inputs, form)
    compute = partial(quadrature.of_variance, function)
    return Moments(*known(compute, value.mean, value.uncertainty))


@moments.rule(Fused, name="factor")
def computed_rows(op: Fused, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Multiply rows by the expected slope."""
    value, function = _prepared(op, inputs, form)
    source, rows = op.inputs[0], value.uncertainty
    compute = partial(quadrature.of_factor, function)
    mean, gain = known(compute, value.mean, form.variance(source, rows))
    return Moments(mean, form.spread_over(source, gain, rows))


def _prepared(op: Fused, inputs: tuple[Moments, ...], form: Form) -> tuple[Moments, _Given]:
    for step in op.steps:
        quadrature.check(step, form)
    value, *certain = inputs
    return value, _Given(op, tuple(one.mean for one in certain))
