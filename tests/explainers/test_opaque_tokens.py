"""Tokens of a model that packs sequences are explained by outputs alone."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import explainers
from explainers import Network
from explainers.explaining import form
from explainers.inputs.sources import sources
from explainers.resizing import MOST_KEPT, resized


class Packing(nn.Module):
    """The last state of a recurrence over packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 3)
        self.lstm = nn.LSTM(3, 3, batch_first=True)
        self.fc = nn.Linear(3, 2)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            lengths = torch.full((len(tokens),), tokens.shape[1])
        values = self.embedding(tokens)
        packed = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
        return self.fc(self.lstm(packed)[1][0][-1])


@functools.cache
def read() -> tuple[Packing, Network, Tensor]:
    torch.manual_seed(0)
    model = Packing().double().eval()
    tokens = torch.randint(1, 9, (2, 4))
    return model, Network(model, tokens), tokens


def test_the_reason_names_packing() -> None:
    _, network, _ = read()
    assert not network.is_program
    assert "pack_padded_sequence" in str(network.reason)
    assert "one length" in str(network.reason)


@pytest.mark.parametrize("baseline", [None, 5])
@pytest.mark.parametrize("method", ["occlusion", "feature_ablation"])
def test_a_token_is_worth_what_is_lost_with_another_in_its_place(
    method: str, baseline: int | None
) -> None:
    model, network, tokens = read()
    found = explainers.explain(network, method, tokens, 1, baseline=baseline)
    expected = torch.empty(2, 4, dtype=torch.float64)
    with torch.no_grad():
        for place in range(4):
            other = tokens.clone()
            other[:, place] = baseline or 0
            expected[:, place] = (model(tokens) - model(other))[:, 1]
    # doubles, of batches of other sizes
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_shapley_values_sum_to_what_all_tokens_change() -> None:
    model, network, tokens = read()
    found = explainers.explain(network, "shapley_value_sampling", tokens, 1, baseline=3)
    with torch.no_grad():
        changed = model(tokens) - model(torch.full_like(tokens, 3))
    torch.testing.assert_close(found.sum(1), changed[:, 1], rtol=1e-10, atol=1e-12)


def test_tokens_may_be_replaced_by_those_of_a_background() -> None:
    _, network, tokens = read()
    found = explainers.explain(network, "feature_ablation", tokens, 1, background=tokens.flip(0))
    assert found.shape == tokens.shape
    assert found.abs().sum() > 0


def test_surrogates_explain_tokens_by_coalitions_alone() -> None:
    _, network, tokens = read()
    params = {"distance": "hamming", "surrogate": "ridge", "n_evaluations": 20}
    assert explainers.explain(network, "lime", tokens, 1, **params).abs().sum() > 0
    with pytest.raises(ValueError, match="numbers have no distance"):
        explainers.explain(network, "lime", tokens, 1)


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "lrp", "smooth_grad"])
def test_what_needs_more_than_outputs_is_refused_with_the_reason(method: str) -> None:
    _, network, tokens = read()
    with pytest.raises(NotImplementedError, match=r"occlusion.*pack_padded_sequence"):
        explainers.explain(network, method, tokens, 1)


@pytest.mark.slow
def test_lengths_beside_tokens_are_additional() -> None:
    model, _, tokens = read()
    inputs = {"tokens": tokens, "lengths": torch.tensor([4, 4])}
    network = Network(model, inputs)
    assert [source.part for source in sources(network)] == ["tokens"]
    attribution = explainers.build("occlusion")
    assert form(attribution, network) == {"tokens": (("token",), (4,))}
    assert explainers.explain(network, "occlusion", inputs, 1)["lengths"] is None


@pytest.mark.slow
def test_a_network_of_another_length_shares_the_module() -> None:
    model, network, tokens = read()
    longer = torch.cat([tokens, tokens], 1)
    other = resized(network, longer)
    assert other.module is network.module
    assert resized(network, longer[:1]) is other
    assert resized(network, tokens) is network
    with torch.no_grad():
        torch.testing.assert_close(other(longer), model(longer))
    with pytest.raises(TypeError, match="expected a tensor"):
        resized(network, {"tokens": tokens, "lengths": torch.tensor([4, 4])})


@pytest.mark.slow
def test_no_more_networks_are_kept_than_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, tokens = read()
    network = Network(read()[0], tokens)
    monkeypatch.setattr("explainers.resizing.MOST_KEPT", 2)
    first = resized(network, tokens[:, :1])
    for length in (1, 2, 3):
        resized(network, tokens[:, :length])
    assert len(network._cuts["resized"]) == 2 < MOST_KEPT
    assert resized(network, tokens[:, :1]) is not first
