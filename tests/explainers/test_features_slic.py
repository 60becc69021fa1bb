"""Superpixels: connected, deterministic, of each sample alone."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

import pytest
import torch

import explainers
from explainers import Network, Trace
from explainers.features import check, resolve
from explainers.features.slic import Slic

if TYPE_CHECKING:
    from torch import Tensor

SPEC = {"slic": {"n_segments": 40, "compactness": 10}}


def darkest(inputs: Tensor) -> Tensor:
    # a branch on values makes it opaque, which is read sooner
    flat = inputs.flatten(2).sum(2)
    return flat if inputs.sum() < 1e9 else flat + 1


@functools.cache
def network(n_channels: int = 3) -> Network:
    return Network(darkest, torch.zeros(2, n_channels, 64, 64, dtype=torch.float64))


@functools.cache
def photographs() -> Tensor:
    data = pytest.importorskip("skimage.data")
    whole = torch.from_numpy(data.astronaut()).permute(2, 0, 1).double() / 255
    small = whole[:, ::8, ::8]
    return torch.stack([small, small.flip(2).sqrt(), whole[:, 100:164, 200:264]])


def test_superpixels_need_a_picture_and_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"pip install 'xpipe-xai\[superpixels\]'"):
        check({"slic": {}}, network())


@pytest.mark.slow
def test_superpixels_are_connected_and_numbered_without_gaps() -> None:
    label = pytest.importorskip("skimage.measure").label
    found = resolve(SPEC, Trace(network(), photographs()))
    assert found.cells.shape == (3, 1, 64, 64)
    assert len(set(found.counts)) > 1
    for cells, count in zip(found.cells[:, 0], found.counts, strict=True):
        assert torch.unique(cells).tolist() == list(range(count))
        for number in range(count):
            assert label((cells == number).numpy(), connectivity=1).max() == 1
    assert check(SPEC, network()) is None


@pytest.mark.slow
def test_superpixels_do_not_depend_on_the_batch_or_the_scale() -> None:
    whole = resolve(SPEC, Trace(network(), photographs()))
    for row in range(3):
        alone = resolve(SPEC, Trace(network(), photographs()[row : row + 1]))
        assert torch.equal(alone.cells[0], whole.cells[row])
        assert alone.counts == whole.counts[row : row + 1]
    scaled = resolve(SPEC, Trace(network(), photographs() * 4 - 2))
    # a power of two and a shift by it: nothing is rounded otherwise but in the last bit
    assert float((scaled.cells == whole.cells).double().mean()) >= 0.999


@pytest.mark.slow
def test_grey_pictures_are_divided_like_grey_colours() -> None:
    grey = photographs().mean(1, keepdim=True)
    one = resolve(SPEC, Trace(network(1), grey))
    three = resolve(SPEC, Trace(network(3), grey.expand(-1, 3, -1, -1).contiguous()))
    # lightness of a colour is not linear in it, so cells are alike and not the same
    for count, other in zip(one.counts, three.counts, strict=True):
        assert abs(count - other) <= 0.2 * other
    assert resolve({"slic": 5}, Trace(network(1), 0 * grey + 1)).counts[0] >= 1


@pytest.mark.slow
def test_explainers_of_a_batch_divide_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    divided = Slic._divided

    def counted(self: Slic, *args: object) -> object:
        calls.append(self.n_segments)
        return divided(self, *args)

    monkeypatch.setattr(Slic, "_divided", counted)
    trace = Trace(network(), photographs())
    first = resolve(SPEC, trace.named("one"))
    second = resolve({**SPEC, "spread": "share"}, trace.named("other"))
    assert torch.equal(first.cells, second.cells)
    resolve({"slic": {"n_segments": 5}}, trace)
    assert calls == [40, 5]


@pytest.mark.slow
def test_rows_with_other_numbers_of_superpixels_are_explained_together() -> None:
    found = explainers.explain(network(), "feature_ablation", photographs(), 1, features=SPEC)
    partition = resolve(SPEC, Trace(network(), photographs()))
    # the output is a sum of values, so a feature's number is its sum in that channel
    singles = partition.members(torch.eye(max(partition.counts), dtype=torch.bool))
    sums = (singles * photographs())[:, :, 1].sum((2, 3)).T
    torch.testing.assert_close(found, partition.map(sums), rtol=1e-9, atol=1e-9)
    apart = explainers.explain(
        network(), "feature_ablation", photographs(), 1, features={**SPEC, "channels": "apart"}
    )
    torch.testing.assert_close(apart[:, 1], found[:, 1], rtol=1e-9, atol=1e-9)
    assert float(apart[:, [0, 2]].abs().max()) <= 1e-9
