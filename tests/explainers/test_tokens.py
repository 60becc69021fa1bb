"""Token ids are explained by their embeddings: one number for each token."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from captum.attr import LayerGradientXActivation, LayerIntegratedGradients
from torch import Tensor, nn

import explainers
from explainers import Network, Trace
from explainers.explaining import form

# both sum the same products of doubles in another order
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}


class Bag(nn.Module):
    """Two tables are looked up for each token; their mean decides."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6, padding_idx=0)
        self.fc = nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.embedding(tokens).mean(1).relu())


class Sequence(Bag):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embedding(tokens))
        return self.fc(hidden[:, -1])


class Transformer(Bag):
    """With a table of positions, and a mask for what is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Embedding(5, 6)
        layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = self.embedding(tokens) + self.position(torch.arange(tokens.shape[1]))
        return self.fc(self.encoder(hidden, src_key_padding_mask=mask).mean(1))


SLOWER = [pytest.param(kind, marks=pytest.mark.slow) for kind in (Sequence, Transformer)]


@functools.cache
def read(kind: type[Bag]) -> tuple[Bag, Network, Tensor]:
    torch.manual_seed(0)
    model = kind().double().eval()
    tokens = torch.randint(1, 11, (3, 5))
    tokens[1, 3:] = 0
    return model, Network(model, tokens), tokens


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Bag, *SLOWER])
def test_gradient_methods_are_captums_summed_over_features(kind: type[Bag]) -> None:
    model, network, tokens = read(kind)
    assert network.is_program, network.reason
    found = explainers.explain(network, "integrated_gradients", tokens, 1, n_steps=4, baseline=0)
    layer = LayerIntegratedGradients(model, model.embedding)
    expected = layer.attribute(tokens, torch.zeros_like(tokens), target=1, n_steps=4).sum(-1)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    found = explainers.explain(network, "input_x_gradient", tokens, 1)
    of_features = LayerGradientXActivation(model, model.embedding).attribute(tokens, 1)
    torch.testing.assert_close(found, of_features.sum(-1), **TOLERANCE)
    of_layer = explainers.explain(network, "input_x_gradient", tokens, 1, layer="embedding")
    torch.testing.assert_close(of_layer, of_features, **TOLERANCE)


@pytest.mark.parametrize("kind", [Bag, SLOWER[1]])
@pytest.mark.parametrize("method", ["saliency", "lrp", "deep_lift", "gradient"])
def test_every_token_has_one_number(kind: type[Bag], method: str) -> None:
    _, network, tokens = read(kind)
    params = {"composite": "epsilon_plus"} if method == "lrp" else {}
    found = explainers.get(method)(network, **params).explain(tokens, 1)
    assert found.relevance.shape == tokens.shape
    assert found.relevance.dtype == torch.float64
    if method == "deep_lift":
        assert float(found.arrays["convergence_delta"].abs().max()) <= 1e-12


@pytest.mark.slow
def test_masks_stay_and_have_no_relevance() -> None:
    model, _, tokens = read(Transformer)
    inputs = {"tokens": tokens, "mask": tokens == 0}
    network = Network(model, inputs)
    assert network.is_program, network.reason
    found = explainers.explain(
        network, "integrated_gradients", inputs, 1, n_steps=4, baseline={"tokens": 0}
    )
    assert found["mask"] is None
    layer = LayerIntegratedGradients(model, model.embedding)
    expected = layer.attribute(
        tokens,
        torch.zeros_like(tokens),
        target=1,
        n_steps=4,
        additional_forward_args=(inputs["mask"],),
    )
    torch.testing.assert_close(found["tokens"], expected.sum(-1), **TOLERANCE)
    assert form(explainers.build("lrp"), network) == {"tokens": (("token",), (5,))}


@pytest.mark.parametrize("of", [lambda ids: ids, lambda ids: ids[0], lambda _: 4, lambda _: 4.0])
def test_a_baseline_is_tokens(of: Any) -> None:
    model, network, tokens = read(Bag)
    ids = torch.full_like(tokens, 4)
    part = Trace(network, tokens).starting_at("embedding")
    expected = model.embedding(ids)
    found = part.baseline(of(ids))
    torch.testing.assert_close(found.expand_as(expected), expected.detach(), rtol=0, atol=0)
    assert not bool(part.baseline(None).any())


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        (11, "indices from 0 to 10"),
        (0.5, "expected the index of a token"),
        (torch.zeros(4).long(), r"the tokens \(batch, 5\)"),
    ],
)
def test_a_baseline_that_is_no_token_is_refused(baseline: Any, words: str) -> None:
    _, network, tokens = read(Bag)
    with pytest.raises(ValueError, match=words):
        explainers.explain(network, "integrated_gradients", tokens, 0, baseline=baseline)


def test_a_token_looked_up_twice_has_the_sum() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Embedding(7, 2), nn.Embedding(7, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            shifted = self.second(tokens[:, 1:].flip(1))
            return torch.cat([self.first(tokens).sum(1), shifted.prod(1)], 1)

    torch.manual_seed(0)
    model, tokens = Pairs().double(), torch.randint(0, 7, (2, 4))
    found = explainers.explain(model, "input_x_gradient", tokens, {"weights": [1.0] * 5})
    expected = model.first(tokens).sum(-1)
    # a product of three values: each factor times its gradient is the product
    product = model.second(tokens[:, 1:]).prod(1).sum(-1, keepdim=True)
    expected[:, 1:] += product
    torch.testing.assert_close(found, expected.detach(), **TOLERANCE)


def test_integers_that_nothing_looks_up_are_refused() -> None:
    tokens = torch.ones(2, 4, dtype=torch.int64)
    network = Network(lambda tokens: tokens.double().cumsum(1), tokens)
    with pytest.raises(NotImplementedError, match=r"indices of a torch\.nn\.Embedding"):
        explainers.explain(network, "gradient", tokens, 0)
