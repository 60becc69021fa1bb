"""Integer inputs and the embeddings that they choose rows of: what a token's relevance is made of.

A token has no gradient, but its embedding has. What an explainer finds for the features of an
embedding is summed: that is the token's relevance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.operators import Call, Embedding, Input, Reshape

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator

_CASTS = ("_to_copy", "to", "clone")


@dataclass(frozen=True)
class Lookup:
    """An embedding whose indices are an integer input, perhaps moved or cut."""

    source: Input
    embedding: Embedding
    path: tuple[Operator, ...]
    """From the input to the indices: index maps alone."""

    def indices(self, tokens: Tensor) -> Tensor:
        """Return the indices that tokens lead to."""
        for op in self.path:
            tokens = op.run(tokens)
        return tokens

    def of_tokens(self, relevance: Tensor, tokens: Tensor) -> Tensor:
        """Return the relevance of each token, given that of each feature of the embedding."""
        summed = relevance.sum(-1)
        if not self.path:
            return summed
        with torch.enable_grad():
            leaf = torch.zeros(tokens.shape, dtype=summed.dtype, device=summed.device)
            value = leaf.requires_grad_()
            for op in self.path:
                value = op.run(value) if isinstance(op, Reshape) else value
        (found,) = torch.autograd.grad(value, leaf, summed.reshape(value.shape))
        return found


def lookups(network: Network) -> tuple[Lookup, ...]:
    """Return the embeddings whose indices are an integer input of a program."""
    operators = {op.name: op for op in network.operators}
    found = []
    for op in network.operators:
        if isinstance(op, Embedding):
            path = _path(operators[op.inputs[0]], operators)
            if path is not None:
                found.append(Lookup(path[0], op, path[1]))
    return tuple(found)


def _path(
    op: Operator, operators: dict[str, Operator]
) -> tuple[Input, tuple[Operator, ...]] | None:
    """Return the input and the index maps from it to an operator, if nothing else leads there."""
    path: list[Operator] = []
    while not isinstance(op, Input):
        word = getattr(getattr(op, "function", None), "_schema", None)
        is_cast = isinstance(op, Call) and word is not None and _word(word.name) in _CASTS
        if len(op.inputs) != 1 or not (isinstance(op, Reshape) or is_cast):
            return None
        path.append(op)
        op = operators[op.inputs[0]]
    return op, tuple(reversed(path))


def _word(name: str) -> str:
    return name.partition("::")[2]
