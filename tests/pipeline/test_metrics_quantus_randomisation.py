"""Metrics of randomisation beside Quantus 0.6: equal where it is sound, right where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import explainers
from explainers import Network, Samples, Target, Trace
from pipeline.metrics.efficient_mprt import EfficientMPRT
from pipeline.metrics.metric import Case, Subject
from pipeline.metrics.mprt import MPRT
from pipeline.metrics.random_logit import RandomLogit, others
from pipeline.metrics.similarity import ssim
from pipeline.metrics.smooth_mprt import SmoothMPRT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.metrics.metric import Metric

quantus = pytest.importorskip("quantus")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]

PER_SAMPLE = {"normalise_axes": [1, 2, 3]}
N = 6


class Model(nn.Module):
    """With a norm, and registered as it is used: Quantus goes by registration."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.hidden = nn.Linear(4 * 36, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = torch.tanh(self.norm(self.conv(inputs))).flatten(1)
        out: Tensor = self.head(torch.tanh(self.hidden(maps)))
        return out


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    model: Any = Model().eval()  # in float32, as Quantus makes its inputs
    model.norm.running_mean.uniform_(-0.5, 0.5)
    model.norm.running_var.uniform_(0.5, 2.0)
    return Network(model, pictures())


def pictures() -> Tensor:
    return torch.randn(N, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def labels() -> Tensor:
    return torch.arange(N) % 5


def gradients(model: Any, inputs: Any, targets: Any, **_: Any) -> NDArray[Any]:
    """Explain as Quantus asks for it: the gradient of the model that it hands over."""
    leaf = torch.as_tensor(np.array(inputs), dtype=torch.float32).requires_grad_()
    rows = torch.arange(len(leaf))
    selected = model(leaf)[rows, torch.as_tensor(np.array(targets)).long()].sum()
    (found,) = torch.autograd.grad(selected, leaf)
    return found.numpy()


def ours(metric: Metric, network: Network) -> dict[str, Tensor]:
    bound = explainers.get("gradient")(network)
    samples = Samples(torch.arange(N), labels())
    trace = Trace(network, pictures(), samples=samples, seed=7, namespace=metric.name)
    maps = bound.attribute(pictures(), labels())
    return metric.scores(Case(trace, Target("label")), {"": Subject(maps, bound)})[""]


def theirs(metric: Any, network: Network, *, keeps_maps: bool = True) -> Any:
    maps = gradients(network.module, pictures(), labels()) if keeps_maps else None
    return metric(
        model=network.module.requires_grad_(False),
        x_batch=pictures().numpy(),
        y_batch=labels().numpy(),
        a_batch=maps,
        explain_func=gradients,
        device="cpu",
    )


@pytest.mark.parametrize("order", ["top_down", "bottom_up", "independent"])
def test_curves_over_layers_are_those_of_quantus(order: str, network: Network) -> None:
    options = {"layer_order": order, "seed": 42, "disable_warnings": True}
    expected = theirs(quantus.MPRT(**options, normalise_func_kwargs=PER_SAMPLE), network)
    found = ours(MPRT(order=order, compat="quantus"), network)  # type: ignore[arg-type]
    layers = ["conv", "norm", "hidden", "head"]
    assert list(expected) == ["original", *(layers[::-1] if order == "top_down" else layers)]
    curve = np.array([scores for layer, scores in expected.items() if layer != "original"]).T
    # float32 maps of folded and unfolded norms: neighbours may change places, and a pair of 72
    # values that does changes a rank correlation by 12 / (72 * (72**2 - 1)) = 3.2e-5; a dozen may
    np.testing.assert_allclose(found["similarity"], curve, atol=4e-4)


def test_the_average_leaves_out_the_trained_network_which_quantus_counts(network: Network) -> None:
    options = {"disable_warnings": True, "normalise_func_kwargs": PER_SAMPLE}
    expected = theirs(quantus.MPRT(**options, return_average_correlation=True), network)
    found = ours(MPRT(compat="quantus"), network)
    curve = found["similarity"]
    with_original = (1 + curve.sum(1)) / (1 + curve.shape[1])
    np.testing.assert_allclose(with_original, expected, atol=1e-4)
    torch.testing.assert_close(found["average"], curve.mean(1))
    assert (found["average"] < torch.as_tensor(expected) - 0.05).all()


def test_smoothed_curves_are_those_of_quantus(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = SmoothMPRT(compat="quantus", order="bottom_up", n_draws=4)
    trace = Trace(
        network,
        pictures(),
        samples=Samples(torch.arange(N), labels()),
        seed=7,
        namespace="smooth_mprt",
    )
    draws = {"n": 0}

    def drawn(*shape: int) -> NDArray[Any]:
        number, draws["n"] = draws["n"] % 3, draws["n"] + 1  # its last copy has no noise
        return trace.noise(f"draw {number}", (2, 6, 6)).numpy()

    # it explains with its own function, whatever it is given
    monkeypatch.setattr(quantus, "explain", gradients)
    monkeypatch.setattr(np.random, "randn", drawn)
    reference = quantus.SmoothMPRT(
        nr_samples=4, disable_warnings=True, normalise_func_kwargs=PER_SAMPLE
    )
    expected = theirs(reference, network, keeps_maps=False)
    curve = np.array([scores for layer, scores in expected.items() if layer != "original"]).T
    np.testing.assert_allclose(ours(metric, network)["similarity"], curve, atol=1e-4)


def test_the_rise_of_entropy_is_that_of_quantus(network: Network) -> None:
    expected = theirs(quantus.EfficientMPRT(disable_warnings=True), network)
    found = ours(EfficientMPRT(compat="quantus"), network)
    np.testing.assert_allclose(found["rise"], expected, atol=1e-4)


def test_maps_of_another_class_are_compared_as_by_quantus(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = Samples(torch.arange(N), labels())
    trace = Trace(network, pictures(), samples=samples, seed=7, namespace="random_logit")
    classes, _ = others(trace, Target("label"))
    # it draws a place among the other classes
    places = (classes - (classes > labels()).long()).numpy()
    monkeypatch.setattr(np.random, "randint", lambda *_: places)
    reference = quantus.RandomLogit(
        num_classes=5, disable_warnings=True, normalise_func_kwargs=PER_SAMPLE
    )
    expected = theirs(reference, network)
    found = ours(RandomLogit(compat="quantus"), network)["similarity"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    as_pictures = ours(RandomLogit(), network)["similarity"]
    assert (as_pictures - found).abs().max() > 0.01


def test_structural_similarity_is_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(3, 14, 11, generator=generator, dtype=torch.float64)
    other = one + torch.randn(3, 14, 11, generator=generator, dtype=torch.float64) / 5
    for rows in ((one, other), (one.flatten(1), other.flatten(1))):
        expected = [
            metrics.structural_similarity(a, b, data_range=np.ptp(np.concatenate([a, b])))
            for a, b in zip(rows[0].numpy(), rows[1].numpy(), strict=True)
        ]
        np.testing.assert_allclose(ssim(*rows), expected, rtol=1e-9)
