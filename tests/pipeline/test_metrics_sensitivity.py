"""How maps change with inputs, against loops over single samples and draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import explainers
from explainers import Network, Target, Trace
from pipeline.evaluate import evaluate
from pipeline.metrics import Case, Subject, score, scores
from pipeline.metrics.sensitivity import AvgSensitivity, LocalLipschitz, MaxSensitivity
from tests.pipeline import tiny_run

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.metrics.sensitivity import Sensitivity

EVERYBODY = ("gradient", "saliency", "input_x_gradient", "lrp", "integrated_gradients")


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).double()
    return Network(model, torch.zeros(2, 2, 4, 4, dtype=torch.float64))


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 2, 4, 4, generator=generator, dtype=torch.float64)


def slowly(metric: Sensitivity, network: Network, inputs: Tensor, seed: int = 0) -> list[list[Any]]:
    """Distances of each sample's draws, one sample and one draw at a time."""
    bound = explainers.get("gradient")(network)
    trace = Trace(network, inputs, seed=seed)
    prediction = network(inputs).argmax(1)
    found = []
    for row in range(len(inputs)):
        target = int(prediction[row])
        before = bound.attribute(inputs[row : row + 1], target).flatten()
        distances = []
        for draw in range(metric.n_draws):
            noise = metric.noise(trace, draw)[row : row + 1]
            after = bound.attribute(inputs[row : row + 1] + noise, target).flatten()
            change = float(((after - before) ** 2).sum() ** 0.5)
            if not (isinstance(metric, LocalLipschitz) and metric.scale == "absolute"):
                change /= float((before**2).sum() ** 0.5)
            if isinstance(metric, LocalLipschitz):
                change /= float((noise**2).sum() ** 0.5)
            distances.append(change)
        found.append(distances)
    return found


@pytest.mark.parametrize(
    "metric",
    [
        MaxSensitivity(n_draws=3, radius=0.3),
        AvgSensitivity(n_draws=3, radius=0.3),
        LocalLipschitz(n_draws=3),
        LocalLipschitz(n_draws=3, scale="absolute"),
    ],
)
def test_scores_are_those_of_a_loop_over_samples_and_draws(
    metric: Sensitivity, network: Network, inputs: Tensor
) -> None:
    case = metric.prepare(Case(Trace(network, inputs), Target()))
    bound = explainers.get("gradient")(network)
    relevance = bound.attribute(inputs)
    columns = metric.scores(case, {"gradient": Subject(relevance, bound)})["gradient"]
    expected = np.array(slowly(metric, network, inputs))
    # float64 on both sides, sums of 32 terms in another order
    close = {"rtol": 1e-10}
    np.testing.assert_allclose(columns["maximum"], expected.max(1), **close)
    np.testing.assert_allclose(columns["mean"], expected.mean(1), **close)
    error = expected.std(1, ddof=1) / 3**0.5
    np.testing.assert_allclose(columns["mean_error"], error, rtol=1e-6)
    headline = expected.mean(1) if metric.headline == "avg_sensitivity" else expected.max(1)
    np.testing.assert_allclose(columns[metric.headline], headline, **close)


def test_the_target_stays_where_the_prediction_does_not(network: Network, inputs: Tensor) -> None:
    metric = MaxSensitivity(n_draws=4, radius=5.0)
    trace = Trace(network, inputs)
    noisy = torch.cat([network(inputs + metric.noise(trace, draw)) for draw in range(4)])
    assert not torch.equal(noisy.argmax(1), network(inputs).argmax(1).repeat(4))
    bound = explainers.get("gradient")(network)
    found = metric.scores(Case(trace, Target()), {"": Subject(bound.attribute(inputs), bound)})[""]
    expected = np.array(slowly(metric, network, inputs)).max(1)
    np.testing.assert_allclose(found["maximum"], expected, rtol=1e-10)


def test_noise_fills_the_range_on_both_sides_and_differs_by_draw(
    network: Network, inputs: Tensor
) -> None:
    trace = Trace(network, inputs)
    uniform = torch.stack([MaxSensitivity(radius=0.5).noise(trace, draw) for draw in range(8)])
    # of 1,280 numbers one is within a hundredth of the range of either end, but for 5 in 10^6
    assert -0.5 <= float(uniform.min()) < -0.49
    assert 0.49 < float(uniform.max()) <= 0.5
    assert not torch.equal(uniform[0], uniform[1])
    normal = torch.stack([LocalLipschitz(stdev=0.5).noise(trace, draw) for draw in range(8)])
    # standard errors of the two are 0.014 and 0.010
    assert abs(float(normal.mean())) < 0.07
    assert abs(float(normal.std()) - 0.5) < 0.05


