"""zennit's own composite objects: served by hooks on a copy, or refused with the reason."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import zennit.canonizers
import zennit.composites
import zennit.core
import zennit.rules
from torch import Tensor, nn
from torch.nn import functional

import explainers
from explainers import Network
from tests.explainers.test_zennit_composites import (
    Plain,
    by_zennit,
    merged,
    picture,
    plain,
    residual,
    selected,
)
from tests.explainers.twins import seeded

pytestmark = pytest.mark.slow

# The output that both start with is the folded network's here.
TOLERANCE = {"rtol": 0, "atol": 1e-12}


class Written(nn.Module):
    """A small network, written in ways that hooks do not see."""

    def __init__(self, trap: str) -> None:
        super().__init__()
        self.trap = trap
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)
        self.relu = nn.ReLU()
        self.softmax = nn.Softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        if self.trap == "functional activation":
            x = functional.relu(self.second(x))
        elif self.trap == "functional convolution":
            x = self.relu(functional.linear(x, self.second.weight))
        elif self.trap == "residual sum":
            x = self.relu(self.second(x) + x)
        elif self.trap == "reused module":
            x = self.relu(self.second(self.second(x)))
        elif self.trap == "product":
            x = self.relu(self.second(x)) * x
        else:
            x = self.relu(self.second(x))
        return self.softmax(self.last(x)) if self.trap == "softmax" else self.last(x)


def written(trap: str) -> Network:
    return Network(seeded(Written(trap)), torch.randn(2, 4, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["EpsilonPlus", "EpsilonAlpha2Beta1Flat", "GuidedBackprop"])
def test_maps_are_those_of_zennits_own_attributor(kind: str) -> None:
    composite = merged(getattr(zennit.composites, kind))
    expected = by_zennit(seeded(Plain()), composite, picture(), selected(plain(), picture()))
    found = explainers.get("lrp")(plain(), composite=composite).explain(picture())
    torch.testing.assert_close(found.relevance, expected, **TOLERANCE)
    assert not composite.handles


def test_the_networks_copy_of_the_model_stays_as_it_is() -> None:
    module = plain().module
    before = copy.deepcopy(module.state_dict())
    composite = merged(zennit.composites.EpsilonPlusFlat)
    explainers.explain(plain(), "lrp", picture(), composite=composite)
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in module.modules())


class Broken(zennit.rules.Pass):
    def backward(self, module: nn.Module, grad_input: Any, grad_output: Any) -> Any:
        raise ArithmeticError("broken rule")


def test_hooks_are_removed_when_a_rule_fails() -> None:
    composite = zennit.composites.LayerMapComposite([(nn.ReLU, Broken())])
    with pytest.raises(ArithmeticError, match="broken rule"):
        explainers.explain(plain(), "lrp", picture(), composite=composite)
    assert not composite.handles
    composite = merged(zennit.composites.EpsilonPlus)
    expected = by_zennit(seeded(Plain()), composite, picture(), selected(plain(), picture()))
    found = explainers.explain(plain(), "lrp", picture(), composite=composite)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("trap", "said"),
    [
        ("functional activation", r"2 activations \(relu, relu#0\).*hooks 1"),
        pytest.param(
            "functional convolution",
            r"3 convolutions and linear maps.*hooks 2",
            marks=pytest.mark.slow,
        ),
        ("residual sum", r"1 sums.*hooks 0.*canonizer"),
        ("reused module", r"'second' is used 2 times.*Epsilon"),
        pytest.param("product", "no rule for the Multiply", marks=pytest.mark.slow),
        pytest.param("softmax", "ends in a softmax", marks=pytest.mark.slow),
    ],
)
def test_what_hooks_would_get_wrong_in_silence_is_refused(trap: str, said: str) -> None:
    with pytest.raises(NotImplementedError, match=said):
        explainers.get("lrp")(written(trap), composite=zennit.composites.EpsilonPlus())


def test_an_activation_module_that_is_used_twice_is_served() -> None:
    network = written("none")
    inputs = torch.randn(2, 4, dtype=torch.float64)
    composite = zennit.composites.EpsilonPlus()
    found = explainers.explain(network, "lrp", inputs, composite=composite)
    ours = explainers.explain(network, "lrp", inputs, composite="epsilon_plus")
    torch.testing.assert_close(found, ours, rtol=0, atol=1e-10)


def test_gradients_need_no_rule_for_sums() -> None:
    composite = merged(zennit.composites.GuidedBackprop)
    found = explainers.explain(residual(), "lrp", picture(), composite=composite)
    guided = explainers.explain(residual(), "guided_backprop", picture())
    output = (residual()(picture()) * selected(residual(), picture())).sum(1)
    torch.testing.assert_close(found, guided * output.view(-1, 1, 1, 1), rtol=0, atol=1e-10)


def test_a_composite_that_is_in_use_is_left_alone() -> None:
    composite, model = zennit.composites.EpsilonPlus(), seeded(Plain())
    with composite.context(model), pytest.raises(ValueError, match="is registered with a model"):
        explainers.explain(plain(), "lrp", picture(), composite=composite)


def test_hooks_serve_whole_models() -> None:
    composite = merged(zennit.composites.EpsilonPlus)
    with pytest.raises(NotImplementedError, match="serve whole models"):
        explainers.explain(plain(), "lrp", picture(), composite=composite, layer="conv2")
    unit = {"layer": "conv2", "unit": 1}
    with pytest.raises(NotImplementedError, match="serve whole models"):
        explainers.explain(plain(), "lrp", picture(), unit, composite=composite)


def test_options_of_ours_do_not_go_with_hooks() -> None:
    with pytest.raises(TypeError, match="has its rules and their parameters already"):
        explainers.build("lrp", composite=zennit.composites.EpsilonPlus(), epsilon=0.1)
