"""Ten ways to write a network that make hooks on modules wrong, most of them in silence.

Each trap is written twice: as people write it, and cleanly, with an activation module of its own
for each use, no convolution behind itself and nothing in place. A program does not know the
difference: relevance is that of the clean form, and guided backprop is what autograd makes of its
definition.
"""

from __future__ import annotations

import copy
import functools
import warnings
from typing import TYPE_CHECKING, Any

import captum.attr
import pytest
import torch
import zennit.attribution
import zennit.canonizers
import zennit.composites
from torch import nn
from torch.nn import functional

import explainers
from explainers import Network
from explainers.operators import Affine
from tests.explainers.twins import pictures, seeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Rectifier = Callable[[Tensor], Tensor]

# The same float64 operations in the same order but for the trap; relevance is about 0.01.
TOLERANCE = {"rtol": 0, "atol": 1e-12}


class SameConv(nn.Conv2d):
    """Pads by itself, as EfficientNets ported from TensorFlow do."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


class PaddingConv(nn.Conv2d):
    """Has a child that pads, so that it is no leaf for those who look for leaves."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(self.pad(x), self.weight, self.bias)


class Parts(nn.Module):
    """What all traps are made of; `again` is a copy of `conv2`, `plain` of both odd ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.wide = nn.Conv2d(8, 4, 3, padding=1)
        self.same = SameConv(4, 4, 2)
        self.padding = PaddingConv(4, 4, 2)
        self.relu = nn.ReLU()
        self.in_place = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(4, 3)

    def finish(self) -> Parts:
        self.again = copy.deepcopy(self.conv2)
        self.padding.load_state_dict(self.same.state_dict())
        self.plain = nn.Conv2d(4, 4, 2).double()
        self.plain.load_state_dict(self.same.state_dict())
        return self

    def logits(self, x: Tensor) -> Tensor:
        return self.linear(self.flatten(self.average(x)))


def shared_relu(net: Parts, x: Tensor) -> Tensor:
    return net.logits(net.relu(net.conv2(net.relu(net.conv1(x)))))


def functional_relu(net: Parts, x: Tensor) -> Tensor:
    return net.logits(net.conv2(torch.relu(net.conv1(x))).clamp(min=0))


def in_place(net: Parts, x: Tensor) -> Tensor:
    x = net.in_place(net.conv1(x))
    x = net.conv2(x).relu_()
    return net.logits(x)


def two_convolutions(net: Parts, x: Tensor, relu: Rectifier) -> Tensor:
    return net.logits(relu(net.conv2(relu(net.conv1(x)))))


def residual(net: Parts, x: Tensor) -> Tensor:
    kept = functional.relu(net.conv1(x))
    x = net.conv2(kept)
    x += kept
    return net.logits(functional.relu(x))


def clean_residual(net: Parts, x: Tensor, relu: Rectifier) -> Tensor:
    kept = relu(net.conv1(x))
    return net.logits(relu(torch.add(kept, net.conv2(kept))))


def subclassed(net: Parts, x: Tensor) -> Tensor:
    return net.logits(net.relu(net.norm(net.same(net.relu(net.conv1(x))))))


def padding_child(net: Parts, x: Tensor) -> Tensor:
    return net.logits(net.relu(net.norm(net.padding(net.relu(net.conv1(x))))))


def clean_padding(net: Parts, x: Tensor, relu: Rectifier) -> Tensor:
    padded = functional.pad(relu(net.conv1(x)), (0, 1, 0, 1))
    return net.logits(relu(net.norm(net.plain(padded))))


def reused(net: Parts, x: Tensor) -> Tensor:
    x = net.relu(net.conv1(x))
    for _ in range(2):
        x = net.relu(net.conv2(x))
    return net.logits(x)


def clean_reused(net: Parts, x: Tensor, relu: Rectifier) -> Tensor:
    x = relu(net.conv1(x))
    return net.logits(relu(net.again(relu(net.conv2(x)))))


def second_call(net: Parts, x: Tensor) -> Tensor:
    """Two views of one picture through the same modules."""
    first, second = (net.relu(net.conv1(view)) for view in (x, x.flip(-1)))
    return net.logits(net.relu(net.conv2(first))) - net.logits(net.relu(net.conv2(second)))


def clean_second_call(net: Parts, x: Tensor, relu: Rectifier) -> Tensor:
    first, second = relu(net.conv1(x)), relu(net.conv1(x.flip(-1)))
    return net.logits(relu(net.conv2(first))) - net.logits(relu(net.again(second)))


def concatenated(net: Parts, x: Tensor) -> Tensor:
    first = functional.relu(net.conv1(x))
    joined = torch.cat([first, functional.relu(net.conv2(first))], 1)
    return net.logits(functional.relu(net.wide(joined)))


def clean_concatenated(net: Parts, x: Tensor, relu: Rectifier) -> Tensor:
    first = relu(net.conv1(x))
    return net.logits(relu(net.wide(torch.cat([first, relu(net.conv2(first))], 1))))


def pool_and_relu(net: Parts, x: Tensor) -> Tensor:
    return net.logits(net.relu(net.conv2(net.relu(net.pool(net.conv1(x))))))


def clean_pool_and_relu(net: Parts, x: Tensor, relu: Rectifier) -> Tensor:
    return net.logits(relu(net.conv2(relu(functional.max_pool2d(net.conv1(x), 2)))))


TRAPS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "shared relu": (shared_relu, two_convolutions),
    "functional relu": (functional_relu, two_convolutions),
    "in place": (in_place, two_convolutions),
    "residual +": (residual, clean_residual),
    "subclassed convolution": (subclassed, clean_padding),
    "padding child": (padding_child, clean_padding),
    "reused modules": (reused, clean_reused),
    "second call": (second_call, clean_second_call),
    "concat": (concatenated, clean_concatenated),
    "max-pool and relu": (pool_and_relu, clean_pool_and_relu),
}


class Trapped(nn.Module):
    """The traps of these names, their logits side by side."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.net = seeded(Parts()).finish()
        self.names = names

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([TRAPS[name][0](self.net, x) for name in self.names], 1)


