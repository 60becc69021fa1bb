"""Which lower concepts make a concept of a sample: its composition, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from explainers.concepts.composition_graph import Composition, Edge, Node
from explainers.concepts.decomposing import Decomposing, Edges
from explainers.concepts.frontier import depths, frontiers
from explainers.concepts.kinds import resolve, select
from explainers.numeric import check_whole
from explainers.operators import Convolution, Linear
from explainers.registry import suggest
from explainers.rules.accounting import Unaccounted
from explainers.rules.walking import Course
from explainers.targets import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from explainers.concepts.kinds import Concepts
    from explainers.network import Network
    from explainers.rules.table import Choose
    from explainers.trace import Trace


@dataclass(frozen=True, eq=False)
class Decomposer:
    """Decomposes a concept into concepts of lower layers (Achtibat et al. 2023, section 4.2.2).

    doi:10.1038/s42256-023-00711-8. The relevance of a concept of a layer, restricted to it, is
    carried to the next lower layers that are asked for; there the concepts that most of it arrives
    at are followed, restricted to each of them in turn, and so on. A concept that is reached from
    several others is followed once, with the sum of what arrives. What arrives at all concepts of
    the layers below sums to the relevance of the one above, but for what the input gets directly
    and what rules keep back.
    """

    layer: str
    """Of the concept that is decomposed."""
    concept: int | Tensor | None = None
    """Its number, or ``(batch,)`` of them; by default that which is most relevant in the sample."""
    layers: str | tuple[str, ...] | None = None
    """Lower layers, by name or pattern; by default all convolutions and linear layers."""
    width: tuple[int, ...] = (4, 2)
    """How many concepts are followed of each layer that a concept is reached from: of those right
    behind the first, of those behind these, and so on."""
    start: Literal["target", "activation"] = "target"
    """Whether relevance to the target is decomposed, or the concept's own activation."""
    abs_norm: bool = True
    """Whether weights are relevances divided by the sum of their amounts over the layer's concepts;
    else they are the relevances."""
    concepts: dict[str, Any] = field(default_factory=dict)
    """Layers, or patterns for their names, to the kind of their concepts; the first that fits
    counts, and channels where none does."""

    def __post_init__(self) -> None:
        _check_types(self)
        if not self.width:
            raise ValueError("got no width, expected a number for each level: width=(4, 2)")
        for number in self.width:
            check_whole("width", number)
        if self.start not in ("target", "activation"):
            raise ValueError(f"got start {self.start!r}, expected 'target' or 'activation'")

    @classmethod
    def parse(cls, given: Any) -> Decomposer:
        """Return what a mapping of the fields' names says, with lists for tuples.

        Raises
        ------
        TypeError
            If it is no such mapping, or a field has the wrong type.
        ValueError
            If a field has a value that it cannot have.
        """
        if not isinstance(given, Mapping) or "layer" not in given:
            raise TypeError(
                f"got composition={given!r}, expected a mapping that names a layer, such as "
                "{layer: layer4, concept: 3}"
            )
        names = [each.name for each in fields(cls)]
        for name in given:
            if name not in names:
                raise TypeError(f"unknown field {name!r}; {suggest(str(name), names)}")
        listed = {
            name: tuple(given[name])
            for name in ("layers", "width")
            if isinstance(given.get(name), list)
        }
        return cls(**{**given, **listed})

    def with_kinds(self, kinds: Mapping[str, Any], network: Network) -> Decomposer:
        """Return the same with kinds of concepts for layers whose kind is not given.

        Parameters
        ----------
        kinds
            As `concepts`; those of other layers are left out.
        network
            Must be a program.
        """
        asked = {*self.names(network)}
        more = {
            pattern: kind
            for pattern, kind in kinds.items()
            if pattern not in self.concepts and not asked.isdisjoint(network.match(pattern))
        }
        return replace(self, concepts={**self.concepts, **more})

    def names(self, network: Network) -> tuple[str, ...]:
        """Return the layers that are looked at, with that which is decomposed."""
        return network.match((*self._patterns(network), self.layer))

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return that there is nothing below the layer, if so."""
        top, by_operator = self._asked(network)
        if frontiers(network, by_operator)[top.operator]:
            return ()
        return (
            f"nothing is found of what makes concepts of {self.layer!r}: none of the layers that "
            "are looked at is below it",
        )

    def check(self, network: Network) -> None:
        """Refuse layers and concepts that a network does not have.

        Raises
        ------
        LookupError
            If there is no such layer.
        NotImplementedError
            If the network is opaque.
        ValueError
            If a layer has no such concepts, or none of the number asked for.
        """
        top, _ = self._asked(network)
        numbers = torch.as_tensor(() if self.concept is None else self.concept)
        if bool(((numbers < 0) | (numbers >= top.n)).any()):
            raise ValueError(
                f"got concept {numbers.tolist()!r} of layer {self.layer!r}, which has {top.n}; "
                f"choose from 0 to {top.n - 1}"
            )

    def composition(
        self, trace: Trace, choose: Choose, target: Target | None = None
    ) -> Composition:
        """Return what makes the concept in each sample of a batch.

        Parameters
        ----------
        trace
            Of the batch.
        choose
            Gives the rule of each operator.
        target
            Whose relevance is decomposed; the predicted class by default.
        """
        network = trace.network
        self.check(network)
        top, by_operator = self._asked(network)
        below = frontiers(network, by_operator)
        depth = depths(below, top.operator)
        value = trace.values[top.operator]
        arriving = value
        if self.start == "target":
            arriving = _relevance(trace, choose, target or Target(), top.operator)
        total = top.scores(arriving, value).total
        if self.concept is None:
            chosen = total.nan_to_num(nan=-torch.inf).argmax(1)
        else:
            chosen = torch.as_tensor(self.concept, device=total.device).expand(len(total))
        relevance = total.gather(1, chosen.unsqueeze(1)).squeeze(1)
        decomposing = Decomposing(trace, choose, by_operator, below, depth, self.width)
        found = decomposing.edges(top.operator, arriving, chosen, is_normed=self.abs_norm)
        tops = zip(range(len(total)), chosen.tolist(), relevance.tolist(), strict=True)
        return Composition(
            tuple(Node(row, top.layer, concept, 0, amount) for row, concept, amount in tops),
            tuple(_rows(found, by_operator, depth)),
            is_lowest=not below[top.operator],
        )

    def _asked(self, network: Network) -> tuple[Concepts, dict[str, Concepts]]:
        """Return the concepts of the layer, and of it and all layers behind it by operator."""
        known = dict(self.concepts)
        found = select((*self._patterns(network), self.layer), known, network)
        by_operator = {one.operator: one for one in found.values()}
        specs = [spec for name, spec in known.items() if self.layer in network.match(name)]
        top = resolve(specs[0] if specs else "channels", network, self.layer)
        by_operator[top.operator] = top
        return top, by_operator

    def _patterns(self, network: Network) -> tuple[str, ...]:
        if self.layers is None:
            return _weighted(network)
        return (self.layers,) if isinstance(self.layers, str) else self.layers


def _check_types(given: Decomposer) -> None:
    """Refuse fields of other types than are stated; they may come from a file."""
    concept = given.concept
    is_whole = isinstance(concept, Tensor) and not concept.is_floating_point() and concept.ndim < 2
    if concept is not None and not is_whole:
        check_whole("concept", concept, 0)
    for name, kind, expected in (
        ("layer", str, "the name of a layer"),
        ("width", tuple, "how many are followed at each level, such as [4, 2]"),
        ("abs_norm", bool, "true or false"),
        ("concepts", Mapping, "a mapping from layers to kinds, such as {layer4: tokens}"),
    ):
        if not isinstance(getattr(given, name), kind):
            raise TypeError(f"got {name}={getattr(given, name)!r}, expected {expected}")
    layers = (given.layers,) if isinstance(given.layers, str) else given.layers
    if layers is None:
        return
    if not isinstance(layers, tuple) or not all(isinstance(each, str) for each in layers):
        raise TypeError(f"got layers={layers!r}, expected names or patterns")


def _weighted(network: Network) -> tuple[str, ...]:
    return tuple(
        op.name
        for op in network.operators
        if isinstance(op, Convolution | Linear) and op.name in network.dependent
    )


def _relevance(trace: Trace, choose: Choose, target: Target, operator: str) -> Tensor:
    """Return the relevance that arrives at an operator's output; zeros where none does."""
    network = trace.network
    kept: dict[str, Tensor] = {}
    start = trace.cotangent(target) * trace.output
    course = Course(network, choose, ends=[operator])
    values = Unaccounted(trace.values)
    course.carry(values, {network.output_name: start}, {operator}, kept)
    found = kept.get(operator)
    return torch.zeros_like(trace.values[operator]) if found is None else found


def _rows(
    found: list[Edges], concepts: dict[str, Concepts], depth: dict[str, int]
) -> Iterator[Edge]:
    for edges in found:
        upper, lower = concepts[edges.upper].layer, concepts[edges.lower].layer
        columns = (edges.sample, edges.concept, edges.lower_concept, edges.relevance, edges.weight)
        for row, concept, other, relevance, weight in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            yield Edge(row, upper, concept, lower, other, depth[edges.lower], relevance, weight)
