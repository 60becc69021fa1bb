"""Baselines that are drawn from the data: rows of tensors in the structure of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from explainers.inputs.sources import sources
from explainers.reference import of_part

if TYPE_CHECKING:
    from explainers.network import Network

Background: TypeAlias = Tensor | tuple[Tensor, ...] | Mapping[str, Any] | None
"""Baselines ``(n, ...)``; for several inputs a tuple or dict of such tensors as the inputs are, in
which an input that is not explained may be None; or the result of the scan `background`."""


def rows(background: Any, asked: str) -> list[Any]:
    """Return a baseline for each row, as `Trace.baseline` takes it.

    Parameters
    ----------
    background
        See `Background`.
    asked
        What the caller has to be given, for the message where there is none.

    Raises
    ------
    ValueError
        If there is none, or it has no rows, or not as many of each input.
    """
    if background is None:
        raise ValueError(asked)
    held = _held(background)
    if isinstance(held, Mapping):
        parts = {name: _tensor(part) for name, part in held.items()}
        return [_picked(parts, row) for row in range(_n_rows(parts))]
    if isinstance(held, tuple | list) and any(isinstance(part, Tensor) for part in held):
        parts = {str(position): _tensor(part) for position, part in enumerate(held)}
        return [tuple(_picked(parts, row).values()) for row in range(_n_rows(parts))]
    alone = torch.as_tensor(held)
    return [alone[row : row + 1] for row in range(_n_rows({"": alone}))]


def check(background: Any, network: Network, asked: str) -> None:
    """Refuse a background without rows, or whose rows are no inputs of the network.

    Raises
    ------
    ValueError
        If it is such a one.
    """
    held = _held(background)
    first, *_ = rows(background, asked)
    if isinstance(first, Tensor) and tuple(first.shape[1:]) == tuple(network.input_shape):
        return
    root = network.root
    for source in sources(root):
        part, shape = of_part(first, root, source.part), root.input_shapes[source.part]
        if isinstance(part, Tensor) and tuple(part.shape[1:]) != tuple(shape):
            n_rows = len(held) if isinstance(held, Tensor) else "n"
            whose = f" for the input {source.part!r}" if len(root.structure.names) > 1 else ""
            raise ValueError(
                f"got a background of shape {(n_rows, *part.shape[1:])}{whose}, expected "
                f"{('n', *shape)}; its rows are inputs of the network"
            )


def is_result(background: Any) -> bool:
    """Whether this is what a scan found, and not rows of inputs with names of their own."""
    return isinstance(background, Mapping) and "inputs" in background.keys() <= {"inputs", "sample"}


def repeated(background: Mapping[str, Any], n_rows: int) -> dict[str, Any]:
    """Return a scan's result whose rows are all the first one: for costs before a scan is done."""
    held = background["inputs"]
    if isinstance(held, Tensor):
        return {"inputs": held[:1].expand(n_rows, *held.shape[1:])}
    return {
        "inputs": {name: part[:1].expand(n_rows, *part.shape[1:]) for name, part in held.items()}
    }


def _held(background: Any) -> Any:
    """Return the rows alone, of a scan's result too."""
    return background["inputs"] if is_result(background) else background


def _tensor(part: Any) -> Tensor | None:
    return None if part is None else torch.as_tensor(part)


def _picked(parts: Mapping[str, Tensor | None], row: int) -> dict[str, Tensor | None]:
    return {name: None if part is None else part[row : row + 1] for name, part in parts.items()}


def _n_rows(parts: Mapping[str, Tensor | None]) -> int:
    given = {name: part for name, part in parts.items() if part is not None}
    shapes = {name: tuple(part.shape) for name, part in given.items()}
    found = ", ".join(f"{name!r} {shape}" if name else f"{shape}" for name, shape in shapes.items())
    if not given or not all(part.ndim and len(part) for part in given.values()):
        raise ValueError(
            f"got a background of shape {found or 'none'}, expected (n, ...) with at least one "
            "row; for one baseline, use integrated_gradients or deep_lift"
        )
    n_rows = {len(part) for part in given.values()}
    if len(n_rows) > 1:
        raise ValueError(
            f"got a background whose inputs differ in their number of rows, {found}; expected "
            "(n, ...) with one n for all"
        )
    return n_rows.pop()
