"""The rate-distortion curve against its definition, written out slowly, and closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explainers import Network, Samples, Target
from explainers.sampling import counted
from explainers.sampling.randomness import RandomRows
from pipeline.metrics import Case, score, scores
from pipeline.metrics.rate_distortion_curve import RateDistortionCurve

N, CHANNELS, SIDE = 3, 2, 3
LABELS = torch.tensor([0, 2, 1])
TARGET = Target.parse("predicted")
INDEX = torch.tensor([4, 0, 17])


@dataclass
class Rows(RandomRows):
    """What the metric asks of a trace, of a network that nobody has read."""

    model: nn.Module
    inputs: Tensor
    samples: Samples | None = None
    seed: int = 7
    namespace: str = "rdc"
    parent: Any = None

    def __post_init__(self) -> None:
        self.asked: list[int] = []
        self.output = self.network(self.inputs)

    def network(self, inputs: Tensor) -> Tensor:
        self.asked.append(len(inputs))
        with torch.no_grad():
            return self.model(inputs)

    def cotangent(self, target: Target) -> Tensor:
        return target.weights(self.output, self.samples)

    @property
    def n_rows(self) -> int:
        return len(self.inputs)

    @property
    def numbers(self) -> tuple[torch.dtype, torch.device]:
        return self.inputs.dtype, self.inputs.device


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(CHANNELS, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)]
    return nn.Sequential(*layers).double()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(N, CHANNELS, SIDE, SIDE, generator=generator, dtype=torch.float64)
    # whole numbers, so that there are ties
    relevance = torch.randint(0, 3, inputs.shape, generator=generator).double()
    return inputs * 2, relevance


def trace(model: nn.Module, inputs: Tensor, rows: Any = slice(None), seed: int = 7) -> Rows:
    return Rows(model, inputs[rows], Samples(INDEX[rows], LABELS[rows]), seed)


def measure(metric: RateDistortionCurve, of: Rows, relevance: Tensor) -> dict[str, Tensor]:
    return metric.score(metric.prepare(Case(of, TARGET)), relevance)


def drawn(of: Rows, row: int, purpose: str, *numbers: int) -> Tensor:
    """Return the seed that a sample has for a purpose, step and draw, ``(1,)``."""
    seed = torch.tensor([of.shared_seed(purpose)])
    for number in (int(of.samples.index[row]), *numbers):
        seed = counted.word(seed, torch.tensor(number))
    return seed


def slow_curve(
    model: nn.Module, of: Rows, heat: Tensor, row: int, counts: list[int], metric: Any
) -> dict[str, list[float]]:
    """Randomise component after component of one sample, one draw at a time."""
    image = of.inputs[row]
    low, high = float(image.min()), float(image.max())

    def outputs(changed: Tensor) -> Tensor:
        with torch.no_grad():
            output = model(changed[None])[0]
        return output if metric.output_space == "logit" else output.softmax(0)

    places = [(c, y, x) for c in range(CHANNELS) for y in range(SIDE) for x in range(SIDE)]
    components = [[place] for place in places]
    if metric.components == "pixels":
        components = [
            [(c, y, x) for c in range(CHANNELS)] for y in range(SIDE) for x in range(SIDE)
        ]
    keys = counted.words(drawn(of, row, "ties"), len(components))[0].tolist()
    ranked = sorted(
        range(len(components)),
        key=lambda n: (
            sum(float(heat[place]) for place in components[n]),
            keys[n] if metric.ties == "random" else n,
        ),
    )
    clean = outputs(image)
    node = int(clean.argmax())
    curve: dict[str, list[float]] = {name: [] for name in ("distortion", "accuracy")}
    errors: dict[str, list[float]] = {name: [] for name in ("distortion", "accuracy")}
    for step, count in enumerate([0, *counts]):
        strays, hits = [], []
        for draw in range(metric.n_draws):
            changed = image.clone()
            if count:
                uniform = counted.uniform(drawn(of, row, "noise", step - 1, draw), 18, image.dtype)
                noise = (low + (high - low) * uniform).reshape(image.shape)
                for component in ranked[:count]:
                    for place in components[component]:
                        changed[place] = noise[place]
            output = outputs(changed)
            strays.append(float(output[node] - clean[node]) ** 2)
            hits.append(float(int(output.argmax()) == int(LABELS[row])))
        for name, values in (("distortion", strays), ("accuracy", hits)):
            curve[name].append(float(np.mean(values)))
            errors[name].append(float(np.std(values, ddof=1) / math.sqrt(metric.n_draws)))
    share = np.array([0, *counts]) / len(components)
    areas = {name: [float(np.trapezoid(values, share))] for name, values in curve.items()}
    return (
        curve
        | {f"{name}_error": values for name, values in errors.items()}
        | {"auc": areas["distortion"], "accuracy_auc": areas["accuracy"]}
    )


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"features_in_step": 7}, [7, 14, 18]),
        ({"n_steps": 2, "ties": "position", "output_space": "logit"}, [9, 18]),
        ({"features_in_step": 4, "components": "pixels"}, [4, 8, 9]),
    ],
)
def test_curves_are_those_of_randomising_one_by_one(
    settings: dict[str, Any], counts: list[int]
) -> None:
    metric = RateDistortionCurve(n_draws=3, **settings)
    model, (inputs, relevance) = network(), batch()
    of = trace(model, inputs)
    columns = measure(metric, of, relevance)
    nothing_said = torch.zeros_like(relevance[0])
    for row in range(2):
        expected = slow_curve(model, of, relevance[row], row, counts, metric)
        for name, values in expected.items():
            np.testing.assert_allclose(
                columns[name][row], np.squeeze(values), rtol=1e-9, atol=1e-12
            )
    if metric.ties == "random":
        control = slow_curve(model, of, nothing_said, 0, counts, metric)
        for name in ("distortion", "accuracy", "auc", "accuracy_auc"):
            found = columns[f"random_{name}"][0]
            np.testing.assert_allclose(found, np.squeeze(control[name]), rtol=1e-9, atol=1e-12)


def test_a_linear_network_has_the_distortion_of_its_weights() -> None:
    generator = torch.Generator().manual_seed(2)
    layer = nn.Linear(5, 2, bias=False).double()
    layer.weight.data = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    inputs = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    relevance = torch.stack([torch.arange(5.0), -torch.arange(5.0)]).double()
    metric = RateDistortionCurve(n_draws=2000, n_steps=5, output_space="logit")
    case = metric.prepare(Case(Rows(layer, inputs), Target.parse(1)))
    columns = metric.score(case, relevance)
    weights = layer.weight.detach()[1]
    for row in range(2):
        low, high = float(inputs[row].min()), float(inputs[row].max())
        order = relevance[row].argsort()
        for step in range(1, 6):
            gone = order[:step]
            mean = weights[gone] @ ((low + high) / 2 - inputs[row, gone])
            variance = weights[gone].square().sum() * (high - low) ** 2 / 12
            found = columns["distortion"][row, step]
            # five standard errors: one of 10,000,000 fair estimates is further off
            error = columns["distortion_error"][row, step]
            assert abs(found - mean**2 - variance) < 5 * error
            assert error < 0.1 * found


def test_the_error_of_the_area_is_that_of_independent_steps() -> None:
    model, (inputs, relevance) = network(), batch()
    columns = measure(RateDistortionCurve(n_draws=4, n_steps=3), trace(model, inputs), relevance)
    weights = torch.tensor([1 / 6, 1 / 3, 1 / 3, 1 / 6], dtype=torch.float64)
    expected = (columns["distortion_error"] * weights).square().sum(1).sqrt()
    torch.testing.assert_close(columns["auc_error"], expected)
    torch.testing.assert_close(
        columns["relative_auc"], columns["auc"] / columns["random_auc"], rtol=0, atol=0
    )


def test_scores_depend_on_neither_batch_nor_chunks_but_on_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metric = RateDistortionCurve(n_draws=3, n_steps=4)
    model, (inputs, relevance) = network(), batch()
    together = measure(metric, trace(model, inputs), relevance)
    turned = measure(metric, trace(model, inputs, [2, 0]), relevance[[2, 0]])
    monkeypatch.setattr("pipeline.metrics.removal.MOST_ROWS", 5)
    chunked = measure(metric, trace(model, inputs), relevance)
    for name, column in together.items():
        torch.testing.assert_close(turned[name], column[[2, 0]], rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(chunked[name], column, rtol=1e-9, atol=1e-14)
    other = measure(metric, trace(model, inputs, seed=8), relevance)
    assert (other["auc"] != together["auc"]).all()


def test_all_explainers_have_the_same_noise_and_the_same_control() -> None:
    metric = RateDistortionCurve(n_draws=2, n_steps=4)
    model, (inputs, relevance) = network(), batch()
    case = metric.prepare(Case(trace(model, inputs), TARGET))
    one, other = metric.score(case, relevance), metric.score(case, -relevance)
    assert torch.equal(one["distortion"][:, -1], other["distortion"][:, -1])
    assert torch.equal(one["random_distortion"], other["random_distortion"])
    assert torch.equal(one["distortion"], metric.score(case, relevance)["distortion"])
    # a map that says nothing is the control
    nothing = metric.score(case, torch.full_like(relevance, 0.3))
    assert torch.equal(nothing["distortion"], one["random_distortion"])
    assert torch.equal(nothing["accuracy"], one["random_accuracy"])
    assert nothing["relative_auc"].tolist() == [1.0] * N


def test_the_last_step_and_the_control_are_not_computed_for_each_explainer() -> None:
    model, (inputs, relevance) = network(), batch()
    of = trace(model, inputs)
    metric = RateDistortionCurve(n_draws=3, n_steps=4)
    case = metric.prepare(Case(of, TARGET))
    metric.score(case, relevance)
    metric.score(case, -relevance)
    assert of.asked == [N, N * 4 * 3, N * 3 * 3, N * 3 * 3]


def test_a_map_that_is_not_finite_scores_nan_alone() -> None:
    metric = RateDistortionCurve(n_draws=2, n_steps=3)
    model, (inputs, relevance) = network(), batch()
    spoiled = relevance.clone()
    spoiled[1, 0, 2, 2] = torch.inf
    case = metric.prepare(Case(trace(model, inputs), TARGET))
    good, bad = metric.score(case, relevance), metric.score(case, spoiled)
    for name, column in bad.items():
        if not name.startswith("random_"):
            assert column[1].isnan().all()
        torch.testing.assert_close(column[[0, 2]], good[name][[0, 2]])


@pytest.mark.parametrize("components", ["values", "pixels"])
def test_a_map_summed_over_channels_stands_for_each_of_them(components: Any) -> None:
    metric = RateDistortionCurve(n_draws=2, n_steps=3, components=components, ties="position")
    model, (inputs, relevance) = network(), batch()
    summed = relevance.sum(dim=1)
    case = metric.prepare(Case(trace(model, inputs), TARGET))
    whole = metric.score(case, summed[:, None].expand_as(relevance))["distortion"]
    for each in (summed, summed[:, None]):
        assert torch.equal(metric.score(case, each)["distortion"], whole)
    with pytest.raises(ValueError, match="got maps of shape"):
        metric.score(case, relevance[:, :, :2])


def test_the_library_scores_a_network_with_labels_or_without() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Linear(4, 3), torch.randn(N, 4)
    read = Network(model, inputs)
    settings: dict[str, Any] = {"n_draws": 2, "n_steps": 2}
    without = scores("rate_distortion_curve", read, inputs, None, inputs, **settings)
    assert without["accuracy"].isnan().all()
    labels = model(inputs).argmax(1)
    right = scores("rate_distortion_curve", read, inputs, None, inputs, labels=labels, **settings)
    assert right["accuracy"][:, 0].tolist() == [1.0] * N
    assert right["accuracy_error"][:, 0].tolist() == [0.0] * N
    curve = score("rate_distortion_curve", read, inputs, None, inputs, **settings)
    for each in (curve, right["distortion"]):
        torch.testing.assert_close(each, without["distortion"])


def test_a_unit_of_a_layer_has_no_accuracy() -> None:
    model, (inputs, relevance) = network(), batch()
    of = trace(model, inputs)
    of.parent = of
    columns = measure(RateDistortionCurve(n_draws=2, n_steps=2), of, relevance)
    assert columns["accuracy"].isnan().all()
    assert columns["distortion"].isfinite().all()


def test_one_output_has_no_probabilities_and_tokens_no_noise() -> None:
    inputs = torch.rand(2, 4)
    of = Rows(nn.Linear(4, 1), inputs, Samples(INDEX[:2], LABELS[:2]))
    with pytest.raises(ValueError, match="output_space: logit"):
        RateDistortionCurve().prepare(Case(of, TARGET))
    columns = measure(RateDistortionCurve(n_draws=2, output_space="logit"), of, inputs)
    assert columns["distortion"].isfinite().all()
    assert columns["accuracy"].isnan().all()
    embedding = nn.Sequential(nn.Embedding(3, 2), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(TypeError, match="floating-point"):
        RateDistortionCurve().prepare(Case(Rows(embedding, torch.tensor([[0, 1]])), TARGET))


def test_a_single_draw_has_no_error_to_speak_of() -> None:
    model, (inputs, relevance) = network(), batch()
    columns = measure(RateDistortionCurve(n_draws=1, n_steps=2), trace(model, inputs), relevance)
    assert columns["distortion"].isfinite().all()
    assert columns["distortion_error"][:, 1:].isnan().all()


@pytest.mark.parametrize("shape", [(1, 6), (1, 1, 6)])
def test_rows_of_values_are_randomised_whatever_axes_they_have(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(5)
    inputs, relevance = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).double()
    metric = RateDistortionCurve(n_draws=2, n_steps=3)
    flat = measure(metric, Rows(model, inputs), relevance)
    found = measure(metric, Rows(model, inputs.view(3, *shape)), relevance.view(3, *shape))
    torch.testing.assert_close(found["distortion"], flat["distortion"])


def test_curves_are_drawn_over_what_is_left() -> None:
    distortion, accuracy = RateDistortionCurve(features_in_step=4).curves((1, 3, 3))
    np.testing.assert_allclose(distortion.x, [100, 500 / 9, 100 / 9, 0], atol=1e-12)
    assert distortion.x == accuracy.x
    assert (distortion.direction, accuracy.direction) == ("lower", "higher")
    assert (distortion.control, distortion.control_area) == ("random_distortion", "random_auc")
    by_pixel = RateDistortionCurve(features_in_step=4, components="pixels").curves((3, 3, 3))
    assert by_pixel[0].x == distortion.x


@pytest.mark.parametrize(
    "settings", [{"n_draws": 0}, {"n_steps": 0}, {"n_steps": 3, "features_in_step": 2}]
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        RateDistortionCurve(**settings)
