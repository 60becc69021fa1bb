"""Every composite that zennit has too, on networks with batch norms and a residual sum."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import zennit.attribution
import zennit.canonizers
import zennit.composites
import zennit.core
import zennit.layer
from torch import Tensor, nn
from torch.nn import functional

import explainers
from explainers import Network
from tests.explainers.twins import pictures, seeded, twin

# The same float64 sums in another order; relevance is about 0.1.
TOLERANCE = {"rtol": 0, "atol": 1e-8}
LOW, HIGH = (-4.0, -5.0, -6.0), (5.0, 4.0, 6.0)
BOX = {"name": "epsilon_gamma_box", "low": LOW, "high": HIGH}

COMPOSITES: dict[str, tuple[Any, Any]] = {
    "epsilon_plus": ("epsilon_plus", zennit.composites.EpsilonPlus),
    "epsilon_plus_flat": ("epsilon_plus_flat", zennit.composites.EpsilonPlusFlat),
    "epsilon_alpha2_beta1": ("epsilon_alpha2_beta1", zennit.composites.EpsilonAlpha2Beta1),
    "epsilon_alpha2_beta1_flat": (
        "epsilon_alpha2_beta1_flat",
        zennit.composites.EpsilonAlpha2Beta1Flat,
    ),
    "epsilon_gamma_box": (
        BOX,
        functools.partial(
            zennit.composites.EpsilonGammaBox,
            torch.tensor(LOW).double().view(1, 3, 1, 1),
            torch.tensor(HIGH).double().view(1, 3, 1, 1),
        ),
    ),
}


class Plain(nn.Module):
    """Convolutions with batch norms, max-pools and matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6, eps=0.0)
        self.relu1 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 4, 3)
        self.relu2 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(4, 7)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))
        x = self.flatten(self.relu2(self.conv2(x)))
        return self.fc2(self.relu3(self.fc1(x)))


class Residual(nn.Module):
    """A block as in a ResNet, an average pool and a matrix product."""

    def __init__(self, *, is_module: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6, eps=0.0)
        self.add = zennit.layer.Sum(dim=-1) if is_module else None
        self.relu2 = nn.ReLU()
        self.pool = nn.AvgPool2d(2)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(6 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x))
        branch = self.bn2(self.conv2(x))
        x = branch + x if self.add is None else self.add(torch.stack([branch, x], -1))
        return self.fc(self.flatten(self.pool(self.relu2(x))))


def picture() -> Tensor:
    return pictures(2, 6)


@functools.cache
def plain() -> Network:
    return Network(seeded(Plain()), picture())


@functools.cache
def residual() -> Network:
    return Network(seeded(Residual(is_module=False)), picture())


def by_zennit(model: nn.Module, composite: Any, inputs: Tensor, weights: Tensor) -> Tensor:
    """Relevance of the inputs, started with the output times weights."""
    with zennit.attribution.Gradient(
        model=copy.deepcopy(model),
        composite=composite,
        attr_output=lambda output: output * weights,
    ) as attributor:
        return attributor(inputs.clone().requires_grad_())[1].detach()


def merged(composite: Any, **options: Any) -> Any:
    return composite(canonizers=[zennit.canonizers.SequentialMergeBatchNorm()], **options)


def selected(network: Network, inputs: Tensor) -> Tensor:
    output = network(inputs)
    return functional.one_hot(output.argmax(1), output.shape[1]).to(output)


@pytest.mark.parametrize("name", COMPOSITES)
def test_composites_are_zennits_at_their_defaults(name: str) -> None:
    mine, theirs = COMPOSITES[name]
    weights = selected(plain(), picture())
    expected = by_zennit(seeded(Plain()), merged(theirs), picture(), weights)
    found = explainers.explain(plain(), "lrp", picture(), composite=mine)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("name", COMPOSITES)
