"""Every rule's account, of every sample, wherever a network puts its rows."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import explainers
from explainers import Network, Trace, operators
from explainers.accounts import account
from explainers.composites import Assignment, Composite, composites, find
from explainers.composites.assignment import values
from explainers.composites.named import parameters
from explainers.rules.lrp import lrp
from explainers.rules.table import Shares
from explainers.targets import Target
from tests.explainers.twins import seeded

pytestmark = pytest.mark.slow

N_ROWS, LENGTH, WIDTH = 3, 4, 6


class SequenceFirst(nn.Module):
    """Norms, products, sums, choices and margins of values whose rows are on the second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner = nn.Linear(WIDTH, 8), nn.Linear(8, 8)
        self.outer, self.head = nn.Linear(8, 8), nn.Linear(16, 3)
        self.norm = nn.LayerNorm(8)
        self.positions = nn.Parameter(torch.randn(LENGTH, 1, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.embed(x.transpose(0, 1))) + self.positions
        hidden = hidden + hidden.mean(0)
        hidden = torch.cat([self.token.expand(-1, hidden.shape[1], -1), hidden])
        hidden = functional.pad(hidden, (1, 1), value=0.3)[..., 1:]
        hidden = functional.pad(hidden, (0, -1))
        chosen = torch.where(hidden > 0.2, self.inner(hidden), 0.5 * hidden)
        chosen = torch.maximum(chosen, self.outer(hidden)) * hidden
        normed = self.norm(chosen / (1 + chosen.abs().sum(-1, keepdim=True)))
        pooled = functional.avg_pool1d(normed.relu(), 2).repeat(1, 1, 2)
        weights = pooled.permute(1, 0, 2).softmax(-1) @ hidden.permute(1, 2, 0)
        mixed = (weights @ normed.permute(1, 0, 2)).permute(1, 0, 2)
        return self.head(torch.cat([mixed + normed, functional.gelu(chosen)], -1).mean(0))


class Written(nn.Module):
    """Products by einsum: rows and places are on one axis of the values between."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, 5))
        self.mixing = nn.Parameter(torch.randn(LENGTH, 5))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("btc,cd->btd", x, self.weight).relu()
        mixed = torch.einsum("btd,td->bd", hidden, self.mixing)
        return self.head(mixed + hidden.mean(1))


class Encoded(nn.Module):
    """A class token, a position table and torch's own encoder layer, sequence first, as in ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, LENGTH + 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, activation="relu")
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        embedded = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1)
        placed = (embedded + self.positions).transpose(0, 1)
        return self.head(self.layer(placed)[0])


