"""Growth of components in sequences, against the published algorithm sentence by sentence."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import explainers
from explainers import Network
from explainers.hierarchies.collapse import collapsed
from explainers.hierarchies.merging import merged
from explainers.hierarchies.scoring import seeds
from explainers.hierarchies.sequence import SequenceGrowth
from explainers.hierarchies.tree import Tree
from tests.explainers.test_decomposition_of_recurrences import UNITS, slow_cd_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from explainers.hierarchies.levels import Level

Array = NDArray[np.float64]
N_SAMPLES, N_CLASSES = 3, 2
TARGETS = torch.tensor([0, 1, 0])


@dataclass
class Interacting:
    """Scores with interactions of any two positions, drawn anew for each length."""

    n_positions: int
    asked: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(self.n_positions)
        shape = (N_SAMPLES, N_CLASSES, self.n_positions, self.n_positions)
        self.weights = torch.randn(shape, dtype=torch.float64)

    def __call__(self, members: Tensor, rows: Tensor) -> Tensor:
        assert torch.equal(rows, rows.sort().values)
        self.asked.append(torch.cat([rows[:, None], members], 1))
        there = members.double()
        return torch.einsum("ui,ucij,uj->uc", there, self.weights[rows], there)

    def of_sample(self, sample: int) -> Callable[[Array], Array]:
        weights = self.weights[sample].numpy()
        return lambda there: np.array([there @ each @ there for each in weights])


def slow_growth(
    score: Callable[[Array], Array],
    n_positions: int,
    label: int,
    percentile: float,
    n_rounds: int,
    *,
    subtract: bool,
    absolute: bool,
) -> list[dict[tuple[int, ...], Array]]:
    """Components of each level and their scores: one sentence, one union at a time."""

    def driven(positions: set[int]) -> float:
        scores = score(union(positions))
        return float(scores[label] - scores[1 - label]) if subtract else float(scores[label])

    def union(positions: set[int]) -> Array:
        return np.array([float(one in positions) for one in range(n_positions)])

    def select() -> set[int]:
        left = {k: abs(v) if absolute else v for k, v in track.items() if k not in chosen}
        if not left:
            return set()
        share = {5: 59, 4: 49, 3: 59, 2: 49, 1: 0}.get(len(left), percentile)
        bound = np.percentile(list(left.values()), share)
        return {k for k, v in left.items() if v >= bound}

    chosen: set[int] = set()
    track = {k: driven({k}) for k in range(n_positions)}
    chosen = select()
    levels = []
    for _ in range(n_rounds):
        runs: list[list[int]] = []
        for position in sorted(chosen):
            if runs and runs[-1][-1] == position - 1:
                runs[-1].append(position)
            else:
                runs.append([position])
        levels.append({tuple(run): score(union(set(run))) for run in runs})
        for run in runs:
            for beside in (run[0] - 1, run[-1] + 1):
                if 0 <= beside < n_positions:
                    track[beside] = driven({*run, beside}) - driven(set(run))
        new = select()
        if not new:
            break
        chosen = chosen | new
    return levels


def found_in(level: Level, sample: int) -> dict[tuple[int, ...], Tensor]:
    labels = level.labels[sample]
    ids = [int(one) for one in torch.unique(labels) if one > 0]
    return {
        tuple((labels == one).nonzero()[:, 0].tolist()): level.scores[sample, one] for one in ids
    }


def drive(*, subtract: bool = True) -> Tensor:
    weights = torch.nn.functional.one_hot(TARGETS, N_CLASSES).double()
    return weights - weights.flip(1) if subtract else weights


def grown(scorer: Interacting, growth: SequenceGrowth, *, subtract: bool = True) -> list[Level]:
    first = seeds(scorer, N_SAMPLES, scorer.n_positions, torch.device("cpu"))
    return growth.levels(scorer, drive(subtract=subtract), first)


@pytest.mark.parametrize("n_positions", [1, 2, 4, 9, 17])
@pytest.mark.parametrize(
    ("percentile", "n_rounds", "options"),
    [
        (99.5, 25, {"subtract": True, "absolute": True}),
        (70.0, 6, {"subtract": False, "absolute": False}),
        (80.0, 3, {"subtract": True, "absolute": False}),
    ],
)
def test_components_are_those_of_the_published_algorithm(
    n_positions: int, percentile: float, n_rounds: int, options: dict[str, bool]
) -> None:
    scorer = Interacting(n_positions)
    growth = SequenceGrowth(percentile, n_rounds, absolute=options["absolute"])
    levels = grown(scorer, growth, subtract=options["subtract"])
    for sample, target in enumerate(TARGETS.tolist()):
        score = scorer.of_sample(sample)
        slow = slow_growth(score, n_positions, target, percentile, n_rounds, **options)
        # others of the batch may grow on: what has grown together stays as it is
        slow += slow[-1:] * (len(levels) - len(slow))
        assert len(slow) == len(levels)
        for level, expected in zip(levels, slow, strict=True):
            found = found_in(level, sample)
            assert found.keys() == expected.keys()
            for members, scores in found.items():
                np.testing.assert_allclose(scores.numpy(), expected[members], rtol=1e-12)


def test_a_component_keeps_its_id_from_level_to_level() -> None:
    levels = grown(Interacting(12), SequenceGrowth(90.0, 20))
    for before, after in itertools.pairwise(levels):
        for sample in range(N_SAMPLES):
            for members in found_in(after, sample):
                inside = before.labels[sample, list(members)]
                ids = inside[inside > 0]
                own = after.labels[sample, members[0]]
                assert not len(ids) or own == ids.min()


def test_a_union_is_asked_for_once_and_a_round_makes_one_call() -> None:
    scorer = Interacting(12)
    levels = grown(scorer, SequenceGrowth(90.0, 20))
    unions = torch.cat(scorer.asked)
    assert len(torch.unique(unions, dim=0)) == len(unions)
    # the seeds are the first call, and the last round knows its components
    assert len(scorer.asked) <= 1 + len(levels)


def test_growth_and_merging_end_in_one_component() -> None:
    scorer = Interacting(14)
    levels = grown(scorer, SequenceGrowth(85.0, 2))
    levels += merged(levels[-1], scorer, drive())
    assert torch.equal(levels[-1].is_there.sum(1), torch.ones(N_SAMPLES, dtype=torch.int64))


def slow_collapse(levels: list[dict[tuple[int, ...], Array]]) -> dict[tuple[int, ...], int]:
    """Level of each component in the collapsed tree, from those of the level before."""
    found: dict[tuple[int, ...], int] = {}
    before: list[tuple[int, ...]] = []
    for level in levels:
        for members in level:
            inside = [one for one in before if set(one) <= set(members)]
            n_new = len(members) - sum(map(len, inside))
            if len(members) == 1:
                found[members] = 0
            elif len(inside) == 1 and n_new == 0:
                assert members in found
            else:
                found[members] = 1 + max([found[one] for one in inside], default=0)
        before = list(level)
    return found


def test_collapsed_levels_are_those_of_the_published_trees() -> None:
    scorer = Interacting(13)
    levels = grown(scorer, SequenceGrowth(99.0, 30))
    first = seeds(scorer, N_SAMPLES, 13, torch.device("cpu"))
    tree = Tree(levels, first)
    heights = collapsed(tree)
    for sample, target in enumerate(TARGETS.tolist()):
        options = {"subtract": True, "absolute": True}
        slow = slow_growth(scorer.of_sample(sample), 13, target, 99.0, 30, **options)
        expected = slow_collapse(slow)
        for nodes in tree.nodes:
            for k in (nodes.rows == sample).nonzero()[:, 0].tolist():
                members = tuple(nodes.members[k].nonzero()[:, 0].tolist())
                # a word that enters beside a component is no component by itself
                assert heights[sample, nodes.numbers[k]] == expected.get(members, 0)
        assert heights[sample].max() == max(expected.values())


class Sentences(nn.Module):
    """Logits of two classes from the last state of an LSTM over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 4)
        self.lstm = nn.LSTM(4, UNITS, batch_first=True)
        self.fc = nn.Linear(UNITS, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.lstm(self.embedding(tokens))[0][:, -1])
        return logits