def test_sums_and_pools_are_zennits_where_the_stabiliser_is_small(name: str) -> None:
    """At zennit's 1e-6 they differ by what it keeps in sums and pools; see `test_lrp_zennit`."""
    mine, theirs = COMPOSITES[name]
    weights = selected(residual(), picture())
    composite = merged(theirs, stabilizer=1e-12, epsilon=0.1)
    expected = by_zennit(seeded(Residual(is_module=True)), composite, picture(), weights)
    options = {"stabiliser": 1e-12, "epsilon": 0.1}
    found = explainers.explain(residual(), "lrp", picture(), composite=mine, **options)
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_options_reach_every_rule_as_in_zennit() -> None:
    epsilon, stabiliser = {"epsilon": 0.1, "clip": True}, {"epsilon": 0.2, "norm_scale": True}
    weights = selected(plain(), picture())
    composite = merged(
        zennit.composites.EpsilonAlpha2Beta1Flat,
        epsilon=zennit.core.Stabilizer(**epsilon),
        stabilizer=zennit.core.Stabilizer(**stabiliser),
        zero_params=["bias"],
    )
    expected = by_zennit(seeded(Plain()), composite, picture(), weights)
    found = explainers.explain(
        plain(),
        "lrp",
        picture(),
        composite="epsilon_alpha2_beta1_flat",
        epsilon=epsilon,
        stabiliser=stabiliser,
        zero_params="bias",
    )
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_beta_smooth_is_zennits() -> None:
    weights = selected(residual(), picture())
    for beta in (10.0, 2.0):
        composite = merged(zennit.composites.BetaSmooth, beta_smooth=beta)
        expected = by_zennit(seeded(Residual(is_module=True)), composite, picture(), weights)
        found = explainers.explain(
            residual(), "lrp", picture(), composite={"name": "beta_smooth", "beta": beta}
        )
        torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("zero_params", [(), ("bias",)])
def test_excitation_backprop_is_zennits(zero_params: tuple[str, ...]) -> None:
    weights = selected(residual(), picture())
    composite = merged(
        zennit.composites.ExcitationBackprop, stabilizer=1e-12, zero_params=list(zero_params)
    )
    model = seeded(Residual(is_module=True))
    with zennit.attribution.Gradient(
        model=model, composite=composite, attr_output=lambda output: weights
    ) as attributor:
        expected = attributor(picture().requires_grad_())[1].detach()
    found = explainers.explain(
        residual(), "excitation_backprop", picture(), stabiliser=1e-12, zero_params=zero_params
    )
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_excitation_backprop_gives_probabilities() -> None:
    bound = explainers.get("excitation_backprop")(residual())
    found = bound.explain(picture(), 1)
    arrays = found.arrays
    assert bool((found.relevance >= 0).all())
    assert torch.equal(arrays["output_relevance"], torch.ones(2, dtype=torch.float64))
    kept = arrays["absorbed_by_bias"] + arrays["absorbed_by_stabiliser"] + arrays["lost"]
    total = found.relevance.sum((1, 2, 3)) + kept
    torch.testing.assert_close(total, arrays["output_relevance"], rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_name", "name"), [("vgg", "epsilon_alpha2_beta1"), ("resnet18", "epsilon_gamma_box")]
)
def test_whole_networks_are_zennits(model_name: str, name: str) -> None:
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    model, inputs = twin(model_name, "modules")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0  # zennit 0.5.1 applies it twice: once merged, once in what is left
    mine, theirs = COMPOSITES[name]
    canonizer = ResNetCanonizer() if model_name == "resnet18" else VGGCanonizer()
    composite = theirs(canonizers=[canonizer], stabilizer=1e-12, epsilon=1e-12)
    network = Network(model, inputs)
    expected = by_zennit(model, composite, inputs, selected(network, inputs))
    options = {"stabiliser": 1e-12, "epsilon": 1e-12}
    found = explainers.explain(network, "lrp", inputs, composite=mine, **options)
    scale = float(expected.abs().max())
    # Signed sums that nearly cancel, divided by 1e-12 at least, amplify the order of summation.
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-7)
