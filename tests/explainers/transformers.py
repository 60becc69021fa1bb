"""Small transformers, and the networks of which LRP's rules for them are the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from explainers.rules.table import Shares

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.rules.table import Choose, Relevances, Values


class Block(nn.Module):
    """A pre-norm block whose parts LRP holds fixed can be detached.

    With ``is_detached``, its gradient times its input is what epsilon-LRP finds without
    stabilisers: attention weights, normalisers, the slopes ``gelu(x) / x`` and, as a
    table of positions passes relevance, ``(x + p) / x`` are constants.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.n_heads = n_heads
        self.form = "fused"
        self.is_detached = False

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self.attended(self.normed(self.first, x)))
        hidden = self.up(self.normed(self.second, x))
        active = nn.functional.gelu(hidden)
        if self.is_detached:
            active = hidden * (active / hidden).detach()
        return x + self.down(active)

    def normed(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        if not self.is_detached:
            return norm(x)
        centred = x - x.mean(-1, keepdim=True)
        factor = (x.var(-1, correction=0, keepdim=True) + norm.eps).rsqrt().detach()
        return centred * factor * norm.weight + norm.bias

    def attended(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.heads(x).reshape(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        if self.form == "fused" and not self.is_detached:
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        else:
            weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
            mixed = (weights.detach() if self.is_detached else weights) @ value
        return mixed.transpose(1, 2).reshape(batch, length, width)


class Tokens(nn.Module):
    """Embedded patches, a class token, a position table, blocks, a norm and a head."""

    def __init__(self, width: int = 8, length: int = 5, n_blocks: int = 1) -> None:
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, length + 1, width))
        self.blocks = nn.Sequential(*(Block(width, 2) for _ in range(n_blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        given = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1)
        x = given + self.positions
        if self.blocks[0].is_detached:
            x = given * (x / given).detach()
        return self.head(self.blocks[-1].normed(self.norm, self.blocks(x))[:, 0])

    def set(self, **attributes: object) -> Tokens:
        """Set attributes of all blocks."""
        for block in self.blocks:
            for name, value in attributes.items():
                setattr(block, name, value)
        return self


def without_biases(model: nn.Module) -> nn.Module:
    """Set to zero what absorbs relevance: biases of layers and norms, tables and class tokens."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "token" in name or "pos" in name:
                parameter.zero_()
    return model


class Accounting:
    """A choice of rules that checks, operator by operator, that relevance is accounted for.

    What each sample hands on and keeps is compared with what arrived, in units of the largest sum
    of magnitudes that is added up: sums cannot be more exact than that.
    """

    def __init__(self, network: Network, choose: Choose, batch: int) -> None:
        self.choose = choose
        self.batch = batch
        self.dependent = network.dependent
        self.operators = {op.name: op for op in network.operators}
        self.worst: tuple[float, str] = (0.0, "")
        self.kinds: set[type[Operator]] = set()

    def __call__(self, op: Operator) -> Callable[..., Relevances | Shares]:
        rule = self.choose(op)

        def checked(op: Operator, relevance: Tensor, values: Values) -> Relevances | Shares:
            found = rule(op, relevance, values)
            shares = found if isinstance(found, Shares) else Shares(found)
            self.kinds.add(type(op))
            if shares.rest is not None or not self.dependent.issuperset(op.inputs):
                return found  # by definition nothing is left
            relevances = zip((relevance, *shares.relevances), (op.name, *op.inputs), strict=True)
            given = [
                (part.movedim(self.operators[name].batch_axis, 0), name)
                for part, name in relevances
                if part is not None
            ]
            arrived, *handed_on = (self.rows(part, name) for part, name in given)
            kept = sum(self.rows(amount, op.name) for amount in shares.absorbed.values())
            magnitude = sum(self.rows(part.abs(), name) for part, name in given) + 1e-30
            error = float(((arrived - sum(handed_on) - kept) / magnitude).abs().max())
            self.worst = max(self.worst, (error, f"{type(op).__name__} {op.name}"))
            return found

        return checked

    def rows(self, relevance: Tensor, name: str) -> Tensor:
        """Sum of each sample; windows, heads or places may be rows of their own."""
        outer = self.operators[name].batch_outer
        return relevance.reshape(outer, self.batch, -1).sum((0, 2))