class Windows(nn.Module):
    """Shifted windows with a bias for each pair of places, as in Swin; then windows come first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH // 2, 4)
        self.norm, self.heads, self.out = nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 4)
        self.biases = nn.Parameter(torch.randn(1, 2, 4, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.embed(x.reshape(-1, 2, 4, 3)).roll((1, 1), (1, 2))
        windows = grid.reshape(-1, 2, 2, 2, 4).permute(0, 2, 1, 3, 4).reshape(-1, 4, 4)
        heads = self.heads(self.norm(windows)).reshape(-1, 4, 3, 2, 2).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        weights = (query @ key.mT + self.biases).softmax(-1)
        mixed = self.out((weights @ value).transpose(1, 2).reshape(-1, 4, 4)) + windows
        outer = mixed.reshape(-1, 2, 4, 4).transpose(0, 1).reshape(-1, 4, 4)
        active = torch.maximum(self.out(outer), 0.1 * outer)
        return self.head(active.reshape(2, -1, 4, 4).mean((0, 2)))


NETWORKS = {kind.__name__: kind for kind in (SequenceFirst, Written, Encoded, Windows)}
GIVEN: dict[str, Any] = {"low": -9.0, "high": 9.0, "until_layer_idx": 0, "alpha": 2.0, "beta": 1.0}


def _named() -> dict[str, Composite]:
    found = {}
    for name in composites.names():
        needed = [key for key, default in parameters(name).items() if default is ...]
        found[name] = find({"name": name, **{key: GIVEN[key] for key in needed}})
    return found


def _of_rules() -> dict[str, Composite]:
    """Return a composite for each rule, which goes to all that have it; others get epsilon."""
    found = {}
    epsilon = Assignment("epsilon", ("type:Linear",))
    for name in lrp.functions():
        if "." in name or name == "default":
            continue
        kinds = sorted(kind for kind in operators.__all__ if _has(kind, name))
        given = values({"low": -9.0, "high": 9.0}) if name in ("z_box", "bounded") else ()
        layers = tuple(f"type:{kind}" for kind in kinds)
        found[f"rule {name}"] = Composite((Assignment(name, layers, parameters=given), epsilon))
    scaled = {"norm_scale": True, "epsilon": 0.01}
    found["norm_scale"] = find("epsilon_plus").with_defaults(epsilon=scaled, stabiliser=scaled)
    return found


def _has(kind: str, rule: str) -> bool:
    needs_same_shape = rule == "pass" and kind in ("Linear", "Convolution")
    operator = getattr(operators, kind)
    is_operator = isinstance(operator, type) and issubclass(operator, operators.Operator)
    return is_operator and rule in lrp.names(operator) and not needs_same_shape


CHOICES = {**_named(), **_of_rules()}


@functools.cache
def network(kind: str) -> tuple[Network, Tensor]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(N_ROWS, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
    found = Network(seeded(NETWORKS[kind]()), inputs)
    assert found.is_program, found.reason
    return found, inputs


def walked(kind: str, composite: Composite, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    trace = Trace(network(kind)[0], rows)
    start = trace.cotangent(Target(0)) * trace.output
    found = trace.walk(composite.choose(trace.network), Target(0), key="walk", start=start)
    return found.relevance, account(start, found)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.slow if kind in ("Encoded", "Windows") else ())
        for kind in NETWORKS
    ],
)
def test_every_account_closes_and_is_that_of_the_row_alone(kind: str) -> None:
    inputs = network(kind)[1]
    for name, composite in CHOICES.items():
        relevance, amounts = walked(kind, composite, inputs)
        alone, of_one = walked(kind, composite, inputs[1:2])
        scale = 1 + float(relevance.abs().sum())  # rules without bounds multiply relevance
        total = amounts.pop("output_relevance")
        closed = relevance.flatten(1).sum(1) + sum(amounts.values())
        assert float((closed - total).abs().max()) <= 1e-10 * scale, name
        assert float((relevance[1] - alone[0]).abs().max()) <= 1e-10 * scale, name
        for keeper, amount in amounts.items():
            assert amount.shape == (N_ROWS,), name
            assert float((amount[1] - of_one[keeper][0]).abs()) <= 1e-10 * scale, (name, keeper)


class Centred(nn.Module):
    """Adds a mean over places, which has one axis less; nothing is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 8, bias=False), nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x).transpose(0, 1)
        return self.head(torch.relu(hidden + hidden.mean(0)).mean(0))


def test_a_term_that_depends_on_the_input_keeps_nothing_as_a_bias() -> None:
    inputs = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    net = Network(seeded(Centred()), inputs)
    for rules in ({}, {"type:Add": "z_plus"}):
        bound = explainers.get("lrp")(net, composite="lrp_epsilon", epsilon=1e-9, rules=rules)
        found = bound.explain(inputs, 0).arrays
        assert float(found["absorbed_by_bias"].abs().max()) == 0
        assert float(found["output_relevance"].abs().min()) > 0


def test_a_margin_loses_what_reaches_it_and_a_table_keeps_its_share_as_a_bias() -> None:
    table = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    inputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)

    def placed(x: Tensor) -> Tensor:
        given = table.expand(len(x), 3)
        return torch.cat([functional.pad(x, (1, 0), value=0.5) + given, given], 1)

    net = Network(placed, inputs)
    assert {op.name for op in net.operators} >= {"pad#0", "add#0"}
    trace = Trace(net, inputs)
    choose = Composite(()).choose(net)
    found = trace.walk(choose, Target(), key="walk", start=trace.output)
    # sums share the stabiliser, 1e-6 for each value, between their terms
    near = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(found.relevance, inputs, **near)
    torch.testing.assert_close(found.absorbed["lost"], torch.full((2,), 0.5).double(), **near)
    torch.testing.assert_close(found.absorbed["bias"], torch.full((2,), 12.0).double(), **near)


def test_an_account_that_is_not_of_the_operators_rows_is_refused() -> None:
    net, inputs = network("Encoded")
    trace = Trace(net, inputs)

    def wrong(op: Any, relevance: Tensor, values: Any) -> Any:
        found = lrp.find(op, "epsilon")(op, relevance, values)
        return Shares(found.relevances, {"bias": relevance.new_zeros(7)})

    with pytest.raises(ValueError, match=r"7 rows.*'head'.*expected 3"):
        trace.walk(lambda op: wrong, Target(0), key="wrong", start=trace.output)
