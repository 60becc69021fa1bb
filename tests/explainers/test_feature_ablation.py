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
from tests.explainers.games import several
from tests.explainers.twins import pictures
from tests.explainers.zoo import small, small_network

pytestmark = pytest.mark.slow

# both take the same differences of doubles, of values of about one
TOLERANCE = {"rtol": 0, "atol": 1e-10}
LABELS = (
    torch.tensor([[0, 0, 1, 1], [2, 0, 1, 1], [2, 2, 2, 1], [2, 2, 2, 2]])
    .repeat_interleave(2, 0)
    .repeat_interleave(2, 1)
)


@functools.cache
def pictured() -> tuple[nn.Module, Network, Tensor]:
    """Return a network with a skip past a convolution, and four pictures."""
    model, inputs = small()
    return model, small_network(), inputs


BASELINES: list[Any] = [None, 0.5, torch.full((3, 8, 8), 0.3).double(), pictures(4, 8, seed=3)]


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize(
    ("features", "mask"),
    [
        (None, None),
        ({"masks": LABELS}, LABELS[None]),
        ("channels", torch.tensor([0, 1, 2]).view(3, 1, 1).expand(3, 8, 8)),
    ],
)
def test_maps_are_captums(features: Any, mask: Tensor | None, baseline: Any) -> None:
    model, network, inputs = pictured()
    target = torch.tensor([2, 0, 4, 1])
    found = explainers.explain(
        network, "feature_ablation", inputs, target, features=features, baseline=baseline
    )
    of_captum = baseline[None] if isinstance(baseline, Tensor) and baseline.ndim == 3 else baseline
    expected = FeatureAblation(model).attribute(
        inputs, of_captum, target, feature_mask=None if mask is None else mask[None]
    )
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_probabilities_are_those_of_the_whole_model() -> None:
    model, network, inputs = pictured()
    found = explainers.explain(
        network, "feature_ablation", inputs, features="pixels", output="probability"
    )
    pixels = torch.arange(64).view(1, 1, 8, 8)
    target = network(inputs).argmax(1)
    whole = nn.Sequential(model, nn.Softmax(1))
    expected = FeatureAblation(whole).attribute(inputs, target=target, feature_mask=pixels)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("baseline", [None, 0.25])
def test_layers_are_captums_with_what_goes_past_them(baseline: float | None) -> None:
    model, network, inputs = several()
    filled = torch.full_like(inputs[0], baseline or 0.0)
    with torch.no_grad():
        at_baseline = model.conv(model.stem(filled))
    bound = explainers.get("feature_ablation")(
        network, layer="conv", baseline=(baseline, None, None)
    )
    expected = LayerFeatureAblation(model, model.conv).attribute(inputs, at_baseline, 2)
    torch.testing.assert_close(bound.explain(inputs, 2).relevance, expected, **TOLERANCE)


def test_tokens_are_taken_out_whole_and_inputs_by_their_values() -> None:
    model, network, inputs = several()
    found = explainers.explain(network, "feature_ablation", inputs, 1, baseline=(0.1, 0.2, 2))
    expected = FeatureAblation(model).attribute(inputs, (0.1, 0.2, 2), 1)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.double(), **TOLERANCE)


def test_every_sample_has_superpixels_of_its_own() -> None:
    _, network, inputs = pictured()
    other = (torch.arange(8) // 2).expand(8, 8)
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
    params = {"background": pictures(3, 8, seed=5), "n_samples": 5, "features": {"grid": 3}}
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
    samples = pictures(3, 8, seed=5)
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
            logits = model(torch.stack([inputs[row], without]))[:, 0]
            lost[draw, row] += (logits[0] - logits[1]) * (feature == LABELS)
    torch.testing.assert_close(found.relevance, lost.mean(0), **TOLERANCE)
    error = lost.std(0) / 2
    torch.testing.assert_close(found.arrays["standard_error"], error, **TOLERANCE)


def test_a_sample_that_is_precise_stops_with_its_own_features() -> None:
    _, network, inputs = pictured()
    masks = torch.stack([LABELS, LABELS.flip(0), LABELS.T, LABELS.flip(1)])
    params = {"features": {"masks": masks}, "background": pictures(20, 8, seed=5)}

    def explained(**more: Any) -> explainers.Explained:
        return explainers.get("feature_ablation")(network, **params, **more).explain(inputs, 1)

    whole = explained(n_samples=13)
    errors = whole.arrays["standard_error"].flatten(1).square().mean(1).sqrt()
    middle = float((errors / whole.relevance.flatten(1).square().mean(1).sqrt()).median())
    stopped = explained(n_evaluations=1 + 40 * 3, tolerance=middle)
    draws = (stopped.arrays["n_evaluations"] - 1) // 3
    assert 8 <= draws.min() < draws.max() <= 40
    for row, n_draws in enumerate(draws.tolist()):
        alone = explained(n_samples=n_draws)
        torch.testing.assert_close(stopped.relevance[row], alone.relevance[row], **TOLERANCE)


@pytest.mark.parametrize(
    ("params", "target", "message"),
    [
        ({"baseline": 0.0, "background": torch.zeros(2, 3, 8, 8)}, None, "one of them"),
        ({"background": torch.zeros(2, 3, 4, 4)}, None, r"shape \(2, 3, 4, 4\)"),
        ({"features": {"masks": LABELS[:3]}}, None, "mask"),
        ({"output": "probability"}, {"layer": "conv2", "unit": 1}, "target in a layer"),
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
