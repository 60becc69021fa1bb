"""Runs with `contextual_decomposition` and the hierarchies of its parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import explainers
from pipeline.errors import XpipeError
from pipeline.planner import make_plan
from pipeline.run import resume
from pipeline.store import open_run
from pipeline.verify import verify
from tests.pipeline.tiny_run import CODE, config_of, run_tiny, stored

if TYPE_CHECKING:
    from pipeline.store import Run

pytestmark = pytest.mark.slow

ENTRIES: dict[str, dict[str, Any]] = {
    "cd": {"method": "contextual_decomposition", "features": {"grid": 4}},
    "acd": {
        "method": "agglomerative_contextual_decomposition",
        "sweep": 2,
        "percentile": 80.0,
        "n_iterations": 2,
    },
}
FAILED = 3
"""The sample that is NaN."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Both methods, on sixteen pictures."""
    folder = tmp_path_factory.mktemp("decomposition")
    params = {"n": 16, "bad": {str(FAILED): "nan"}}
    data = {"source": "python", "function": "tiny.py:images", "params": params}
    assert run_tiny(folder, explainers=ENTRIES, data=data).n_failed == 1
    return open_run(str(folder / "out"))


def test_maps_are_those_of_the_library(run: Run) -> None:
    code: dict[str, Any] = {"__file__": "tiny.py"}
    exec(CODE, code)
    good = [row for row in range(16) if row != FAILED]
    images = torch.stack([code["images"](16)[row][0] for row in good])
    network = explainers.Network(code["model"](), images)
    for name, entry in ENTRIES.items():
        params = {key: value for key, value in entry.items() if key != "method"}
        expected = explainers.explain(network, entry["method"], images, **params)
        # batches of other sizes
        largest = float(expected.abs().max())
        found = run.maps[name].values
        np.testing.assert_allclose(found[good], expected, rtol=0, atol=1e-5 * largest)
        assert np.isnan(found[FAILED]).all()
    logits = torch.as_tensor(network(images)).amax(1)
    cells = run.maps["cd"].values[good][:, 0, ::2, ::2].sum((1, 2))
    interaction = np.array(run.samples().to_pydict()["cd.interaction"])[good]
    np.testing.assert_allclose(cells + interaction, logits, rtol=0, atol=1e-5)


def test_every_sample_has_a_tree_that_ends_in_its_root(run: Run) -> None:
    table = run.table("acd").to_pylist()
    assert sorted({row["sample"] for row in table}) == [row for row in range(16) if row != FAILED]
    shown = run.array("acd", "components")
    assert shown.dims == ("sample", "level", "row", "column")
    assert shown.shape == (16, 3, 4, 4)
    assert (shown.values[FAILED] == -1).all()
    for sample in {row["sample"] for row in table}:
        nodes = [row for row in table if row["sample"] == sample]
        assert [node["node"] for node in nodes] == list(range(len(nodes)))
        assert [node["node"] for node in nodes if node["parent"] == -1] == [len(nodes) - 1]
        for node in nodes:
            below = [each["members"] for each in nodes if each["parent"] == node["node"]]
            united = sorted(member for members in below for member in members)
            assert united == sorted(node["members"]) if below else len(node["members"]) == 1
            assert len(node["scores"]) == 3
        of_root = set(np.flatnonzero(shown.values[sample, -1] == len(nodes) - 1))
        assert of_root == set(nodes[-1]["members"])


def test_a_table_that_is_lost_is_made_again(run: Run) -> None:
    path = Path(run.path)
    assert verify(path) == []
    before = stored(path)
    (path / "tables" / "acd" / "1.parquet").unlink()
    assert verify(path, repair=True)
    resume(path)
    assert stored(path) == before


def test_trees_of_several_targets_are_told_apart(tmp_path: Path) -> None:
    data = {"source": "python", "function": "tiny.py:images", "params": {"n": 4}}
    run_tiny(tmp_path, explainers=ENTRIES, data=data, target=["predicted", 2])
    found = open_run(str(tmp_path / "out"))
    assert {row["target"] for row in found.table("acd").to_pylist()} == {0, 1}
    components = found.array("acd", "components")
    assert components.dims == ("sample", "target", "level", "row", "column")
    assert {"cd.interaction", "cd.interaction.1"} <= set(found.samples().column_names)


def test_masks_of_a_file_have_scores_in_the_store(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"masks": torch.eye(8, dtype=torch.bool)[:, :, None]}, tmp_path / "rows.safetensors")
    masks = {"file": str(tmp_path / "rows.safetensors")}
    entries = {"cd": {**ENTRIES["cd"], "masks": masks}}
    data = {"source": "python", "function": "tiny.py:images", "params": {"n": 4}}
    run_tiny(tmp_path, explainers=entries, data=data)
    scores = open_run(str(tmp_path / "out")).array("cd", "mask_scores")
    assert scores.dims == ("sample", "mask", "class")
    assert scores.shape == (4, 8, 3)
    assert np.isfinite(scores.values).all()


def test_what_cannot_be_is_refused_when_a_run_is_planned(tmp_path: Path) -> None:
    for change, expected in (
        ({"features": {"grid": 9}}, "a cell would be empty"),
        ({"masks": {"file": "nowhere.safetensors"}}, "got masks from 'nowhere.safetensors'"),
    ):
        config = config_of(tmp_path, explainers={"cd": {**ENTRIES["cd"], **change}})
        with pytest.raises(XpipeError, match=expected):
            make_plan(config)
