"""Masks of the user: for all samples or for each, of a tensor, of lists or of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy
import pytest
import torch

from explainers import Samples, Trace
from explainers.features import check, resolve
from explainers.features.masks import Masks
from tests.explainers.test_features import PICTURE, network, traced

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def labels(*shape: int, n_cells: int = 3, seed: int = 0) -> Tensor:
    generator = torch.manual_seed(seed)
    found = torch.randint(0, n_cells, shape, generator=generator)
    # every number at least once in each row
    found.flatten(max(0, len(shape) - 3))[..., :n_cells] = torch.arange(n_cells)
    return found


@pytest.mark.parametrize("shape", [(6, 8), (1, 6, 8), (3, 6, 8)])
@pytest.mark.parametrize("per_sample", [False, True])
def test_masks_are_the_cells(shape: tuple[int, ...], per_sample: bool) -> None:
    own = (2, *shape) if per_sample else shape
    masks = labels(*own) if len(own) < 4 else torch.stack([labels(*shape), labels(*shape, seed=1)])
    if len(own) == 3:
        masks[:, 0, :3] = torch.arange(3)
    found = resolve({"masks": masks}, traced(torch.randn(2, *PICTURE)))
    expected = masks if per_sample else masks[None]
    if len(shape) == 2:
        expected = expected[:, None]
    assert found.is_shared != per_sample
    cells = found.cells.expand(len(expected), *PICTURE)
    assert torch.equal(cells, expected.expand(len(expected), *PICTURE))
    assert found.counts == (3,) * len(expected)
    assert check({"masks": masks}, network()) == 3
    bare = resolve(masks, traced(torch.randn(2, *PICTURE)))
    assert torch.equal(bare.cells, found.cells)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint16", "bool"])
def test_masks_come_from_files_by_relative_paths(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    masks = labels(6, 8, n_cells=2)
    numpy.save("labels.npy", masks.numpy().astype(dtype))
    found = resolve({"masks": "labels.npy"}, traced(torch.randn(2, *PICTURE)))
    assert torch.equal(found.cells[0, 0], masks)
    # a file that was written anew is read anew
    numpy.save("labels.npy", torch.zeros(6, 8).long().numpy())
    assert check({"masks": "labels.npy"}, network()) == 1


def test_samples_of_a_data_set_have_the_masks_of_their_numbers(tmp_path: Path) -> None:
    masks = torch.stack([labels(6, 8, n_cells=1 + number) for number in range(5)])
    numpy.save(tmp_path / "all.npy", masks.numpy())
    spec = {"masks": str(tmp_path / "all.npy")}
    assert check(spec, network()) is None
    inputs = torch.randn(2, *PICTURE, dtype=torch.float64)

    def of(*index: int) -> Trace:
        return Trace(network(), inputs, samples=Samples(torch.tensor(index), torch.zeros(2).long()))

    found = resolve(spec, of(4, 1))
    assert found.counts == (5, 2)
    assert torch.equal(found.cells[:, 0], masks[[4, 1]])
    assert found.sizes().shape == (2, 5)
    with pytest.raises(ValueError, match="masks for 5 samples, and there is a sample 7"):
        resolve(spec, of(7, 1))
    with pytest.raises(ValueError, match="masks for 5 samples, the batch has 2"):
        resolve(spec, traced(inputs))
    masks[3, masks[3] == 1] = 0
    with pytest.raises(ValueError, match="masks of sample 3 with numbers up to 3 but without 1:"):
        check({"masks": masks}, network())
    with pytest.raises(ValueError, match="masks of sample 3 with"):
        resolve({"masks": masks}, of(0, 3))


@pytest.mark.parametrize(
    ("masks", "error", "words"),
    [
        (torch.zeros(6, 8), TypeError, "masks of torch.float32, expected integers"),
        (torch.zeros(5, 8).long(), ValueError, r"masks of shape \(5, 8\) .* \(6, 8\), for all"),
        (torch.zeros(0, 6, 8).long(), ValueError, r"masks of shape \(0, 6, 8\)"),
        (torch.zeros(2, 5, 6, 8).long(), ValueError, r"masks of shape \(2, 5, 6, 8\)"),
        (torch.full((6, 8), 2), ValueError, "up to 2 but without 0, 1: an empty feature"),
        (torch.full((6, 8), 500), ValueError, "without 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."),
        (torch.full((6, 8), -1), ValueError, "with the number -1, expected 0 and above"),
        ([[0, 1], [2]], TypeError, "nested lists of one length each"),
        ("masks.png", ValueError, "expected the path of a .npy file"),
        ("nowhere.npy", ValueError, "there is no file of masks 'nowhere.npy'"),
        (None, TypeError, "got masks of type 'NoneType'"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Masks(masks).labels(PICTURE, None)


def test_shapes_that_are_the_same_are_named_once() -> None:
    with pytest.raises(ValueError, match=r"expected \(1, 6, 8\) or \(6, 8\), for all"):
        Masks(labels(5, 8)).labels((1, 6, 8), None)


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.npy").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"broken\.npy', expected an array of integers"):
        check({"masks": str(tmp_path / "broken.npy")}, network())


def test_masks_tell_channels_apart_by_themselves() -> None:
    with pytest.raises(ValueError, match="apart already"):
        check({"masks": labels(3, 6, 8), "channels": "apart"}, network())
    assert check({"masks": labels(6, 8), "channels": "apart"}, network()) == 9
