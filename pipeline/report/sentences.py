"""Hierarchies of words as rows of cells: one for each level, the root on top."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
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

    level: int
    is_root: bool
    cells: tuple[Cell, ...]


def lines(tree: Tree, words: Sequence[str], describe: Callable[[Node], str]) -> list[Line]:
    """Return all levels at which something changes, from the root down.

    Parameters
    ----------
    tree
        Of one sample.
    words
        What is shown of it, by position; cells beyond them are left out.
    describe
        What a node says to who points at it.
    """
    found = [
        Line(level, level == tree.levels[-1], _cells(tree.whole(level), tree, words, describe))
        for level in tree.levels
    ]
    changed = [line for k, line in enumerate(found) if not k or line.cells != found[k - 1].cells]
    return changed[::-1]


def leaves(tree: Tree, words: Sequence[str], describe: Callable[[Node], str]) -> Line:
    """Return every word by itself, with its own score where it is in the tree."""
    single = [node for node in tree.nodes if len(node.members) == 1]
    first = {node.members[0]: node for node in reversed(single)}
    nodes = [first.get(position) for position in range(len(words))]
    cells = tuple(
        _cell(tree, [word], node, describe) for word, node in zip(words, nodes, strict=True)
    )
    return Line(0, False, cells)


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


def _cell(
    tree: Tree, words: Sequence[str], node: Node | None, describe: Callable[[Node], str]
) -> Cell:
    text = " ".join(words)
    if node is None:
        return Cell(len(words), text, None, None, "")
    shade = pictures.colour(node.value, tree.limit)
    return Cell(len(words), text, node.value, shade, describe(node))
