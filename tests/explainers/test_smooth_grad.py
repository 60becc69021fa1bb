"""smooth_grad, smooth_grad_squared and var_grad against slow sums, Captum and zennit."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from zennit.attribution import SmoothGrad as ZennitSmoothGrad

import explainers
from explainers import Target, Trace
from explainers.base import Samples
from explainers.sampling import chunks
from tests.explainers.twins import network_twin, twin

if TYPE_CHECKING:
    from explainers import Network

KINDS = {"smooth_grad": "smoothgrad", "smooth_grad_squared": "smoothgrad_sq", "var_grad": "vargrad"}

# Only the order of sums differs, in float64 and at values of about one.
TOLERANCE = {"rtol": 0, "atol": 1e-10}


def noise_of(network: Network, inputs: torch.Tensor, name: str, n_copies: int) -> torch.Tensor:
    """Return the noise of every copy, ``(copies, batch, ...)``: each row's generator in turn."""
    trace = Trace(network, inputs, namespace=name)
    noise = torch.empty(n_copies, *inputs.shape, dtype=inputs.dtype)
    for row in range(len(inputs)):
        generator = trace.generator("noise", row)
        for copy in range(n_copies):
            noise[copy, row] = torch.randn(
                inputs.shape[1:], generator=generator, dtype=inputs.dtype
            )
    return noise


def maps_of(
    network: Network, points: torch.Tensor, classes: torch.Tensor, method: str = "gradient"
) -> torch.Tensor:
    return torch.stack([explainers.explain(network, method, copy, classes) for copy in points])


@pytest.mark.parametrize("name", KINDS)
def test_statistics_are_those_of_the_maps_of_noisy_copies(name: str) -> None:
    network, inputs = network_twin("cnn", "modules")
    classes = network(inputs).argmax(1)
    points = inputs + 0.4 * noise_of(network, inputs, name, 6)
    maps = maps_of(network, points, classes)
    expected = {
        "smooth_grad": maps.mean(0),
        "smooth_grad_squared": maps.square().mean(0),
        "var_grad": maps.var(0, correction=0),
    }[name]
    found = explainers.get(name)(network, n_samples=6, stdev=0.4).explain(inputs)
    torch.testing.assert_close(found.relevance, expected, **TOLERANCE)
    if name != "var_grad":
        averaged = maps.square() if name == "smooth_grad_squared" else maps
        error = averaged.std(0) / 6**0.5
        torch.testing.assert_close(found.arrays["standard_error"], error, **TOLERANCE)


