"""Expected gradients against a slow sum over the same draws, Captum, and its own promises."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import GradientShap
from torch import nn

import explainers
from explainers import Network, Target, Trace
from explainers.base import Samples
from explainers.explaining import explained
from explainers.sampling import chunks
from tests.explainers.twins import network_twin, pictures, seeded, twin

# Only the order of sums differs, in float64 and at values of about one.
TOLERANCE = {"rtol": 0, "atol": 1e-10}
BACKGROUND = pictures(4, 28, seed=5)


@functools.cache
def small() -> tuple[Network, torch.Tensor, torch.Tensor]:
    """Return a small network, three inputs for it and four baselines."""
    model = seeded(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)))
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    return Network(model, rows), rows[:3], rows[3:]


def draws_of(
    network: Network, inputs: torch.Tensor, n_draws: int, *, is_stratified: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return baselines and places of all draws, ``(batch, draws)``, one by one."""
    trace = Trace(network, inputs, namespace="expected_gradients")
    places = torch.empty(len(inputs), n_draws, dtype=torch.float64)
    chosen = torch.empty(len(inputs), n_draws, dtype=torch.int64)
    n = len(BACKGROUND)
    for row in range(len(inputs)):
        generator = trace.generator("place", row)
        places[row] = torch.rand(n_draws, generator=generator, dtype=torch.float64)
        generator = trace.generator("baseline", row)
        if is_stratified:
            rounds = torch.rand(-(-n_draws // n), n, generator=generator, dtype=torch.float64)
            chosen[row] = torch.cat([numbers.argsort() for numbers in rounds])[:n_draws]
            for draw in range(n_draws):
                places[row, draw] = (draw + places[row, draw]) / n_draws
        else:
            uniform = torch.rand(n_draws, generator=generator, dtype=torch.float64)
            chosen[row] = (uniform * n).long()
    return chosen, places


@pytest.mark.parametrize("multiply_by_inputs", [True, False])
@pytest.mark.parametrize("is_stratified", [True, False])
def test_the_map_is_the_mean_over_draws(is_stratified: bool, multiply_by_inputs: bool) -> None:
    network, inputs = network_twin("cnn", "modules")
    classes = network(inputs).argmax(1)
    chosen, places = draws_of(network, inputs, 6, is_stratified=is_stratified)
    maps = torch.zeros(6, *inputs.shape, dtype=torch.float64)
    delta = torch.zeros(len(inputs), dtype=torch.float64)
    for row in range(len(inputs)):
        for draw in range(6):
            baseline = BACKGROUND[chosen[row, draw]]
            difference = inputs[row] - baseline
            point = (baseline + places[row, draw] * difference)[None]
            gradient = explainers.explain(network, "gradient", point, int(classes[row]))[0]
            maps[draw, row] = difference * gradient if multiply_by_inputs else gradient
            rise = network(inputs[[row]]) - network(baseline[None])
            delta[row] += ((difference * gradient).sum() - rise[0, classes[row]]) / 6
    found = explainers.get("expected_gradients")(
        network,
        background=BACKGROUND,
        n_samples=6,
        is_stratified=is_stratified,
        multiply_by_inputs=multiply_by_inputs,
    ).explain(inputs)
    torch.testing.assert_close(found.relevance, maps.mean(0), **TOLERANCE)
    error = maps.std(0) / 6**0.5
    torch.testing.assert_close(found.arrays["standard_error"], error, **TOLERANCE)
    torch.testing.assert_close(found.arrays["convergence_delta"], delta, **TOLERANCE)


@pytest.mark.parametrize("stdev", [0.0, 0.3])
def test_the_map_of_the_same_draws_is_captums(
    stdev: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = twin("cnn", "modules")
    network, _ = network_twin("cnn", "modules")
    chosen, places = draws_of(network, inputs, 5, is_stratified=False)
    noise = torch.zeros(5, *inputs.shape, dtype=torch.float64)
    trace = Trace(network, inputs, namespace="expected_gradients")
    for row in range(len(inputs)):
        generator = trace.generator("noise", row)
        for draw in range(5):
            noise[draw, row].normal_(generator=generator)
    by_row = noise.transpose(0, 1).flatten(0, 1)
    monkeypatch.setattr(torch, "normal", lambda mean, deviations: deviations * by_row)
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: chosen.flatten().numpy())
    monkeypatch.setattr(np.random, "uniform", lambda *_, **__: places.flatten().numpy())
    classes = torch.tensor([1, 4, 0])
    expected, delta = GradientShap(model).attribute(
        inputs, BACKGROUND, target=classes, stdevs=stdev, return_convergence_delta=True
    )
    monkeypatch.undo()
    bound = explainers.get("expected_gradients")(
        network, background=BACKGROUND, is_stratified=False, stdev=stdev
    )
    found = bound.explain(inputs, classes)
    torch.testing.assert_close(found.relevance, expected, rtol=0, atol=1e-8)
    if not stdev:  # Captum's is to the noisy input
        mean_delta = delta.view(3, 5).mean(1)
        torch.testing.assert_close(found.arrays["convergence_delta"], mean_delta, rtol=0, atol=1e-8)


def test_many_draws_come_to_the_mean_of_integrated_gradients() -> None:
    network, inputs, background = small()
    paths = [
        explainers.explain(network, "integrated_gradients", inputs, n_steps=100, baseline=baseline)
        for baseline in background
    ]
    bound = explainers.get("expected_gradients")(network, background=background, n_samples=400)
    found = bound.explain(inputs)
    # each value is off by its standard error or so, none of the 18 by four of them
    error = found.arrays["standard_error"]
    gap = (found.relevance - torch.stack(paths).mean(0)).abs()
    assert bool((gap <= 4 * error + 1e-3).all())
    scale = network(inputs).abs().amax()
    assert float(found.arrays["convergence_delta"].abs().max()) < 0.02 * float(scale)


def test_stratified_draws_vary_less_and_are_not_biased() -> None:
    network, inputs, background = small()
    one = inputs[:1].expand(100, -1)
    maps = {
        is_stratified: explainers.explain(
            network,
            "expected_gradients",
            one,
            background=background,
            n_samples=8,
            is_stratified=is_stratified,
        )
        for is_stratified in (True, False)
    }
    spread = {kind: float(found.var(0).sum()) for kind, found in maps.items()}
    assert spread[True] < 0.5 * spread[False]
    gap = maps[True].mean(0) - maps[False].mean(0)
    expected = (spread[True] + spread[False]) / 100
    # the squared gap of two unbiased means has this expectation, and deviates by about as much
    assert float(gap.square().sum()) < 4 * expected


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_the_size_of_a_chunk_changes_nothing_but_rounding(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = network_twin("cnn", "modules")
    bound = explainers.get("expected_gradients")(network, background=BACKGROUND, stdev=0.1)
    expected = bound.explain(inputs)
    rows: list[int] = []
    run = network.run

    def counted(batch: torch.Tensor, **given: Any) -> dict[str, torch.Tensor]:
        rows.append(len(batch))
        return run(batch, **given)

    monkeypatch.setattr(network, "run", counted)
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", limit * inputs[0].numel())
    found = bound.explain(inputs)
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=0, atol=1e-12)
    for name, values in expected.arrays.items():
        torch.testing.assert_close(found.arrays[name], values, rtol=0, atol=1e-12)
    assert max(rows[1:]) <= limit, "beyond the batch itself, no pass is larger than a chunk"


def test_a_samples_map_does_not_depend_on_the_batch() -> None:
    network, inputs = network_twin("cnn", "modules")
    method = explainers.build("expected_gradients", background=BACKGROUND)
    samples = Samples(torch.tensor([7, 3, 11]), torch.tensor([0, 1, 2]))
    every = method.relevance(Trace(network, inputs, samples=samples), Target.parse(1))
    alone = Samples(samples.index[[2]], samples.label[[2]])
    one = method.relevance(Trace(network, inputs[[2]], samples=alone), Target.parse(1))
    torch.testing.assert_close(one.relevance, every.relevance[[2]], rtol=0, atol=1e-12)


def test_the_background_is_what_the_scan_finds() -> None:
    network, inputs = network_twin("cnn", "modules")
    result = explainers.scan(network, "background", [BACKGROUND], n_samples=3)
    found = explainers.explain(network, "expected_gradients", inputs, background=result)
    stored = {name: values.numpy() for name, values in result.items()}
    again = explainers.explain(network, "expected_gradients", inputs, background=stored)
    by_hand = explainers.explain(network, "expected_gradients", inputs, background=result["inputs"])
    torch.testing.assert_close(found, by_hand, rtol=0, atol=0)
    torch.testing.assert_close(found, again, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_samples": 0}, "expected at least 1"),
        ({"stdev": -1.0}, "got stdev=-1.0"),
        ({"postprocess": "log"}, "got postprocess 'log'"),
    ],
)
def test_wrong_parameters_are_refused_at_once(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explainers.build("expected_gradients", **params)


def test_a_background_that_is_missing_or_does_not_fit_is_refused() -> None:
    network, inputs = network_twin("cnn", "modules")
    with pytest.raises(ValueError, match="got no background; pass background="):
        explainers.explain(network, "expected_gradients", inputs)
    with pytest.raises(ValueError, match=r"got a background of shape \(4, 3, 28, 27\)"):
        explainers.get("expected_gradients")(network, background=BACKGROUND[..., :27])


def test_a_background_without_rows_is_refused() -> None:
    network, inputs = network_twin("cnn", "modules")
    with pytest.raises(ValueError, match=r"expected \(n, ...\) with at least one row"):
        explainers.explain(network, "expected_gradients", inputs, background=BACKGROUND[:0])


@pytest.mark.parametrize("layer", ["conv2", "relu2"])
def test_a_layers_baselines_are_its_values_at_the_background(layer: str) -> None:
    network, inputs = network_twin("cnn", "modules")
    behind = Trace(network, inputs, namespace="expected_gradients").starting_at(layer)
    values = Trace(network, BACKGROUND).layer(layer)
    by_hand = explainers.build("expected_gradients", background=values)
    expected = by_hand.relevance(behind, Target.parse(1))
    bound = explainers.get("expected_gradients")(network, background=BACKGROUND, layer=layer)
    found = bound.explain(inputs, 1)
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=0, atol=1e-12)


class Bypassed(nn.Module):
    """A layer that not everything passes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.side, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.inner(x).relu() + self.side(x)).relu())


def test_what_passes_a_layer_by_stays_the_samples_own() -> None:
    model = seeded(Bypassed())
    _, inputs, background = small()
    bound = explainers.get("expected_gradients")(
        model, background=background, layer="inner", n_samples=400
    )
    found = bound.explain(inputs, 0)
    with torch.no_grad():
        side = model.side(inputs)
        paths = [model.head((model.inner(row).relu() + side).relu())[:, 0] for row in background]
        rise = model(inputs)[:, 0] - torch.stack(paths).mean(0)
    # all baselines are drawn equally often; what is left is the error of the sum along the paths
    delta = found.relevance.sum(1) - rise
    torch.testing.assert_close(found.arrays["convergence_delta"], delta, rtol=0, atol=1e-10)
    assert float(delta.abs().max()) < 0.02 * float(rise.abs().max())


class Switched(nn.Module):
    """Layers whose values hang on an input that is not explained; the skip passes only one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x).relu() * kinds[:, None]
        return self.head((self.inner(hidden).relu() + hidden).relu())


