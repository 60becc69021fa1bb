"""How much of the output features account for, by a decomposition of every value."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.cut import Cut
from explainers.decomposition import STRICT_PASSES, Decomposition
from explainers.features import FeatureSpec, check, resolve
from explainers.features.subject import network_of, subjects
from explainers.inputs.masks import fitted, of_trace, transformed
from explainers.rules.decomposition import carrying
from explainers.sampling.chunks import pieces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from explainers.features import Partition
    from explainers.features.subject import Subject
    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace

Masks: TypeAlias = "Mapping[str, Any] | Tensor | Callable[[Tensor], Tensor] | None"

_PER_SIDE = 14
"""Cells along each side of a picture by default: 16 pixels of 224, as in the paper."""

_MASK_VALUES = 2**26
"""Of the masks of features that are laid out at once: 64 MB."""

_KEPT_VALUES = 2**25
"""Of the parts of outputs that are kept for a batch's other targets: 128 MB. Only where the target
is in a layer are there more."""


@register("contextual_decomposition")
@dataclass(frozen=True)
class ContextualDecomposition(Attribution):
    """What a feature accounts for where it meets the rest of the sample.

    Every value of the network is split in two, ``value = relevant + irrelevant``: at the input the
    feature is relevant and all else irrelevant, and from there both parts are carried to the
    output by the rules of `explainers.rules.decomposition`. The relevance of a feature is the
    relevant part of what is explained, in units of the output. Singh, Murdoch and Yu 2019,
    arXiv:1806.05337; of LSTMs Murdoch, Liu and Yu 2018, arXiv:1801.05453.

    Parts of features do not sum to the output: what they do together is in none of them. The array
    ``interaction``, ``(batch,)``, is what is left, the output minus the sum over features. With
    `masks` there is also ``mask_scores``, ``(batch, mask, class)``: the relevant part of every
    output for each mask.
    """

    features: FeatureSpec = None
    """Whose parts are asked for: ``{grid: 7}``, ``{patches: 16}``, ``pixels``, ``tokens``,
    ``{slic: {n_segments: 50}}``; None for 14 x 14 cells of a picture, otherwise for every token or
    value by itself. Each costs about one forward pass."""
    masks: Masks = None
    """Further parts of the input that are asked about, which may overlap or be soft:
    ``{file: masks.safetensors}`` with a tensor ``masks``, ``(mask, *sample)``, of bool or numbers
    from 0 to 1 whose axes may be 1, of pictures also ``(mask, height, width)`` (of several inputs
    a tensor for each, by name). In the library also what `explainers.decompose` takes. The map is
    of `features` all the same."""
    strict: bool = False
    """Whether both parts are carried, each by itself, as in the published code, in place of the
    relevant one beside the value of the sample. It takes five to six times as long; where a
    max-pool has equal values, rounding then decides between them."""
    output_bias: bool = True
    """Whether parts have their share of the last layer's bias; the published code for texts leaves
    it out."""

    requires = frozenset({"decomposition"})
    tasks = frozenset({"image", "tabular", "text"})

    @property
    def cost(self) -> Cost:
        """Forward passes alone; how many depends on the number of features."""
        return Cost(forward=math.nan)

    def cost_on(self, network: Network) -> Cost:
        """Return a forward pass for each feature and mask, several if strict, and the sample's."""
        n_features, n_masks = self.n_features(network), self._n_masks(network)
        if n_features is None or n_masks is None:
            return self.cost
        each = STRICT_PASSES if self.strict else 1
        passes = 1 + (n_features + n_masks) * each
        return Cost(forward=passes, shared=passes)

    def check(self, network: Network) -> None:
        """Refuse features and masks that do not fit, and networks with operators without a rule."""
        self.n_features(network)
        self._n_masks(network)
        carrying.check(network)

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return how many features there are, where nobody has said it."""
        n_features = self.n_features(network)
        if self.features is not None or n_features is None:
            return ()
        return (
            f"{self.name} takes {n_features} features of a sample by default, each about a forward "
            "pass; say features: for others",
        )

    def briefer(self, network: Network) -> Iterator[Mapping[str, Any]]:
        """Yield few features."""
        yield {"features": {"grid": 2}}

    def n_features(self, network: Network) -> int | None:
        """Return the features of one sample; None where they depend on the sample."""
        spec = self._spec(network)
        return check(spec, network, layer=self.source_layer)

    def axes(self, dims: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        """Names of the dimensions of the scores of masks."""
        return {"mask_scores": ("mask", "class")}

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map, ``interaction`` and, where masks are given, ``mask_scores``."""
        weights = trace.cotangent(target)
        # self is kept, so that its address is no other method's while the batch is
        key = ("parts", id(self), trace.namespace)
        ground = trace.once(key, lambda: (self._prepared(trace), self))[0]
        scores = weights.new_zeros(len(weights), max(ground.partition.counts))
        for rows, features, relevant in ground.parts():
            scores[rows, features] = (relevant * weights[rows]).sum(1)
        arrays = {"interaction": trace.selected(target) - scores.sum(1)}
        if ground.of_masks is not None:
            arrays["mask_scores"] = ground.of_masks
        return Explained(ground.partition.map(scores), arrays)

    def _prepared(self, trace: Trace) -> _Ground:
        decomposition = Decomposition(trace, strict=self.strict, output_bias=self.output_bias)
        partition = resolve(self._spec(trace.network), trace, layer=self.source_layer)
        make = functools.partial(_of_features, decomposition, partition, trace.n_rows)
        n_values = trace.n_rows * max(partition.counts) * trace.network.n_outputs
        kept = list(make()) if n_values <= _KEPT_VALUES else None
        of_masks = None if self.masks is None else self._of_masks(decomposition, trace)
        return _Ground(partition, make if kept is None else lambda: kept, of_masks)

    def _spec(self, network: Network) -> FeatureSpec:
        """Return what features are asked for, with the default that is affordable in its place."""
        if self.features is not None:
            return self.features
        found = self._subjects(network)
        grids: dict[str, FeatureSpec] = {
            one.name: {"grid": [min(_PER_SIDE, size) for size in one.shape[1:]]}
            for one in found
            if len(one.shape) == 3 and not one.lookups
        }
        return next(iter(grids.values())) if len(grids) == len(found) == 1 else grids or None

    def _subjects(self, network: Network) -> tuple[Subject, ...]:
        return subjects(network_of(network, self.source_layer), self.source_layer)

    def _n_masks(self, network: Network) -> int | None:
        """Return how many masks there are; None where the inputs have to be asked."""
        if self.masks is None:
            return 0
        found = self._subjects(network)
        given = {} if callable(self.masks) else _given(self.masks, is_single=len(found) == 1)
        one = found[0]
        mask = given.get(one.name) if isinstance(given, Mapping) else given
        if not isinstance(mask, Tensor) or mask.ndim == 0:
            return None
        return fitted(mask, one.shape, len(mask), one.name).shape[1]

    def _of_masks(self, decomposition: Decomposition, trace: Trace) -> Tensor:
        """Return the relevant parts of all outputs, ``(batch, mask, class)``."""
        is_single = len(self._subjects(trace.network)) == 1
        if callable(self.masks):
            found = transformed(self.masks, trace.inputs)
        elif self.source_layer is not None:
            shape = tuple(trace.inputs.shape[1:])
            found = fitted(
                _given(self.masks, is_single=is_single), shape, trace.n_rows, self.source_layer
            )
        else:
            whole = trace if trace.parent is None or not _is_begun(trace) else trace.parent
            found = of_trace(_given(self.masks, is_single=is_single), whole, trace)
        found = found.to(trace.inputs.device)
        split = decomposition.of_parts if callable(self.masks) else decomposition.relevant
        n_masks, each = found.shape[1], found[0, 0].numel()
        scores = []
        for piece in pieces(trace.n_rows * n_masks, max(1, _MASK_VALUES // max(1, each))):
            every = torch.arange(piece.start, piece.stop, device=found.device)
            rows, mask = every // n_masks, every % n_masks
            scores.append(split(found[rows if len(found) > 1 else 0 * rows, mask], rows))
        return torch.cat(scores).view(trace.n_rows, n_masks, -1)


@dataclass(frozen=True, eq=False)
class _Ground:
    """What the targets of a batch share."""

    partition: Partition
    parts: Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]]
    """Returns what `_of_features` yields."""
    of_masks: Tensor | None
    """Relevant parts of all outputs, ``(batch, mask, class)``."""


