"""What relevance adds up to, beside the change of the output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.metrics.completeness import Completeness
from pipeline.metrics.metric import Case, Subject
from tests.pipeline.test_metrics import CountingNetwork, FakeTrace, batch, small_network


def completeness(network: nn.Module, *tensors: Tensor, **settings: Any) -> dict[str, Tensor]:
    inputs, relevance, classes = tensors
    metric = Completeness(**settings)
    case = Case(FakeTrace(network, inputs, classes), None)
    return metric.scores(case, {"": Subject(relevance)})[""]


def linear() -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    network = nn.Linear(12, 3).double()
    return network, torch.randn(4, 12, dtype=torch.float64), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("space", ["logit", "probability"])
@pytest.mark.parametrize("baseline", [None, 0.3, (0.1, -0.2), "min", "mean", "nothing"])
def test_residuals_are_those_of_one_sample_at_a_time(space: str, baseline: Any) -> None:
    network, (inputs, relevance, classes) = small_network(), batch()
    found = completeness(network, inputs, relevance, classes, baseline=baseline, output_space=space)
    for row, (image, label) in enumerate(zip(inputs, classes.tolist(), strict=True)):

        def output(picture: Tensor, label: int = label) -> float:
            with torch.no_grad():
                logits = network(picture[None])[0]
            return float((logits.softmax(0) if space == "probability" else logits)[label])

        blank = torch.zeros_like(image)
        if baseline == "min":
            blank += image.min()
        elif baseline == "mean":
            blank += image.mean(dim=(1, 2), keepdim=True)
        elif baseline not in (None, "nothing"):
            blank += torch.tensor(baseline, dtype=image.dtype).view(-1, 1, 1)
        change = output(image) - (0.0 if baseline == "nothing" else output(blank))
        residual = sum(relevance[row].reshape(-1).tolist()) - change
        # 32 terms and 64 products in float64, summed in another order
        assert float(found["change"][row]) == pytest.approx(change, abs=1e-13)
        assert float(found["residual"][row]) == pytest.approx(residual, abs=1e-13)
        relative = abs(residual) / abs(change)
        assert float(found["relative_residual"][row]) == pytest.approx(relative, rel=1e-10)


def test_a_linear_model_is_complete_by_input_times_weight_where_equality_of_floats_fails() -> None:
    network, inputs, classes = linear()
    relevance = inputs * network.weight.detach()[classes]
    found = completeness(network, inputs, relevance, classes)
    # 12 products of numbers around 1; Quantus asks for equality, which none of these may have
    assert float(found["relative_residual"].max()) < 1e-13
    assert found["is_complete"].tolist() == [1.0] * 4
    of_lrp = completeness(network, inputs, relevance, classes, baseline="nothing")
    torch.testing.assert_close(of_lrp["residual"], -network.bias.detach()[classes])


def test_half_of_what_there_is_has_half_a_residual() -> None:
    network, inputs, classes = linear()
    relevance = inputs * network.weight.detach()[classes] / 2
    found = completeness(network, inputs, relevance, classes, tolerance=0.4)
    torch.testing.assert_close(
        found["relative_residual"], torch.full((4,), 0.5, dtype=torch.float64)
    )
    assert found["is_complete"].tolist() == [0.0] * 4
    torch.testing.assert_close(found["total"], found["change"] / 2)


def test_without_a_change_only_zeros_are_complete() -> None:
    network, inputs, classes = linear()
    relevance = torch.zeros_like(inputs)
    relevance[1] = 1.0
    found = completeness(network, torch.zeros_like(inputs), relevance, classes)
    assert found["relative_residual"].isnan().all()
    assert found["is_complete"].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert found["residual"].tolist() == [0.0, 12.0, 0.0, 0.0]


def test_a_map_that_is_not_finite_is_nan_alone_and_no_score_depends_on_the_batch() -> None:
    network, (inputs, relevance, classes) = small_network(), batch()
    good = completeness(network, inputs, relevance, classes)
    spoiled = relevance.clone()
    spoiled[1, 0, 2, 2] = torch.inf
    bad = completeness(network, inputs, spoiled, classes)
    alone = completeness(network, inputs[2:3], relevance[2:3], classes[2:3])
    for column in ("relative_residual", "residual", "is_complete", "total"):
        assert bad[column][1].isnan()
        torch.testing.assert_close(bad[column][2:], good[column][2:])
        torch.testing.assert_close(alone[column], good[column][2:3])


def test_maps_summed_over_channels_score_the_same() -> None:
    network, (inputs, relevance, classes) = small_network(), batch()
    whole = completeness(network, inputs, relevance, classes)["residual"]
    summed = completeness(network, inputs, relevance.sum(dim=1), classes)["residual"]
    torch.testing.assert_close(whole, summed)


def test_explainers_share_the_outputs() -> None:
    network, (inputs, relevance, classes) = CountingNetwork(small_network()), batch()
    metric = Completeness(baseline="min")
    case = Case(FakeTrace(network, inputs, classes), None)
    # the fake trace runs the network each time it is asked for its output
    metric.scores(case, {"one": Subject(relevance)})
    of_one, network.rows = network.rows, []
    metric.scores(case, {"one": Subject(relevance), "two": Subject(-relevance)})
    assert network.rows == of_one


@pytest.mark.parametrize(
    "settings", [{"baseline": "data_mean"}, {"baseline": {"noise": 1.0}}, {"tolerance": -1.0}]
)
def test_what_does_not_follow_from_the_sample_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        Completeness(**settings)