@pytest.mark.parametrize("inner", ["gradient", "integrated_gradients"])
@pytest.mark.parametrize("name", KINDS)
def test_maps_of_the_same_noise_equal_captums(
    name: str, inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = twin("cnn", "modules")
    network, _ = network_twin("cnn", "modules")
    noise = noise_of(network, inputs, name, 5)

    def same_noise(batch: torch.Tensor, stdev: float, n_copies: int) -> torch.Tensor:
        return batch.repeat_interleave(n_copies, 0) + stdev * noise.transpose(0, 1).flatten(0, 1)

    monkeypatch.setattr(NoiseTunnel, "_add_noise_to_input", staticmethod(same_noise))
    captums = {
        "gradient": (Saliency(model), {"abs": False}),
        "integrated_gradients": (IntegratedGradients(model), {"n_steps": 3}),
    }
    method, parameters = captums[inner]
    classes = torch.tensor([2, 0, 4])
    expected = NoiseTunnel(method).attribute(
        inputs, nt_type=KINDS[name], target=classes, **parameters
    )
    ours = {"n_steps": 3} if inner == "integrated_gradients" else {}
    bound = explainers.get(name)(network, attribution=inner, parameters=ours)
    torch.testing.assert_close(bound.attribute(inputs, classes), expected, rtol=0, atol=1e-8)


def test_the_preset_zennit_is_zennits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = twin("cnn", "modules")
    network, _ = network_twin("cnn", "modules")
    draws = iter(noise_of(network, inputs, "smooth_grad", 19))
    found = explainers.explain(network, "smooth_grad", inputs, [1, 4, 0], preset="zennit")
    monkeypatch.setattr(torch, "randn_like", lambda _: next(draws))
    with ZennitSmoothGrad(model) as attributor:
        start = torch.eye(5, dtype=torch.float64)[torch.tensor([1, 4, 0])]
        _, expected = attributor(inputs, start)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_the_clean_copy_has_no_part_in_the_standard_error() -> None:
    network, inputs = network_twin("cnn", "modules")
    classes = network(inputs).argmax(1)
    extent = inputs.flatten(1).amax(1) - inputs.flatten(1).amin(1)
    scale = 0.1 * extent.view(-1, 1, 1, 1)
    noisy = maps_of(network, inputs + scale * noise_of(network, inputs, "smooth_grad", 4), classes)
    bound = explainers.get("smooth_grad")(network, n_samples=5, noise_level=0.1, is_last_clean=True)
    found = bound.explain(inputs)
    clean = explainers.explain(network, "gradient", inputs, classes)
    torch.testing.assert_close(found.relevance, (noisy.sum(0) + clean) / 5, **TOLERANCE)
    expected = noisy.std(0) * 4**0.5 / 5
    torch.testing.assert_close(found.arrays["standard_error"], expected, **TOLERANCE)


def test_one_clean_copy_is_the_method_itself_and_its_error_unknown() -> None:
    network, inputs = network_twin("cnn", "modules")
    bound = explainers.get("smooth_grad")(
        network, attribution="saliency", n_samples=1, is_last_clean=True
    )
    found = bound.explain(inputs)
    expected = explainers.explain(network, "saliency", inputs)
    torch.testing.assert_close(found.relevance, expected, rtol=0, atol=0)
    assert bool(found.arrays["standard_error"].isnan().all())


def test_the_explained_class_is_that_of_the_sample_whatever_the_noise() -> None:
    network, inputs = network_twin("cnn", "modules")
    classes = network(inputs).topk(2).indices[:, 1]
    noise = noise_of(network, inputs, "smooth_grad", 5)
    noisy = torch.stack([network(inputs + 9 * copy).topk(2).indices[:, 1] for copy in noise])
    assert not torch.equal(noisy, classes.expand_as(noisy))
    asked = explainers.explain(network, "smooth_grad", inputs, "runner_up", stdev=9.0)
    named = explainers.explain(network, "smooth_grad", inputs, classes, stdev=9.0)
    torch.testing.assert_close(asked, named, rtol=0, atol=0)


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("name", KINDS)
def test_the_size_of_a_chunk_changes_nothing_but_rounding(
    name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = network_twin("cnn", "modules")
    expected = explainers.explain(network, name, inputs, is_last_clean=True)
    rows: list[int] = []
    run = network.run

    def counted(batch: torch.Tensor, **given: Any) -> dict[str, torch.Tensor]:
        rows.append(len(batch))
        return run(batch, **given)

    monkeypatch.setattr(network, "run", counted)
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", limit * inputs[0].numel())
    found = explainers.explain(network, name, inputs, is_last_clean=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert sum(rows) == 3 * 5
    assert max(rows[1:]) <= limit, "beyond the batch itself, no pass is larger than a chunk"


def test_a_samples_map_does_not_depend_on_the_batch() -> None:
    network, inputs = network_twin("cnn", "modules")
    method = explainers.build("smooth_grad")
    samples = Samples(torch.tensor([7, 3, 11]), torch.tensor([0, 1, 2]))
    both = method.relevance(Trace(network, inputs, samples=samples, seed=4), Target.parse(1))
    alone = Samples(samples.index[[2]], samples.label[[2]])
    one = method.relevance(Trace(network, inputs[[2]], samples=alone, seed=4), Target.parse(1))
    torch.testing.assert_close(one.relevance, both.relevance[[2]], rtol=0, atol=1e-13)
    other = method.relevance(Trace(network, inputs[[2]], samples=alone, seed=5), Target.parse(1))
    assert not torch.allclose(one.relevance, other.relevance)


def test_copies_have_randomness_of_their_own_inside_a_stochastic_method() -> None:
    network, inputs = network_twin("cnn", "modules")
    inner = {"n_samples": 2, "stdev": 0.5}
    spread = explainers.explain(
        network, "var_grad", inputs, attribution="smooth_grad", parameters=inner, stdev=0.0
    )
    assert float(spread.mean()) > 1e-6


def test_cost_names_and_requirements_are_those_of_the_method_inside() -> None:
    method = explainers.build(
        "smooth_grad", attribution="integrated_gradients", parameters={"n_steps": 7}, n_samples=3
    )
    assert method.cost.backward == 21
    assert method.cost.forward == 3 * 9 + 1
    assert method.stochastic
    assert explainers.build("smooth_grad", attribution="lrp").requires == {"lrp"}
    assert pickle.loads(pickle.dumps(method)) == method


@pytest.mark.parametrize("postprocess", ["abs", "square"])
def test_the_mean_is_postprocessed(postprocess: str) -> None:
    network, inputs = network_twin("cnn", "modules")
    plain = explainers.explain(network, "smooth_grad", inputs)
    found = explainers.explain(network, "smooth_grad", inputs, postprocess=postprocess)
    expected = plain.abs() if postprocess == "abs" else plain.square()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"n_samples": 0}, ValueError, "expected at least 1"),
        ({"stdev": -1.0}, ValueError, "got stdev=-1.0"),
        ({"noise_level": float("nan")}, ValueError, "got noise_level=nan"),
        ({"attribution": "moments"}, TypeError, "'moments' is a scan and has none"),
        ({"attribution": "gradint"}, LookupError, "did you mean 'gradient'"),
        ({"parameters": {"steps": 1}}, TypeError, "has no parameter 'steps'"),
        ({"parameters": {"layer": "conv1"}}, ValueError, "give it as layer of smooth_grad"),
    ],
)
def test_wrong_parameters_are_refused_at_once(
    params: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        explainers.build("smooth_grad", **params)