@functools.cache
def switched() -> tuple[Network, torch.Tensor, torch.Tensor]:
    inputs, kinds = small()[1], torch.tensor([1, 2, 3])
    return Network(seeded(Switched()), (inputs, kinds)), inputs, kinds


@pytest.mark.slow
@pytest.mark.parametrize("method", ["expected_gradients", "deep_lift_shap"])
@pytest.mark.parametrize("layer", ["inner", "head"])
def test_a_layers_baselines_are_each_rows_own_where_it_hangs_on_other_inputs(
    method: str, layer: str
) -> None:
    network, inputs, kinds = switched()
    rows = small()[2]
    explainer = explainers.build(
        method, background=(rows, torch.ones(4, dtype=torch.int64)), layer=layer
    )
    found = []
    for some in ([0, 1, 2], [0], [1], [2]):
        samples = Samples(torch.tensor(some), torch.zeros(len(some), dtype=torch.int64))
        trace = Trace(network, (inputs[some], kinds[some]), samples=samples)
        found.append(explained(explainer, trace, Target.parse(0)))
    together, *alone = found
    torch.testing.assert_close(
        together.relevance, torch.cat([each.relevance for each in alone]), **TOLERANCE
    )
    for name, array in together.arrays.items():
        parts = torch.cat([each.arrays[name] for each in alone])
        torch.testing.assert_close(array, parts, **TOLERANCE)
