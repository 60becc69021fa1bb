"""Components of a picture drawn over it: filled areas and their outlines, as inline SVG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from pipeline.report import pictures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pipeline.report.pictures import Picture
    from pipeline.report.trees import Node

COMPONENTS = "components of the hierarchy, on the input"
"""What drawings are, for who does not see them."""


@dataclass(frozen=True)
class Grid:
    """Cells of a picture, row by row; the last of a row or column may be smaller."""

    rows: int
    columns: int
    height: int
    """Of the picture in pixels."""
    width: int
    step_down: float
    """Height of a cell in pixels of the picture."""
    step_across: float

    def mask(self, cells: Sequence[int]) -> NDArray[np.bool_]:
        """Return where these cells are, ``(rows, columns)``."""
        found = np.zeros(self.rows * self.columns, bool)
        found[list(cells)] = True
        return found.reshape(self.rows, self.columns)

    def across(self, column: int) -> str:
        """Return where a column of cells begins, in pixels."""
        return f"{min(column * self.step_across, self.width):g}"

    def down(self, row: int) -> str:
        """Return where a row of cells begins, in pixels."""
        return f"{min(row * self.step_down, self.height):g}"


def ground(picture: Picture, height: int, width: int, name: str) -> Markup:
    """Return the picture alone, once; other drawings of the page refer to it by `name`."""
    # not by a class: what `use` repeats would not follow it
    style = Markup(' style="image-rendering:pixelated"') if picture.is_coarse else Markup("")
    image = Markup('<image id="{}" href="{}" width="{}" height="{}"{}/>')
    return _drawing(height, width, image.format(name, picture.uri, width, height, style), "input")


def areas(
    nodes: Sequence[Node],
    grid: Grid,
    limit: float,
    words: Callable[[Node], str],
    name: str | None,
) -> Markup:
    """Return nodes as filled areas in the colour of their value over the picture `name`."""
    shapes = [_area(node, grid, limit, words(node)) for node in nodes]
    return _drawing(grid.height, grid.width, _use(name) + Markup("").join(shapes))


def nested(levels: Sequence[Sequence[Node]], grid: Grid, limit: float, name: str | None) -> Markup:
    """Return the outlines of all levels over each other, the widest below."""
    shapes = [
        _edge(grid.mask(node.members), grid, pictures.colour(node.value, limit).ground)
        for nodes in reversed(levels)
        for node in nodes
    ]
    return _drawing(grid.height, grid.width, _use(name) + Markup("").join(shapes))


def _area(node: Node, grid: Grid, limit: float, words: str) -> Markup:
    mask = grid.mask(node.members)
    shade = pictures.colour(node.value, limit).ground
    fill = Markup('<path class="area" d="{}" fill="{}"/>').format(_filled(mask, grid), shade)
    return Markup("<g><title>{}</title>{}{}</g>").format(words, fill, _edge(mask, grid, shade))


def _edge(mask: NDArray[np.bool_], grid: Grid, shade: str) -> Markup:
    """Return an outline in its colour, with a dark one below it for what is pale."""
    way = _outline(mask, grid)
    return Markup('<path class="under" d="{}"/><path class="edge" d="{}" stroke="{}"/>').format(
        way, way, shade
    )


def _use(name: str | None) -> Markup:
    return Markup("") if name is None else Markup('<use href="#{}"/>').format(name)


def _drawing(height: int, width: int, content: Markup, label: str = COMPONENTS) -> Markup:
    drawing = Markup(
        '<svg class="outlines" role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>'
    )
    return drawing.format(label, width, height, content)


def _filled(mask: NDArray[np.bool_], grid: Grid) -> str:
    """Return a path that fills what is set: a rectangle for each run of a row."""
    parts = []
    for row, start, stop in _runs(mask):
        left, right = grid.across(start), grid.across(stop)
        top, bottom = grid.down(row), grid.down(row + 1)
        parts.append(f"M{left} {top}H{right}V{bottom}H{left}z")
    return "".join(parts)


def _outline(mask: NDArray[np.bool_], grid: Grid) -> str:
    """Return a path along all edges between what is set and what is not."""
    padded = np.pad(mask, 1)
    level = (padded[1:] != padded[:-1])[:, 1:-1]  # (rows + 1, columns)
    upright = (padded[:, 1:] != padded[:, :-1])[1:-1].T  # (columns + 1, rows)
    across = [
        f"M{grid.across(start)} {grid.down(row)}H{grid.across(stop)}"
        for row, start, stop in _runs(level)
    ]
    down = [
        f"M{grid.across(column)} {grid.down(start)}V{grid.down(stop)}"
        for column, start, stop in _runs(upright)
    ]
    return "".join(across + down)


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Return line, start and stop of each run of what is set."""
    steps = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    lines, starts = np.nonzero(steps == 1)
    _, stops = np.nonzero(steps == -1)
    return list(zip(lines.tolist(), starts.tolist(), stops.tolist(), strict=True))
