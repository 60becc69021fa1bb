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
    """Neighbouring words of one node, or a word that is in none."""

    span: int
    words: str
    value: float | None
    """None where it stands elsewhere: at the first of the node's words."""
    colour: Colour | None
    """None of a word that is in no node."""
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
    leaves = [node for node in tree.nodes if len(node.members) == 1]
    levels = [leaves, *map(tree.whole, tree.levels)]
    names = ["words", *(f"level {level}" for level in tree.levels[:-1]), "root"]
    found = [
        Line(name, _cells(nodes, tree, words, describe))
        for name, nodes in zip(names, levels, strict=True)
    ]
    changed = [found[0], *(b for a, b in pairwise(found) if a.cells != b.cells)]
    return changed[::-1]


def _cells(
    nodes: Sequence[Node], tree: Tree, words: Sequence[str], describe: Callable[[Node], str]
) -> tuple[Cell, ...]:
    owner = {position: node for node in nodes for position in node.members}
    # a word of no node is a cell of its own, so that words stay above each other
    key = {position: (True, node.number) for position, node in owner.items()}
    runs = groupby(range(len(words)), key=lambda position: key.get(position, (False, position)))
    spans = [list(positions) for _, positions in runs]
    return tuple(_cell(tree, span, words, owner.get(span[0]), describe) for span in spans)


def _cell(
    tree: Tree,
    span: Sequence[int],
    words: Sequence[str],
    node: Node | None,
    describe: Callable[[Node], str],
) -> Cell:
    written = " ".join(words[position] for position in span)
    if node is None:
        return Cell(len(span), written, None, None, "")
    value = node.value if span[0] == min(node.members) else None
    return Cell(len(span), written, value, pictures.colour(node.value, tree.limit), describe(node))
