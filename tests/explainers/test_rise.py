"""rise against a slow loop over the same masks, and its errors against repeated runs."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional

import explainers
from explainers import Network, Samples, Target, Trace
from explainers.attribution import rise
from explainers.base import Cost
from explainers.explaining import check
from tests.explainers.twins import pictures, seeded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Only the order of sums differs, in float64 and at values of about one.
TOLERANCE = {"rtol": 0, "atol": 1e-10}


def masks_of(
    seed: int, n_masks: int, cells: int, probability: float, height: int, width: int
) -> Iterator[torch.Tensor]:
    """Masks one by one: a grid of coins, enlarged, and cut out at a random place."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(n_masks, 2 + cells**2, generator=generator)
    for number in numbers:
        sizes = [math.ceil(height / cells), math.ceil(width / cells)]
        top, left = (int(u * size) for u, size in zip(number[:2], sizes, strict=True))
        grid = (number[2:] < probability).double().view(1, 1, cells, cells)
        size = [(cells + 1) * size for size in sizes]
        large = functional.interpolate(grid, size, mode="bilinear", align_corners=False)[0, 0]
        yield large[top : top + height, left : left + width]


def slow_map(
    network: Network,
    x: torch.Tensor,
    baseline: float,
    masks: list[torch.Tensor],
    output: str,
    centre: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, a mask and an image at a time: mean and error of the mean, of each pixel."""
    maps, errors = [], []
    for image in x:
        target = int(network(image[None]).argmax())
        values = []
        for mask in masks:
            logits = network((image * mask + baseline * (1 - mask))[None])[0]
            values.append((logits.softmax(0) if output == "probability" else logits)[target])
        of_values, of_masks = torch.stack(values), torch.stack(masks)
        if centre:
            of_values, of_masks = of_values - of_values.mean(), of_masks - of_masks.mean(0)
        products = of_values[:, None, None] * of_masks
        n_free = len(masks) - centre
        maps.append(products.sum(0) / n_free)
        errors.append(products.std(0, correction=0) / (len(masks) - 1) ** 0.5)
    return torch.stack(maps), torch.stack(errors)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize(("output", "baseline"), [("probability", 0.0), ("logit", 0.7)])
def test_the_map_is_that_of_a_slow_loop_over_the_same_masks(
    output: str, baseline: float, centre: bool
) -> None:
    seed = Trace(small(), IMAGES, namespace="rise").shared_seed("masks")
    masks = list(masks_of(seed, 24, 4, 0.4, 6, 9))
    mean, error = slow_map(small(), IMAGES, baseline, masks, output, centre)
    params = {"output": output, "baseline": baseline, "centre": centre, "probability": 0.4}
    bound = explainers.get("rise")(small(), n_evaluations=25, cells=4, **params)
    found = bound.explain(IMAGES)
    torch.testing.assert_close(found.relevance, mean / 0.4, **TOLERANCE)
    torch.testing.assert_close(found.arrays["standard_error"], error / 0.4, **TOLERANCE)
    assert found.arrays["n_evaluations"].tolist() == [25] * 3


@cache
def small() -> Network:
    """A network that is cheap to ask often, on pictures of 6 x 9 pixels."""
    layers = [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(84, 4)]
    return Network(seeded(nn.Sequential(*layers)), IMAGES)


IMAGES = pictures(3, 12, channels=2)[:, :, :6, :9]
FEW = {"cells": 3, "n_evaluations": 40}


def test_masks_are_drawn_for_the_run_and_shared() -> None:
    trace = Trace(small(), IMAGES, namespace="rise")
    target = Target("index", 1)
    together = explainers.build("rise", **FEW).relevance(trace, target).relevance
    samples = Samples(torch.tensor([7]), torch.tensor([-1]))
    alone = Trace(small(), IMAGES[1:2], samples=samples, namespace="rise")
    found = explainers.build("rise", **FEW).relevance(alone, target).relevance
    torch.testing.assert_close(found, together[1:2], **TOLERANCE)
    other = Trace(small(), IMAGES, seed=1, namespace="rise")
    assert not torch.allclose(
        explainers.build("rise", **FEW).relevance(other, target).relevance, together
    )


def test_pieces_of_masks_and_looks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = explainers.get("rise")(small(), **FEW)
    whole = bound.explain(IMAGES)
    monkeypatch.setattr(rise, "ELEMENTS", 7 * 54)
    monkeypatch.setattr(rise, "LOOK", 15)
    in_pieces = explainers.get("rise")(small(), **FEW, tolerance=0.0).explain(IMAGES)
    torch.testing.assert_close(in_pieces.relevance, whole.relevance, **TOLERANCE)
    torch.testing.assert_close(
        in_pieces.arrays["standard_error"], whole.arrays["standard_error"], **TOLERANCE
    )


def test_what_stands_behind_masks_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []
    real = Trace.noise

    def noise(self: Trace, purpose: str, shape: Sequence[int]) -> torch.Tensor:
        made.append(tuple(shape))
        return real(self, purpose, shape)

    monkeypatch.setattr(Trace, "noise", noise)
    monkeypatch.setattr(rise, "ELEMENTS", 7 * 54)
    explainers.get("rise")(small(), **FEW, baseline={"noise": 0.5}).explain(IMAGES)
    assert made == [(2, 6, 9)]


def test_a_sample_stops_when_its_error_is_small_whatever_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rise, "LOOK", 32)
    params = {"cells": 3, "n_evaluations": 400, "centre": True, "output": "logit"}
    bound = explainers.get("rise")(small(), **params, tolerance=0.2)
    found = bound.explain(IMAGES, 1)
    used = found.arrays["n_evaluations"]
    assert len(set(used.tolist())) > 1
    for row in range(3):
        as_many = explainers.get("rise")(small(), **params | {"n_evaluations": int(used[row])})
        alone = as_many.explain(IMAGES[row : row + 1], 1)
        torch.testing.assert_close(found.relevance[row : row + 1], alone.relevance, **TOLERANCE)
        error, size = alone.arrays["standard_error"], alone.relevance
        assert used[row] == 400 or error.square().mean() <= 0.04 * size.square().mean()


@pytest.mark.parametrize("centre", [False, True])
def test_standard_errors_are_the_spread_over_runs(centre: bool) -> None:
    params = {"cells": 3, "n_evaluations": 60, "centre": centre, "output": "logit"}
    runs = [
        explainers.get("rise")(small(), seed=seed, **params).explain(IMAGES, 1)
        for seed in range(60)
    ]
    spread = torch.stack([run.relevance for run in runs]).var(0).mean((1, 2))
    told = torch.stack([run.arrays["standard_error"] for run in runs]).square().mean((0, 2, 3))
    # variances over 60 runs, of maps whose 54 pixels hang together: a fifth each, and then some
    assert bool(((told / spread - 1).abs() < 0.5).all())


def test_centred_maps_are_plain_ones_less_a_constant_and_far_surer() -> None:
    params = {"cells": 3, "n_evaluations": 3000, "output": "logit"}
    plain, centred = (
        explainers.get("rise")(small(), centre=centre, **params).explain(IMAGES, 1)
        for centre in (False, True)
    )
    difference = plain.relevance - centred.relevance
    # the constant is the mean output times each pixel's mean mask over p, which is 1 on average
    error = plain.arrays["standard_error"].amax((1, 2))
    assert bool((difference.std((1, 2)) < 3 * error).all())
    assert bool(
        (
            centred.arrays["standard_error"].mean((1, 2))
            <= plain.arrays["standard_error"].mean((1, 2))
        ).all()
    )


def test_what_it_costs_and_what_its_map_is() -> None:
    explainer = explainers.build("rise", n_evaluations=10)
    assert explainer.cost == explainer.cost_on(small()) == Cost(forward=10)
    assert explainer.dims((2, 6, 9)) == ("height", "width")
    known = {each["name"]: each["parameters"] for each in explainers.available()}
    assert not {"features", "background"} & set(known["rise"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_evaluations": 2}, "at least 3"),
        ({"probability": 1.0}, "between 0 and 1"),
        ({"cells": 0}, "at least 1"),
        ({"tolerance": -1.0}, "at least 0"),
    ],
)
def test_parameters_are_checked(params: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explainers.build("rise", **params)


def test_what_is_no_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="rise masks images"):
        check(explainers.build("rise", layer="2"), small())
    with pytest.raises(ValueError, match="cells=7 along 6 pixels"):
        check(explainers.build("rise"), small())
    monkeypatch.setattr(small(), "n_outputs", 1)
    with pytest.raises(ValueError, match="one output"):
        check(explainers.build("rise", cells=3), small())


def test_the_value_of_a_layer_is_masked_too() -> None:
    found = explainers.explain(small(), "rise", IMAGES, layer="0", **FEW)
    assert found.shape == (3, 4, 7)
