"""Maps that are made again are those that a run has stored."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.reexplaining import halved
from pipeline.sinks.maps import halve


def test_maps_made_again_are_rounded_as_those_in_float16() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(8, 3, 50, generator=generator)
    maps *= 10.0 ** (-6 * torch.rand(8, 3, 50, generator=generator))
    sizes = [1.0, 1e-30, 1e-37, 1e37, 3e-41, 0.0, 1.0, 2.0**-3]
    maps *= torch.tensor(sizes).view(-1, 1, 1)
    maps[6, 0, :2] = torch.tensor([torch.nan, torch.inf])
    values, scale = halve(maps.numpy())
    expected = values.astype(np.float32) * scale.reshape(-1, 1, 1)
    np.testing.assert_array_equal(halved(maps).numpy(), expected)
    assert (halved(maps) != maps)[[0, 1, 3]].any()
