"""Conditional relevance: what reaches the input by way of some concepts alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from explainers.concepts.conditions import Condition
from explainers.concepts.kinds import Concepts, given_kinds, resolve
from explainers.concepts.legs import check_order, legs, whole_way
from explainers.concepts.recording import Conditional, Found, Records
from explainers.concepts.restricting import restrictions
from explainers.concepts.starting import start_of
from explainers.reference import at_inputs
from explainers.rules.repeated import Repeated
from explainers.rules.walking import Course
from explainers.sampling.chunks import pieces, rows_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from explainers.concepts.conditions import ConditionLike
    from explainers.concepts.legs import Leg
    from explainers.concepts.restricting import Restriction
    from explainers.concepts.starting import Initial
    from explainers.network import Network
    from explainers.rules.table import Choose
    from explainers.targets import Target
    from explainers.trace import Trace

ConceptsLike: TypeAlias = "Mapping[str, Any]"
"""Layer, or a pattern for layers, to a kind of concepts or to `Concepts`."""

Pairing: TypeAlias = Literal["each", "zip"]


def conditional(
    trace: Trace,
    target: Target,
    conditions: Sequence[ConditionLike],
    choose: Choose,
    *,
    concepts: ConceptsLike | None = None,
    exclude_parallel: bool = True,
    start: str | None = None,
    initial: Initial = None,
    pairing: Pairing = "each",
    record: Collection[str] = (),
    score: Collection[str] = (),
) -> Conditional:
    r"""Return what conditions leave of the relevance of every sample.

    Concept relevance propagation (Achtibat et al. 2023, doi:10.1038/s42256-023-00711-8,
    arXiv:2206.03208): relevance starts at the output, as LRP's does, and wherever it meets a layer
    :math:`l` that a condition :math:`\theta` names, only that of chosen concepts goes on,
    :math:`R^l_j(x | \theta) \leftarrow \sum_{c \in \theta_l} \delta_{jc} R^l_j(x | \theta)`.

    Parameters
    ----------
    trace
        Of the batch; its values are computed once for all conditions.
    target
        What is explained where a condition does not say.
    conditions
        See `Condition.parse`.
    choose
        Which rule an operator gets: ``composite.choose(trace.network)``.
    concepts
        Layers, or patterns for them, to their concepts, see `explainers.concepts.kinds`; the first
        that names a layer counts, and channels where none does.
    exclude_parallel
        Whether relevance that goes around a named layer is dropped. Layers side by side exclude
        nothing of each other; see `explainers.concepts.legs`. If not, it goes on as it is.
    start
        Layer where relevance starts in place of the output: with its activation.
    initial
        What it starts with in place of the activation, or of the logits: a number, a tensor shaped
        as the value, or a callable that is given the value. Logits are then weighted by what is
        explained.
    pairing
        ``each``: every condition for every sample; ``zip``: one condition for each, in order.
    record
        Layers whose activations and relevances are returned.
    score
        Layers the scores of whose concepts are returned.

    Raises
    ------
    LookupError
        If a layer does not exist.
    ValueError
        If a condition has concepts, positions or classes that there are not, names a layer after
        the start, says what of the output is explained although relevance starts elsewhere, or
        conditions are not as many as samples that they are paired with.
    """
    trace = at_inputs(trace)
    asked = tuple(Condition.parse(each) for each in conditions)
    held = resolved(trace.network, asked, concepts, start=start, more=score)
    with torch.no_grad():
        rows = _Rows.paired(trace.n_rows, len(asked), pairing)
        origin = trace.network.output_name if start is None else trace.network.operator(start).name
        beginning = start_of(trace, target, asked, start=start, initial=initial)
        restricting = restrictions(asked, {name: held[name] for name in _named(asked)})
        records = Records(trace.network, {*record}, {name: held[name] for name in score})
        found = Found(trace, rows.shape, records)
        for chosen, way in _ways(trace.network, asked, held, origin, exclude_parallel):
            walks = _Walks(trace.network, choose, way, restricting, records)
            for piece in rows.pieces(chosen, rows_at_once(trace.inputs)):
                values = Repeated.of(trace, rows.samples[piece])
                starting = beginning(values, rows.samples[piece], rows.conditions[piece])
                arrived, left = walks.carry(values, {origin: starting}, rows.conditions[piece])
                found.enter(piece, values, arrived, left)
        return found.result()


def resolved(
    network: Network,
    conditions: Sequence[Condition],
    concepts: ConceptsLike | None = None,
    *,
    start: str | None = None,
    more: Collection[str] = (),
) -> dict[str, Concepts]:
    """Return the concepts of named layers, and of further ones, after checking the conditions.

    Raises
    ------
    LookupError
        If a layer does not exist.
    ValueError
        As `conditional` says.
    """
    named = _named(conditions)
    specs: dict[str, Any] = dict.fromkeys((*named, *more), "channels")
    for pattern in concepts or {}:
        if not {*specs} & {*network.match(pattern)}:
            raise LookupError(
                f"concepts are given for {pattern!r}, which is none of the layers that conditions "
                f"name, nor ranked: {', '.join(specs) or 'there are none'}; name it in a condition"
            )
    given = given_kinds(concepts or {}, network)
    specs |= {layer: spec for layer, spec in given.items() if layer in specs}
    held = {layer: _concepts(spec, network, layer, named) for layer, spec in specs.items()}
    for condition in conditions:
        condition.check_output(network.n_outputs)
        if start is not None and condition.has_output:
            raise ValueError(
                f"conditions say what of the output is explained, but relevance starts at layer "
                f"{start!r}; leave out y, or the start"
            )
        for layer, chosen in condition.layers.items():
            chosen.check(held[layer])
    origin = network.output_name if start is None else network.operator(start).name
    check_order(network, origin, {layer: held[layer].operator for layer in named})
    return held


def _concepts(spec: Any, network: Network, layer: str, named: Collection[str]) -> Concepts:
    if isinstance(spec, Concepts):
        return spec
    try:
        network.operator(layer)
    except LookupError as error:
        where = "conditions: " if layer in named else ""
        raise LookupError(f"{where}{error.args[0]}") from error
    return resolve(spec, network, layer)


def _named(conditions: Sequence[Condition]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer for each in conditions for layer in each.layers))


def _ways(
    network: Network,
    conditions: Sequence[Condition],
    held: Mapping[str, Concepts],
    origin: str,
    exclude_parallel: bool,
) -> Iterator[tuple[Tensor, tuple[Leg, ...]]]:
    """Yield which conditions go the same way, ``(conditions,)``, and the way."""
    if not exclude_parallel:
        yield torch.ones(len(conditions), dtype=torch.bool), whole_way(network, origin)
        return
    named = [frozenset(held[layer].operator for layer in each.layers) for each in conditions]
    for operators in dict.fromkeys(named):
        chosen = torch.tensor([other == operators for other in named])
        yield chosen, legs(network, origin, operators)


@dataclass(frozen=True)
class _Rows:
    """Pairs of sample and condition, in the caller's order."""

    shape: tuple[int, ...]
    samples: Tensor
    """``(rows,)``, on the host."""
    conditions: Tensor
    """``(rows,)``, on the host."""

    @classmethod
    def paired(cls, n_samples: int, n_conditions: int, pairing: Pairing) -> _Rows:
        samples, conditions = torch.arange(n_samples), torch.arange(n_conditions)
        if pairing == "zip":
            if n_samples != n_conditions:
                raise ValueError(
                    f"got {n_conditions} conditions for {n_samples} samples, expected one for "
                    "each; pairing='each' gives every sample every condition"
                )
            return cls((n_samples,), samples, conditions)
        if pairing != "each":
            raise ValueError(f"got pairing={pairing!r}, expected 'each' or 'zip'")
        return cls(
            (n_samples, n_conditions),
            samples.repeat_interleave(n_conditions),
            conditions.repeat(n_samples),
        )

    def pieces(self, chosen: Tensor, limit: int) -> Iterator[Tensor]:
        """Yield the rows that have chosen conditions, some at a time."""
        rows = chosen[self.conditions].nonzero()[:, 0]
        for piece in pieces(len(rows), limit):
            yield rows[piece]


