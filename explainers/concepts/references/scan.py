"""The pass that follows lists of the best samples: it makes heat maps of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from explainers.base import Cost, Round, Scan
from explainers.composites.composed import Composed
from explainers.concepts import receptive_field
from explainers.concepts.crops import crops
from explainers.concepts.references import heatmaps
from explainers.concepts.references.averaging import averaged
from explainers.concepts.references.dense import result_of
from explainers.concepts.references.embedding import embedding_of, embeddings
from explainers.concepts.references.fields import fields_of
from explainers.concepts.references.heatmaps import Heatmaps
from explainers.concepts.references.listed import Listed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from explainers.base import Result, Samples, State
    from explainers.concepts.kinds import Concepts
    from explainers.maximization.scan import Maximization
    from explainers.network import Network
    from explainers.trace import Trace

ROUND = "references"
REFERENCES = "references"
EMBEDDINGS = "embeddings"
_IMAGE_AXES = 3


@dataclass(frozen=True, eq=False)
class References(Scan):
    """Heat maps of the samples that show each concept of a scan best, and what they are cut to.

    For every reference sample of every concept: the heat map of the concept, which starts at the
    layer with the concept's activation (Achtibat et al. 2023, doi:10.1038/s42256-023-00711-8), and,
    of images, the receptive field of the neuron that scored most and the part of it that its own
    heat map points at, see `explainers.concepts.crops`. Concepts are scored by the embeddings of
    their samples, see `explainers.concepts.quality`.

    A state has, by layer, one entry for each reference, in the order in which they come:
    ``<layer>/references/<name>`` with ``sample``, ``channel`` (int64), ``heatmap`` (float16, from
    -1 to 1, of images no larger than `heatmap_size` of the scan), ``scale`` (float32, by which it
    is multiplied), and of images ``receptive_field`` and
    ``crop`` (int64, top, left, bottom, right, the latter two behind the last). Beside these are
    ``embeddings/sample`` and ``embeddings/value``, one for each sample. Merging puts one behind the
    other; a result does not depend on their order.

    The result has ``[layer]["references"]`` with the same names, ``(rank, channel, ...)`` each, and
    ``position``. What failed has the sample -1, the scale NaN and boxes of -1.
    """

    scan: Maximization
    """Whose lists they are."""
    listed: dict[str, Listed]
    """Layer, of several targets with the target and a slash in front, to its samples."""
    embedding: str | None = None
    """Layer whose value is the embedding of a sample; by default what the last linear layer is
    given. Means over positions are taken."""

    @property
    def cost(self) -> Cost:
        """A forward pass, and two walks back for each of a sample's references."""
        n_entries = sum(int((one.sample >= 0).sum()) for one in self.listed.values())
        return Cost(forward=2, backward=2 * n_entries / max(1, len(self.samples)))

    @property
    def samples(self) -> Tensor:
        """All reference samples, ascending, each once."""
        empty = torch.zeros(0, dtype=torch.int64)
        parts = [empty, *(one.samples for one in self.listed.values())]
        found: Tensor = torch.unique(torch.cat(parts))
        return found

    def check(self, network: Network) -> None:
        """Refuse what the scan of the lists does, which knows that references follow."""
        self.scan.check(network)

    def briefer(self) -> References:
        """Return the references of one concept of each layer: a few samples lead all lists."""
        return replace(self, listed={key: one.briefer() for key, one in self.listed.items()})

    def init(self) -> State:
        """Return no references."""
        return {}

    def fold(self, batches: Iterable[tuple[Trace, Samples]]) -> State:
        """Return the references of a shard."""
        reader: _Reader | None = None
        found: dict[str, list[Tensor]] = {}
        for trace, samples in batches:
            if not trace.n_rows:
                continue
            reader = reader or _Reader(self, trace.network)
            for name, entry in reader.entries(trace, samples):
                found.setdefault(name, []).append(entry)
        return _all_joined(found)

    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        """Return the references with those of one batch."""
        return self.merge(state, self.fold([(trace, samples)]))

    def merge(self, left: State, right: State) -> State:
        """Return the references of both parts, those on the left first."""
        return self.merged([left, right])

    def merged(self, states: Iterable[State]) -> State:
        """Return the references of all parts, put together at once."""
        found: dict[str, list[Tensor]] = {}
        for state in states:
            for name, entry in state.items():
                found.setdefault(name, []).append(entry)
        return _all_joined(found)

    def groups(self, names: Collection[str]) -> Sequence[Collection[str]]:
        """Return the entries of each layer, with the embeddings."""
        shared = [name for name in names if name.startswith(f"{EMBEDDINGS}/")]
        found: dict[str, list[str]] = {}
        for name in names:
            layer, is_reference, _ = name.rpartition(f"/{REFERENCES}/")
            if is_reference:
                found.setdefault(layer, [*shared]).append(name)
        return list(found.values())

    def finalise(self, state: State) -> Result:
        """Return references and scores of concepts by layer, of several targets by target first."""
        result: Result = {}
        for key, listed in self.listed.items():
            head = f"{key}/{REFERENCES}/"
            entries = {
                name.removeprefix(head): entry
                for name, entry in state.items()
                if name.startswith(head)
            }
            if entries:
                prefix, layer = self._parted(key)
                held = result.setdefault(prefix, {}) if prefix else result
                held[layer] = result_of(
                    listed, entries, state[f"{EMBEDDINGS}/sample"], state[f"{EMBEDDINGS}/value"]
                )
        return result

    def _parted(self, key: str) -> tuple[str, str]:
        """Return the target, if there are several, and the layer."""
        for prefix in self.scan.prefixes:
            if prefix and key.startswith(f"{prefix}/"):
                return prefix, key.removeprefix(f"{prefix}/")
        return "", key

    def layer_of(self, key: str) -> str:
        """Return the layer of an entry of `listed`."""
        return self._parted(key)[1]


