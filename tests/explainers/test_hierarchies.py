"""Growth of components in pictures, merging and trees, against the published algorithm."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from explainers.hierarchies.connected import components
from explainers.hierarchies.levels import Level
from explainers.hierarchies.merging import merged
from explainers.hierarchies.picture import Growth, highest
from explainers.hierarchies.scoring import seeds
from explainers.hierarchies.tree import Tree
from tests.explainers.slow_agglomeration import agglomerate, flooded

SHAPE = (5, 6)
N_CELLS = SHAPE[0] * SHAPE[1]
TARGETS = (0, 2, 1)
DRIVE = torch.eye(3, dtype=torch.float64)[list(TARGETS)]
N_ROUNDS = 4


class Interacting:
    """Scores with interactions of any two cells."""

    def __init__(self, rows: slice = slice(None)) -> None:
        generator = torch.Generator().manual_seed(3)
        shape = (len(TARGETS), N_CELLS, N_CELLS, 3)
        weights = 0.2 * torch.randn(shape, generator=generator, dtype=torch.float64)
        weights += 0.8 * weights * torch.eye(N_CELLS)[..., None] / 0.2
        self.weights = weights[rows]
        self.asked: list[int] = []

    def __call__(self, members: Tensor, rows: Tensor) -> Tensor:
        assert torch.equal(rows, rows.sort().values)
        self.asked.append(len(rows))
        there = members.double()
        every = torch.einsum("un,bnmc,um->ubc", there, self.weights, there)
        return every[torch.arange(len(rows)), rows]


def grown(
    percentile: float, *, smooth: bool = True, rows: slice = slice(None)
) -> tuple[list[Level], list[Level], Tensor, Interacting]:
    scorer, drive = Interacting(rows), DRIVE[rows]
    own = seeds(scorer, len(drive), N_CELLS, torch.device("cpu"))
    levels = Growth(percentile, N_ROUNDS, smooth=smooth).levels(scorer, drive, SHAPE, own)
    return levels, merged(levels[-1], scorer, drive), own, scorer


@functools.cache
def slow(row: int, percentile: float, *, smooth: bool = True) -> Any:
    scorer, here = Interacting(), torch.tensor([row])

    def score(cells: Any) -> Any:
        return scorer(torch.from_numpy(cells).reshape(1, -1), here)[0].numpy()

    return agglomerate(score, SHAPE, TARGETS[row], percentile, N_ROUNDS, smooth=smooth)


def table(tree: Tree) -> list[dict[str, Any]]:
    return tree.rows(lambda scores, rows: scores)


def test_components_touch_at_sides_and_corners_and_are_numbered_by_their_first_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    selected = torch.rand(6, 9, 8, generator=generator) < 0.4
    lines = ("#######", "......#", "#####.#", "#.....#", "#######")
    winding = torch.tensor([[sign == "#" for sign in line] for line in lines])
    for some in (selected, winding[None], torch.zeros(1, 2, 3, dtype=torch.bool)):
        expected = np.stack([flooded(one.numpy()) for one in some])
        np.testing.assert_array_equal(components(some).numpy(), expected)


@pytest.mark.parametrize(("percentile", "smooth"), [(93.0, True), (80.0, False), (80.0, True)])
def test_components_are_those_of_the_published_algorithm(percentile: float, smooth: bool) -> None:
    levels, merges, _, _ = grown(percentile, smooth=smooth)
    for row in range(len(TARGETS)):
        labels, scores = slow(row, percentile, smooth=smooth)
        ours = [*levels, *merges[: len(labels) - N_ROUNDS]]
        assert len(ours) == len(labels)
        for level, of_slow, known in zip(ours, labels, scores, strict=True):
            np.testing.assert_array_equal(level.labels[row].view(SHAPE).numpy(), of_slow)
            for number, own in known.items():
                # sums of the same numbers in another order
                np.testing.assert_allclose(level.scores[row, number], own, atol=1e-12)
            is_there = {
                number for number in range(1, level.scores.shape[1]) if level.is_there[row, number]
            }
            assert is_there == known.keys()
        for rest in merges[len(labels) - N_ROUNDS :]:
            assert torch.equal(rest.labels[row], ours[-1].labels[row])


def test_a_round_asks_once_for_all_samples() -> None:
    levels, merges, _, scorer = grown(93.0)
    assert merges
    # the seeds, each round, all pairs, and each merge
    assert len(scorer.asked) == 1 + len(levels) + 1 + len(merges)


def test_every_node_is_the_union_of_its_children_and_the_last_is_the_one_root() -> None:
    for percentile in (93.0, 80.0, 40.0):
        levels, merges, own, _ = grown(percentile)
        tree = Tree([*levels, *merges], own)
        rows = table(tree)
        for row in range(len(TARGETS)):
            nodes = [node for node in rows if node["row"] == row]
            check_tree(nodes)
            last = (levels + merges)[-1].labels[row]
            assert nodes[-1]["members"] == last.nonzero()[:, 0].tolist()
            for node in nodes:
                if len(node["members"]) == 1:
                    torch.testing.assert_close(
                        torch.tensor(node["scores"]).double(), own[row, node["members"][0]]
                    )


def check_tree(nodes: list[dict[str, Any]]) -> None:
    assert [node["node"] for node in nodes] == list(range(len(nodes)))
    assert [node["node"] for node in nodes if node["parent"] == -1] == [len(nodes) - 1]
    for node in nodes:
        children = [child for child in nodes if child["parent"] == node["node"]]
        assert all(child["node"] < node["node"] for child in children)
        assert all(child["level"] <= node["level"] for child in children)
        assert len(children) >= 2 or (not children and len(node["members"]) == 1)
        if children:
            held = sorted(cell for child in children for cell in child["members"])
            assert held == node["members"]


def test_levels_show_the_node_that_holds_a_cell() -> None:
    levels, merges, own, _ = grown(80.0)
    tree = Tree([*levels, *merges], own)
    shown = tree.components(len(levels), N_ROUNDS + 2)
    members = {(node["row"], node["node"]): node["members"] for node in table(tree)}
    assert shown.shape == (len(TARGETS), N_ROUNDS + 3, N_CELLS)
    for row in range(len(TARGETS)):
        for number, level in enumerate(levels):
            labels = level.labels[row]
            assert torch.equal(shown[row, number] >= 0, labels > 0)
            for cell in labels.nonzero()[:, 0].tolist():
                node = members[row, int(shown[row, number, cell])]
                assert node == (labels == labels[cell]).nonzero()[:, 0].tolist()
    assert torch.equal(shown[:, N_ROUNDS - 1], shown[:, N_ROUNDS + 1])
    assert [int(one.max()) for one in shown[:, -1]] == (tree.counts - 1).tolist()


def test_other_samples_make_no_difference() -> None:
    levels, merges, own, _ = grown(80.0)
    rows = table(Tree([*levels, *merges], own))
    for row in range(len(TARGETS)):
        some, more, alone, _ = grown(80.0, rows=slice(row, row + 1))
        of_alone = table(Tree([*some, *more], alone))
        of_all = [node for node in rows if node["row"] == row]
        assert [{**node, "row": 0, "scores": 0} for node in of_all] == [
            {**node, "scores": 0} for node in of_alone
        ]


def test_what_is_no_number_is_never_selected_and_nothing_is_left_unmerged() -> None:
    scores = torch.tensor([[1.0, torch.nan, 3.0, 2.0], [torch.nan] * 4, [5.0, 5.0, 5.0, 5.0]])
    found = highest(scores, torch.tensor([50.0, 50.0, 100.0]))
    assert found.tolist() == [[False, False, True, True], [False] * 4, [True] * 4]
    labels = torch.tensor([[1, 0, 2, 3]])
    level = Level(labels, torch.full((1, 4, 1), torch.nan))
    levels = merged(
        level, lambda members, rows: torch.full((len(rows), 1), torch.nan), torch.ones(1, 1)
    )
    assert [one.labels.tolist() for one in levels] == [[[1, 0, 1, 3]], [[1, 0, 1, 1]]]
