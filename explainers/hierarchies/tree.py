"""Trees of components: leaves are cells, and the root is all that grew together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from explainers.hierarchies.levels import present

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from explainers.hierarchies.levels import Level

_COLUMNS = ("row", "node", "parent", "level", "members", "scores")


@dataclass(frozen=True, eq=False)
class Nodes:
    """Nodes that are new at a level, of all samples: by sample, then by node."""

    rows: Tensor
    """Of the batch, int64 ``(nodes,)``."""
    numbers: Tensor
    """Of the nodes within their samples, int64 ``(nodes,)``."""
    members: Tensor
    """Their cells, bool ``(nodes, cells)``."""
    scores: Tensor
    """``(nodes, classes)``."""
    level: int

    def __len__(self) -> int:
        return len(self.rows)


class Tree:
    """The tree of each sample of a batch.

    A cell is a leaf from the level on at which it is in a component. A component that is not the
    same as one node before is a node, and the parent of those that it contains; so every node that
    is no leaf has two children or more, its members are the union of theirs, children have smaller
    numbers than parents, and of a sample whose components ended in one, the last node is the root.
    Cells that are never in a component are in no node.

    Parameters
    ----------
    levels
        Of growth and merging, in order.
    seeds
        Scores of single cells, ``(batch, cells, classes)``.
    """

    def __init__(self, levels: Sequence[Level], seeds: Tensor) -> None:
        n_rows, n_cells = seeds.shape[:2]
        self._seeds = seeds
        self._counts = torch.zeros(n_rows, dtype=torch.int64, device=seeds.device)
        self._holders = self._counts.new_full((n_rows, n_cells), -1)
        self.parents = self._counts.new_full((n_rows, 2 * n_cells), -1)
        """Parent of each node, int64 ``(batch, 2 * cells)``: -1 for roots, and where no node is."""
        self.nodes: list[Nodes] = []
        """Leaves and components, level by level."""
        self.holders: list[Tensor] = []
        """Node that holds each cell after each level, int64 ``(batch, cells)``, -1 for none."""
        for number, level in enumerate(levels):
            self._add_leaves(number, level)
            self._add_components(number, level)
            self.holders.append(self._holders)

    @property
    def counts(self) -> Tensor:
        """How many nodes each sample has, int64 ``(batch,)``."""
        return self._counts

    def _add_leaves(self, number: int, level: Level) -> None:
        is_new = (level.labels > 0) & (self._holders < 0)
        numbers = self._numbered(is_new)
        self._holders = torch.where(is_new, numbers, self._holders)
        rows, cells = is_new.nonzero(as_tuple=True)
        members = torch.arange(is_new.shape[1], device=cells.device) == cells[:, None]
        scores = self._seeds[rows, cells]
        self.nodes.append(Nodes(rows, numbers[rows, cells], members, scores, number))

    def _add_components(self, number: int, level: Level) -> None:
        labels, n_ids = level.labels, level.scores.shape[1]
        holders = self._holders
        ends = [
            holders.new_full((len(labels), n_ids), -1).scatter_reduce(
                1, labels, holders, reduce, include_self=False
            )
            for reduce in ("amin", "amax")
        ]
        is_new = present(labels, n_ids) & (ends[0] != ends[1])
        numbers = self._numbered(is_new)
        is_inside = is_new.gather(1, labels)
        rows, cells = is_inside.nonzero(as_tuple=True)
        above = numbers.gather(1, labels)
        self.parents[rows, holders[rows, cells]] = above[rows, cells]
        self._holders = torch.where(is_inside, above, holders)
        rows, ids = is_new.nonzero(as_tuple=True)
        members = labels[rows] == ids[:, None]
        self.nodes.append(Nodes(rows, numbers[rows, ids], members, level.scores[rows, ids], number))

    def _numbered(self, is_new: Tensor) -> Tensor:
        """Return the numbers of new nodes, in order, and count these."""
        numbers = self._counts[:, None] + is_new.cumsum(1) - 1
        self._counts = self._counts + is_new.sum(1)
        return numbers

    def components(self, n_growth: int, n_levels: int) -> Tensor:
        """Return which node holds each cell, int64 ``(batch, levels + 1, cells)``, -1 for none.

        Parameters
        ----------
        n_growth
            How many levels are of growth.
        n_levels
            How many of these are shown, the last one again where there are fewer; the root's cells
            come as one more.
        """
        shown = [self.holders[min(level, n_growth - 1)] for level in range(n_levels)]
        return torch.stack([*shown, self.holders[-1]], 1)

    def rows(
        self, told: Callable[[Tensor, Tensor], Tensor], levels: Tensor | None = None
    ) -> list[dict[str, Any]]:
        """Return the table of all nodes: by sample, children before parents.

        Parameters
        ----------
        told
            Called with scores ``(nodes, classes)`` and the nodes' rows of the batch; returns what
            is told of them, ``(nodes, numbers)``.
        levels
            Of each node, int64 shaped as `parents`; None for those at which it is first there.

        Returns
        -------
        list of dict
            ``row`` (of the batch), ``node``, ``parent`` (-1 for a root), ``level``, ``members``
            (cells) and ``scores``.
        """
        found: list[dict[str, Any]] = []
        for nodes in self.nodes:
            owners, cells = nodes.members.nonzero(as_tuple=True)
            sizes = torch.bincount(owners, minlength=len(nodes)).tolist()
            at = torch.full_like(nodes.rows, nodes.level)
            every = zip(
                nodes.rows.tolist(),
                nodes.numbers.tolist(),
                self.parents[nodes.rows, nodes.numbers].tolist(),
                (at if levels is None else levels[nodes.rows, nodes.numbers]).tolist(),
                [members.tolist() for members in torch.split(cells, sizes)],
                told(nodes.scores, nodes.rows).tolist(),
                strict=True,
            )
            found += [dict(zip(_COLUMNS, node, strict=True)) for node in every]
        found.sort(key=lambda node: (node["row"], node["node"]))
        return found
