"""Hierarchies without the levels at which nothing happens to a component."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.hierarchies.tree import Tree


def collapsed(tree: Tree) -> Tensor:
    """Return the level of each node of trees when redundant ones are dropped.

    A cell by itself is at level 0, a component one above the highest of those that it contains, so
    that it does not wait for growth elsewhere in the sample, and does not rise where it only stays
    what it is (the collapsed trees of Singh, Murdoch and Yu 2019, arXiv:1806.05337; their code
    leaves a component of words that all are new at level 0, which here is at 1).

    Returns
    -------
    Tensor
        int64 ``(batch, 2 * cells)``, as `Tree.parents`: 0 where there is no node.
    """
    levels = torch.zeros_like(tree.parents)
    for nodes in tree.nodes:
        # children come before parents: the levels of these nodes are final
        parents = tree.parents[nodes.rows, nodes.numbers]
        has_parent = parents >= 0
        rows, own = nodes.rows[has_parent], nodes.numbers[has_parent]
        places = rows * levels.shape[1] + parents[has_parent]
        above = levels[rows, own] + 1
        levels = levels.flatten().scatter_reduce(0, places, above, "amax").view_as(levels)
    return levels
