"""The rule table ``decomposition``: how each operator splits its value in two parts.

A rule is ``rule(op, inputs, streams) -> Parts``: given the `Parts` of the operator's inputs in
their order, at least one of them split, it returns those of the operator's value::

    @decomposition.rule(AveragePool)
    def averaged(op: AveragePool, inputs: tuple[Parts, ...], streams: Streams) -> Parts: ...

The two parts of a value sum to it. `Streams` says what the values are, and which part is carried.
"""

from __future__ import annotations

from explainers.rules.table import RuleTable

INSTEAD = "a method that needs outputs alone (occlusion, shapley_value_sampling)"
"""What messages recommend; every network can be asked for outputs."""

decomposition = RuleTable("decomposition", instead=INSTEAD)
