"""DeepLIFT: against Captum where it is sound, against the definition, and complete everywhere."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import captum.attr
import pytest
import torch
from captum.attr._core import deep_lift as captums
from torch import Tensor, nn
from torch.nn import functional

import explainers
from explainers import Network, Target, Trace
from tests.explainers.twins import network_twin, seeded, twin
from tests.explainers.zoo import torchvision_model

# Same formula, same float64: what is left is the order of sums and one division for another.
TOLERANCE = {"rtol": 0, "atol": 1e-12}
COMPLETE = 1e-12


@functools.cache
def sound() -> tuple[nn.Module, Network, Tensor, Tensor]:
    """A network, itself read, three samples and as many baselines.

    Captum is right here: every activation is a module of its own, used once, and none is next to a
    max-pool, which does not overlap (https://github.com/meta-pytorch/captum/issues/1104).
    """
    layers: list[nn.Module] = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.MaxPool2d(2)]
    for activation in (nn.ELU(), nn.LeakyReLU(), nn.Softplus(), nn.Tanh()):
        layers += [nn.Conv2d(4, 4, 1), activation]
    head = [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 9), nn.Sigmoid(), nn.Linear(9, 4)]
    model = seeded(nn.Sequential(*layers, *head))
    generator = torch.Generator().manual_seed(4)
    inputs, others = torch.randn(2, 3, 2, 8, 8, generator=generator, dtype=torch.float64)
    return model, Network(model, inputs), inputs, others


LARGE = ("efficientnet_b0", "swin_t", "vit_b_16", "convnext_tiny", "densenet121", "inception_v3")


def by_captum(model: nn.Module, inputs: Tensor, baselines: Any, **params: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets hooks
        classes = torch.arange(len(inputs)) % 4
        return captum.attr.DeepLift(model, **params).attribute(
            inputs, baselines, target=classes, return_convergence_delta=True
        )


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["none", "number", "one", "each"])
def test_maps_are_captums_where_it_is_sound(baseline: str) -> None:
    model, network, inputs, others = sound()
    given = {"none": None, "number": 0.3, "one": others[:1], "each": others}[baseline]
    expected, delta = by_captum(model, inputs, given)
    assert float(delta.abs().max()) < COMPLETE
    found = explainers.get("deep_lift")(network, baseline=given).explain(inputs, [0, 1, 2])
    torch.testing.assert_close(found.relevance, expected.detach(), **TOLERANCE)
    torch.testing.assert_close(found.arrays["convergence_delta"], delta, **TOLERANCE)


@pytest.mark.slow
def test_the_multipliers_alone_are_captums() -> None:
    model, network, inputs, others = sound()
    expected, _ = by_captum(model, inputs, others, multiply_by_inputs=False)
    found = explainers.explain(
        network, "deep_lift", inputs, [0, 1, 2], baseline=others, multiply_by_inputs=False
    )
    torch.testing.assert_close(found, expected.detach(), **TOLERANCE)


def test_the_gradient_of_max_pools_is_captum_without_its_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, network, inputs, others = sound()
    monkeypatch.delitem(captums.SUPPORTED_NON_LINEAR, nn.MaxPool2d)
    expected, delta = by_captum(model, inputs, others)
    assert float(delta.abs().max()) > 1e-3
    for params in ({"maxpool": "gradient"}, {"preset": "deepexplain"}):
        bound = explainers.get("deep_lift")(network, baseline=others, **params)
        found = bound.explain(inputs, [0, 1, 2])
        torch.testing.assert_close(found.relevance, expected.detach(), **TOLERANCE)
        torch.testing.assert_close(found.arrays["convergence_delta"], delta, **TOLERANCE)


def test_where_pool_and_relu_are_neighbours_captum_drops_its_rule() -> None:
    model, inputs = twin("cnn", "modules")
    network, _ = network_twin("cnn", "modules")
    expected, delta = by_captum(model, inputs, 0.5)
    assert float(delta.abs().max()) > 1e-3
    dropped = explainers.get("deep_lift")(network, baseline=0.5, maxpool="gradient")
    torch.testing.assert_close(dropped.attribute(inputs, [0, 1, 2]), expected.detach(), **TOLERANCE)
    assert_complete(network, inputs, baseline=0.5)


class Entangled(nn.Module):
    """A shared and a functional ReLU, a residual, an in-place sum, a gate, a reused module."""

    def __init__(self, *, is_functional: bool) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu = functional.relu if is_functional else nn.ReLU()
        self.squeeze, self.pool = nn.Conv2d(4, 4, 1), nn.MaxPool2d(3, 2, padding=1)
        self.head = nn.Linear(4 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        branch = self.again(self.relu(self.again(x)))
        branch += x
        x = self.relu(branch)
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.head(self.pool(functional.silu(x)).flatten(1))


def assert_complete(network: Network, inputs: Tensor, **params: Any) -> None:
    """What the map sums to is what the target changes by."""
    found = explainers.get("deep_lift")(network, **params).explain(inputs)
    assert float(found.arrays["convergence_delta"].abs().max()) < COMPLETE
    baseline = params.get("baseline", 0.0)
    before = network(torch.zeros_like(inputs) + baseline)
    classes = network(inputs).argmax(1, keepdim=True)
    change = (network(inputs) - before).gather(1, classes)[:, 0]
    torch.testing.assert_close(found.relevance.flatten(1).sum(1), change, rtol=0, atol=COMPLETE)
    assert float(change.abs().max()) > 1e-2


def test_where_captum_fails_or_is_wrong_the_map_is_complete() -> None:
    inputs = sound()[2]
    model = seeded(Entangled(is_functional=False))
    with pytest.raises(RuntimeError, match="used more than once"):
        by_captum(model, inputs, 0.2)
    network = Network(model, inputs)
    assert_complete(network, inputs, baseline=0.2)
    _, delta = by_captum(seeded(Entangled(is_functional=True)), inputs, 0.2)
    assert float(delta.abs().max()) > 1e-2  # it says nothing, and is off by this much


class SequenceFirst(nn.Module):
    """Attention as torch's own layer has it: rows and positions share an axis, positions first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.project = nn.LayerNorm(8), nn.Linear(8, 24)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        x = x.transpose(0, 1)
        heads = self.project(self.norm(x)).view(length, batch * 2, 3, 4).permute(2, 1, 0, 3)
        query, key, value = (part.view(batch, 2, length, 4) for part in heads.unbind(0))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        mixed = mixed.permute(2, 0, 1, 3).reshape(length * batch, width)
        x = x + self.mix(functional.gelu(mixed)).view(length, batch, width)
        return self.head(x.mean(0))


@pytest.mark.slow
def test_attention_and_norms_are_complete() -> None:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    assert_complete(Network(seeded(SequenceFirst()), inputs), inputs, baseline=0.3)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("resnet18", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("mobilenet_v3_small", *LARGE)),
    ],
)
def test_torchvisions_networks_are_complete(name: str) -> None:
    model, inputs = torchvision_model(name)
    network = Network(model, inputs[:2])
    found = explainers.get("deep_lift")(network, baseline=0.1).explain(inputs[:2])
    # values of up to a hundred layers in float64
    assert float(found.arrays["convergence_delta"].abs().max()) < 1e-10


