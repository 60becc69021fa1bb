"""Tokens of a model that is no program, as numbers that can be exchanged but not changed.

What looks at outputs alone, where each token is the sample's or the one that stands for absence,
needs no embedding. A token's number stands in for it: methods see ``(batch, tokens, 1)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.inputs.tokens import Lookup
from explainers.operators import Embedding, Input

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network

_EXACT = (torch.float32, torch.float64)
"""Types that hold the number of any token."""


def numbered(root: Network, position: int) -> Lookup | None:
    """Return how an opaque model's input becomes numbers; None where it is no tokens.

    Parameters
    ----------
    root
        A whole network that is no program.
    position
        Of the input among its inputs.
    """
    n_tokens = root.watched.n_tokens[position] if root.watched.n_tokens else 0
    example, name = root._example[position], root.structure.names[position]
    if not n_tokens or example.ndim < 2:
        return None
    dtype = root(root.example).dtype
    dtype = dtype if dtype in _EXACT else torch.float32
    table = torch.arange(n_tokens, dtype=dtype, device=example.device)[:, None]
    source = Input(name=name, module_path="", inputs=(), shape=tuple(example.shape[1:]))
    return Lookup(source, Embedding(name=name, module_path="", inputs=(name,), weight=table), ())


def tokens_of(numbers: Tensor) -> Tensor:
    """Return the tokens ``(batch, tokens)`` that numbers ``(batch, tokens, 1)`` stand for."""
    return numbers[..., 0].round().long()


def refuse_tokens(name: str, network: Network) -> None:
    """Refuse a method that changes values of tokens, where these are tokens that cannot be changed.

    Raises
    ------
    NotImplementedError
        If the network is no program, and an input of it is tokens.
    """
    if holds_tokens(network):
        raise NotImplementedError(
            f"{name} needs a program, or inputs that are numbers: tokens of an opaque model can be "
            "exchanged for others and nothing else, which occlusion, feature_ablation, "
            "shapley_value_sampling, lime and kernel_shap do; the model cannot be read: "
            f"{network.root.reason}"
        )


def holds_tokens(network: Network) -> bool:
    """Whether what a method sees of a network are the numbers of an opaque model's tokens."""
    root = network.root
    return not root.is_program and any(root.watched.n_tokens)
