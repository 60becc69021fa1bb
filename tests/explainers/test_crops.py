"""Crops against the definition, place by place."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from explainers.concepts.crops import blurred, crops


def slow_crop(smooth: Tensor, threshold: float) -> list[int]:
    """Return the bounding box of what is above a part of the maximum."""
    height, width = smooth.shape
    if float(smooth.max()) <= 0:
        smooth = -smooth
    limit = threshold * (float(smooth.max()) + 1e-10)
    values = smooth.tolist()
    inside = [(y, x) for y in range(height) for x in range(width) if values[y][x] > limit]
    if not inside:
        return [0, 0, height, width]
    rows, columns = [y for y, _ in inside], [x for _, x in inside]
    return [min(rows), min(columns), max(rows) + 1, max(columns) + 1]


def slow_blur(maps: Tensor, kernel: tuple[int, int] = (19, 19)) -> Tensor:
    """Return torchvision's gaussian_blur with its default widths."""
    down, across = (
        torch.tensor(
            [math.exp(-0.5 * ((i - size // 2) / (0.15 * size + 0.35)) ** 2) for i in range(size)],
            dtype=maps.dtype,
        )
        for size in kernel
    )
    weight = torch.outer(down / down.sum(), across / across.sum())
    widths = (kernel[1] // 2, kernel[1] // 2, kernel[0] // 2, kernel[0] // 2)
    padded = functional.pad(maps[:, None], widths, mode="reflect")
    return functional.conv2d(padded, weight[None, None])[:, 0]


def few_points(n_maps: int, height: int, width: int) -> Tensor:
    """Return maps of both signs in which little is relevant."""
    generator = torch.Generator().manual_seed(0)
    amounts = torch.randn(n_maps, height, width, generator=generator, dtype=torch.float64)
    is_there = torch.rand(n_maps, height, width, generator=generator) < 3 / (height * width)
    return amounts * is_there


@pytest.mark.parametrize(("height", "width"), [(64, 48), (10, 31)])
def test_crops_are_those_of_a_gaussian_blur(height: int, width: int) -> None:
    maps = few_points(6, height, width)
    maps[-1] = -maps[-1].abs()
    smooth = slow_blur(maps)
    # float64 and other orders of summing: rounding alone
    torch.testing.assert_close(blurred(maps), smooth, rtol=1e-9, atol=1e-14)
    for threshold in (0.1, 0.5):
        assert crops(maps, threshold).tolist() == [slow_crop(each, threshold) for each in smooth]


def test_what_speaks_against_a_neuron_is_not_in_its_crop() -> None:
    maps = torch.zeros(2, 40, 50)
    maps[:, 35, 45] = -2.0
    maps[0, 5, 5] = 1.0
    # blurred by about three places: the second map has no positive place, so its negative counts
    (_, _, *behind), (*first, _, _) = crops(maps).tolist()
    assert max(behind) < 20
    assert min(first) > 20


def test_an_empty_map_keeps_the_whole() -> None:
    maps = torch.stack([torch.zeros(20, 30), torch.full((20, 30), torch.nan)])
    assert crops(maps).tolist() == [[0, 0, 20, 30]] * 2


def test_a_crop_holds_its_last_row_and_column() -> None:
    maps = torch.zeros(3, 40, 50)
    maps[0, 0, 0] = maps[1, 39, 49] = maps[2, 20, 25] = 2.0
    # 0.1 of the maximum is reached where exp(-d^2 / (2 * 3.2^2)) is: 6 places away
    reach = 6
    found = crops(maps).tolist()
    assert found[0][:2] == [0, 0]
    assert found[1][2:] == [40, 50]
    assert found[2] == [20 - reach, 25 - reach, 20 + reach + 1, 25 + reach + 1]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 40), (9, 9)])
def test_pictures_smaller_than_the_kernel_have_crops(size: tuple[int, int]) -> None:
    maps = few_points(4, *size)
    maps[:, 0, 0] = 1.0
    smooth = slow_blur(maps, tuple(min(19, 2 * length - 1) for length in size))
    torch.testing.assert_close(blurred(maps), smooth, rtol=1e-9, atol=1e-14)
    assert crops(maps).tolist() == [slow_crop(each, 0.1) for each in smooth]


def test_more_axes_in_front_and_single_precision_are_the_same() -> None:
    maps = few_points(6, 24, 24)
    assert torch.equal(crops(maps.view(2, 3, 24, 24)).flatten(0, 1), crops(maps))
    assert torch.equal(crops(maps.float()), crops(maps))


@pytest.mark.slow
def test_the_blur_is_that_of_torchvision() -> None:
    transforms = pytest.importorskip("torchvision.transforms.functional")
    maps = few_points(6, 64, 48).abs()
    torch.testing.assert_close(
        blurred(maps), transforms.gaussian_blur(maps, [19, 19]), rtol=1e-9, atol=1e-14
    )