class Clean(Trapped):
    """Their clean forms, with a rectifier that is given, or else a module for each use."""

    def __init__(self, *names: str, rectifier: Rectifier | None = None) -> None:
        super().__init__(*names)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(4 * len(names)))
        self.rectifier = rectifier

    def forward(self, x: Tensor) -> Tensor:
        unused = iter(self.relus)
        rectifier = self.rectifier or (lambda value: next(unused)(value))
        return torch.cat([TRAPS[name][1](self.net, x, rectifier) for name in self.names], 1)


class Guided(torch.autograd.Function):
    """The paper's rectifier: nothing negative comes back, and nothing where nothing went in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return relevance * (x > 0) * (relevance > 0)


INPUTS = pictures(3, 7)
CLASSES = torch.tensor([1, 0, 2])
METHODS = {
    "guided_backprop": {},
    "deconvnet": {},
    "lrp": {"composite": "epsilon_plus"},
    "deep_lift": {},
}


def by_autograd(model: nn.Module) -> Tensor:
    leaf = INPUTS.clone().requires_grad_()
    (relevance,) = torch.autograd.grad(model(leaf).gather(1, CLASSES[:, None]).sum(), leaf)
    return relevance


@functools.cache
def network(form: type[Trapped], *names: str) -> Network:
    return Network(form(*names), INPUTS)


# One network that falls into all ten traps: reading a network takes longer than all else here.
@pytest.mark.parametrize("name", TRAPS)
def test_relevance_is_that_of_the_definition(name: str) -> None:
    torch.testing.assert_close(Trapped(name)(INPUTS), Clean(name)(INPUTS), **TOLERANCE)
    classes = CLASSES + 3 * list(TRAPS).index(name)
    found = explainers.explain(network(Trapped, *TRAPS), "guided_backprop", INPUTS, classes)
    expected = by_autograd(Clean(name, rectifier=Guided.apply))
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TRAPS)
def test_relevance_is_that_of_the_clean_form(name: str, method: str) -> None:
    found, expected = (
        explainers.explain(network(form, name), method, INPUTS, CLASSES, **METHODS[method])
        for form in (Trapped, Clean)
    )
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, **TOLERANCE)


def guided_by_captum(model: nn.Module) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it sets hooks
        guided = captum.attr.GuidedBackprop(model)
        return guided.attribute(INPUTS.clone().requires_grad_(), target=CLASSES).detach()


def plus_by_zennit(model: nn.Module) -> Tensor:
    composite = zennit.composites.EpsilonPlus()
    selected = functional.one_hot(CLASSES, 3).to(INPUTS)
    with zennit.attribution.Gradient(model=model, composite=composite) as attributor:
        return attributor(INPUTS.clone().requires_grad_(), model(INPUTS).detach() * selected)[1]


# In silence: two forms of one function get maps that differ by a twentieth of the largest value or
# more. Shared ReLUs and subclasses fail loudly (Captum's DeepLIFT and LRP raise), a child that pads
# keeps batch norms from being merged (below), and Captum's DeepLIFT drops its rule for a max-pool
# that has a ReLU beside it (test_deep_lift.py).
@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("functional relu", guided_by_captum),
        ("in place", guided_by_captum),
        ("residual +", guided_by_captum),
        ("residual +", plus_by_zennit),
        ("reused modules", plus_by_zennit),
        ("second call", plus_by_zennit),
        ("concat", guided_by_captum),
    ],
)
def test_hooks_on_modules_tell_two_forms_of_one_function_apart(
    name: str, peer: Callable[[nn.Module], Tensor]
) -> None:
    found, expected = peer(Trapped(name)), peer(Clean(name))
    assert (found - expected).abs().max() > 0.05 * expected.abs().max()


@pytest.mark.slow
def test_hooks_on_leaves_do_not_see_a_convolution_with_a_child() -> None:
    merge = zennit.canonizers.SequentialMergeBatchNorm()
    pairs = [nn.Sequential(kind(4, 4, 2), nn.BatchNorm2d(4)) for kind in (nn.Conv2d, PaddingConv)]
    assert [len(merge.apply(pair.eval())) for pair in pairs] == [1, 0]
    merged = Network(pairs[1].append(nn.Flatten()), torch.ones(2, 4, 3, 3))
    assert merged.operator("1") is merged.operator("0")
    assert not any(isinstance(op, Affine) for op in merged.operators)
