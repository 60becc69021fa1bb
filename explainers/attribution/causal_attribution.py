"""Maps from a class's causal graph: where the causes of a convolution's channels are seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeGuard, get_args

import torch

from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.causal.graphs import graphs_of
from explainers.causal.maps import (
    forward_maps,
    literal_maps,
    literal_places,
    made_below,
    own_kernel,
    read_by,
    resized,
)
from explainers.causal.pruning import layer_of
from explainers.causal.structure import structure_of
from explainers.registry import suggest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.causal.graphs import Links
    from explainers.causal.structure import Structure, WeightedLayer
    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace

Variant = Literal["forward", "compat"]

CHILD = "child"


@register("causal_attribution")
@dataclass(frozen=True)
class CausalAttribution(Attribution):
    r"""Where the causes of a class are seen in a sample (Ahmad et al. 2023).

    arXiv:2305.08950. In one convolution of the class's causal graph the effects are the children,
    the positive causes the parents. With the parent's values :math:`A_p` and the kernel
    :math:`W_{ep}` from parent to child, before a norm that follows,

    .. math:: M_e = \frac{1}{|P|} \sum_{p \in P} \mathrm{softmax}_{places}(W_{ep} \star A_p)

    and the map is the sum over children, enlarged to the input linearly as `grad_cam`'s is: where
    layers below have no padding, what is near its border lies too far out. Every :math:`M_e` is
    positive and sums to one before it is enlarged, so maps have no sign and no unit, and how sure
    the network is does not show in them: the sample enters through :math:`A` alone. In a grouped
    convolution the mean is over the parents in the child's group.

    The class is the target's. Where its graph has no causes in the layer, the map is zero.

    Beside the map: ``n_children``; ``child_index``, the children's channels, ascending and filled
    up with -1; and ``children``, their maps before they are enlarged, filled up with NaN.
    """

    graph: Mapping[Any, Any] | None = None
    """Result of the scan `causal_graph`."""
    layer: str | None = None
    """A convolution that the scan has tested. None: of those with causes in the most classes the
    last."""
    variant: Variant = "compat"
    """`compat`: A is what the layers below give, before norm, activation and pool; kernels are
    flipped, and moved over all places of overlap one by one, as the original has it. `forward`: A
    is what the layer reads, taken with its own padding and stride, as the network does. Pixel
    flipping on digits finds maps of `compat` better than chance (area 0.17, random maps 0.42) and
    those of `forward` not (0.50): behind pools a softmax over few places is nearly even."""
    keep_children: bool = True
    """Whether the children's own maps are stored."""

    cost = Cost(forward=2)
    needs: ClassVar[Mapping[str, str]] = {"graph": "causal_graph"}

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ValueError(f"got variant {self.variant!r}, expected 'forward' or 'compat'")

    @property
    def source_layer(self) -> None:
        """None: the map is of the input, whichever layer it is made in."""
        return

    def dims(self, input_shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return height and width for an image."""
        return ("height", "width") if len(input_shape) == 3 else super().dims(input_shape)

    def axes(self, dims: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        """Return the names of the children's axes."""
        places = dims if "height" in dims else dims[1:]
        return {
            "children": (CHILD, *(f"response_{place}" for place in places)),
            "child_index": (CHILD,),
        }

    def check(self, network: Network) -> None:
        """Refuse what has no classes, no structure or no such convolution, and another's graph."""
        _refuse_parts(network)
        structure = structure_of(network)
        if self.graph is not None:
            for links in self.links.values():
                for name in links:
                    layer_of(structure, name)
        if self.layer is not None or self.graph is not None:
            self._chosen(structure)

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return for which classes maps are zero, once there is a graph."""
        if self.graph is None:
            return ()
        name = self._chosen(structure_of(network)).name
        without = [each for each, links in self.links.items() if not _has_causes(links.get(name))]
        if not without:
            return ()
        shown = ", ".join(map(str, without[:10])) + (", ..." if len(without) > 10 else "")
        return (
            f"{self.name}: maps are zero for {len(without)} of {len(self.links)} classes "
            f"({shown}), whose graphs have no causes in {name!r}",
        )

    def stored_bytes(self, network: Network) -> int:
        """Return what the children's maps take, as far as a graph says how many there are."""
        if self.graph is None or not self.keep_children:
            return 0
        layer = self._chosen(structure_of(network))
        return 4 * self._most_children(layer.name) * math.prod(self._places(network, layer))

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the sum of the children's maps, and these.

        Raises
        ------
        ValueError
            If there is no graph, or the target is not a class.
        """
        if self.graph is None:
            raise ValueError(
                f"{self.name} got no graph; pass graph=, the result of "
                "explainers.scan(model, 'causal_graph', loader)"
            )
        _refuse_parts(trace.network)
        layer = self._chosen(structure_of(trace.network))
        classes = _classes(trace.cotangent(target))
        found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for label in torch.unique(classes).tolist():
            links = self.links.get(label, {}).get(layer.name)
            if _has_causes(links):
                rows = (classes == label).nonzero()[:, 0]
                found[label] = (rows, links.effects, self._maps(trace, layer, links, rows))
        return self._joined(trace, layer, found)

    @cached_property
    def links(self) -> dict[int, dict[str, Links]]:
        """Links by class and layer."""
        return graphs_of({} if self.graph is None else self.graph)

    def _maps(self, trace: Trace, layer: WeightedLayer, links: Links, rows: Tensor) -> Tensor:
        """Return the children's maps for rows of one class, ``(rows, children, *places)``."""
        kernel = own_kernel(layer)
        if self.variant == "forward":
            return forward_maps(kernel, read_by(trace, layer, rows, links.causes), links.effects)
        structure = structure_of(trace.network)
        parts = made_below(trace, structure, layer, rows, links.causes)
        return literal_maps(kernel, parts, links.effects, self._places(trace.network, layer))

    def _joined(
        self,
        trace: Trace,
        layer: WeightedLayer,
        found: Mapping[int, tuple[Tensor, Tensor, Tensor]],
    ) -> Explained:
        inputs = trace.inputs
        n_most, places = self._most_children(layer.name), inputs.shape[2:]
        relevance = inputs.new_zeros(len(inputs), *places)
        index = torch.full((len(inputs), n_most), -1, device=inputs.device)
        shape = self._places(trace.network, layer)
        children = inputs.new_full((len(inputs), n_most, *shape), torch.nan)
        for rows, effects, maps in found.values():
            relevance[rows] = resized(maps.sum(1, keepdim=True), places)[:, 0]
            index[rows, : len(effects)] = effects.to(index)
            children[rows, : len(effects)] = maps
        arrays = {"n_children": (index >= 0).sum(1), "child_index": index}
        if self.keep_children:
            arrays["children"] = children
        whole = relevance if inputs.ndim == 4 else relevance[:, None].expand_as(inputs)
        return Explained(whole, arrays)

    def _places(self, network: Network, layer: WeightedLayer) -> tuple[int, ...]:
        """Return how many places the children's maps have along each axis."""
        if self.variant == "compat":
            return literal_places(network, structure_of(network), layer)
        layout = network.layout(layer.name)
        if layout is None or not layout.is_plain:
            raise NotImplementedError(
                f"the samples of layer {layer.name!r} do not lie along its first axis; take "
                "another layer"
            )
        return layout.shape[1:]

    def _most_children(self, layer: str) -> int:
        """Return the most children of any class, at least one: stored arrays have one width."""
        links = (each.get(layer) for each in self.links.values())
        return max((len(each.effects) for each in links if _has_causes(each)), default=1)

    def _chosen(self, structure: Structure) -> WeightedLayer:
        """Return the layer that maps are made in.

        Raises
        ------
        ValueError
            If it is none that has neurons to test, or the network has none.
        """
        layers = {
            each.name: each
            for each in structure.layers
            if each.kind == "convolution" and not each.is_root
        }
        if self.layer is not None:
            if self.layer not in layers:
                raise ValueError(
                    f"got layer {self.layer!r}, expected a convolution of the causal graph, not "
                    f"depthwise and not of the input alone; {suggest(self.layer, list(layers))}"
                )
            return layers[self.layer]
        if not layers:
            raise ValueError(
                f"{self.name} needs a convolution that does not read the input alone, and this "
                "network has none"
            )
        counts = {
            name: sum(_has_causes(each.get(name)) for each in self.links.values())
            for name in layers
        }
        # of graphs without any, as of very few samples, the last: their maps are zero
        most = max(counts.values())
        return layers[[name for name, count in counts.items() if count == most][-1]]


def _refuse_parts(network: Network) -> None:
    if network is not network.root:
        raise ValueError(
            "causal graphs are of classes of a whole network with one floating-point input, got a "
            "part of one; explain a class, not a unit of a layer"
        )


def _has_causes(links: Links | None) -> TypeGuard[Links]:
    return links is not None and bool(len(links.causes) and len(links.effects))


def _classes(weights: Tensor) -> Tensor:
    """Return the class that the weights of a target stand for, ``(batch,)``.

    Raises
    ------
    ValueError
        If they are those of several.
    """
    if not bool(((weights != 0).sum(1) == 1).all()) or not bool((weights.amax(1) > 0).all()):
        raise ValueError(
            "got weights over several outputs as target, expected one class for each sample: "
            "causal graphs are of classes"
        )
    return weights.argmax(1)
