"""Activation maximization against a slow re-implementation, and how far it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import explainers
from explainers import Trace
from explainers.base import Samples
from explainers.catalogue import build
from explainers.operators import Linear
from tests.explainers.maxima import assert_lists, rows_of, small_by_rules
from tests.explainers.zoo import small, small_network

if TYPE_CHECKING:
    import pytest

N = 13


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(N, 3, 8, 8, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(0, 3, (N,), generator=generator)


def test_lists_are_those_of_the_definition() -> None:
    inputs, labels = images()
    loader = list(zip(torch.split(inputs, 4), torch.split(labels, 4), strict=True))
    layers = ["conv1", "conv2", "conv2#1"]
    found = explainers.scan(
        small_network(), "activation_maximization", loader, layers=layers, k=4, per_class=2
    )
    values = small_by_rules(small()[0], inputs)[1].values
    assert list(found) == layers
    for layer in layers:
        assert_lists(found[layer], values[layer], list(range(N)), 4)
        for each, rows in rows_of(labels).items():
            assert_lists(found[layer]["per_class"][each], values[layer], rows, 2)


def test_lists_of_fewer_samples_than_asked_for_are_shorter() -> None:
    inputs, _ = images()
    found = explainers.scan(small_network(), "activation_maximization", [inputs[:3]], layers="fc")
    lists = found["fc"]
    assert lists["sum"]["sample"].shape == (3, 5)
    assert lists.get("per_class", {}) == {}


def test_the_forward_pass_ends_at_the_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Tensor:
        raise AssertionError("the last layer was run")

    inputs, labels = images()
    monkeypatch.setattr(Linear, "run", fail)
    explainers.scan(small_network(), "activation_maximization", [(inputs, labels)], layers="conv2")


def test_values_that_are_there_are_taken() -> None:
    inputs, labels = images()
    samples = Samples(torch.arange(N), labels)
    scan = build("activation_maximization", layers=("conv1", "conv2"), k=4)
    states = []
    for is_there in (False, True):
        trace = Trace(small_network(), inputs, samples=samples)
        if is_there:
            _ = trace.output
        states.append(scan.fold([(trace, samples)]))
    for name, entry in states[0].items():
        assert torch.equal(entry.nan_to_num(7.0), states[1][name].nan_to_num(7.0))
