"""From what a run file says about features to a partition of a batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from explainers.features.partition import Partition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.trace import Trace

FeatureSpec: TypeAlias = "str | Mapping[str, Any] | Tensor | None"


def resolve(spec: Any, trace: Trace) -> Partition:
    """Return the features of a batch that `spec` says."""
    return _resolve(spec, tuple(trace.inputs.shape[1:]), trace.inputs.device)


def check(spec: Any, network: Network) -> int | None:
    """Refuse a partition that does not fit a network; return its number of features if known."""
    return _resolve(spec, tuple(network.input_shape), torch.device("cpu")).counts[0]


def _resolve(spec: Any, shape: tuple[int, ...], device: torch.device) -> Partition:
    if spec is None:
        cells = torch.arange(math.prod(shape), device=device).view(1, *shape)
        return Partition(cells, (math.prod(shape),), shape)
    n_cells = int(spec["grid"])
    _, height, width = shape
    rows = torch.arange(height, device=device) * n_cells // height
    columns = torch.arange(width, device=device) * n_cells // width
    cells = rows[:, None] * n_cells + columns
    return Partition(cells[None, None], (n_cells**2,), shape)