@pytest.mark.slow
def test_sentences_grow_as_in_the_published_program() -> None:
    torch.manual_seed(0)
    model = Sentences().double().requires_grad_(requires_grad=False)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.7)
    tokens = torch.randint(0, 20, (N_SAMPLES, 12))
    slow = []
    for sample, target in enumerate(TARGETS.tolist()):
        words = model.embedding(tokens[sample]).numpy()

        def score(there: Array, words: Array = words) -> Array:
            places = np.flatnonzero(there)
            hidden, _ = slow_cd_text(model.lstm, words, int(places[0]), int(places[-1]))
            relevant: Array = model.fc.weight.numpy() @ hidden[-1]
            return relevant

        slow.append(slow_growth(score, 12, target, 99.5, 25, subtract=True, absolute=True))

    network = Network(model, tokens)
    name = "agglomerative_contextual_decomposition"
    for strict in (False, True):
        method = explainers.get(name)(network, preset="acd_text", strict=strict, collapse=False)
        found = method.explain(tokens, target=TARGETS)
        for sample, expected in enumerate(slow):
            check_levels(found.arrays["components"][sample], expected)
            scores = {members: each for level in expected for members, each in level.items()}
            for node in found.tables[""]:
                members = tuple(node["members"])
                if node["row"] == sample and members in scores:
                    # products of the gates of up to twelve words
                    np.testing.assert_allclose(node["scores"], scores[members], 1e-9, 1e-11)


def check_levels(levels: Tensor, expected: list[dict[tuple[int, ...], Array]]) -> None:
    # others of the batch may grow on, and the root comes as one level more
    lasting = expected + expected[-1:] * (len(levels) - len(expected))
    for level, components in zip(levels, lasting, strict=True):
        ids = torch.unique(level[level >= 0])
        held = {tuple((level == one).nonzero()[:, 0].tolist()) for one in ids}
        assert held == set(components)
