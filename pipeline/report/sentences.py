"""Hierarchies of words as rows of cells: one for each level, the root on top."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from pipeline.report import pictures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.report.pictures import Colour
    from pipeline.report.trees import Node, Tree


@dataclass(frozen=True)
class Cell:
    """Neighbouring words of one node; of none, and empty, where nothing was found yet."""

    span: int
    words: str
    value: float | None
    colour: Colour | None
    title: str


@dataclass(frozen=True)
class Line:
    """A level as cells from left to right."""

    name: str
    cells: tuple[Cell, ...]


def lines(tree: Tree, words: Sequence[str], describe: Callable[[Node], str]) -> list[Line]:
    """Return all levels at which something changes, the root on top, and words by themselves below.

    Parameters
    ----------
    tree
        Of one sample.
    words
        What is shown of it, by position; cells beyond them are left out.
    describe
        What a node says to who points at it.
    """
    levels = [_cells(tree.whole(level), tree, words, describe) for level in tree.levels]
    names = [*(f"level {level}" for level in tree.levels[:-1]), "root"]
    found = [Line("words", _alone(tree, words, describe)), *map(Line, names, levels)]
    changed = [found[0], *(b for a, b in pairwise(found) if a.cells != b.cells)]
    return changed[::-1]


def _alone(tree: Tree, words: Sequence[str], describe: Callable[[Node], str]) -> tuple[Cell, ...]:
    """Return every word with its own score where it is in the tree."""
    of_cell = {node.members[0]: node for node in reversed(tree.nodes) if len(node.members) == 1}
    return tuple(
        _cell(tree, [word], of_cell[position], describe)
        if position in of_cell
        else Cell(1, word, None, None, "")
        for position, word in enumerate(words)
    )


def _cells(
    nodes: Sequence[Node], tree: Tree, words: Sequence[str], describe: Callable[[Node], str]
) -> tuple[Cell, ...]:
    owner = {position: node for node in nodes for position in node.members}
    numbers = {position: node.number for position, node in owner.items()}
    runs = groupby(range(len(words)), key=numbers.get)
    spans = [list(positions) for _, positions in runs]
    return tuple(
        _cell(tree, [words[each] for each in span], owner[span[0]], describe)
        if span[0] in owner
        else Cell(len(span), "", None, None, "")
        for span in spans
    )


def _cell(tree: Tree, words: Sequence[str], node: Node, describe: Callable[[Node], str]) -> Cell:
    shade = pictures.colour(node.value, tree.limit)
    return Cell(len(words), " ".join(words), node.value, shade, describe(node))
