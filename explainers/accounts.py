"""Where relevance went on its way from the output to the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.walking import Walked


def account(start: Tensor, walked: Walked) -> dict[str, Tensor]:
    """Return amounts of relevance, ``(batch,)`` each.

    ``output_relevance`` is the sum of the map, plus ``absorbed_by_bias``,
    ``absorbed_by_stabiliser`` and ``lost``: what reached outputs to which nothing contributed, and
    what a rule that cannot conserve dropped, or handed on more than once (then negative).

    Parameters
    ----------
    start
        Relevance of the output, ``(batch, classes)``.
    walked
        What came back.
    """
    total = start.sum(1)
    nothing = torch.zeros_like(total)
    return {
        "output_relevance": total,
        "absorbed_by_bias": walked.absorbed.get("bias", nothing),
        "absorbed_by_stabiliser": walked.absorbed.get("stabiliser", nothing),
        "lost": walked.absorbed.get("lost", nothing),
    }
