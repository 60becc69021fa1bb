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
from explainers.decomposition import Decomposition
from explainers.features import FeatureSpec, check, resolve
from explainers.features.subject import network_of, subjects
from explainers.inputs.masks import fitted, of_trace, transformed
from explainers.rules.decomposition import carrying
from explainers.sampling.chunks import pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from explainers.features import Partition
    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace

Masks: TypeAlias = "Mapping[str, Any] | Tensor | Callable[[Tensor], Tensor] | None"

_PER_SIDE = 14
"""Cells along each side of a picture by default: 16 pixels of 224, as in the paper."""

_MASK_VALUES = 2**26
"""Of the masks of features that are laid out at once: 64 MB."""


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
    relevant one beside the value of the sample. It takes several times as long; where a max-pool
    has equal values, rounding then decides between them."""
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
        """Return a forward pass for each feature, or two, and that of the sample."""
        n_features = self.n_features(network)
        return self.cost if n_features is None else Cost(forward=self._n_passes(n_features))

    def _n_passes(self, n_masks: int) -> float:
        return 1 + n_masks * (2 if self.strict else 1)

    def check(self, network: Network) -> None:
        """Refuse features that do not fit, and networks with operators that have no rule."""
        self.n_features(network)
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
        decomposition = Decomposition(trace, strict=self.strict, output_bias=self.output_bias)
        spec = self._spec(trace.network)
        partition = resolve(spec, trace, layer=self.source_layer)
        scores = _of_features(decomposition, partition, trace.cotangent(target))
        arrays = {"interaction": trace.selected(target) - scores.sum(1)}
        if self.masks is not None:
            arrays["mask_scores"] = self._of_masks(decomposition, trace)
        return Explained(partition.map(scores), arrays)

    def _spec(self, network: Network) -> FeatureSpec:
        """Return what features are asked for, with the default that is affordable in its place."""
        if self.features is not None:
            return self.features
        found = subjects(network_of(network, self.source_layer), self.source_layer)
        grids: dict[str, FeatureSpec] = {
            one.name: {"grid": [min(_PER_SIDE, size) for size in one.shape[1:]]}
            for one in found
            if len(one.shape) == 3 and not one.lookups
        }
        return next(iter(grids.values())) if len(grids) == len(found) == 1 else grids or None

    def _of_masks(self, decomposition: Decomposition, trace: Trace) -> Tensor:
        """Return the relevant parts of all outputs, ``(batch, mask, class)``."""
        if callable(self.masks):
            found = transformed(self.masks, trace.inputs)
        elif self.source_layer is not None:
            shape = tuple(trace.inputs.shape[1:])
            found = fitted(_given(self.masks), shape, trace.n_rows, self.source_layer)
        else:
            whole = trace if trace.parent is None or not _is_begun(trace) else trace.parent
            found = of_trace(_given(self.masks), whole, trace)
        found = found.to(trace.inputs.device)
        split = decomposition.of_parts if callable(self.masks) else decomposition.relevant
        n_masks, each = found.shape[1], found[0, 0].numel()
        scores = []
        for piece in pieces(trace.n_rows * n_masks, max(1, _MASK_VALUES // max(1, each))):
            every = torch.arange(piece.start, piece.stop, device=found.device)
            rows, mask = every // n_masks, every % n_masks
            scores.append(split(found[rows if len(found) > 1 else 0 * rows, mask], rows))
        return torch.cat(scores).view(trace.n_rows, n_masks, -1)


def _of_features(decomposition: Decomposition, partition: Partition, weights: Tensor) -> Tensor:
    """Return the relevant part of what is explained, ``(batch, features)``; 0 beyond a row's own.

    Parameters
    ----------
    decomposition
        Of the batch.
    partition
        Its features.
    weights
        Of the outputs in what is explained, ``(batch, classes)``.
    """
    cells, n_most = partition.cells, max(partition.counts)
    counts = torch.tensor(partition.counts).expand(len(weights))
    numbers = torch.arange(n_most) < counts[:, None]
    row, feature = numbers.nonzero().to(cells.device).unbind(1)
    scores = weights.new_zeros(len(weights), n_most)
    each = max(1, cells[0].numel())
    for piece in pieces(len(row), max(1, _MASK_VALUES // each)):
        rows, features = row[piece], feature[piece]
        own = cells if partition.is_shared else cells[rows]
        masks = own == features.view(-1, *[1] * (cells.ndim - 1))
        scores[rows, features] = (decomposition.relevant(masks, rows) * weights[rows]).sum(1)
    return scores


def _is_begun(trace: Trace) -> bool:
    """Return whether a trace begins at what stands for the inputs of the one it is part of."""
    return isinstance(trace.network, Cut) and bool(trace.network.points)


def _given(masks: Masks) -> Any:
    """Return masks as `explainers.decompose` takes them."""
    if not isinstance(masks, Mapping) or set(masks) != {"file"}:
        return masks
    path = Path(masks["file"])
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(
            f"got masks from {str(path)!r}, expected the path of a .safetensors file that exists, "
            "with a tensor masks, or with one for each input"
        )
    facts = path.stat()
    loaded = dict(_loaded(str(path.resolve()), facts.st_mtime_ns, facts.st_size))
    return loaded["masks"] if set(loaded) == {"masks"} else loaded


@functools.lru_cache(maxsize=2)
def _loaded(path: str, changed: int, size: int) -> Mapping[str, Tensor]:
    """Return the tensors of a file as it is on disk."""
    from safetensors.torch import load_file

    loaded: dict[str, Tensor] = load_file(path)
    return loaded
