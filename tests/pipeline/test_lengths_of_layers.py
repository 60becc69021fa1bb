"""Maps of layers, and hierarchies of cells, of texts that differ in length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pipeline import lengths
from pipeline.metrics import metrics
from pipeline.run import run
from pipeline.store import open_run
from tests.pipeline.tiny_text import text_config

if TYPE_CHECKING:
    from pathlib import Path

ENDS = {(9, 4)}


def test_axes_that_grow_with_the_text_are_called_so() -> None:
    vectors = ("feature_0", "feature_1")
    assert lengths.axes((vectors, (9, 3)), (4, 3), ENDS) == ("token", "feature_1")
    assert lengths.axes((vectors, (3, 9)), (3, 4), ENDS) == ("feature_0", "token")
    assert lengths.axes((vectors, (3, 3)), (3, 3), ENDS) == vectors
    # a convolution's, of which nobody knows how many it has for another length
    assert lengths.axes((vectors, (3, 7)), (3, 2), ENDS) == ("feature_0", "token_1")
    heads = (("channel", "height", "width"), (2, 9, 9))
    assert lengths.axes(heads, (2, 4, 4), ENDS) == ("channel", "token_1", "token_2")


def test_arrays_go_as_far_as_the_map_of_the_longest() -> None:
    here, longest = {"": (("a", "b"), (3, 2))}, {"": (("feature_0", "token_1"), (3, 7))}
    found = lengths.whole_shape("x", (5, 2), ("level", "token_1"), here, longest, 9)
    assert found == (5, 7)
    assert lengths.whole_shape("x", (5, 2), ("level", "token"), here, longest, 9) == (5, 9)


def test_what_fills_maps_of_layers_is_left_out() -> None:
    stored = np.full((2, 3, 7), np.nan, np.float32)
    stored[0, :, :4] = 1
    stored[1, :2, :3] = 1
    found = lengths.without_filling(stored, ("feature_0", "token_1"), 5)
    np.testing.assert_array_equal(found, stored[..., :4])
    # what is missing altogether stays, and is missing
    stored[:] = np.nan
    assert lengths.without_filling(stored, ("feature_0", "token_1"), 5).shape == stored.shape
    assert lengths.without_filling(stored, ("feature_0", "token"), 5).shape == (2, 3, 5)


@pytest.mark.slow
def test_cells_and_layers_of_texts_are_stored_as_long_as_the_longest(tmp_path: Path) -> None:
    tree = {"method": "agglomerative_contextual_decomposition", "n_iterations": 6}
    entries: dict[str, dict[str, Any]] = {
        "sweeping": {**tree, "score": "occlusion", "sweep": 2},
        "layer": {**tree, "layer": "embedding"},
        "gradient": {"layer": "embedding"},
    }
    # no text of the second shard is as long as the longest
    data = {"params": {"n": 7}}
    config = text_config(tmp_path, explainers=entries, metrics={"sparseness": {}}, data=data)
    assert run(config).exit_code == 0
    opened = open_run(tmp_path / "out")
    assert opened.plan.maps["gradient"].dims == ("token", "feature_1")
    known = opened.maps["gradient"]["length"].values
    for name in ("sweeping", "layer"):
        components = opened.array(name, "components")
        assert components.dims == ("sample", "level", "token")
        is_there = components.values[:, -1] >= 0
        # of so few, nothing is left out in the end
        np.testing.assert_array_equal(is_there.sum(1), known)
        side, rows = entries[name].get("sweep", 1), opened.table(name).to_pylist()
        for sample, length in enumerate(known):
            cells = {cell for row in rows if row["sample"] == sample for cell in row["members"]}
            assert cells == set(range(-(-length // side)))
    found = opened.scores("sparseness", "gradient")["sparseness"]
    for sample, length in enumerate(known):
        alone = torch.from_numpy(opened.maps["gradient"].values[sample : sample + 1, :length])
        expected = metrics.get("sparseness")().score(None, alone)["sparseness"]  # type: ignore
        np.testing.assert_allclose(found[sample], expected, rtol=1e-6)


@pytest.mark.slow
def test_the_control_serves_models_that_pack(tmp_path: Path) -> None:
    model = {"name": "tiny_text.py:packing"}
    entries = {"random": {}, "occlusion": {"baseline": 3}}
    config = text_config(tmp_path, explainers=entries, model=model, data={"params": {"n": 4}})
    assert run(config).exit_code == 0
    maps = open_run(tmp_path / "out").maps
    np.testing.assert_array_equal(np.isfinite(maps["random"]), np.isfinite(maps["occlusion"]))
