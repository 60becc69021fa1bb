"""Features that are boxes, and what each is worth by recomputing what it reaches alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from explainers import Target, Trace
from explainers.features import Partition, resolve
from explainers.perturbing import ablated as module
from explainers.perturbing.ablated import ablated
from explainers.perturbing.fills import Drawn, Fixed
from explainers.perturbing.game import Game
from explainers.regions import boxes_of, without_each
from tests.explainers.test_regions import TOLERANCE, everything, noise


def partition_of(spec: Any) -> Partition:
    network, inputs = everything()
    return resolve(spec, Trace(network, inputs))


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        ({"patches": 16}, (1, 4, 4)),
        ({"patches": [10, 57]}, (1, 7, 1)),
        ({"grid": 7}, (1, 7, 7)),
        ({"grid": 3, "channels": "apart"}, (2, 3, 3)),
        ("channels", (2, 1, 1)),
        ("pixels", (1, 61, 57)),
        (None, (2, 61, 57)),
    ],
)
def test_features_in_rows_and_columns_are_boxes(spec: Any, counts: tuple[int, ...]) -> None:
    partition = partition_of(spec)
    found = boxes_of(partition)
    assert found is not None
    boxes, positions = found
    assert boxes.counts == counts
    some = torch.arange(partition.counts[0])[:: max(1, partition.counts[0] // 20)]
    inside = boxes.inside(positions[some]).expand(-1, 2, 61, 57)
    cells = partition.cells.expand(1, 2, 61, 57)
    assert torch.equal(inside, cells == some.view(-1, 1, 1, 1))


def test_other_features_are_no_boxes() -> None:
    shape = (2, 4, 4)
    steps = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 3], [2, 2, 2, 3]])[None, None]
    assert boxes_of(Partition(steps, (4,), shape)) is None
    checks = torch.tensor([[0, 1, 0, 1]]).expand(4, 4)[None, None]
    assert boxes_of(Partition(checks, (2,), shape)) is None
    apart = torch.stack([steps[0], steps[0].flip(0)])
    assert boxes_of(Partition(apart, (4, 4), shape)) is None


@pytest.mark.parametrize("is_drawn", [False, True])
def test_patches_are_worth_the_same(is_drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = everything()
    trace = Trace(network, inputs)
    partition = partition_of({"patches": 9})
    fill = Drawn(noise(5, 2, 61, 57), trace) if is_drawn else Fixed(inputs.flip(0))
    game = Game(trace, Target(), partition, fill)
    n_draws = 2 if is_drawn else 1
    assert without_each(game, range(1)) is not None
    found = ablated(game, n_draws)
    monkeypatch.setattr(module, "without_each", lambda _game, _draws: None)
    expected = ablated(game, n_draws)
    torch.testing.assert_close(found.values, expected.values, **TOLERANCE)
    assert torch.equal(found.n_evaluations, expected.n_evaluations)


def test_some_of_the_rows_are_worth_what_they_are_among_all() -> None:
    network, inputs = everything()
    trace = Trace(network, inputs)
    game = Game(trace, Target(), partition_of({"patches": 9}), Drawn(noise(5, 2, 61, 57), trace))
    expected = without_each(game, range(1, 3))
    found = without_each(game.of_rows(torch.tensor([1])), range(1, 3))
    assert expected is not None
    assert found is not None
    assert (expected[:, 0] - expected[:, 1]).abs().max() > 1e-3, "rows are alike"
    torch.testing.assert_close(found, expected[:, 1:], **TOLERANCE)


def test_large_features_are_evaluated_whole() -> None:
    network, inputs = everything()
    trace = Trace(network, inputs)
    fill = Fixed(torch.zeros_like(inputs))
    game = Game(trace, Target(), partition_of({"grid": 1}), fill)
    assert without_each(game, range(1)) is None
    game = Game(trace, Target(), partition_of({"grid": [1, 2]}), fill)
    assert without_each(game, range(1)) is None