def _all_joined(found: dict[str, list[Tensor]]) -> State:
    """Return what belongs together as one tensor each; the parts of a name go as it is done."""
    state: State = {}
    for name in list(found):
        parts = found.pop(name)
        state[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return state


class _Reader:
    """Finds what a network's batches have of references."""

    def __init__(self, references: References, network: Network) -> None:
        heatmaps.check(network)
        self._references = references
        self._embedding = embedding_of(network, references.embedding)
        self._is_image = len(network.input_shape) == _IMAGE_AXES
        choose = composite_of(references.scan).resolved.choose(network)
        concepts: Mapping[str, Concepts] = references.scan.concepts_of(network)
        self._maps = {
            key: Heatmaps(network, choose, concepts[references.layer_of(key)])
            for key in references.listed
        }

    def entries(self, trace: Trace, samples: Samples) -> Iterator[tuple[str, Tensor]]:
        """Yield names and entries of a state, on the host."""
        yield f"{EMBEDDINGS}/sample", samples.index.cpu()
        yield f"{EMBEDDINGS}/value", embeddings(trace, self._embedding).cpu()
        for key, maps in self._maps.items():
            for name, entry in self._of(self._references.listed[key], maps, trace, samples).items():
                yield f"{key}/{REFERENCES}/{name}", entry.cpu()

    def _of(
        self, listed: Listed, maps: Heatmaps, trace: Trace, samples: Samples
    ) -> dict[str, Tensor]:
        entries = listed.among(samples)
        if not len(entries.row):
            return {}
        parts = [self._drawn(*some) for some in maps.of(trace, entries)]
        found = {"sample": entries.sample, "channel": entries.concept}
        found |= {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if self._is_image:
            found["receptive_field"] = fields_of(maps.concepts, maps.network, entries)
        return found

    def _drawn(self, of_concepts: Tensor, of_neurons: Tensor) -> dict[str, Tensor]:
        """Return what is kept of some heat maps: whole ones of all would take much more memory."""
        found: dict[str, Tensor] = {}
        if self._is_image:
            found["crop"] = crops(of_neurons)
            of_concepts = averaged(of_concepts, self._references.scan.heatmap_size)
        scale = of_concepts.abs().flatten(1).amax(1)
        divisor = torch.where(scale > 0, scale, 1.0).view(-1, *[1] * (of_concepts.ndim - 1))
        return {**found, "heatmap": (of_concepts / divisor).half(), "scale": scale.float()}


def references_of(scan: Maximization, results: Mapping[str, Result]) -> Round | None:
    """Return the round that makes heat maps of what a scan has listed.

    Parameters
    ----------
    scan
        With `references` of each list of `reference_score`.
    results
        Of its rounds so far; the first has the lists.

    Returns
    -------
    Round or None
        None where nothing is listed, or no reference is asked for.
    """
    lists = next(iter(results.values()))
    listed = {
        key: Listed(
            held[scan.reference_score]["sample"][: scan.references].long().cpu(),
            held[scan.reference_score]["position"][: scan.references].long().cpu(),
        )
        for key, held in _layers(lists, scan.prefixes)
    }
    references = References(scan, listed, scan.embedding)
    samples = references.samples
    return Round(ROUND, references, samples, is_large=True) if len(samples) else None


def check(scan: Maximization, network: Network) -> None:
    """Refuse a network for whose samples a scan could not make the heat maps it is to make.

    Raises
    ------
    LookupError
        If there is no such embedding layer.
    NotImplementedError
        If there are several inputs, or tokens, or operators without a rule.
    """
    if scan.references:
        heatmaps.check(network)
        embedding_of(network, scan.embedding)
        try:
            composite_of(scan).check_composite(network)
        except NotImplementedError as error:
            raise NotImplementedError(
                f"heat maps of references: {error}; or set references: 0, then there are none"
            ) from error
        if len(network.input_shape) == _IMAGE_AXES:
            receptive_field.check(network)


def composite_of(scan: Maximization) -> Composed:
    """Return the rules of heat maps: those of the scan, or the usual ones if it has none."""
    return scan if isinstance(scan, Composed) else Composed()


def _layers(lists: Result, prefixes: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for prefix in prefixes:
        for layer, held in (lists.get(prefix, {}) if prefix else lists).items():
            yield f"{prefix}/{layer}" if prefix else layer, held
