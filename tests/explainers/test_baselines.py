from __future__ import annotations

import pytest
import torch

from explainers import baselines

INPUTS = torch.ones(4, 3, 2, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        (None, torch.zeros(1, 3, 2, 2)),
        (0, torch.zeros(1, 3, 2, 2)),
        (0.5, torch.full((1, 3, 2, 2), 0.5)),
        ((1.0, 2.0, 3.0), torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)),
        (torch.arange(12.0).view(3, 2, 2), torch.arange(12.0).view(1, 3, 2, 2)),
        (torch.arange(12.0).view(1, 3, 2, 2), torch.arange(12.0).view(1, 3, 2, 2)),
        (torch.arange(48.0).view(4, 3, 2, 2), torch.arange(48.0).view(4, 3, 2, 2)),
    ],
)
def test_a_baseline_broadcasts_against_the_inputs(baseline: object, expected: torch.Tensor) -> None:
    torch.testing.assert_close(
        baselines.resolve(baseline, INPUTS), expected.double(), rtol=0, atol=0
    )


def test_words_mean_the_samples_own_extremes() -> None:
    inputs = torch.tensor([[[3.0, -1.0]], [[0.5, 2.0]]])
    for word, found in (("min", [-1.0, 0.5]), ("max", [3.0, 2.0])):
        expected = torch.tensor(found)[:, None, None].expand(2, 1, 2)
        assert torch.equal(baselines.resolve(word, inputs), expected)


@pytest.mark.parametrize("shape", [(2,), (2, 3, 2, 2), (3, 2), (1, 3, 4, 4)])
def test_a_baseline_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"the inputs \(4, 3, 2, 2\)"):
        baselines.resolve(torch.zeros(shape), INPUTS)


@pytest.mark.parametrize("baseline", ["black", ("a", "b", "c"), object(), {"value": 0}])
def test_a_baseline_that_is_no_number_is_refused(baseline: object) -> None:
    with pytest.raises(TypeError, match=r"got baseline .*, expected None, a number"):
        baselines.resolve(baseline, INPUTS)


@pytest.mark.parametrize(
    "baseline",
    [float("nan"), float("inf"), (0.0, float("nan"), 1.0), torch.full((3, 2, 2), torch.nan)],
)
def test_a_baseline_that_is_not_finite_is_refused(baseline: object) -> None:
    with pytest.raises(ValueError, match="NaN or infinite values"):
        baselines.resolve(baseline, INPUTS)
