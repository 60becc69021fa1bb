"""The montage draws what a run stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from docs import montage
from tests.pipeline.explained import explained

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_a_montage_has_a_block_per_explainer_and_a_tile_per_sample(tmp_path: Path) -> None:
    run = explained(tmp_path)
    out = tmp_path / "folder" / "montage.png"
    assert montage.main(["--run", run.path, "--out", str(out)]) == out
    pixels = np.asarray(montage.draw(run, 3)).astype(int)
    width = 3 * (montage.SIDE + montage.GAP) + 2 * montage.GAP
    # inputs, gradient and saliency, side by side
    assert pixels.shape == (montage.SIDE + montage.TEXT + 2 * montage.GAP, 3 * width, 3)
    top = montage.TEXT + montage.GAP
    for block in range(3):
        for tile in range(3):
            left = block * width + montage.GAP + tile * (montage.SIDE + montage.GAP)
            shown = pixels[top : top + montage.SIDE, left : left + montage.SIDE]
            assert shown.std() > 0


def test_a_map_that_is_not_finite_is_seen_at_once() -> None:
    tile = montage._coloured(np.full((4, 4), np.nan), is_signed=True)
    assert tile.getpixel((0, 0)) == (0, 255, 0)
