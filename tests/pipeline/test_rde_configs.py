"""Run files of the original experiments: they take data and weights of the form they ask for."""

from __future__ import annotations

import struct
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from configs import augmentation, noise_file
from pipeline import models, templates
from pipeline.config import load
from pipeline.data import open_source, read_masks
from pipeline.entries import build_explainers, build_metrics
from pipeline.metrics.masks import MaskMetric
from pipeline.planner import make_plan
from pipeline.run import run
from pipeline.store import open_run

if TYPE_CHECKING:
    from pipeline.config import RunConfig

MNIST, STL10, AN8FLOWER = NAMES = ("rde_mnist", "rde_stl10", "rde_an8flower")
SHAPES = {MNIST: (1, 28, 28), STL10: (3, 224, 224), AN8FLOWER: (3, 128, 128)}
RANKS = {MNIST: 30, STL10: 30, AN8FLOWER: 10}
CLASSES = [f"class{index}" for index in range(10)]


def digits(folder: Path, n: int) -> None:
    """MNIST's files, with digits of one class after the other."""
    raw = folder / "digits" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for part in ("t10k", "train"):
        pixels = draws.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        head = struct.pack(">iiii", 0x803, n, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        labels = (np.arange(n) % 10).astype(np.uint8)
        head = struct.pack(">ii", 0x801, n)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())


def pictures(folder: Path, n: int) -> None:
    """STL-10's files."""
    root = folder / "stl10_binary"
    root.mkdir()
    draws = np.random.default_rng(0)
    (root / "class_names.txt").write_text("\n".join(CLASSES) + "\n")
    for part in ("test", "train"):
        pixels = draws.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8)
        (root / f"{part}_X.bin").write_bytes(pixels.tobytes())
        (root / f"{part}_y.bin").write_bytes((1 + np.arange(n) % 10).astype(np.uint8).tobytes())


def flowers(folder: Path, n: int) -> None:
    """The two folders of an8Flower, with so many files in each class."""
    draws = np.random.default_rng(0)
    for kind in range(12):
        for name in ("an8Flower_double_12c", "an8Flower_double_12c_MASK"):
            root = folder / name / f"kind{kind:02d}"
            root.mkdir(parents=True)
            for index in range(n):
                pixels = draws.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                if name.endswith("MASK"):
                    pixels[:] = 255
                    pixels[: 32 + index, :16] = 0
                Image.fromarray(pixels).save(root / f"{index:03d}.png")


STAND_INS = {MNIST: digits, STL10: pictures, AN8FLOWER: flowers}


def prepared(name: str, folder: Path, n: int, step: int) -> RunConfig:
    """The template with random weights, noise and data in place, serial."""
    path, *_ = templates.copy(name, folder)
    STAND_INS[name](folder, n)
    settings = [f"output.path={folder / 'out'}", "engine.kind=serial", "engine.batch_size=2"]
    config = load(path, [*settings, f"data.params.step={step}"])
    bare = config.model.model_copy(update={"weights": None})
    weights = models.load_model(bare, config.base).state_dict()
    # from torch's default to He's, at which signals keep their size through sixteen layers: smaller
    # ones end below the least normal number, where processors are many times slower
    weights = {key: value * 6**0.5 if value.ndim > 1 else value for key, value in weights.items()}
    save_file(weights, folder / str(config.model.weights))
    shape = SHAPES[name]
    factor = 0.1 * torch.randn(RANKS[name], *shape)
    noise = {"mean": torch.zeros(shape), "variance": factor.square().sum(0), "factor": factor}
    save_file(noise, folder / "noise.safetensors")
    return config


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_valid_and_statistics_have_the_rank_that_is_asked_for(name: str) -> None:
    folder = Path(str(files("configs") / name))
    config, statistics = load(folder / "run.yaml"), load(folder / "statistics.yaml")
    assert build_explainers(config).keys() >= config.explainers.keys()
    build_explainers(statistics)
    assert statistics.explainers["statistics"]["rank"] == RANKS[name]
    halves = [values for values in config.explainers.values() if values.get("mode") == "half"]
    assert [values["rank"] for values in halves] == [RANKS[name]]


def test_maps_of_flowers_are_compared_with_masks_channel_by_channel() -> None:
    metrics = build_metrics(load(Path(str(files("configs") / AN8FLOWER)) / "run.yaml"))
    found = [each.channels for each in metrics.values() if isinstance(each, MaskMetric)]
    assert found == ["each", "each"]


