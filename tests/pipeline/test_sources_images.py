from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data import Source, open_source, read_batch, read_masks
from pipeline.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from pathlib import Path


def picture(seed: int = 0, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    """Smooth colours, so that JPEG changes little."""
    rng = np.random.default_rng(seed)
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width] / max(size)
    waves = [np.sin(rng.uniform(1, 4) * rows + rng.uniform(1, 4) * columns) for _ in range(3)]
    return np.uint8(127 + 100 * np.stack(waves, axis=-1))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def folder(base: Path, **fields: Any) -> Source:
    return open_source(DataConfig(source="image_folder", path="images", **fields), base)


def test_subfolders_are_classes(tmp_path: Path) -> None:
    for name in ("cat/2.png", "cat/1.png", "ant/deep/3.png"):
        save(tmp_path / "images" / name, picture())
    (tmp_path / "images" / "empty").mkdir()
    (tmp_path / "images" / "cat" / "notes.txt").write_text("no image")
    source = folder(tmp_path)
    found = [(record.sample_id, record.label) for record in source.records()]
    assert found == [("ant/deep/3.png", 0), ("cat/1.png", 1), ("cat/2.png", 1)]
    assert source.class_names == ("ant", "cat")


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    save(tmp_path / "images" / "b.png", picture())
    save(tmp_path / "images" / "a.jpg", picture())
    source = folder(tmp_path)
    assert [(r.index, r.source, r.label) for r in source.records()] == [
        (0, "a.jpg", -1),
        (1, "b.png", -1),
    ]
    assert source.class_names is None


def test_a_table_gives_labels_order_and_names(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / "images" / name, picture())
    table = "file,index,name\nc.png,2,cat\na.png,0,ant\nb.png,,\n"
    (tmp_path / "images" / "labels.csv").write_text(table)
    source = folder(tmp_path)
    assert [(r.source, r.label) for r in source.records()] == [
        ("c.png", 2),
        ("a.png", 0),
        ("b.png", -1),
    ]
    assert source.class_names == ("ant", "1", "cat")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a.png,3\n", "expected 'file' and 'index' or 'label'"),
        ("file,index\n", "has 0 rows"),
        ("file,index\na.png,cat\n", "index 'cat'"),
        ("file,label\na.png,cat\n", "label 'cat'"),
        ("file,imagenet_index,class\na.png,5,ray\n", r"columns .*'imagenet_index', 'class'"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path, table: str, message: str) -> None:
    save(tmp_path / "images" / "a.png", picture())
    (tmp_path / "images" / "labels.csv").write_text(table)
    with pytest.raises(PlanError, match=message) as caught:
        folder(tmp_path).records()
    assert "data.label_column" in caught.value.fix
    # nobody asked for it
    assert "`data: {labels: none}` leaves the table alone" in caught.value.fix
    (record,) = folder(tmp_path, labels="none").records()
    assert (record.source, record.label) == ("a.png", -1)
    with pytest.raises(PlanError, match=message) as caught:
        folder(tmp_path, labels="labels.csv").records()
    assert "none" not in caught.value.fix


@pytest.mark.parametrize(
    ("columns", "fields"),
    [("label,index_of_day", {}), ("imagenet_index,index", {"label_column": "imagenet_index"})],
)
def test_the_column_of_class_indices_can_have_other_names(
    tmp_path: Path, columns: str, fields: dict[str, str]
) -> None:
    save(tmp_path / "images" / "a.png", picture())
    (tmp_path / "images" / "labels.csv").write_text(f"file,{columns},name\na.png,2,7,cat\n")
    source = folder(tmp_path, **fields)
    assert [record.label for record in source.records()] == [2]
    assert source.class_names == ("0", "1", "cat")


def test_the_column_of_class_names_can_have_another_name(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", picture())
    (tmp_path / "images" / "labels.csv").write_text("file,index,class\na.png,1,cat\n")
    assert folder(tmp_path).class_names is None
    assert folder(tmp_path, name_column="class").class_names == ("0", "cat")
    with pytest.raises(PlanError, match="no 'klass'"):
        folder(tmp_path, name_column="klass").records()


def test_a_column_without_a_table_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", picture())
    with pytest.raises(PlanError, match="there is no table of labels"):
        folder(tmp_path, label_column="label").records()
    with pytest.raises(ConfigError, match="got label_column 'label', but labels are none"):
        folder(tmp_path, label_column="label", labels="none")


def test_a_folder_that_is_missing_empty_or_mixed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="there is no folder"):
        folder(tmp_path).records()
    (tmp_path / "images").mkdir()
    with pytest.raises(PlanError, match="holds no images"):
        folder(tmp_path).records()
    save(tmp_path / "images" / "a.png", picture())
    save(tmp_path / "images" / "cat" / "b.png", picture())
    with pytest.raises(PlanError, match=r"holds images .* and folders of images"):
        folder(tmp_path).records()


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg", "tiff", "webp", "gif", "ppm"])
def test_pixels_are_those_of_the_file(tmp_path: Path, suffix: str) -> None:
    pixels = picture()
    save(tmp_path / "images" / f"a.{suffix}", pixels)
    source = folder(tmp_path)
    image = source.load(source.records()[0])
    assert image.shape == (3, 20, 30)
    assert image.dtype == torch.float32
    # lossy formats and the 256 colours of gif stay within a few grey values on the average
    expected = torch.from_numpy(pixels).movedim(-1, 0) / 255
    limit = {"jpg": 0.02, "webp": 0.05, "gif": 0.1}.get(suffix, 1e-7)
    assert float((image - expected).abs().mean()) <= limit


