"""Which concepts of a layer are most relevant in a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from explainers.concepts.scores import Scores

SMALLEST = 1e-10
"""Added to the sum of amounts by which relevances are divided; zennit-crp's."""


def ranked(scores: Mapping[str, Scores], n_ranked: int) -> list[dict[str, Any]]:
    """Return rows ``row, condition, layer, rank, concept, relevance, share`` of a table.

    A concept's relevance is the sum over its positions, its share that divided by the sum of
    amounts over all concepts of the layer. Ranks count from zero, from the greatest relevance down;
    of equal ones the lower number comes first.

    Parameters
    ----------
    scores
        Layer to the scores of its concepts, ``(batch, conditions, concepts)``.
    n_ranked
        How many of each layer, sample and condition are listed.
    """
    rows: list[dict[str, Any]] = []
    for layer, found in scores.items():
        total = found.total
        n_listed = min(n_ranked, total.shape[-1])
        # what is not a number ranks last
        keys = total.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        order = keys.sort(dim=-1, descending=True, stable=True).indices[..., :n_listed]
        relevance = total.gather(-1, order)
        share = relevance / (total.abs().sum(-1, keepdim=True) + SMALLEST)
        places = torch.cartesian_prod(*(torch.arange(size) for size in order.shape))
        columns = (places[:, 0], places[:, 1], places[:, 2], order, relevance, share)
        listed = zip(*(column.flatten().tolist() for column in columns), strict=True)
        for row, condition, rank, concept, amount, part in listed:
            rows.append(
                {
                    "row": row,
                    "condition": condition,
                    "layer": layer,
                    "rank": rank,
                    "concept": concept,
                    "relevance": amount,
                    "share": part,
                }
            )
    return rows