def _of_features(
    decomposition: Decomposition, partition: Partition, n_rows: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield rows, their features and the relevant parts of all outputs, ``(pairs, classes)``.

    Parameters
    ----------
    decomposition
        Of the batch.
    partition
        Its features.
    n_rows
        Of the batch.
    """
    cells, n_most = partition.cells, max(partition.counts)
    counts = torch.tensor(partition.counts).expand(n_rows)
    numbers = torch.arange(n_most) < counts[:, None]
    row, feature = numbers.nonzero().to(cells.device).unbind(1)
    each = max(1, cells[0].numel())
    for piece in pieces(len(row), max(1, _MASK_VALUES // each)):
        rows, features = row[piece], feature[piece]
        own = cells if partition.is_shared else cells[rows]
        masks = own == features.view(-1, *[1] * (cells.ndim - 1))
        yield rows, features, decomposition.relevant(masks, rows)


def _is_begun(trace: Trace) -> bool:
    """Return whether a trace begins at what stands for the inputs of the one it is part of."""
    return isinstance(trace.network, Cut) and bool(trace.network.points)


def _given(masks: Masks, *, is_single: bool) -> Any:
    """Return masks as `explainers.decompose` takes them; of one input or of several."""
    if not isinstance(masks, Mapping) or not isinstance(masks.get("file"), str | Path):
        return masks
    if set(masks) != {"file"}:
        others = ", ".join(sorted(repr(key) for key in masks if key != "file"))
        raise ValueError(f"got masks with file and {others}, expected {{file: x.safetensors}}")
    path = Path(masks["file"])
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(
            f"got masks from {str(path)!r}, expected the path of a .safetensors file that exists, "
            "with a tensor masks, or with one for each input"
        )
    facts = path.stat()
    loaded = dict(_loaded(str(path.resolve()), facts.st_mtime_ns, facts.st_size))
    if set(loaded) == {"masks"}:
        return loaded["masks"]
    if is_single:
        names = ", ".join(map(repr, sorted(loaded))) or "none"
        raise ValueError(
            f"got masks from {str(path)!r} with the tensors {names}, expected one, called 'masks'"
        )
    return loaded


@functools.lru_cache(maxsize=2)
def _loaded(path: str, changed: int, size: int) -> Mapping[str, Tensor]:
    """Return the tensors of a file as it is on disk."""
    from safetensors.torch import load_file

    loaded: dict[str, Tensor] = load_file(path)
    return loaded