def test_a_score_does_not_depend_on_the_batch(network: Network, inputs: Tensor) -> None:
    bound = explainers.get("gradient")(network)
    given = {"n_draws": 3, "radius": 0.3, "explainer": bound}
    together = score("max_sensitivity", network, inputs, None, **given)
    samples = explainers.Samples(torch.arange(5), torch.full((5,), -1))
    metric = MaxSensitivity(n_draws=3, radius=0.3)
    for rows in ([0], [3, 1], [4, 2]):
        who = explainers.Samples(samples.index[rows], samples.label[rows])
        trace = Trace(network, inputs[rows], samples=who)
        maps = bound.attribute(inputs[rows])
        alone = metric.scores(Case(trace, Target()), {"": Subject(maps, bound)})[""]
        torch.testing.assert_close(alone["maximum"], together[rows], rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("max_sensitivity", {}),
        ("local_lipschitz", {}),
        ("local_lipschitz", {"compat": "quantus"}),
    ],
)
def test_maps_that_are_not_finite_or_zero_have_no_score_and_disturb_nobody(
    name: str, settings: dict[str, str], network: Network, inputs: Tensor
) -> None:
    bound = explainers.get("gradient")(network)
    broken = bound.attribute(inputs)
    broken[1], broken[3] = 0.0, 0.0
    given: dict[str, Any] = {"n_draws": 2, "explainer": bound, **settings}
    clean = scores(name, network, inputs, None, broken, **given)
    broken[1, 0, 0, 0] = torch.nan
    for column, found in scores(name, network, inputs, None, broken, **given).items():
        # Quantus makes the size of a map that of the batch, so that one of zeros has a score
        assert found[[1, 3]].isnan().tolist() == [True, "compat" not in settings]
        torch.testing.assert_close(found[[0, 2, 4]], clean[column][[0, 2, 4]], rtol=0, atol=0)
        assert found[[0, 2, 4]].isfinite().all()


def test_explainers_share_the_passes_through_noisy_inputs(
    network: Network, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_rows = [0]
    run_ = Network.run

    def counted(self: Network, given: Any, *rest: Any, **named: Any) -> Any:
        n_rows[0] += len(given)
        return run_(self, given, *rest, **named)

    monkeypatch.setattr(Network, "run", counted)
    metric = MaxSensitivity(n_draws=4)
    passes = {}
    for names in (EVERYBODY[:1], EVERYBODY[:3]):
        trace = Trace(network, inputs)
        bound = {name: explainers.get(name)(network) for name in names}
        maps = {name: explainers.explain(network, name, inputs) for name in names}
        n_rows[0] = 0
        metric.scores(Case(trace, Target()), {n: Subject(maps[n], bound[n]) for n in names})
        passes[len(names)] = n_rows[0]
    assert passes[1] == passes[3] == len(inputs) * (4 + 1)


def test_a_metric_that_explains_again_asks_for_an_explainer(
    network: Network, inputs: Tensor
) -> None:
    with pytest.raises(TypeError, match="pass explainer="):
        score("max_sensitivity", network, inputs, None, torch.ones_like(inputs))
    bound = explainers.get("gradient")(network)
    with pytest.raises(ValueError, match="made the maps"):
        score("max_sensitivity", network, inputs, None, torch.ones(5, 4, 4), explainer=bound)
    with pytest.raises(ValueError, match="radius"):
        MaxSensitivity(radius=0.0)


METHODS: dict[str, dict[str, Any]] = {
    **{name: {} for name in EVERYBODY},
    "smooth": {"method": "smooth_grad", "n_samples": 2},
    "expected_gradients": {"n_samples": 2},
    "deep_lift": {"baseline": "mean"},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("methods", "output"),
    [(METHODS, {"channels": "sum"}), ({"gradient": {}, "random": {}}, {"dtype": "float16"})],
    ids=["float32", "float16"],
)
def test_a_run_explains_again_what_it_explained(
    methods: dict[str, Any], output: dict[str, str], tmp_path: Path
) -> None:
    """Noise that is lost in rounding changes nothing, so every score is 0: to the bit."""
    out = tmp_path / "out"
    tiny_run.run_tiny(tmp_path, out, explainers=methods, output=output)
    found = evaluate(out, {"max_sensitivity": {"n_draws": 1, "radius": 1e-30}})
    assert found.exit_code == 0
    rows = [each for each in found.aggregates if each.group == "all" and each.column == "maximum"]
    assert len(rows) == len(methods)
    assert all(each.mean == 0 and each.n == 40 for each in rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["max_sensitivity", "avg_sensitivity", "local_lipschitz"])
def test_scores_are_those_of_quantus_at_the_same_noise(
    name: str, network: Network, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantus = pytest.importorskip("quantus")
    bound = explainers.get("input_x_gradient")(network.module)
    metric: Sensitivity
    metric, theirs, settings = {
        "max_sensitivity": (MaxSensitivity(3, 0.2), quantus.MaxSensitivity, {"radius": 0.2}),
        "avg_sensitivity": (AvgSensitivity(3, 0.2), quantus.AvgSensitivity, {"radius": 0.2}),
        "local_lipschitz": (
            LocalLipschitz(3, compat="quantus"),
            quantus.LocalLipschitzEstimate,
            {"compat": "quantus"},
        ),
    }[name]
    noise = iter([metric.noise(Trace(network, inputs), draw).flatten(1) for draw in range(3)])
    made = theirs(
        nr_samples=3,
        perturb_func=lambda arr, indices, **_: arr + next(noise).numpy(),
        disable_warnings=True,
    )
    target = network(inputs).argmax(1)
    relevance = bound.attribute(inputs, target)
    expected = made(
        model=network.module,
        x_batch=inputs.numpy(),
        y_batch=target.numpy(),
        a_batch=relevance.numpy(),
        explain_func=bound,
    )
    found = score(name, network, inputs, target, relevance, explainer=bound, n_draws=3, **settings)
    # float64 on our side, and there but for the conversion of inputs to float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
