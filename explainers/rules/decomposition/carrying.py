"""The one loop that carries the parts of values forward through a program."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from explainers.operators import (
    Add,
    Concat,
    Convolution,
    Input,
    Linear,
    Operator,
    Pad,
    Recurrent,
    Selection,
)
from explainers.reading.program import last_uses
from explainers.rules.decomposition.defined import check_defined
from explainers.rules.decomposition.parts import CONSTANT, Parts
from explainers.rules.decomposition.pooled import Pooled, pooled
from explainers.rules.decomposition.streams import Streams
from explainers.rules.decomposition.table import decomposition
from explainers.rules.sizes import is_of_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from explainers.network import Network


_MAKING = Add | Convolution | Linear | Pooled
"""Operators behind which a relevant part is in memory of its own."""

_PARTIAL = Concat | Pad | Recurrent | Selection
"""Operators whose rules leave something irrelevant of a value whose inputs are all relevant, or
round it in another way."""


def carry(
    network: Network,
    values: Mapping[str, Tensor],
    relevant: Tensor,
    rows: Tensor,
    *,
    irrelevant: Tensor | None = None,
    output_bias: bool = True,
) -> Parts:
    """Return the parts of the output, given those of the input.

    Parameters
    ----------
    network
        A program; its first input is split, others are certain.
    values
        Of all operators for the samples.
    relevant
        Part of the input, ``(rows, ...)``.
    rows
        int64 ``(rows,)``, ascending: of each row its sample.
    irrelevant
        The other part, ``(rows, ...)``: both are then carried, by themselves. None: the irrelevant
        part is what is left of the values, and is not carried.
    output_bias
        Whether the parts of the output share the bias of a linear map that is the last operator;
        if not, neither gets any of it.

    Raises
    ------
    NotImplementedError
        If an operator of a value that is split has no rule.
    """
    is_strict = irrelevant is not None
    streams = Streams(network, values, rows, is_strict=is_strict, has_output_bias=output_bias)
    operators = network.operators if is_strict else pooled(network)
    start = operators[0].name
    given = relevant if is_strict else _with_samples(relevant, values[start], streams)
    streams.enter(start, Parts(given, irrelevant))
    last = last_uses(operators, network.output_name)
    fresh = frozenset[str]() if is_strict else _fresh(operators)
    with torch.no_grad():
        for op in operators:
            streams.is_spare = op.inputs == last[op.name] and fresh.issuperset(op.inputs)
            if op.name not in streams.parts_of:
                streams.enter(op.name, _next(op, streams))
            for name in last[op.name]:
                streams.drop(name)
    found = streams.parts_of[network.output_name]
    return found if is_strict else Parts(found.of_rows[: streams.n_masks])


def check(network: Network) -> None:
    """Refuse operators without a rule, or whose parts are not defined.

    Raises
    ------
    NotImplementedError
        Naming the operator, its node, its module and the table; or why the network is no program.
    """
    dependent = network.dependent  # first, as it says why a network is no program
    split = {network.operators[0].name}
    for op in network.operators[1:]:
        if op.name not in dependent or is_of_sizes(op):
            continue
        if not op.sources.isdisjoint(split):
            split.add(op.name)
            decomposition.find(op)
            check_defined(op, network, split)


def _fresh(operators: Sequence[Operator]) -> frozenset[str]:
    """Return the operators whose relevant part nothing but its one reader can see."""
    n_readers = Counter(name for op in operators for name in op.inputs)
    return frozenset(
        op.name for op in operators if isinstance(op, _MAKING) and n_readers[op.name] == 1
    )


def _next(op: Operator, streams: Streams) -> Parts:
    inputs = tuple(streams.parts_of[name] for name in op.inputs)
    by_name = zip(op.inputs, inputs, strict=True)
    is_certain = not any(part.is_split for name, part in by_name if name in op.sources)
    if isinstance(op, Input) or is_of_sizes(op) or is_certain:
        return CONSTANT
    made: Parts = decomposition.find(op)(op, inputs, streams)
    if isinstance(op, _PARTIAL) and not streams.is_strict:
        streams.settle(op, made.of_rows)
    return made


def _with_samples(relevant: Tensor, values: Tensor, streams: Streams) -> Tensor:
    """Return the relevant parts of the input, and behind them those of whole samples."""
    made = torch.empty_strided(
        (streams.n_rows, *relevant.shape[1:]),
        values.stride(),
        dtype=relevant.dtype,
        device=relevant.device,
    )
    made[: streams.n_masks] = relevant
    made[streams.n_masks :] = values.index_select(0, streams.samples)
    return made