@pytest.mark.long
@pytest.mark.parametrize(("name", "n", "step"), [(STL10, 12, 5), (AN8FLOWER, 10, 4)])
def test_they_can_be_planned_with_data_of_the_form_they_ask_for(
    tmp_path: Path, name: str, n: int, step: int
) -> None:
    plan = make_plan(prepared(name, tmp_path, n, step)).plan
    assert (plan.n_samples, plan.input_shape) == (3, SHAPES[name])


@pytest.mark.slow
def test_statistics_of_training_digits_become_the_noise_of_a_plan(tmp_path: Path) -> None:
    config = prepared(MNIST, tmp_path, 32, 12)
    settings = [f"output.path={tmp_path / 'statistics'}", "engine.kind=serial"]
    assert run(load(tmp_path / "statistics.yaml", settings)).exit_code == 0
    file = noise_file.write(tmp_path / "statistics", tmp_path / "noise.safetensors")
    assert load_file(file)["factor"].shape == (30, 1, 28, 28)
    plan = make_plan(config).plan
    assert (plan.n_samples, plan.input_shape) == (3, SHAPES[MNIST])


@pytest.mark.parametrize("name", [MNIST, STL10])
def test_every_so_many_samples_are_taken_sorted_by_class(tmp_path: Path, name: str) -> None:
    path, *_ = templates.copy(name, tmp_path)
    STAND_INS[name](tmp_path, 25)
    config = load(path, ["data.params.step=4"])
    source = open_source(config.data, config.base)
    records = source.records()
    # three of each of the first five classes, two of the others
    assert [record.label for record in records] == [0, 1, 2, 4, 5, 7, 9]
    assert records[1].sample_id.endswith("11" if name == MNIST else "0011")
    assert len(source.class_names or ()) == 10
    sample = source.load(records[0])
    assert isinstance(sample, torch.Tensor)
    assert sample.shape == SHAPES[name]
    if name == MNIST:
        # a sum of 784 numbers up to 255 in float32
        assert abs(sample.mean()) < 1e-3


def test_pictures_of_stl10_are_upright_and_blue_first(tmp_path: Path) -> None:
    path, *_ = templates.copy(STL10, tmp_path)
    pictures(tmp_path, 10)
    pixels = np.zeros((10, 3, 96, 96), dtype=np.uint8)
    # in the file columns come first: red, third column, second row
    pixels[:, 0, 2, 1] = 200
    (tmp_path / "stl10_binary" / "test_X.bin").write_bytes(pixels.tobytes())
    config = load(path)
    source = open_source(config.data, config.base)
    sample = source.load(source.records()[0])
    assert isinstance(sample, torch.Tensor)
    restored = sample + torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    bright = (restored > 100).nonzero()
    assert bright[:, 0].unique().tolist() == [2]
    # 224 / 96 pixels each
    assert bright[:, 1].unique().tolist() == [3, 4]
    assert bright[:, 2].unique().tolist() == [5, 6]


def test_masks_of_an8flower_are_where_the_mask_is_black(tmp_path: Path) -> None:
    path, *_ = templates.copy(AN8FLOWER, tmp_path)
    flowers(tmp_path, 10)
    config = load(path, ["data.params.step=1"])
    source = open_source(config.data, config.base)
    records = source.records()
    # a tenth of ten pictures, of each of twelve classes
    assert [record.label for record in records] == list(range(12))
    masks = read_masks(source, records, (128, 128))
    assert masks[:, :64, :32].all()
    assert masks.sum() == 12 * 64 * 32


def test_augmented_images_are_the_same_for_the_same_number() -> None:
    image = torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(0))
    changes = {"rotation": 20.0, "shift": 0.2, "shear": 0.2, "zoom": 0.2, "is_flipped": True}
    first = augmentation.augmented(image, 3, **changes)
    assert torch.equal(first, augmentation.augmented(image, 3, **changes))
    assert not torch.equal(first, augmentation.augmented(image, 4, **changes))
    # nothing is asked for: bilinear weights of 0 and 1, to rounding
    torch.testing.assert_close(augmentation.augmented(image, 3), image, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_run_file_of_strings_runs_and_its_masks_are_scored(tmp_path: Path) -> None:
    path, *_ = templates.copy("boolean_strings", tmp_path)
    few = [f"explainers.rde_{mode}.multipliers=[0.0774]" for mode in ("diag", "half", "full")]
    settings = ["data.n_samples=2", "engine.kind=serial", f"output.path={tmp_path / 'out'}", *few]
    config = load(path, settings)
    assert run(config).exit_code == 0
    stored = open_run(tmp_path / "out")
    for name in ("rde_diag", "rde_half", "rde_full", "rde_ordering", "deep_lift"):
        assert stored.scores("mask_jaccard", name)["mask_jaccard"].tolist() == [1.0, 1.0], name