def test_resize_crop_and_normalisation_are_those_of_pil(tmp_path: Path) -> None:
    pixels = picture(size=(40, 60))
    save(tmp_path / "images" / "a.png", pixels)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    source = folder(tmp_path, resize=20, crop=[16, 18], mean=mean, std=std)
    image = source.load(source.records()[0])
    resized = Image.fromarray(pixels).resize((30, 20), Image.Resampling.BILINEAR)
    cut = np.asarray(resized)[2:18, 6:24] / 255
    expected = (cut - mean) / std
    # one grey value of difference in rounding, over the smallest deviation
    np.testing.assert_allclose(image.movedim(0, -1).numpy(), expected, atol=1.01 / 255 / min(std))
    np.testing.assert_allclose(source.display(image).movedim(0, -1), cut, atol=1.01 / 255)


def test_grey_pictures_become_colours_and_colours_grey(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", picture()[..., 0])
    source = folder(tmp_path)
    image = source.load(source.records()[0])
    assert torch.equal(image[0], image[2])
    grey = folder(tmp_path, mode="gray")
    assert grey.load(grey.records()[0]).shape == (1, 20, 30)


def test_broken_images_are_named_and_the_others_are_read(tmp_path: Path) -> None:
    for index in range(5):
        save(tmp_path / "images" / f"{index}.jpg", picture(index))
    first = tmp_path / "images" / "0.jpg"
    first.write_bytes(first.read_bytes()[:-100])
    (tmp_path / "images" / "1.jpg").write_bytes(b"")
    (tmp_path / "images" / "2.jpg").write_text("not an image")
    save(tmp_path / "images" / "3.jpg", picture(size=(21, 30)))
    source = folder(tmp_path)
    records = source.records()
    _, positions, failures = read_batch(source, records, (3, 20, 30))
    assert positions == [4]
    assert failures[0].startswith("unreadable: OSError")
    assert "truncated" in failures[0].lower()
    assert failures[1].startswith("unreadable: ValueError: the file is empty")
    assert failures[2].startswith("unreadable: UnidentifiedImageError")
    assert failures[3] == "got shape (3, 21, 30), expected (3, 20, 30)"


def test_masks_follow_their_images(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:30, 20:50] = 255
    save(tmp_path / "images" / "a.png", pixels)
    save(tmp_path / "images" / "b.png", pixels)
    save(tmp_path / "masks" / "a.png", pixels[..., 0])
    source = folder(tmp_path, masks="masks", resize=20, crop=16)
    records = source.records()
    assert [record.mask for record in records] == ["a.png", None]
    inputs, _, _ = read_batch(source, records, (3, 16, 16))
    masks = read_masks(source, records, (16, 16))
    # where the picture is bright, resized alike
    assert torch.equal(masks[0], inputs[0, 0] > 0.5)
    assert not masks[1].any()
    assert masks.dtype == torch.bool


def test_an_unreadable_mask_is_empty(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", picture())
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").write_text("no image")
    source = folder(tmp_path, masks="masks")
    assert not read_masks(source, source.records(), (20, 30)).any()


def test_a_palette_mask_counts_its_index(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", picture())
    image = Image.fromarray(np.uint8(np.eye(20, 30)), mode="P")
    # index 0 is white and index 1 black: colours would give the complement
    image.putpalette([255, 255, 255, 0, 0, 0] + [0] * 762)
    (tmp_path / "masks").mkdir()
    image.save(tmp_path / "masks" / "a.png")
    source = folder(tmp_path, masks="masks")
    mask = read_masks(source, source.records(), (20, 30))[0]
    assert torch.equal(mask, torch.eye(20, 30) > 0)


def test_masks_inside_the_folder_are_no_class(tmp_path: Path) -> None:
    save(tmp_path / "images" / "cat" / "a.png", picture())
    save(tmp_path / "images" / "masks" / "cat" / "a.png", picture()[..., 0])
    source = folder(tmp_path, masks="images/masks")
    (record,) = source.records()
    assert (record.label, record.mask) == (0, "cat/a.png")
    assert source.class_names == ("cat",)


def test_what_systems_leave_behind_is_no_picture_and_no_class(tmp_path: Path) -> None:
    for name in ("a/0.png", "a/._0.png", ".ipynb_checkpoints/0.png", "_b/_1.png"):
        save(tmp_path / "images" / name, picture(0))
    source = folder(tmp_path)
    assert [record.sample_id for record in source.records()] == ["_b/_1.png", "a/0.png"]
    assert source.class_names == ("_b", "a")
