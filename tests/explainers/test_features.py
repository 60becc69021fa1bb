"""Partitions: cells that cover, numbers that come back as maps, and what is refused."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import explainers
from explainers import Network, Trace
from explainers.features import Partition, check, resolve
from explainers.features.joined import Piece, joined
from explainers.features.labels import Labels, apart, compacted
from explainers.features.resolve import labels_of
from explainers.features.spec import parsed
from explainers.features.subject import Subject
from pipeline.errors import ConfigError
from pipeline.parameters import build

PICTURE = (3, 6, 8)


def divided(spec: Any, shape: tuple[int, ...]) -> Partition:
    """Divide values of a shape, without a network around them."""
    subject, division = Subject("x", shape, {"x": shape}), parsed(spec)
    labels = labels_of(division, subject, None)
    assert labels is not None
    return joined([Piece(subject, division, labels)], None)


def flat(inputs: Tensor) -> Tensor:
    # a branch on values makes it opaque, which is read sooner
    return inputs.flatten(1) if inputs.sum() < 1e9 else inputs.flatten(1) + 1


@functools.cache
def network() -> Network:
    return Network(flat, torch.zeros(2, *PICTURE, dtype=torch.float64))


def traced(inputs: Tensor) -> Trace:
    return Trace(network(), inputs.double())


def each_value(found: Partition) -> Tensor:
    """Return the feature of every value, ``(rows, *shape)``."""
    return found.cells.expand(len(found.cells), *found.shape)


SHAPES = [(6, 4), PICTURE, (2, 3, 6, 4)]
SPECS: list[Any] = [None, "pixels", "values", {"grid": 3}, {"patches": 2}, {"patches": 5}]
COLOURED: list[Any] = ["channels", {"grid": 2, "channels": "apart"}]


CASES = [(spec, shape) for spec in [*SPECS, *COLOURED] for shape in SHAPES]
CASES += [(spec, (12,)) for spec in SPECS]


@pytest.mark.parametrize(("spec", "shape"), CASES)
def test_cells_cover_and_are_numbered_without_gaps(spec: Any, shape: tuple[int, ...]) -> None:
    found = divided(spec, shape)
    assert found.cells.dtype == torch.int64
    assert torch.unique(found.cells).tolist() == list(range(found.counts[0]))
    assert int(found.sizes().sum()) == math.prod(shape)
    singles = found.members(torch.eye(found.counts[0], dtype=torch.bool)).expand(-1, -1, *shape)
    assert bool((singles.sum(0) == 1).all())
    torch.testing.assert_close(singles.flatten(2).sum(2).T, found.sizes())


@pytest.mark.parametrize(
    ("spec", "shape", "n_features"),
    [
        (None, (5,), 5),
        ("values", PICTURE, 144),
        ("pixels", PICTURE, 48),
        ("pixels", (6, 4), 6),
        ("pixels", (5,), 5),
        ("channels", PICTURE, 3),
        ("channels", (6, 4), 4),
        ("tokens", (6, 4), 6),
        ({"grid": 3}, (7,), 3),
        ({"grid": 3}, (6, 4), 3),
        ({"grid": [3, 2]}, (6, 4), 6),
        ({"grid": [2, 5]}, PICTURE, 10),
        ({"grid": 2, "channels": "apart"}, PICTURE, 12),
        ({"grid": 2}, (2, 3, 6, 4), 8),
        ({"grid": [1, 2, 3]}, (2, 3, 6, 4), 6),
        ({"patches": 4}, PICTURE, 4),
        ({"patches": [6, 3]}, PICTURE, 3),
        ({"patches": 4, "channels": "apart"}, (6, 4), 8),
        (None, (), 1),
    ],
)
def test_numbers_of_features(spec: Any, shape: tuple[int, ...], n_features: int) -> None:
    assert divided(spec, shape).counts == (n_features,)


@given(n_cells=st.integers(1, 9), size=st.integers(9, 30))
@settings(max_examples=15, deadline=None, database=None)
def test_stretches_of_a_grid_differ_by_one_at_most(n_cells: int, size: int) -> None:
    found = divided({"grid": n_cells}, (size,))
    sizes = found.sizes()[0]
    assert len(sizes) == n_cells
    assert int(sizes.max() - sizes.min()) <= 1
    assert bool((found.cells.diff() >= 0).all())


def test_a_grid_is_read_row_by_row_and_patches_are_of_their_size() -> None:
    grid = each_value(divided({"grid": [2, 4]}, PICTURE))
    rows = torch.arange(6)[:, None] // 3
    assert torch.equal(grid[0, 1], rows * 4 + torch.arange(8) // 2)
    patches = divided({"patches": 4}, PICTURE)
    assert (patches.sizes() // 3).tolist() == [[16, 16, 8, 8]]
    assert torch.equal(each_value(patches)[0, 0, :4, 4:], torch.ones(4, 4, dtype=torch.int64))


def test_channels_apart_are_features_of_their_own() -> None:
    together = each_value(divided({"grid": 2}, PICTURE))
    found = each_value(divided({"grid": 2, "channels": "apart"}, PICTURE))
    for channel in range(3):
        assert torch.equal(found[:, channel], together[:, channel] + 4 * channel)
    uneven = Labels(torch.tensor([[[0, 1]], [[0, 0]]]), (2, 1))
    cells = apart(uneven, (2, 2), 0)
    assert cells.counts == (4, 2)
    assert cells.cells.tolist() == [[[0, 1], [2, 3]], [[0, 0], [1, 1]]]


@given(
    cells=st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None, database=None)
def test_maps_of_numbers(cells: list[list[int]], seed: int) -> None:
    labels = compacted(torch.tensor(cells)[..., None], 6)
    n_most = max(labels.counts)
    numbers = torch.randn(
        len(cells), n_most, generator=torch.manual_seed(seed), dtype=torch.float64
    )
    copied = Partition(labels.cells, labels.counts, (4, 2))
    shared = Partition(labels.cells, labels.counts, (4, 2), "share")
    for row, count in enumerate(labels.counts):
        assert sorted(set(labels.cells[row].flatten().tolist())) == list(range(count))
        expected = numbers[row, labels.cells[row]].expand(4, 2)
        assert torch.equal(copied.map(numbers)[row], expected)
        own = numbers[row, :count]
        # a sum of at most 8 doubles in another order
        torch.testing.assert_close(shared.map(numbers)[row].sum(), own.sum())
        weighted = (own * copied.sizes()[row, :count]).sum()
        torch.testing.assert_close(copied.map(numbers)[row].sum(), weighted)
    everybody = copied.members(torch.ones(1, n_most, dtype=torch.bool))
    assert everybody.shape == (1, len(cells), 4, 1)
    assert bool(everybody.all())
    singles = copied.members(torch.eye(n_most, dtype=torch.bool)).expand(-1, -1, 4, 2)
    assert bool((singles.sum(0) == 1).all())
    torch.testing.assert_close(singles.flatten(2).sum(2).T.clamp(min=1), copied.sizes())
    some = copied.members(torch.eye(n_most, dtype=torch.bool), torch.tensor([0]))
    assert torch.equal(some.expand(-1, -1, 4, 2), singles[:, :1])


def test_rows_keep_their_features() -> None:
    cells = torch.tensor([[0, 0, 1], [0, 1, 2], [0, 0, 0]])
    weights = torch.rand(3, 3)
    whole = Partition(cells, (2, 3, 1), (3,), weights=weights)
    some = whole.of_rows(torch.tensor([2, 0]))
    assert some.counts == (1, 2)
    assert (whole.n_features, some.is_shared) == (None, False)
    assert torch.equal(some.cells, cells[[2, 0]])
    numbers = torch.rand(3, 3)
    assert torch.equal(some.map(numbers[[2, 0]]), whole.map(numbers)[[2, 0]])
    shared = divided({"grid": 3}, (7,))
    assert shared.of_rows(torch.tensor([1, 0, 0])) is shared


def test_a_batch_and_a_network_have_the_same_features() -> None:
    found = resolve({"grid": 2}, traced(torch.randn(3, *PICTURE)))
    assert torch.equal(found.cells, divided({"grid": 2}, PICTURE).cells)
    assert found.shape == PICTURE
    assert check({"grid": 2}, network()) == 4
    assert check(None, network()) == 144


@pytest.mark.parametrize(
    ("spec", "shape", "error", "words"),
    [
        ("pixel", PICTURE, LookupError, "unknown features 'pixel'; did you mean 'pixels'"),
        ({"gird": 3}, PICTURE, LookupError, "unknown key 'gird' of features; did you mean 'grid'"),
        ({"slic": {"segments": 3}}, PICTURE, LookupError, "did you mean 'n_segments'"),
        (7, PICTURE, TypeError, "got features 7, expected None, one of values, pixels"),
        ({}, PICTURE, ValueError, "got features with none of grid, patches, slic, masks"),
        ({"grid": 2, "patches": 2}, PICTURE, ValueError, "got features with grid and patches"),
        ({"grid": 2.0}, PICTURE, TypeError, "got grid 2.0, expected a whole number"),
        ({"grid": True}, PICTURE, TypeError, "got grid True"),
        ({"grid": []}, PICTURE, TypeError, r"got grid \[\]"),
        ({"patches": 0}, PICTURE, ValueError, "got patches 0, expected 1 or more"),
        ({"grid": 7}, PICTURE, ValueError, r"grid of 7 cells along an axis of 6 .* 6 at most"),
        ({"grid": [1, 2, 3]}, PICTURE, ValueError, r"got grid \[1, 2, 3\] .* each of 2 axes"),
        ({"grid": 2, "channels": "no"}, PICTURE, ValueError, "expected 'together' or 'apart'"),
        ({"grid": 2, "spread": "sum"}, PICTURE, ValueError, "expected 'copy' or 'share'"),
        ({"grid": [2, 2], "channels": "apart"}, (4, 3), ValueError, "apart already"),
        ({"grid": 2, "channels": "apart"}, (4,), ValueError, "which have no channels"),
        ("channels", (4,), ValueError, "which have no channels"),
        ("tokens", PICTURE, ValueError, r"expected \(tokens, features\)"),
        ("pixels", (1, 2, 3, 4, 5), ValueError, "give features as {masks"),
        ({"slic": "many"}, PICTURE, TypeError, "expected {n_segments: 50"),
        ({"slic": {"n_segments": 0}}, PICTURE, ValueError, "got n_segments 0 for slic"),
        ({"slic": {"n_segments": 2.5}}, PICTURE, TypeError, "expected a whole number"),
        ({"slic": {"compactness": "high"}}, PICTURE, TypeError, "expected a number"),
        ({"slic": {"sigma": -1}}, PICTURE, ValueError, "expected 0 or more"),
    ],
)
def test_what_does_not_fit_is_refused(
    spec: Any, shape: tuple[int, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        divided(spec, shape)


@pytest.mark.parametrize(
    "spec",
    [None, "pixels", {"grid": [2, 3]}, {"masks": [[0, 1], [1, 1]]}, {"table": None, "image": "x"}],
)
def test_run_files_can_say_features(spec: Any) -> None:
    method = type(explainers.build("feature_ablation"))
    assert build(method, {"features": spec}, "explainers.x").features == spec
    with pytest.raises(ConfigError, match="features"):
        build(method, {"features": 3}, "explainers.x")
    labels = torch.zeros(2, 2, dtype=torch.int64)
    assert build(method, {"features": labels}, "explainers.x").features is labels
