"""Features of tokens, of several inputs and of layers, through a method that switches them off."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import explainers
from explainers import Network, Trace
from explainers.features import check, resolve
from tests.explainers.test_several_inputs import networks
from tests.explainers.test_tokens import Bag

pytestmark = pytest.mark.slow

# sums of the same doubles in another order
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}


class Twice(nn.Module):
    """Reads tokens by two tables, the first token by one of them alone; the last by none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(9, 2), nn.Embedding(9, 3)
        self.fc = nn.Linear(5, 2)

    def embedded(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(tokens[:, :-1]), self.second(tokens[:, 1:-1].flip(1))

    def decided(self, first: Tensor, second: Tensor) -> Tensor:
        joined = torch.cat([first.sum(1), second.prod(1)], 1)
        return self.fc(joined.tanh())

    def forward(self, tokens: Tensor, scale: Tensor) -> Tensor:
        return self.decided(*self.embedded(tokens)) * scale.sum(1, keepdim=True)


@functools.cache
def twice() -> tuple[Twice, Network, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Twice().double().eval()
    tokens = torch.randint(0, 9, (3, 5))
    inputs = {"tokens": tokens, "scale": torch.rand(3, 2, dtype=torch.float64)}
    return model, Network(model, inputs), inputs


@functools.cache
def bag() -> tuple[Bag, Network, Tensor]:
    torch.manual_seed(0)
    model, tokens = Bag().double().eval(), torch.randint(1, 11, (3, 5))
    return model, Network(model, tokens), tokens


def lost(model: Twice, inputs: dict[str, Tensor], switched_off: list[int]) -> Tensor:
    """Return what the output loses without some tokens, one by one in a slow loop."""
    first, second = model.embedded(inputs["tokens"])
    first, second = first.clone(), second.clone()
    for token in switched_off:
        if token < 4:
            first[:, token] = 0
        if 1 <= token < 4:
            second[:, 3 - token] = 0
    scale = inputs["scale"].sum(1, keepdim=True)
    full = model(**inputs)
    return (full - model.decided(first, second) * scale)[:, 1].detach()


@pytest.mark.parametrize(
    ("spec", "groups"),
    [
        (None, [[0], [1], [2], [3], [4]]),
        ("tokens", [[0], [1], [2], [3], [4]]),
        ({"tokens": {"grid": 2}}, [[0, 1, 2], [3, 4]]),
        ({"tokens": {"masks": [0, 1, 0, 1, 1]}, "scale": "pixels"}, [[0, 2], [1, 3, 4]]),
    ],
)
def test_a_token_that_is_read_twice_is_one_feature(spec: Any, groups: list[list[int]]) -> None:
    model, network, inputs = twice()
    found = explainers.explain(network, "feature_ablation", inputs, 1, features=spec)
    for group in groups:
        expected = lost(model, inputs, group)
        for token in group:
            if token < 4:
                torch.testing.assert_close(found["tokens"][:, token], expected, **TOLERANCE)
    # the last token is not read, so it is no feature
    assert not bool(found["tokens"][:, 4].any())
    n_groups = sum(any(token < 4 for token in group) for group in groups)
    assert check(spec, network) == n_groups + 2
    scale = inputs["scale"]
    share = model(**inputs).detach()[:, 1:] * scale / scale.sum(1, keepdim=True)
    torch.testing.assert_close(found["scale"], share, **TOLERANCE)


def test_tokens_of_one_feature_share_its_number_where_asked() -> None:
    _, network, inputs = twice()
    spec = {"tokens": {"grid": 2, "spread": "share"}}
    shared = explainers.explain(network, "feature_ablation", inputs, 1, features=spec)
    copied = explainers.explain(
        network, "feature_ablation", inputs, 1, features={"tokens": {"grid": 2}}
    )
    # three tokens in the first stretch; in the second, one of two is read
    parts = torch.tensor([1 / 3, 1 / 3, 1 / 3, 1, 0], dtype=torch.float64)
    torch.testing.assert_close(shared["tokens"], copied["tokens"] * parts, **TOLERANCE)
    torch.testing.assert_close(shared["scale"], copied["scale"], rtol=0, atol=0)


def test_values_of_tokens_are_those_of_their_embeddings() -> None:
    model, network, tokens = bag()
    assert check("values", network) == 5 * 6
    found = explainers.explain(network, "feature_ablation", tokens, 1, features="values")
    embedded = model.embedding(tokens).detach()
    head = Network(nn.Sequential(Mean(), nn.ReLU(), model.fc), embedded)
    expected = explainers.explain(head, "feature_ablation", embedded, 1)
    torch.testing.assert_close(found, expected.sum(2), **TOLERANCE)
    # a layer is divided as it is, also where it is what tokens look up
    of_layer = explainers.explain(network, "feature_ablation", tokens, 1, layer="embedding")
    torch.testing.assert_close(of_layer, expected, **TOLERANCE)
    by_token = explainers.explain(
        network, "feature_ablation", tokens, 1, layer="embedding", features="tokens"
    )
    of_tokens = explainers.explain(network, "feature_ablation", tokens, 1)
    torch.testing.assert_close(by_token.sum(2), of_tokens, **TOLERANCE)
    torch.testing.assert_close(by_token, by_token[..., :1].expand(-1, -1, 6), rtol=0, atol=0)


class Mean(nn.Module):
    def forward(self, embedded: Tensor) -> Tensor:
        return embedded.mean(1)


@pytest.mark.parametrize("is_program", [True, False])
def test_a_description_for_pictures_leaves_other_inputs_in_values(is_program: bool) -> None:
    model, program, opaque, inputs = networks()
    network = program if is_program else opaque
    image, table, counts = inputs
    found = explainers.explain(network, "feature_ablation", inputs, 1, features={"grid": 2})
    by_name = explainers.explain(
        network, "feature_ablation", inputs, 1, features={"0": {"grid": 2}}
    )
    full = model(*inputs)[:, 1]
    for row in range(0, 4, 2):
        for column in range(0, 4, 2):
            without = image.clone()
            without[..., row : row + 2, column : column + 2] = 0
            expected = (full - model(without, table, counts)[:, 1]).detach()
            corner = found[0][:, 0, row, column]
            torch.testing.assert_close(corner, expected, **TOLERANCE)
            torch.testing.assert_close(found[0][:, 0, row + 1, column + 1], corner)
    for value in range(5):
        without = table.clone()
        without[:, value] = 0
        expected = (full - model(image, without, counts)[:, 1]).detach()
        torch.testing.assert_close(found[1][:, value], expected, **TOLERANCE)
    assert torch.equal(by_name[0], found[0])
    assert torch.equal(by_name[1], found[1])
    assert found[2] is None
    assert check({"grid": 2}, network) == 4 + 5


def test_features_that_depend_on_the_sample_go_on_from_input_to_input() -> None:
    _, network, _, inputs = networks()
    labels = torch.zeros(4, 4, 4, dtype=torch.int64)
    labels[1, 2:] = 1
    spec = {"0": {"masks": labels, "spread": "share"}, "1": {"grid": 2}}
    assert check(spec, network) is None
    found = resolve(spec, Trace(network, inputs))
    assert found.counts == (3, 4, 3, 3)
    assert found.cells.shape == (4, 21)
    assert found.cells[0, 16:].tolist() == [1, 1, 1, 2, 2]
    assert found.cells[1, 16:].tolist() == [2, 2, 2, 3, 3]
    numbers = torch.ones(4, 4, dtype=torch.float64)
    spread = found.map(numbers)
    torch.testing.assert_close(spread[:, :16].sum(1), torch.tensor([1.0, 2, 1, 1]).double())
    assert bool((spread[:, 16:] == 1).all())


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ({"2": None, "0": None}, LookupError, "features of '2', which is no input"),
        ({"gird": 2}, LookupError, "features of 'gird', which is no input"),
        ("tokens", ValueError, r"several inputs \('0' \(1, 4, 4\), '1' \(5,\)\), none of which"),
        ({"masks": [0, 1, 1, 0, 0]}, ValueError, "give a mapping of names to features"),
        ({"1": {"grid": 6}}, ValueError, "grid of 6 cells along an axis of 5"),
    ],
)
def test_descriptions_of_several_inputs_that_do_not_fit_are_refused(
    spec: Any, error: type[Exception], words: str
) -> None:
    _, network, _, inputs = networks()
    with pytest.raises(error, match=words):
        check(spec, network)
    with pytest.raises(error, match=words):
        explainers.explain(network, "feature_ablation", inputs, 0, features=spec)


def test_a_layer_is_divided_in_its_own_shape() -> None:
    _, network, _, inputs = networks()
    assert check("channels", network, layer="conv") == 3
    found = explainers.explain(
        network, "feature_ablation", inputs, 1, layer="conv", features="channels"
    )
    assert found.shape == (4, 3, 2, 2)
    torch.testing.assert_close(found, found[..., :1, :1].expand_as(found), rtol=0, atol=0)
    with pytest.raises(ValueError, match="grid of 3 cells along an axis of 2"):
        explainers.explain(
            network, "feature_ablation", inputs, 1, layer="conv", features={"grid": 3}
        )
