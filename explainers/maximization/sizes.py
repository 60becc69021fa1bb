"""How much a maximization scan stores, before compression."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from explainers.maximization.scan import Maximization
    from explainers.network import Network

_N_SCORES = 4
"""Sum and greatest, as they are and normed."""
_OF_STATE = 12
"""Bytes of an entry of a list in a state, and of a sample's raw scores there."""
_OF_RESULT = 20
"""Bytes of an entry of a list in a result, whose integers are longer."""
_OF_REFERENCE = 100
"""Bytes of what is beside a heat map: sample, position, scale and two boxes."""
_OF_PIXEL = 2
_IMAGE_AXES = 3


def stored(scan: Maximization, network: Network, n_samples: int, n_shards: int) -> dict[str, int]:
    """Return about how many bytes the states of all shards take, and the result.

    Of classes it is what they take at most: as many lists as samples allow.
    """
    n_concepts = sum(each.n for each in scan.concepts_of(network).values()) * len(scan.prefixes)
    lists, rows = scan.lists, -(-n_samples // max(1, n_shards))
    of_classes = min(n_samples, network.n_outputs * lists.per_class)
    states = _N_SCORES * min(lists.k, rows) + (rows if lists.per_class else 0)
    entries = _N_SCORES * (min(lists.k, n_samples) + of_classes)
    references = min(scan.references, n_samples) * _of_reference(scan, network)
    return {
        "states": n_concepts * (states * _OF_STATE * n_shards + references),
        "results": n_concepts * (entries * _OF_RESULT + references),
    }


def _of_reference(scan: Maximization, network: Network) -> int:
    """Return the bytes of a heat map and of what is beside it."""
    # references are made of the scan's lists, and look at it
    from explainers.concepts.references.averaging import extent

    if not scan.references:
        return 0
    shape = network.input_shape
    is_image = len(shape) == _IMAGE_AXES
    pixels = math.prod(extent(shape[1], shape[2], scan.heatmap_size) if is_image else shape)
    return _OF_PIXEL * pixels + _OF_REFERENCE
