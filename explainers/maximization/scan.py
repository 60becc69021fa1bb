"""What both maximization scans do: scores of a batch's concepts, folded into lists of the best."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from explainers import numeric
from explainers.base import Round, Scan
from explainers.concepts.kinds import select
from explainers.maximization import sizes
from explainers.maximization.lists import Lists, length_of_classes
from explainers.maximization.results import axes
from explainers.maximization.scored import Scored
from explainers.maximization.tables import SCORES
from explainers.registry import suggest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from explainers.base import Result, Samples, State
    from explainers.concepts.kinds import Concepts
    from explainers.network import Network
    from explainers.trace import Trace

Score = Literal["sum_normed", "sum", "max_normed", "max"]

Found = dict[str, Scored]
"""Scores of a batch by target; ``""`` where there is one, or none."""

Reader = Callable[["Trace", "Samples"], Found]
"""Finds the scores of a batch."""

LAYER_BYTES = 4 << 30
"""Largest lists of one layer, of which the reduction of states holds some at once."""
PENDING_BYTES = 64 << 20
"""Scores that a fold collects before it makes lists of them."""
LEAST_PENDING = 256
"""Samples whose scores are collected at least: lists of fewer are made too often."""
MOST_PENDING = 4096
"""Samples whose scores are collected at most: those of a batch are small, and lie between what is
large and soon freed, which cannot be given back as long as they are there."""
_OF_REFERENCES = ("sample", "position")
_BYTES_OF_SCORES = 16
_BYTES_OF_ENTRY = 12


@dataclass(frozen=True)
class Maximization(Scan):
    """Lists of the samples that score best for each concept of layers; see its subclasses.

    One pass over the data set gives, for every concept ``c`` of every layer and every sample, the
    sum ``s`` and the greatest value ``m`` of what is scored over the concept's positions, with the
    position of the greatest. Both are listed as they are (``sum``, ``max``) and divided by
    ``sum_c |s_c| + 1e-10`` of the same score, sample and layer (``sum_normed``, ``max_normed``), as
    concept relevance propagation has them (Achtibat et al. 2023, doi:10.1038/s42256-023-00711-8).
    The order of a list is total: value descending, then sample index ascending. A sample of which
    any score is not finite is in no list.

    The result has ``[layer][score]`` with ``sample``, ``value`` and ``position`` (flat, row-major),
    each ``(rank, concept)``, best first; and ``[layer]["per_class"][class][score]`` alike for the
    samples of a class alone. States, and what they hold, are those of `Lists`; a state's size does
    not depend on the number of samples.
    """

    layers: str | tuple[str, ...]
    """Which layers: names, patterns (`*conv*`), or operator classes (`type:Convolution`)."""
    k: int = 40
    """How long lists are; zennit-crp's default."""
    per_class: bool | int = True
    """How long lists for each class are; true for `k`, false or 0 for none."""
    concepts: dict[str, Any] = field(default_factory=dict)
    """Layers, or patterns for their names, to what their concepts are: `channels`, `heads`,
    `tokens` or `{directions: matrix.npy}`; the first that fits counts, and channels where none
    does."""
    keep: Literal["none", "scores"] = "none"
    """Whether the scores of every sample are kept beside the lists; `scores` keeps sums, maxima and
    their positions, from which longer lists and other classes follow without another pass."""
    references: int = 0
    """Of how many samples of each list a following pass makes heat maps; 0 for no such pass."""
    reference_score: Score = "sum_normed"
    """Whose list they are taken from."""
    heatmap_size: int | None = None
    """Longest side of the heat maps that are stored; those of larger images are averaged down to
    it, so that their sum is that of the whole map times the quotient of the numbers of pixels. By
    default they are as large as the images. Crops are found before, and are in pixels."""
    embedding: str | None = None
    """Layer whose value tells how much alike the references of a concept are; by default what goes
    into the last linear map."""

    def __post_init__(self) -> None:
        numeric.check_whole("k", self.k)
        length_of_classes(self.per_class, self.k)
        numeric.check_whole("references", self.references, 0)
        if self.heatmap_size is not None:
            numeric.check_whole("heatmap_size", self.heatmap_size)
        for name, options in (("keep", ("none", "scores")), ("reference_score", SCORES)):
            given = getattr(self, name)
            if given not in options:
                raise ValueError(f"got {name} {given!r}; {suggest(str(given), options)}")
        if not self.layers:
            raise ValueError(
                "got no layers, expected names or patterns; layers: type:Convolution takes all "
                "convolutions"
            )
        for layer in (self.layers,) if isinstance(self.layers, str) else self.layers:
            if not isinstance(layer, str):
                raise TypeError(
                    f"got a {type(layer).__name__} among layers, expected names or patterns; "
                    "Network.layers has the names"
                )

    @abstractmethod
    def reader(self, network: Network) -> Reader:
        """Return what finds the scores of batches."""

    @property
    def lists(self) -> Lists:
        """The lists that are made."""
        return Lists(self.k, length_of_classes(self.per_class, self.k))

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What stands in front of layers in states: each target where there are several."""
        return ("",)

    def concepts_of(self, network: Network) -> dict[str, Concepts]:
        """Return the concepts of each layer, in execution order.

        Raises
        ------
        LookupError
            If there is no such layer.
        NotImplementedError, ValueError
            If a layer has no such concepts.
        """
        return select(self.layers, self.concepts, network)

    def layers_at(self, network: Network) -> dict[str, dict[str, Concepts]]:
        """Return, by the operator whose value holds them, the layers and their concepts."""
        found: dict[str, dict[str, Concepts]] = {}
        for layer, concepts in self.concepts_of(network).items():
            found.setdefault(concepts.operator, {})[layer] = concepts
        return found

    def check(self, network: Network) -> None:
        """Refuse layers that do not exist or have no such concepts, and lists that are too long."""
        if not network.is_program:
            raise NotImplementedError(
                f"{self.name} needs the layers of the network, and this model could not be read "
                f"as a program: {network.reason}; change the model"
            )
        found = self._sizes(network)
        layer = max(found, key=found.__getitem__)
        if found[layer] > LAYER_BYTES:
            raise ValueError(
                f"lists of layer {layer!r} take up to {found[layer] / 2**30:.1f} GiB for "
                f"{network.n_outputs} classes, more than {LAYER_BYTES / 2**30:.0f} GiB; set a "
                "smaller per_class, or per_class: false and keep: scores, from which they follow"
            )
        # references are made of these lists, and look at this module
        from explainers.concepts.references.scan import check

        check(self, network)

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return how large lists may become, where that is much."""
        size = sum(self._sizes(network).values())
        if size < LAYER_BYTES // 4:
            return ()
        return (f"lists take up to {size / 2**30:.1f} GiB; a smaller per_class shortens them",)

    def _sizes(self, network: Network) -> dict[str, int]:
        lists = self.lists
        entries = len(SCORES) * (lists.k + network.n_outputs * lists.per_class)
        each = entries * _BYTES_OF_ENTRY * len(self.prefixes)
        return {layer: one.n * each for layer, one in self.concepts_of(network).items()}

    def axes(self, path: Sequence[Any], n_axes: int, beside: Collection[Any]) -> Sequence[str]:
        """Return ``rank`` and ``channel``, what heat maps and boxes have, and that of classes."""
        return axes(path, n_axes, beside)

    def stored_bytes(self, network: Network, n_samples: int, n_shards: int) -> Mapping[str, int]:
        """Return about how many bytes lists and heat maps of references take."""
        return sizes.stored(self, network, n_samples, n_shards)

    def init(self) -> State:
        """Return the lists of no samples."""
        return self.lists.init()

    def fold(self, batches: Iterable[tuple[Trace, Samples]]) -> State:
        """Return the lists of a shard."""
        state = self.lists.merged(self._blocks(batches))
        return {name: entry.cpu() for name, entry in state.items()}

    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        """Return the lists with one batch added."""
        return self.merge(state, self.fold([(trace, samples)]))

    def merge(self, left: State, right: State) -> State:
        """Return the lists of both parts."""
        return self.lists.merge(left, right)

    def merged(self, states: Iterable[State]) -> State:
        """Return the lists of all parts, merged in pairs: long lists are not compared each time."""
        return self.lists.merged(states)

    def groups(self, names: Collection[str]) -> Sequence[Collection[str]]:
        """Return the entries of each layer."""
        return self.lists.groups(names)

    def finalise(self, state: State) -> Result:
        """Return lists by layer, of several targets by target first."""
        found = {prefix: self.lists.finalise(state, prefix) for prefix in self.prefixes}
        if "" in found:
            return found[""]
        return {prefix: lists for prefix, lists in found.items() if lists}

    def records(self, trace: Trace, samples: Samples) -> Mapping[str, Tensor]:
        """Return, if scores are kept, those of each layer: ``total``, ``peak``, ``position``."""
        if self.keep == "none":
            return {}
        found = self._found(trace, samples, None)
        return {
            f"{prefix}/{layer}/{name}".removeprefix("/"): entry
            for prefix, scored in found.items()
            for layer, scores in _finite(scored).layers.items()
            for name, entry in (
                ("total", scores.total),
                ("peak", scores.peak),
                ("position", scores.position.int()),
            )
        }

    def gist(self, result: Result) -> Result:
        """Return what of the lists of some layers references are made of."""
        if "" not in self.prefixes:
            return {prefix: self._gist(lists) for prefix, lists in result.items()}
        return self._gist(result)

    def rounds(self, results: Mapping[str, Result]) -> Round | None:
        """Return the lists and then, if asked for, the heat maps of reference samples."""
        if not results:
            # of all classes, lists can be larger than memory
            return Round("lists", self, is_large=True, is_needed=bool(self.references))
        if not self.references or len(results) > 1:
            return None
        from explainers.concepts.references import references_of

        return references_of(self, results)

    def _gist(self, lists: Result) -> Result:
        """Return the best references of each layer."""
        score = self.reference_score
        return {
            layer: {score: {name: self._first(held[score][name]) for name in _OF_REFERENCES}}
            for layer, held in lists.items()
        }

    def _first(self, ranked: Tensor) -> Tensor:
        # a view would keep all of it
        return ranked[: self.references].clone()

    def _found(self, trace: Trace, samples: Samples, reader: Reader | None) -> Found:
        def made() -> Found:
            return (reader or self.reader(trace.network))(trace, samples)

        # who asks for records holds this scan, so that its identity is no other's meanwhile
        return made() if self.keep == "none" else trace.once((type(self), id(self)), made)

    def _blocks(self, batches: Iterable[tuple[Trace, Samples]]) -> Iterator[State]:
        """Yield the lists of some batches at a time."""
        pending, n_pending = list[Found](), 0
        reader: Reader | None = None
        for trace, samples in batches:
            if not trace.n_rows:
                continue
            reader = reader or self.reader(trace.network)
            found = self._found(trace, samples, reader)
            pending.append(found)
            n_pending += trace.n_rows
            if n_pending >= _n_together(found):
                yield self._listed(pending)
                pending, n_pending = [], 0
        if pending:
            yield self._listed(pending)

    def _listed(self, pending: Sequence[Found]) -> State:
        state: State = {}
        for prefix in pending[0]:
            scored = _finite(Scored.joined([found[prefix] for found in pending]))
            state |= self.lists.of(scored, prefix)
        return state


def _n_together(found: Found) -> int:
    """Return how many samples' scores are collected before lists are made of them."""
    entries = sum(
        scores.total.shape[1] for scored in found.values() for scores in scored.layers.values()
    )
    affordable = PENDING_BYTES // (_BYTES_OF_SCORES * max(1, entries))
    return min(max(LEAST_PENDING, affordable), MOST_PENDING)


def _finite(scored: Scored) -> Scored:
    """Return the scores, NaN throughout for samples of which any is not finite."""
    layers = scored.layers
    if not layers:
        return scored
    finite = [
        entry.isfinite().all(1)
        for scores in layers.values()
        for entry in (scores.total, scores.peak)
    ]
    bad = ~torch.stack(finite).all(0)[:, None]
    masked = {
        layer: replace(
            scores,
            total=scores.total.masked_fill(bad, torch.nan),
            peak=scores.peak.masked_fill(bad, torch.nan),
        )
        for layer, scores in layers.items()
    }
    return replace(scored, layers=masked)
