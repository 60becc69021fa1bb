"""What a scan's result says of each class: which neurons are linked with which channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = "classes"
"""Key of a stored result under which its classes are."""


@dataclass(frozen=True, eq=False)
class Links:
    """The part of a class's graph that lies in one layer: what it reads, and what it makes of it.

    Every cause is linked with every effect: they were intervened on together.
    """

    causes: Tensor
    """Neurons whose removal lowers the class's logit, ascending, int64, ``(causes,)``."""
    negative_causes: Tensor
    """Neurons whose removal raises it, likewise."""
    effects: Tensor
    """Output channels of the layer that the graph's upper layers are made of, likewise."""
    n_tested: int
    """How many neurons were tested: 0 in layers that read the input alone, or were not reached."""


def graphs_of(result: Mapping[Any, Any]) -> dict[int, dict[str, Links]]:
    """Return the graph of each class: the links by layer, in the order of the result.

    Parameters
    ----------
    result
        Of the scan `causal_graph`: as the library returns it, classes beside ``samples``, or as it
        is stored, below ``classes`` and padded with -1. Arrays may be tensors or numpy's. What this
        function returned is returned again.

    Raises
    ------
    ValueError
        If it is no such result.
    """
    classes = result.get(CLASSES, result) if isinstance(result, Mapping) else None
    if not isinstance(classes, Mapping):
        raise ValueError(
            f"got {type(result).__name__} for a causal graph, expected the result of "
            "explainers.scan(model, 'causal_graph', loader)"
        )
    found = {
        int(key): {str(name): _links(key, name, layer) for name, layer in layers.items()}
        for key, layers in classes.items()
        if not isinstance(key, str)
    }
    if not found:
        raise ValueError(
            f"got a result with {', '.join(map(repr, classes)) or 'nothing'} in it, expected the "
            "graphs of classes; pass the result of explainers.scan(model, 'causal_graph', loader)"
        )
    return found


def _links(label: Any, name: str, layer: Mapping[str, Any] | Links) -> Links:
    if isinstance(layer, Links):
        return layer
    if not isinstance(layer, Mapping) or "effects" not in layer:
        raise ValueError(
            f"got no effects for layer {name!r} of class {label!r}, expected the result of "
            "explainers.scan(model, 'causal_graph', loader)"
        )
    causes, negative = _indices(layer, "causes"), _indices(layer, "negative_causes")
    # of a graph that somebody wrote down by hand, causes are all that is known
    n_tested = torch.as_tensor(layer["tested"]).sum() if "tested" in layer else 0
    return Links(
        causes=causes,
        negative_causes=negative,
        effects=_indices(layer, "effects"),
        n_tested=max(int(n_tested), len(causes) + len(negative)),
    )


def _indices(layer: Mapping[str, Any], name: str) -> Tensor:
    found = torch.as_tensor(layer.get(name, ()))
    found = found.detach().to("cpu", torch.int64).flatten()
    return found[found >= 0]
