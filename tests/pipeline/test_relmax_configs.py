"""The run files for concepts: they say what can be run, and the small one runs."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline import templates
from pipeline.config import load
from pipeline.entries import build_explainers
from pipeline.planner import make_plan
from pipeline.run import run
from pipeline.store import open_run

NAMES = ("relmax", "relmax_imagenet")


def pictures(folder: Path, n: int) -> Path:
    """A folder of pictures, each of one colour with a square of another."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    for index in range(n):
        pixels = np.broadcast_to(draws.integers(0, 256, 3), (240, 260, 3)).astype(np.uint8)
        pixels[60:160, 80:180] = draws.integers(0, 256, 3)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_both_scans_of_the_same_layers_with_references(name: str) -> None:
    config = load(Path(str(files("configs") / f"{name}.yaml")))
    found = build_explainers(config)
    assert [type(each).name for each in found.values()] == [
        "relevance_maximization",
        "activation_maximization",
    ]
    relmax, actmax = (config.explainers[entry] for entry in ("relmax", "actmax"))
    for field in ("layers", "k", "references"):
        assert relmax[field] == actmax[field]
        assert relmax[field]


def test_the_one_for_a_cluster_joins_it() -> None:
    engine = load(Path(str(files("configs") / "relmax_imagenet.yaml"))).engine
    assert (engine.kind, engine.address, engine.gpus_per_worker) == ("ray", "auto", 1)


@pytest.mark.long
def test_the_small_one_runs_on_a_folder_of_pictures(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    path, *_ = templates.copy("relmax", tmp_path / "mine")
    values = yaml.safe_load(path.read_text())
    overrides = [
        f"data.path={pictures(tmp_path / 'pictures', 3)}",
        f"output.path={tmp_path / 'out'}",
        "engine.kind=serial",
    ]
    assert make_plan(load(path, overrides)).plan.n_samples == 3
    for entry in ("relmax", "actmax"):
        # fewer than the template's, which would take minutes
        overrides += [
            f"explainers.{entry}.layers=[_blocks.15._project_conv]",
            f"explainers.{entry}.references=1",
        ]
    assert run(load(path, overrides)).exit_code == 0
    stored = open_run(tmp_path / "out")
    for entry in ("relmax", "actmax"):
        assert values["explainers"][entry]["layers"][-1] == "_blocks.15._project_conv"
        layer = stored.scans[entry]["_blocks.15._project_conv"]
        assert np.asarray(layer["sum_normed"]["sample"]).shape == (3, 320)
        assert np.asarray(layer["references"]["heatmap"]).shape == (1, 320, 112, 112)
    assert (tmp_path / "out" / "atlas" / "index.html").exists()
