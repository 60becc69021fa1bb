"""The rule table ``moments``: what becomes of the moments of values at each operator.

A rule is ``rule(op, inputs, form) -> Moments``: given the `Moments` of the operator's inputs in
their order, at least one of them uncertain, and the `Form` they have, it returns those of the
operator's value. It is registered under the name of the form, ``variance`` or ``factor``, or under
both::

    @moments.rule(Activation, name="variance")
    def activation(op: Activation, inputs: tuple[Moments, ...], form: Form) -> Moments: ...

Rules are differentiable by autograd in mean and spread, of any float dtype, and give the plain
value bit for bit where the spread is zero.
"""

from __future__ import annotations

from explainers.rules.table import RuleTable

INSTEAD = "a solver that samples in place of carrying moments (monte_carlo)"
"""What messages recommend; every network can be sampled."""

moments = RuleTable("moments", instead=INSTEAD)
