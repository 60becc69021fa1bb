"""The slow graph against what can be said of it without running it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.explainers.literal_causal_graph import chosen, divergence, learn, read, stability


def linear() -> nn.Linear:
    layer = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]]))
    return layer


SAMPLES = [torch.tensor([[1.0 + 0.1 * i, 1.0, 0.2]], dtype=torch.float64) for i in range(6)]


def test_removing_a_weight_removes_what_it_carries() -> None:
    first = nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        first.weight.copy_(torch.eye(3))
    model = nn.Sequential(first, linear())
    root, last = learn(model, list(model), SAMPLES, 0, 5)
    inputs = torch.cat(SAMPLES[:5]).numpy()
    np.testing.assert_allclose(last.te, -(inputs * [2.0, 0.0, -1.0]).T, atol=1e-12)
    assert (last.causes, last.effects, last.how) == ([0], [0], "z")
    assert (root.causes, root.effects) == ([0], [0])
    # the reference counts the sixth sample, the interventions do not
    reference = read(model, SAMPLES, 0, 5)
    expected = [2 * (1 + 0.1 * i) - 0.2 for i in range(6)]
    assert reference.n == 5
    assert reference.mean == pytest.approx(sum(expected) / 6, abs=1e-12)


def test_weights_are_as_before_and_a_flatten_is_tested_by_channels() -> None:
    torch.manual_seed(0)
    convolution, last = nn.Conv2d(1, 4, 3), nn.Linear(16, 3)
    model = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), last).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    samples = [torch.randn(1, 1, 4, 4, dtype=torch.float64) for _ in range(12)]
    label = int(model(torch.cat(samples)).mean(0).argmax())
    found = learn(model, [convolution, last], samples, label, 8, u=0.01, channels={1: 4})
    assert found[1].tested == [0, 1, 2, 3]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    again = stability(model, last, [samples] * 2, label, [label], [0.0, 0.0], n_channels=4)
    assert again[0] == again[1]


def test_of_a_wide_layer_one_fifth_is_tested() -> None:
    weight = torch.arange(40.0)[None].repeat(2, 1)
    assert chosen(weight, 1, 40, 600) == list(range(40))
    assert chosen(weight, 1, 40, 39) == [0, 1, 19, 20, 36, 37, 38, 39]


def test_divergence_of_equal_logits_is_zero_and_of_others_in_nats() -> None:
    assert divergence(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == pytest.approx(0, abs=1e-15)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert divergence(np.log([3.0, 1.0]), np.zeros(2)) == pytest.approx(expected, abs=1e-12)