@dataclass(frozen=True)
class _Walks:
    """Carries relevance of some rows along a way."""

    network: Network
    choose: Choose
    way: tuple[Leg, ...]
    restricting: Mapping[str, list[Restriction]]
    records: Records

    def carry(
        self, values: Repeated, starts: Mapping[str, Tensor], conditions: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the relevance that arrives at operators, and what of it is left to go on."""
        arrived, left = dict(starts), dict[str, Tensor]()
        wanted, recorded = self.records.operators, {*self.records.recorded.values()}

        def mask(operator: str) -> Callable[[Tensor], Tensor]:
            def masked(relevance: Tensor) -> Tensor:
                for one in self.restricting[operator]:
                    relevance = one.masked(self.network, relevance, values, conditions)
                if operator in recorded:
                    left[operator] = relevance
                return relevance

            return masked

        for leg in self.way:
            masked = leg.sources if len(self.way) > 1 else self.restricting
            course = Course(
                self.network,
                self.choose,
                ends=leg.ends,
                masks={name: mask(name) for name in masked if name in self.restricting},
                release=values.release,
            )
            there = {name: arrived[name] for name in leg.sources if name in arrived}
            kept: dict[str, Tensor] = {}
            course.carry(values, there, ({*leg.ends} | wanted) - {*leg.sources}, kept)
            for name, part in kept.items():
                arrived[name] = arrived[name] + part if name in arrived else part
        return arrived, left