def test_the_batch_goes_forward_once_and_the_reference_with_one_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, network, inputs, _ = sound()
    rows: list[int] = []
    run = network.run

    def counted(batch: Tensor, **others: Any) -> dict[str, Tensor]:
        rows.append(len(batch))
        return run(batch, **others)

    monkeypatch.setattr(network, "run", counted)
    trace, target = Trace(network, inputs), Target.parse(1)
    trace.gradient(target)
    first = explainers.build("deep_lift", baseline=0.2)
    assert rows == [3]
    found = first.relevance(trace, target)
    assert rows == [3, 1]
    again = explainers.build("deep_lift", baseline=0.2).relevance(trace, target)
    other = explainers.build("deep_lift", baseline=0.2, maxpool="gradient").relevance(trace, target)
    assert rows == [3, 1]
    assert torch.equal(found.relevance, again.relevance)
    assert not torch.equal(found.relevance, other.relevance)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"maxpool": "captum"}, "expected 'rescale' or 'gradient'"),
        ({"eps": -1.0}, "expected a finite number, at least 0"),
        ({"eps": float("nan")}, "expected a finite number, at least 0"),
    ],
)
def test_wrong_parameters_are_refused_at_once(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explainers.build("deep_lift", **params)


def test_a_baseline_that_does_not_fit_is_refused_before_any_sample() -> None:
    _, network, _, _ = sound()
    with pytest.raises(ValueError, match="one number a channel"):
        explainers.get("deep_lift")(network, baseline=(0.1, 0.2, 0.3))
