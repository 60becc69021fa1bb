"""The two-part rule: how a function of a sum is shared among its two parts.

A function of relevant and irrelevant part is a game of two players, of which neither plays at
zero; each gets its Shapley value (the form that Murdoch, Liu and Yu 2018, arXiv:1801.05453, give
to the cell's tanh), and the value at zero is a bias, shared as those of linear maps are::

    R = 1/2 [f(r) - f(0) + f(r + i) - f(i)]        I = 1/2 [f(i) - f(0) + f(r + i) - f(r)]
    relevant = R + f(0) |R| / (|R| + |I|)          irrelevant = I + f(0) |I| / (|R| + |I|)

What is wholly relevant stays so, and what is wholly irrelevant too. Several values that a function
takes are parted together: relevant parts of all of them are one player.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainers.rules.decomposition.biases import shared
from explainers.rules.decomposition.sharing import shared_of_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from explainers.operators import Operator
    from explainers.rules.decomposition.parts import Parts
    from explainers.rules.decomposition.streams import Streams


@dataclass(frozen=True, eq=False)
class Game:
    """What a function is where one player or the other, both or neither play."""

    relevant: Tensor
    """f(r), shaped as the value."""
    irrelevant: Tensor
    """f(i)."""
    total: Tensor
    """f(r + i)."""
    nothing: Tensor | None = None
    """f(0), broadcasting against the others; None where it is zero."""
    bias: Tensor | None = None
    """What is added to the function besides, and shared as f(0) is; it is in none of the others."""

    def parts(self, streams: Streams, name: str) -> Parts:
        """Return the shares of both players; in the one-stream form that of the first alone.

        Parameters
        ----------
        name
            Of the operator that the function is of.
        """
        apart = self.relevant - self.irrelevant
        gained = self.total if self.nothing is None else self.total - self.nothing
        relevant = (gained + apart).mul_(0.5)
        irrelevant = gained.sub(apart).mul_(0.5) if streams.is_strict else None
        bias = self.bias
        if self.nothing is not None:
            bias = self.nothing if bias is None else bias + self.nothing
        if bias is not None and irrelevant is not None:
            relevant, irrelevant = shared(relevant, irrelevant, bias)
        elif bias is not None:
            relevant = shared_of_rows(streams, name, relevant, gained - relevant, bias)
        return streams.both(relevant, irrelevant)


def given(
    op: Operator, inputs: Sequence[Parts], streams: Streams
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return relevant part, irrelevant part and total of each input, in their order.

    What does not depend on the network's input is there whoever plays: it is all three. So is what
    is no number, a condition or an index: it is what the total makes it.
    """
    found = []
    for name, parts in zip(op.inputs, inputs, strict=True):
        if parts.relevant is None:
            found.append((streams.constant(name),) * 3)
        elif not parts.relevant.is_floating_point():
            found.append((streams.total(name),) * 3)
        else:
            total = streams.total(name)
            found.append((parts.relevant, streams.irrelevant(name, parts), total))
    return found


def played(
    op: Operator, inputs: Sequence[Parts], streams: Streams, nothing: Tensor | None
) -> Parts:
    """Return the parts behind an operator whose inputs are parted together.

    Parameters
    ----------
    nothing
        Its value where all that depends on the network's input is zero; None if that is zero.
    """
    relevant, irrelevant, _ = zip(*given(op, inputs, streams), strict=True)
    game = Game(op.run(*relevant), op.run(*irrelevant), streams.made(op), nothing)
    return game.parts(streams, op.name)
