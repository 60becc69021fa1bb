"""Parts behind softmax and attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.operators import Attention, Softmax
from explainers.rules.decomposition.parts import Parts
from explainers.rules.decomposition.table import decomposition
from explainers.rules.decomposition.two_part import Game, given, played

if TYPE_CHECKING:
    from explainers.rules.decomposition.streams import Streams


@decomposition.rule(Softmax)
def softmax(op: Softmax, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Take both parts in turn; equal logits are where nothing plays.

    What is masked out, at minus infinity, is so for each part, and has no probability to share.
    """
    ((relevant, irrelevant, total),) = given(op, inputs, streams)
    is_masked = total.isneginf()
    players = [one.masked_fill(is_masked, -torch.inf) for one in (relevant, irrelevant)]
    nothing = torch.zeros_like(total).masked_fill_(is_masked, -torch.inf)
    first, second = (op.run(one) for one in players)
    made = Game(first, second, streams.made(op), op.run(nothing)).parts(streams, op.name)
    if not op.is_log:
        return made
    # half of minus infinity each; differences of it are no numbers
    masked = [
        None if one is None else one.masked_fill(is_masked, -torch.inf)
        for one in (made.relevant, made.irrelevant)
    ]
    return Parts(*masked)


@decomposition.rule(Attention)
def attended(op: Attention, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Take the relevant parts of query, key and value together, in turn with the irrelevant ones.

    Where neither plays there is no value, and so nothing.
    """
    return played(op, inputs, streams, None)
