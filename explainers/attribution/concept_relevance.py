"""Concept relevance propagation: relevance by way of some concepts alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from explainers import numeric
from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.composites.composed import Composed
from explainers.concepts.composition import Decomposer
from explainers.concepts.conditional import conditional, resolved
from explainers.concepts.conditions import CONDITION, parsed
from explainers.concepts.kinds import given_kinds, select
from explainers.concepts.kinds.form import form_of
from explainers.concepts.ranking import ranked
from explainers.concepts.starting import check_initial

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from explainers.concepts.conditions import Condition
    from explainers.concepts.recording import Conditional
    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace


@register("concept_relevance")
@dataclass(frozen=True)
class ConceptRelevance(Composed, Attribution):
    r"""Relevance by way of chosen concepts (Achtibat et al. 2023), zennit-crp's method.

    doi:10.1038/s42256-023-00711-8, arXiv:2206.03208. LRP hands the target's output back from layer
    to layer; in each layer that a condition names, only the relevance of the chosen concepts goes
    on: :math:`R^l_j \leftarrow \sum_{c \in \theta_l} \delta_{jc} R^l_j`. Along the depth all of a
    condition holds, within a layer and of layers side by side the sum of what is chosen. Where the
    concepts of a layer are parted among conditions, their maps sum to the map of the condition
    that lets the layer pass whole.

    Without a condition it is `lrp`. Of several, each sample has a map for each, along a dimension
    ``condition`` in front of the input's.
    """

    cost = Cost(forward=2, backward=1)
    requires = frozenset({"lrp"})

    conditions: dict[str, Any] | list[dict[str, Any]] = field(default_factory=dict)
    """What is kept, or a list of such: layers to concepts, and `y` to what is explained:
    `{layer4.1.conv2: [3, 7], y: 281}`. Concepts are a number, a list of them (`[]` keeps nothing
    of the layer), `all` (the layer has to be passed), or numbers to positions for single neurons,
    `{3: [0, 7]}`, the position counted along the rows of the concept's map. Under `y` stand a
    class, a list of them, `label`, `predicted` or `runner_up`; without it the run's target is
    explained."""
    concepts: dict[str, Any] = field(default_factory=dict)
    """Layers that conditions name, that are ranked or decomposed, or patterns for them, to the kind
    of their concepts: `channels`, `heads`, `tokens`, or `{directions: matrix.npy}`; the first that
    fits counts, and channels where none does."""
    exclude_parallel: bool = True
    """Whether relevance that goes around the layers of a condition is dropped; if not, it goes on
    as it is: through the skip connection of a residual block, say."""
    start_layer: str | None = None
    """Where relevance starts in place of the output: with the layer's activation."""
    initial: float | Tensor | Callable[[Tensor], Tensor] | None = None
    """What relevance starts with in place of the activation of `start_layer`, or of the logits: a
    number; in Python also a tensor shaped as the value, or a callable that is given it."""
    ranking: str | tuple[str, ...] | None = None
    """Layers, or patterns for them, whose concepts are ranked by the relevance that arrives at
    them, before conditions on the layer itself: in the table `ranking`."""
    n_ranked: int = 10
    """How many concepts of a layer are ranked."""
    record: str | tuple[str, ...] | None = None
    """Layers, or patterns for them, whose values are kept as `<layer>.activation`, and relevances,
    before and after conditions on the layer, as `<layer>.relevance_before` and
    `<layer>.relevance_after`."""
    composition: dict[str, Any] | None = None
    """A concept to be decomposed into those of lower layers that make it, in the table
    `composition`: `{layer: layer4.1.conv2, concept: 3}`; see `explainers.concepts.composition` for
    what else it takes: `layers`, `width`, `start`, `abs_norm`, and `concepts` where they are to
    differ from those of the entry."""

    def __post_init__(self) -> None:
        _ = self.resolved
        numeric.check_whole("n_ranked", self.n_ranked)
        check_initial(self.initial)
        if not isinstance(self.exclude_parallel, bool):
            raise TypeError(
                f"got exclude_parallel={self.exclude_parallel!r}, expected true or false"
            )
        if not isinstance(self.concepts, Mapping):
            raise TypeError(
                f"got concepts={self.concepts!r}, expected a mapping from layers to kinds, such as "
                "{layer4: tokens}"
            )
        for each in self._conditions:
            if self.start_layer is not None and each.has_output:
                raise ValueError(
                    f"got y in a condition and start_layer={self.start_layer!r}, expected one of "
                    "them: what starts at a hidden layer does not depend on the output"
                )
        _ = self._decomposer

    @cached_property
    def _conditions(self) -> tuple[Condition, ...]:
        return parsed(self.conditions)

    @cached_property
    def _decomposer(self) -> Decomposer | None:
        return None if self.composition is None else Decomposer.parse(self.composition)

    @property
    def leading(self) -> Mapping[str, int]:
        """Several conditions have a map each."""
        if isinstance(self.conditions, list | tuple):
            return {CONDITION: len(self._conditions)}
        return {}

    def cost_on(self, network: Network) -> Cost:
        """Return two forward passes, of which all share, and a backward pass for each condition."""
        return Cost(forward=2, backward=len(self._conditions))

    def check(self, network: Network) -> None:
        """Refuse what is not a program, has no rule, or has not the layers and concepts."""
        self.check_composite(network)
        self._check_concepts(network)
        resolved(
            network,
            self._conditions,
            self.kinds(network),
            start=self.start_layer,
            more=self._ranked(network),
        )
        for layer in self._recorded(network):
            form_of(network, network.operator(layer).name, layer)
        if self._decomposer is not None:
            self._decomposer.with_kinds(self.concepts, network).check(network)

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return which rules cannot conserve relevance, and that nothing can be decomposed."""
        notes = self.notes_of_composite(network)
        if self._decomposer is not None:
            notes += self._decomposer.with_kinds(self.concepts, network).notes(network)
        return notes

    def kinds(self, network: Network) -> dict[str, Any]:
        """Return the kinds that are given for layers which conditions name or which are ranked."""
        layers = {layer for each in self._conditions for layer in each.layers}
        layers |= {*self._ranked(network)}
        given = given_kinds(self.concepts, network)
        return {layer: kind for layer, kind in given.items() if layer in layers}

    def _check_concepts(self, network: Network) -> None:
        """Refuse concepts of layers that nothing is asked of."""
        asked = {layer for each in self._conditions for layer in each.layers}
        asked |= {*_matched("ranking", self.ranking, network)}
        if self._decomposer is not None:
            asked |= {*self._decomposer.names(network)}
        for pattern in self.concepts:
            if asked.isdisjoint(_matched("concepts", pattern, network)):
                raise LookupError(
                    f"concepts are given for {pattern!r}, which is none of the layers that "
                    f"conditions name, nor ranked nor decomposed: "
                    f"{', '.join(sorted(asked)) or 'there are none'}; name it in a condition"
                )

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the maps of all conditions, and what is ranked, recorded and decomposed."""
        network, choose = trace.network, self.resolved.choose(trace.network)
        found = conditional(
            trace,
            target,
            self._conditions,
            choose,
            concepts=self.kinds(network),
            exclude_parallel=self.exclude_parallel,
            start=self.start_layer,
            initial=self.initial,
            record=self._recorded(network),
            score=self._ranked(network),
        )
        tables: dict[str, list[dict[str, Any]]] = {}
        if self.ranking is not None:
            tables["ranking"] = ranked(found.scores, self.n_ranked)
        if self._decomposer is not None:
            decomposer = self._decomposer.with_kinds(self.concepts, network)
            tables["composition"] = decomposer.composition(trace, choose, target).rows()
        is_alone = not self.leading
        relevance = found.heatmaps[:, 0] if is_alone else found.heatmaps
        return Explained(relevance, _arrays(found, is_alone=is_alone), tables)

    def _ranked(self, network: Network) -> tuple[str, ...]:
        if self.ranking is None:
            return ()
        names = _matched("ranking", self.ranking, network)
        given = given_kinds(self.concepts, network)
        return tuple(select(names, {name: given[name] for name in names if name in given}, network))

    def _recorded(self, network: Network) -> tuple[str, ...]:
        return _matched("record", self.record, network)


def _matched(
    field_name: str, patterns: str | tuple[str, ...] | None, network: Network
) -> tuple[str, ...]:
    """Return the layers that a field names."""
    try:
        return () if patterns is None else network.match(patterns)
    except LookupError as error:
        raise LookupError(f"{field_name}: {error.args[0]}") from error


def _arrays(found: Conditional, *, is_alone: bool) -> dict[str, Tensor]:
    """Return what was recorded, by name."""
    arrays = {f"{layer}.activation": value for layer, value in found.activations.items()}
    for name in ("relevances_before", "relevances_after"):
        for layer, values in getattr(found, name).items():
            entry = f"{layer}.{name.replace('relevances', 'relevance')}"
            arrays[entry] = values[:, 0] if is_alone else values
    return arrays
