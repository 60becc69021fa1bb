"""Values for other rows of a batch, where rows are not always the first axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.reading.trust import random_like

if TYPE_CHECKING:
    from typing import NoReturn

    from torch import Tensor

    from explainers.network import Network
    from explainers.reading.program import Layout


def gathered(
    root: Network, name: str, value: Tensor, layout: Layout | None, rows: Tensor
) -> Tensor:
    """Return an operator's value for rows of the batch.

    Raises
    ------
    NotImplementedError
        If it is not known where the rows are.
    """
    if layout is None:
        _refuse(name)
    rows = rows.to(value.device)
    if layout.n_places == 1:
        return value.index_select(layout.axis, rows)
    if not _is_row_major(root, name, layout):
        _refuse(name)
    axis = layout.axis
    places = value.reshape(*value.shape[:axis], -1, layout.n_places, *value.shape[axis + 1 :])
    return places.index_select(axis, rows).flatten(axis, axis + 1)


def _is_row_major(root: Network, name: str, layout: Layout) -> bool:
    """Return whether the places of a row lie together; seen by computing one row alone."""
    key = ("row major", name)
    if key not in root._cuts:
        parts = [random_like(part) for part in root._example]
        whole = root.run(root.structure.filled(parts))[name]
        first = root.run(root.structure.filled([part[:1] for part in parts]))[name]
        found = whole.narrow(layout.axis, 0, layout.n_places)
        root._cuts[key] = torch.allclose(found.double(), first.double(), rtol=1e-3, atol=1e-5)
    known: bool = root._cuts[key]
    return known


def _refuse(name: str) -> NoReturn:
    raise NotImplementedError(
        f"the value of {name!r} passes by the layer that is explained, and its samples are not "
        "laid out along one axis; explain another layer, or the input"
    )
