"""Runs a plan: operators on pieces first, then the rest of the program on whole values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers import running
from explainers.inputs.rows import gathered
from explainers.regions.local import Local, Piece
from explainers.regions.patches import Places, around, entire, table, taken

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.regions.local import Region
    from explainers.regions.plan import Plan


class Unperturbed:
    """Values of some rows as they are, held so that pieces of them can be taken.

    Parameters
    ----------
    network
        Whose values they are.
    values
        Of a batch, by operator.
    rows
        Of the batch, int64.
    """

    def __init__(self, network: Network, values: Mapping[str, Tensor], rows: Tensor) -> None:
        self.network, self.rows = network, rows
        self._values = values
        self._tables: dict[tuple[str, float, tuple[tuple[int, int], ...]], Tensor] = {}

    def table(self, name: str, margins: tuple[tuple[int, int], ...], fill: float) -> Tensor:
        """Return a value of these rows, channels last, with margins; made once."""
        is_plain = not any(max(pair) for pair in margins)
        key = (name, 0.0 if is_plain else fill, margins)
        if key not in self._tables:
            value = self._values[name]
            is_all = len(self.rows) == len(value)
            own = value if is_all else value.index_select(0, self.rows)
            self._tables[key] = table(own, margins, fill)
        return self._tables[key]

    def repeated(self, name: str, n_boxes: int) -> Tensor:
        """Return a value that no box reaches, for all boxes and rows."""
        value, layout = self._values[name], self.network.layout(name)
        if layout is None:
            return value
        rows = self.rows.repeat(n_boxes)
        return gathered(self.network.root, name, value, layout, rows)

    def sized(self, name: str, n_boxes: int) -> Tensor:
        """Return something with as many rows as there are for all boxes."""
        value = self._values[name][:1]
        return value.expand(n_boxes * len(self.rows), *value.shape[1:])


class Recomputation:
    """The output for some boxes, each filled in in each of some rows.

    Parameters
    ----------
    plan
        What is done.
    own
        The rows.
    which
        The boxes, int64.
    """

    def __init__(self, plan: Plan, own: Unperturbed, which: Tensor) -> None:
        self.plan, self.own = plan, own
        self.n_boxes, n_rows = len(which), len(own.rows)
        self.along = plan.boxes.along(which)[1:]
        self.lead = torch.arange(n_rows, device=which.device).expand(self.n_boxes, n_rows)
        self.pieces: dict[str, Tensor] = {}
        self.whole: dict[str, Tensor] = {}

    def outputs(self, filled: Tensor) -> Tensor:
        """Return outputs ``(boxes, rows, classes)``, given what the boxes are filled with.

        Parameters
        ----------
        filled
            Pieces of the input, ``(boxes * rows, channels, *sizes)``.
        """
        plan, program = self.plan, self.plan.tail
        self.pieces[plan.source] = filled
        for step in plan.steps:
            if isinstance(step, Local):
                self._run_on_pieces(step)
            else:
                self.whole[step.name] = step.run(*(self._whole(name) for name in step.inputs))
            self._drop(step.op if isinstance(step, Local) else step)
        values = {name: self._whole(name) for name in plan.given}
        values |= {name: self.own.sized(name, self.n_boxes) for name in plan.sized}
        self.pieces.clear()
        self.whole.clear()
        outputs = running.run(program, values, None)[program.output_name]
        return outputs.view(self.n_boxes, len(self.own.rows), -1)

    def places(self, region: Region) -> Places:
        """Return where the pieces of a region are."""
        return self._placed(Piece.of(region))

    def _run_on_pieces(self, step: Local) -> None:
        inputs = [
            self.own.repeated(name, self.n_boxes) if piece is None else self._read(name, piece)
            for name, piece in zip(step.op.inputs, step.reads, strict=True)
        ]
        self.pieces[step.op.name] = step.run(inputs, self.along)

    def _read(self, name: str, piece: Piece) -> Tensor:
        """Return a piece of a value as it now is, ``(boxes * rows, channels, *sizes)``."""
        region = self.plan.regions.get(name)
        if region is not None and piece == Piece.of(region):
            return self.pieces[name]
        value_axes = self._extents(name)
        margins = _margins(piece, value_axes)
        whole = self.own.table(name, margins, piece.fill)
        in_front = [before for before, _ in margins]
        places = self._placed(piece).moved(in_front)
        if region is None:
            return _as_pieces(taken(whole, self.lead, places))
        found = around(
            whole,
            self.lead,
            places,
            self.pieces[name].movedim(1, -1),
            self.places(region).moved(in_front),
            has_strays=_has_strays(piece, region),
        )
        return _as_pieces(found)

    def _whole(self, name: str) -> Tensor:
        """Return a whole value as it now is, ``(boxes * rows, ...)``."""
        if name not in self.whole:
            region = self.plan.regions.get(name)
            if region is None:
                return self.own.repeated(name, self.n_boxes)
            none = ((0, 0),) * len(region)
            unperturbed = self.own.table(name, none, 0.0)
            piece = self.pieces[name].movedim(1, -1)
            found = entire(unperturbed, self.lead, piece, self.places(region))
            self.whole[name] = found.movedim(-1, 1)
        return self.whole[name]

    def _extents(self, name: str) -> tuple[int, ...]:
        layout = self.own.network.layout(name)
        return () if layout is None else layout.shape[1:]

    def _placed(self, piece: Piece) -> Places:
        starts = tuple(
            torch.tensor(start, device=which.device)[which]
            for start, which in zip(piece.starts, self.along, strict=True)
        )
        return Places(starts, piece.sizes)

    def _drop(self, op: Operator) -> None:
        for name in self.plan.last_uses[op.name]:
            self.pieces.pop(name, None)
            self.whole.pop(name, None)


def _as_pieces(found: Tensor) -> Tensor:
    return found.flatten(0, 1).movedim(-1, 1)


def _margins(piece: Piece, extents: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return how far a piece sticks out of a value, before and behind, along each axis."""
    return tuple(
        (max(0, -min(starts)), max(0, max(starts) + size - extent))
        for starts, size, extent in zip(piece.starts, piece.sizes, extents, strict=True)
    )


def _has_strays(piece: Piece, region: Region) -> bool:
    """Whether anything of a region lies outside of a piece."""
    return any(
        start < first or start + reach.size > first + size
        for reach, starts, size in zip(region, piece.starts, piece.sizes, strict=True)
        for start, first in zip(reach.starts, starts, strict=True)
    )
