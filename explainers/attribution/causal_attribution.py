"""Maps from a class's causal graph: where the causes of a convolution's channels are seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeGuard, get_args

import torch

from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.causal.graphs import CLASSES, graphs_of
from explainers.causal.maps import (
    MADE_IN,
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
from explainers.scan.causal_graph import CausalGraph

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.base import Scan
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

    Beside the map: ``n_children``; with `keep_children` ``child_index``, the children's channels,
    ascending and filled up with -1, and ``children``, their maps before they are enlarged, filled
    up with NaN.
    """

    graph: Mapping[Any, Any] | None = None
    """Result of the scan `causal_graph`."""
    layer: str | None = None
    """A convolution that the scan has tested. None: the network's last."""
    variant: Variant = "compat"
    """`compat`: A is what the layers below give, before norm, activation and pool; kernels are
    flipped, and moved over all places of overlap one by one, as the original has it. `forward`: A
    is what the layer reads, taken with its own padding and stride, as the network does. Areas of
    pixel flipping over all digits of `configs/causal_digits.yaml` are 0.211 for `compat`, 0.525
    for `forward` and 0.585 for random maps (lower is better; ± 0.006 at most): behind
    pools a softmax over few places is nearly even. They differ among classes; those of digit 1 are
    0.773 for `compat` and 0.581 for random maps."""
    keep_children: bool = False
    """Whether the children's own maps are stored, which may take far more than the map does."""

    cost = Cost(forward=2)
    has_zero: ClassVar[bool] = False
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
        chosen = self._chosen(structure).name
        if self.graph is not None and _is_left_out(self.graph, chosen):
            raise ValueError(_left_out(chosen))

    def check_scans(self, scans: Mapping[str, Scan], network: Network) -> None:
        """Refuse a scan that does not test the layer: maps of all classes would be zero."""
        chosen = self._chosen(structure_of(network)).name
        for scan in scans.values():
            if isinstance(scan, CausalGraph) and chosen not in scan.tested(network):
                raise ValueError(_left_out(chosen))

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return which layer maps are made in, and how coarse they are."""
        layer = self._chosen(structure_of(network))
        places = " x ".join(map(str, self._places(network, layer)))
        return (f"{MADE_IN} {layer.name}, of {places} places",)

    def stored_bytes(self, network: Network) -> int:
        """Return what the children's maps take if all channels of the layer are children."""
        if not self.keep_children:
            return 0
        layer = self._chosen(structure_of(network))
        return layer.n_outputs * (8 + 4 * math.prod(self._places(network, layer)))

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
        n_children = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
        arrays = {"n_children": n_children}
        if self.keep_children:
            shape = self._places(trace.network, layer)
            arrays["child_index"] = n_children.new_full((len(inputs), n_most), -1)
            arrays["children"] = inputs.new_full((len(inputs), n_most, *shape), torch.nan)
        for rows, effects, maps in found.values():
            relevance[rows] = resized(maps.sum(1, keepdim=True), places)[:, 0]
            n_children[rows] = len(effects)
            if self.keep_children:
                arrays["child_index"][rows, : len(effects)] = effects.to(n_children)
                arrays["children"][rows, : len(effects)] = maps
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
        return layers[list(layers)[-1]]


def _refuse_parts(network: Network) -> None:
    if network is not network.root:
        raise ValueError(
            "causal graphs are of classes of a whole network with one floating-point input, got a "
            "part of one; explain a class, not a unit of a layer"
        )


def _is_left_out(graph: Mapping[Any, Any], layer: str) -> bool:
    """Whether other layers were tested and this one was not, in any class."""
    classes = graph.get(CLASSES, graph)
    layers = [each for key, each in classes.items() if not isinstance(key, str)]
    tested = {name for each in layers for name, facts in each.items() if _is_tested(facts)}
    return bool(tested) and layer not in tested


def _is_tested(facts: Any) -> bool:
    return isinstance(facts, Mapping) and "tested" in facts


def _left_out(layer: str) -> str:
    return (
        f"got a graph whose scan does not test {layer!r}, which maps are to be made in, so that "
        "all would be zero; name a convolution that it tests in `layer`, or this one in the "
        "scan's `layers`"
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
