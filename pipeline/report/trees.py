"""Hierarchies as a run stores them: nodes of a tree, and what of it is whole at each level."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from explainers.hierarchies.cells import PER_SIDE
from pipeline.entries import build_explainers
from pipeline.errors import XpipeError
from pipeline.plan import split_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.store import Run

COMPONENTS = "components"
"""Array that methods store beside the table of their nodes."""
ROOT = -1
"""Parent of what has none."""


@dataclass(frozen=True)
class Node:
    """A group of cells that was found to act together."""

    number: int
    parent: int
    """`ROOT` for the last one."""
    level: int
    """At which it first appears."""
    members: tuple[int, ...]
    """Cells, row by row."""
    scores: Mapping[int, float]
    """Output of the network to what the node adds to it."""
    value: float
    """What decides its colour: the score of what is explained; NaN where it is not stored."""


@dataclass(frozen=True)
class Tree:
    """The hierarchy of one sample: every cell is in one leaf at most, and the root holds all."""

    nodes: tuple[Node, ...]

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Levels at which something new appears, from the first to that of the root."""
        return tuple(sorted({node.level for node in self.nodes}))

    @cached_property
    def limit(self) -> float:
        """Greatest magnitude of all values, for colours; 0 if none is finite."""
        values = np.abs([node.value for node in self.nodes] or [0.0])
        return float(values[np.isfinite(values)].max(initial=0.0))

    def whole(self, level: int) -> list[Node]:
        """Return the nodes of a level that are no part of another of that level, largest first."""
        level_of = {node.number: node.level for node in self.nodes}
        shown = [
            node
            for node in self.nodes
            if node.level <= level and (node.parent == ROOT or level_of[node.parent] > level)
        ]
        return sorted(shown, key=_largest_first)


@dataclass(frozen=True)
class Hierarchies:
    """What one explainer found, of some samples."""

    name: str
    grid: tuple[int, ...]
    """Cells of a sample: rows and columns of a picture, or positions."""
    n_grown: int
    """Levels at which components grew, before they were merged."""
    size: tuple[int, ...]
    """Of what is explained, along the axes of the grid: pixels, or positions."""
    side: int
    """Values of it along a cell."""
    is_difference: bool
    """Whether values are scores less those of the other of two classes."""
    trees: Mapping[int, Tree]
    """By sample."""


def read(run: Run, rows: Sequence[int]) -> list[Hierarchies]:
    """Return the hierarchies of these samples, of every explainer that stores any.

    Of several targets, they are those of the first.
    """
    names = dict.fromkeys(split_name(of_map)[0] for of_map in run.maps)
    having = [name for name in names if COMPONENTS in run.arrays(name)]
    methods = _methods(run) if having else {}
    return [_of_explainer(run, name, methods.get(name), rows) for name in having]


def _of_explainer(run: Run, name: str, method: object, rows: Sequence[int]) -> Hierarchies:
    stored = run.array(name, COMPONENTS)
    stored = stored.isel(target=0) if "target" in stored.dims else stored
    _, n_levels, *grid = stored.shape
    subtracts = getattr(method, "subtract", False)
    # as the method has it: sequences are subtracted where nobody says otherwise
    subtracts = len(grid) == 1 if subtracts is None else subtracts
    is_difference = bool(subtracts) and run.plan.n_classes == 2
    of_samples = _rows(run, name, rows)
    targets = _targets(run, rows)
    asked = getattr(method, "classes", "all")
    trees = {
        row: _tree(of_samples[row], asked, targets[row], is_difference=is_difference)
        for row in rows
        if of_samples.get(row)
    }
    shape = next(spec.shape for of, spec in run.plan.maps.items() if split_name(of)[0] == name)
    # of sequences, components are those of every position
    size = tuple(shape[-2:]) if len(grid) == 2 else tuple(grid)
    side = getattr(method, "sweep", None) or _side(size)
    grid = grid if len(grid) == 2 else [-(-size[0] // side)]
    return Hierarchies(name, tuple(grid), n_levels - 1, size, side, is_difference, trees)


def _side(size: tuple[int, ...]) -> int:
    """Return the side of a cell where nobody says otherwise."""
    return max(1, min(size) // PER_SIDE) if len(size) == 2 else 1


def _methods(run: Run) -> Mapping[str, object]:
    """Return the explainers with their parameters; none if they cannot be made here any more."""
    try:
        return build_explainers(run.config)
    except (XpipeError, OSError, ImportError):
        return {}


def _rows(run: Run, name: str, rows: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Return the table's rows of each of these samples."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = run.table(name)
    if not table.num_rows:
        return {}
    table = table.filter(pc.is_in(table["sample"], pa.array(rows, table["sample"].type)))
    if "target" in table.column_names:
        table = table.filter(pc.equal(table["target"], 0))
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in table.to_pylist():
        found[row["sample"]].append(row)
    return found


def _targets(run: Run, rows: Sequence[int]) -> dict[int, int]:
    """Return the first target of each of these samples; -1 where it is no class."""
    stored = run.array("", "target")
    values = np.asarray(stored.isel(sample=list(rows)).values)
    firsts: NDArray[Any] = values.reshape(len(rows), -1)[:, 0]
    return dict(zip(rows, firsts.astype(int).tolist(), strict=True))


def _tree(
    rows: Sequence[Mapping[str, Any]], asked: Any, target: int, *, is_difference: bool
) -> Tree:
    return Tree(tuple(node_of(row, asked, target, is_difference=is_difference) for row in rows))


def node_of(row: Mapping[str, Any], asked: Any, target: int, *, is_difference: bool) -> Node:
    """Return a node of a row of the table, coloured by the score of the target."""
    values = [float("nan") if value is None else float(value) for value in row["scores"]]
    outputs = _outputs(asked, target, len(values))
    scores = dict(zip(outputs, values, strict=True))
    value = scores.get(target, float("nan"))
    if is_difference and len(scores) == 2 and target in scores:
        value = scores[target] - scores[1 - target]
    members = tuple(int(cell) for cell in row["members"])
    return Node(int(row["node"]), int(row["parent"]), int(row["level"]), members, scores, value)


def _outputs(asked: Any, target: int, n_scores: int) -> Sequence[int]:
    """Return which outputs of the network scores are for."""
    # a unit of a layer is no class, and all that there is a score of
    if asked == "target" or (asked == "all" and target < 0 and n_scores == 1):
        return [target]
    is_list = not isinstance(asked, str) and len(asked) == n_scores
    return [int(each) for each in asked] if is_list else range(n_scores)


def _largest_first(node: Node) -> tuple[int, int]:
    return -len(node.members), node.number
