"""Ablation of features: Captum's, where it has it, and a loop over draws of a background."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from captum.attr import FeatureAblation, LayerFeatureAblation
from torch import Tensor, nn

import explainers
from explainers import Network, Target, Trace
from explainers.explaining import check
from explainers.perturbing import ablated, valuation
from explainers.perturbing.fills import Drawn
from explainers.sampling import forward_chunks
from tests.explainers.twins import pictures, seeded

# both take the same differences of doubles, of values of about one
TOLERANCE = {"rtol": 0, "atol": 1e-10}
LABELS = torch.tensor([[0, 0, 1, 1], [2, 0, 1, 1], [2, 2, 2, 1], [2, 2, 2, 2]])


class Pictures(nn.Module):
    """A convolution that a skip goes past, and probabilities at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.fc, self.softmax = nn.Linear(3 * 16, 3), nn.Softmax(1)

    def logits(self, image: Tensor) -> Tensor:
        stem = self.stem(image)
        return self.fc((self.conv(stem).relu() + stem).sigmoid().flatten(1))

    def forward(self, image: Tensor) -> Tensor:
        return self.softmax(self.logits(image))


class Words(nn.Module):
    """A table of tokens, and a number beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fc = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor, amount: Tensor) -> Tensor:
        order = torch.arange(1, tokens.shape[1] + 1).to(amount)
        read = (self.embedding(tokens) * order[:, None]).sum(1)
        return self.fc((read * amount).tanh())


@functools.cache
def pictured() -> tuple[Pictures, Network, Tensor]:
    model = Pictures()
    seeded(model)
    inputs = pictures(4, 12, 2)[:, :, ::3, ::3].contiguous()
    return model, Network(model, inputs), inputs


@functools.cache
def worded() -> tuple[nn.Module, Network, tuple[Tensor, Tensor]]:
    model = seeded(Words())
    inputs = (torch.tensor([[1, 2, 3], [4, 4, 6]]), torch.tensor([[0.7], [1.5]]).double())
    return model, Network(model, inputs), inputs


BASELINES: list[Any] = [None, 0.5, torch.full((2, 4, 4), 0.3).double(), pictures(4, 4, 2, seed=3)]


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize(
    ("features", "mask"),
    [
        (None, None),
        ({"masks": LABELS}, LABELS[None]),
        ("channels", torch.tensor([0, 1]).view(2, 1, 1).expand(2, 4, 4)),
    ],
)
def test_maps_are_captums(features: Any, mask: Tensor | None, baseline: Any) -> None:
    model, network, inputs = pictured()
    target = torch.tensor([2, 0, 1, 1])
    found = explainers.explain(
        network, "feature_ablation", inputs, target, features=features, baseline=baseline
    )
    of_captum = baseline[None] if isinstance(baseline, Tensor) and baseline.ndim == 3 else baseline
    expected = FeatureAblation(model.logits).attribute(
        inputs, of_captum, target, feature_mask=None if mask is None else mask[None]
    )
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_probabilities_are_those_of_the_whole_model() -> None:
    model, network, inputs = pictured()
    found = explainers.explain(
        network, "feature_ablation", inputs, features="pixels", output="probability"
    )
    pixels = torch.arange(16).view(1, 1, 4, 4)
    target = network(inputs).argmax(1)
    expected = FeatureAblation(model).attribute(inputs, target=target, feature_mask=pixels)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("baseline", [None, 0.25])
def test_layers_are_captums_with_what_goes_past_them(baseline: float | None) -> None:
    model, network, inputs = pictured()
    filled = torch.zeros_like(inputs) if baseline is None else torch.full_like(inputs, baseline)
    with torch.no_grad():
        at_baseline = model.conv(model.stem(filled))
    found = explainers.explain(
        network, "feature_ablation", inputs, 2, layer="conv", baseline=baseline
    )
    expected = LayerFeatureAblation(model.logits, model.conv).attribute(
        inputs, layer_baselines=at_baseline, target=2
    )
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_tokens_are_taken_out_whole() -> None:
    model, network, inputs = worded()
    found = explainers.explain(network, "feature_ablation", inputs, 1, baseline=(2, None))
    expected = FeatureAblation(model).attribute(inputs, (2, 0.0), 1)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.double(), **TOLERANCE)


def test_every_sample_has_superpixels_of_its_own() -> None:
    _, network, inputs = pictured()
    other = torch.tensor([[0, 1, 2, 3]] * 4)
    masks = torch.stack([LABELS, other, other, LABELS])
    together = explainers.get("feature_ablation")(network, features={"masks": masks})
    found = together.explain(inputs, 1)
    assert found.arrays["n_evaluations"].tolist() == [4, 5, 5, 4]
    for row in range(4):
        alone = explainers.explain(
            network, "feature_ablation", inputs[[row]], 1, features={"masks": masks[row]}
        )
        torch.testing.assert_close(found.relevance[[row]], alone, **TOLERANCE)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    passes: list[int] = []
    real = valuation.outputs_at

    def outputs_at(trace: Trace, points: Tensor, rows: Tensor) -> Tensor:
        passes.append(len(points))
        return real(trace, points, rows)

    monkeypatch.setattr(valuation, "outputs_at", outputs_at)
    return passes


def test_it_takes_a_pass_for_each_feature_and_the_samples_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, network, inputs = pictured()
    passes = counted(monkeypatch)
    bound = explainers.get("feature_ablation")(network, features={"masks": LABELS})
    found = bound.explain(inputs)
    assert sum(passes) == len(inputs) * 3
    assert found.arrays["n_evaluations"].tolist() == [4] * 4
    assert bound.explainer.cost_on(network).forward == 4
    drawn = explainers.get("feature_ablation")(
        network, features={"masks": LABELS}, background=inputs, n_samples=3
    )
    passes.clear()
    assert drawn.explain(inputs).arrays["n_evaluations"].tolist() == [10] * 4
    assert sum(passes) == len(inputs) * 9
    assert drawn.explainer.cost_on(network).forward == 10


@pytest.mark.parametrize("elements", [1, 20, 2**23])
def test_neither_passes_nor_tables_make_a_difference(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, network, inputs = pictured()
    params = {"background": pictures(3, 4, 2, seed=5), "n_samples": 5, "features": "pixels"}
    bound = explainers.get("feature_ablation")(network, **params)
    expected = bound.explain(inputs)
    monkeypatch.setattr(ablated, "TABLE_ELEMENTS", elements)
    monkeypatch.setitem(forward_chunks._limits, network, 7)
    found = bound.explain(inputs)
    torch.testing.assert_close(found.relevance, expected.relevance, **TOLERANCE)
    error = expected.arrays["standard_error"]
    torch.testing.assert_close(found.arrays["standard_error"], error, **TOLERANCE)


def test_with_a_background_it_is_the_mean_over_draws() -> None:
    model, network, inputs = pictured()
    samples = pictures(3, 4, 2, seed=5)
    bound = explainers.get("feature_ablation")(
        network, background=samples, n_samples=4, features={"masks": LABELS}
    )
    found = bound.explain(inputs, 0)
    trace = Trace(network, inputs, namespace="feature_ablation")
    chosen = Drawn(samples, trace).chosen(torch.arange(4))
    lost = torch.zeros(4, *inputs.shape, dtype=torch.float64)
    with torch.no_grad():
        for row, feature, draw in torch.cartesian_prod(*[torch.arange(n) for n in (4, 3, 4)]):
            without = torch.where(feature == LABELS, samples[chosen[row, draw]], inputs[row])
            logits = model.logits(torch.stack([inputs[row], without]))[:, 0]
            lost[draw, row] += (logits[0] - logits[1]) * (feature == LABELS)
    torch.testing.assert_close(found.relevance, lost.mean(0), **TOLERANCE)
    error = lost.std(0) / 2
    torch.testing.assert_close(found.arrays["standard_error"], error, **TOLERANCE)


@pytest.mark.parametrize(
    ("params", "target", "message"),
    [
        ({"baseline": 0.0, "background": torch.zeros(2, 2, 4, 4)}, None, "one of them"),
        ({"background": torch.zeros(2, 3, 4, 4)}, None, r"shape \(2, 3, 4, 4\)"),
        ({"features": {"masks": LABELS[:3]}}, None, "mask"),
        ({"output": "probability"}, {"layer": "conv", "unit": 1}, "target in a layer"),
        ({"output": "softmax"}, None, "'logit' or 'probability'"),
        ({"n_samples": 0}, None, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(params: Any, target: Any, message: str) -> None:
    _, network, _ = pictured()
    with pytest.raises(ValueError, match=message):
        check(explainers.build("feature_ablation", **params), network, Target.parse(target))


def test_probabilities_of_probabilities_are_refused() -> None:
    def normalised(inputs: Tensor) -> Tensor:
        return inputs.softmax(1) if inputs.sum() < 1e9 else -inputs

    network = Network(normalised, torch.rand(2, 3))
    check(explainers.build("feature_ablation"), network)
    with pytest.raises(ValueError, match="normalised already"):
        check(explainers.build("feature_ablation", output="probability"), network)
