"""Random affine changes of images, as data sets are augmented with in training."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def augmented(
    image: Tensor,
    seed: int,
    *,
    rotation: float = 0.0,
    shift: float = 0.0,
    shear: float = 0.0,
    zoom: float = 0.0,
    is_flipped: bool = False,
) -> Tensor:
    """Return an image turned, sheared, zoomed and shifted at random; edges are prolonged.

    Parameters
    ----------
    image
        ``(channel, height, width)``.
    seed
        Of the draws: one number for each image gives every image its own, always the same.
    rotation, shear
        Largest angles, in degrees.
    shift
        Largest shift, as a part of height and width.
    zoom
        Largest change of size, of height and width apart.
    is_flipped
        Whether one image of two is mirrored.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.empty(6).uniform_(-1, 1, generator=generator).tolist()
    turn, skew = math.radians(rotation * draws[0]), math.radians(shear * draws[1])
    sizes = torch.tensor([1 + zoom * draws[2], 1 + zoom * draws[3]])
    linear = torch.tensor(
        [[math.cos(turn), -math.sin(turn + skew)], [math.sin(turn), math.cos(turn + skew)]]
    )
    # the grid runs from -1 to 1, so that a shift by all of the width is 2
    offset = 2 * shift * torch.tensor([[draws[4]], [draws[5]]])
    matrix = torch.cat([linear * sizes, offset], dim=1)[None]
    if is_flipped and torch.rand((), generator=generator) < 0.5:
        image = image.flip(-1)
    grid = functional.affine_grid(matrix, [1, *image.shape], align_corners=False)
    return functional.grid_sample(
        image[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0]
