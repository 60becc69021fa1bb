from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data import decoding

if TYPE_CHECKING:
    from pathlib import Path


def picture(height: int = 37, width: int = 51) -> np.ndarray:
    """Waves of colour, sides that are no multiples of a block of JPEG."""
    rows, columns = np.mgrid[0:height, 0:width] / 9
    waves = [np.sin(rows + 2 * columns), np.cos(3 * rows), np.sin(5 * columns - rows)]
    return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "JPEG", mode: str = "", **options: Any) -> bytes:
    image, file = Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def by_pil(content: bytes, mode: str = "RGB") -> torch.Tensor:
    with Image.open(io.BytesIO(content)) as image:
        pixels = torch.from_numpy(np.array(image.convert(mode)))
    return pixels.movedim(-1, 0) if pixels.ndim == 3 else pixels[None]


OPTIONS = [
    {},
    {"quality": 30},
    {"quality": 95, "subsampling": "4:4:4"},
    {"subsampling": "4:2:2"},
    {"progressive": True},
    {"optimize": True, "restart_marker_rows": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("mode", ["", "L"])
def test_jpeg_has_the_pixels_of_pil(options: dict[str, Any], mode: str) -> None:
    content = encoded(picture(), mode=mode, **options)
    assert decoding._native(content, "rgb") is not None
    found = decoding.decode(content)
    assert (found.shape, found.dtype) == ((3, 37, 51), torch.uint8)
    # one grey value where the two are built on different versions of a library
    difference = (found.int() - by_pil(content).int()).abs()
    assert int(difference.max()) <= 1
    grey = (decoding.decode(content, "gray").int() - by_pil(content, "L").int()).abs()
    assert int(grey.max()) <= 1


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "1"), ("GIF", "P"), ("WEBP", "")],
)
def test_what_the_operator_does_not_take_is_decoded_by_pil(kind: str, mode: str) -> None:
    content = encoded(picture(), kind, mode)
    assert torch.equal(decoding.decode(content), by_pil(content))
    assert torch.equal(decoding.decode(content, "gray"), by_pil(content, "L"))


def test_a_transparent_palette_is_decoded_by_pil() -> None:
    content = encoded(picture(), "PNG", "P", transparency=3)
    assert torch.equal(decoding.decode(content), by_pil(content))


def test_orientation_tags_are_not_followed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(picture(), exif=exif)
    assert decoding.decode(content).shape == (3, 37, 51)
    assert int((decoding.decode(content).int() - by_pil(content).int()).abs().max()) <= 1


def test_without_the_operator_pil_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(picture())
    expected = decoding.decode(content)
    monkeypatch.setattr(torch.ops.image, "decode_jpeg", None)
    assert decoding._native(content, "rgb") is None
    assert int((decoding.decode(content).int() - expected.int()).abs().max()) <= 1


@pytest.mark.parametrize("cut", [1, 2, 10, 300])
def test_a_file_without_its_end_is_refused(cut: int) -> None:
    content = encoded(picture())
    assert decoding._native(content[:-cut], "rgb") is None
    with pytest.raises(OSError, match=r"truncated|broken"):
        decoding.decode(content[:-cut])


GREY_16 = np.arange(0, 2**16, 257, dtype=np.uint16).reshape(16, 16)


def portable(values: np.ndarray) -> bytes:
    return b"P5\n16 16\n65535\n" + values.astype(">u2").tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_of_16_bits_the_upper_8_are_taken(kind: str) -> None:
    content = encoded(GREY_16, kind)
    expected = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    assert torch.equal(decoding.decode(content, "gray"), expected)
    assert torch.equal(decoding.decode(content), expected.expand(3, 16, 16))
    assert torch.equal(decoding.decode(portable(GREY_16), "gray"), expected)
    assert torch.equal(decoding.decode_mask(content), expected[0] > 0)
    assert decoding.decode_mask(encoded(np.full((2, 3), 255, np.uint16), kind)).all()


def test_colours_of_16_bits_are_as_grey_ones() -> None:
    raw = np.repeat(GREY_16.astype(">u2")[..., None], 3, axis=2).tobytes()
    content = b"P6\n16 16\n65535\n" + raw
    grey = decoding.decode(portable(GREY_16))
    assert int((decoding.decode(content).int() - grey.int()).abs().max()) <= 1


@pytest.mark.parametrize(
    ("values", "tags"),
    [
        (GREY_16.astype(np.int32), {}),
        (GREY_16.astype(np.float32), {}),
        (GREY_16, {262: 0}),
    ],
    ids=["I", "F", "white is zero"],
)
def test_values_of_no_known_range_are_refused(values: np.ndarray, tags: dict[int, int]) -> None:
    content = encoded(values, "TIFF", tiffinfo=tags)
    with pytest.raises(ValueError, match="from black to white are not known"):
        decoding.decode(content)
    assert decoding.decode_mask(content).sum() == 255


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="the file is empty"):
        decoding.decode(b"")
    for read in (decoding.decode, decoding.decode_mask):
        with pytest.raises(OSError, match=r"^this is no image that Pillow knows$"):
            read(b"not an image")


def test_a_path_and_its_content_are_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(picture()))
    expected = decoding.decode(path.read_bytes())
    assert torch.equal(decoding.decode(path), expected)
    assert torch.equal(decoding.decode(str(path)), expected)
    assert torch.equal(decoding.decode(f"file://{path}"), expected)
    assert decoding.decode_mask(path).all()
