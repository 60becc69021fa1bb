"""The network that DeepExplain's authors compute by hand: ``relu(relu(x1 - 1) - relu(x2))``.

At ``[3, 1]`` (Ancona et al. 2018, arXiv:1711.06104): the inner activations are 2 and 1, the output
is 1, and every activation is on.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import explainers
from explainers import Network

if TYPE_CHECKING:
    from torch import Tensor

INPUTS = torch.tensor([[3.0, 1.0]], dtype=torch.float64)


class ByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        first, second = x[:, :1], x[:, 1:]
        return torch.relu(torch.relu(first - 1) - torch.relu(second))


@functools.cache
def network() -> Network:
    return Network(ByHand(), INPUTS)


@pytest.mark.parametrize(
    ("name", "params", "expected", "tolerance"),
    [
        ("saliency", {}, [1, 1], 0),
        ("gradient", {}, [1, -1], 0),
        ("input_x_gradient", {}, [3, -1], 0),
        # the path t * [3, 1] is on from t = 1/2: half of [3, -1]; exact for an even number of steps
        # but for Captum's weights, which sum to one in float32
        ("integrated_gradients", {"quadrature": "riemann_middle"}, [1.5, -0.5], 1e-6),
        # 2/(2 + eps), 1/(1 + eps) and 1/(1 + eps): three factors that are 1 but for about eps
        ("epsilon_lrp", {}, [3, -1], 1e-3),
        ("epsilon_lrp", {"epsilon": 1e-12}, [3, -1], 1e-11),
        # relu(x1 - 1) rises by 2 over 3, so x1 gets 2 of the 3 that its slope alone would give
        ("deep_lift", {}, [2, -1], 1e-15),
        ("deep_lift", {"preset": "deepexplain"}, [2, -1], 1e-15),
        ("deep_lift_shap", {"baselines": torch.zeros(3, 2, dtype=torch.float64)}, [2, -1], 1e-15),
    ],
)
def test_maps_are_those_computed_by_hand(
    name: str, params: dict[str, Any], expected: list[float], tolerance: float
) -> None:
    found = explainers.explain(network(), name, INPUTS, 0, **params)
    wanted = torch.tensor([expected], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)


def test_epsilon_lrp_has_the_factors_of_its_definition() -> None:
    epsilon = 0.1
    found = explainers.explain(network(), "epsilon_lrp", INPUTS, 0, epsilon=epsilon)
    outer = 1 / (1 + epsilon)
    wanted = [[3 * outer * 2 / (2 + epsilon), -1 * outer * 1 / (1 + epsilon)]]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-14, atol=0)
