"""What maximization scans are told, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from explainers import Network
from explainers.catalogue import build
from explainers.concepts.scores import Scores
from explainers.maximization import scan as scanning
from explainers.maximization.matrices import lists_of_matrices
from explainers.maximization.scored import Scored
from explainers.scan.relevance_maximization import RelevanceMaximization


def test_no_target_is_the_predicted_one() -> None:
    scan = build("relevance_maximization", layers="conv1", target=None)
    assert isinstance(scan, RelevanceMaximization)
    assert scan._given == ("predicted",)
    assert scan.prefixes == ("",)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layers": "conv1", "per_class": 2.5}, "whole number"),
        ({"layers": "conv1", "per_class": "yes"}, "whole number"),
        ({"layers": (nn.Conv2d(1, 1, 1),)}, "got a Conv2d among layers, expected names"),
    ],
)
def test_what_is_of_another_type_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        build("activation_maximization", **parameters)


def test_scores_wait_in_small_numbers_for_lists() -> None:
    few, many = (torch.zeros(2, n) for n in (3, 10**6))
    found = [
        {"": Scored(torch.arange(2), torch.arange(2), {"layer": Scores(one, one, one)})}
        for one in (few, many)
    ]
    assert scanning._n_together(found[0]) == scanning.MOST_PENDING
    assert scanning._n_together(found[1]) == scanning.LEAST_PENDING


def test_lists_of_matrices_have_classes_as_scans_have_them() -> None:
    matrix = torch.arange(8.0).reshape(4, 2)
    layers = {"layer": {"total": matrix, "peak": matrix, "position": matrix.long()}}
    group = torch.tensor([0, 0, 1, 1])
    found = lists_of_matrices(layers, torch.arange(4), group, k=1, per_class=True)
    assert found["layer"]["per_class"][0]["sum"]["sample"].tolist() == [[1, 1]]
    assert (
        "per_class"
        not in lists_of_matrices(layers, torch.arange(4), group, per_class=False)["layer"]
    )


class Recurrent(nn.Module):
    """A convolution, and an LSTM, of which heat maps have no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 1)
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        found: torch.Tensor = self.fc(self.lstm(self.conv(inputs).transpose(1, 2))[0][:, -1])
        return found


@pytest.mark.slow
def test_activations_without_rules_need_no_references() -> None:
    network = Network(Recurrent().eval(), torch.rand(2, 2, 5))
    build("activation_maximization", layers="conv").check(network)
    with pytest.raises(NotImplementedError, match="references: 0"):
        build("activation_maximization", layers="conv", references=2).check(network)
