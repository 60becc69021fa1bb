"""What causal graphs keep of a class: the metric, and runs that score scans."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

import explainers
from explainers.causal.graphs import graphs_of
from explainers.causal.pruning import edges_of, pruned, random_edges
from explainers.causal.structure import structure_of
from pipeline.config import load
from pipeline.errors import ConfigError, PlanError
from pipeline.evaluate import evaluate
from pipeline.metrics import score, scores
from pipeline.planner import make_plan
from pipeline.run import run as run_config
from pipeline.store import open_run
from tests.explainers.zoo import small, small_network

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = torch.tensor([0, 2, 0, 1])

GRAPH: dict[Any, Any] = {
    0: {
        "fc": {"causes": [1, 3, 4], "effects": [0]},
        "conv2#1": {"causes": [0, 2, 5], "effects": [1, 3, 4]},
        "conv2": {"causes": [1], "effects": [0, 2, 5]},
    },
    2: {"fc": {"causes": [2], "effects": [2]}, "conv2#1": {"causes": [], "effects": [2]}},
    1: {"fc": {"causes": [], "effects": [1]}},
    "samples": {},
}


def columns(**parameters: Any) -> dict[str, Tensor]:
    inputs = small()[1]
    return scores("graph_faithfulness", small_network(), inputs, CLASSES, graph=GRAPH, **parameters)


@pytest.mark.parametrize("other_outputs", ["kept", "zeroed"])
def test_columns_are_those_of_pruned_networks_one_by_one(other_outputs: Any) -> None:
    found = columns(n_random=3, other_outputs=other_outputs)
    network, inputs = small_network(), small()[1]
    structure = structure_of(network)
    for row, label in enumerate([0, 2, 0]):
        sample = inputs[row : row + 1]
        edges = edges_of(structure, graphs_of(GRAPH)[label])
        drawn = [random_edges(structure, edges, label, f"0/{draw}") for draw in range(3)]
        kept = [
            pruned(network, structure, each, other_outputs=other_outputs)(sample)[0]
            for each in (edges, *drawn)
        ]
        without = pruned(network, structure, edges, keeps="complement")(sample)[0]
        for kind, outputs in {
            "full": [network(sample)[0]],
            "graph": kept[:1],
            "random": kept[1:],
            "complement": [without],
        }.items():
            each = torch.stack(outputs)
            expected = {
                "logit": each[:, label],
                "probability": each.softmax(1)[:, label],
                "accuracy": (each.argmax(1) == label).double(),
            }
            for name, values in expected.items():
                measured = float(found[f"{kind}_{name}"][row])
                # batches of one and of several differ by rounding
                assert measured == pytest.approx(float(values.mean()), abs=1e-10)
        fewer = torch.stack(kept[1:])[:, label] < kept[0][label]
        assert float(found["beaten"][row]) == pytest.approx(float(fewer.double().mean()))


def test_gain_and_drop_are_differences_of_logits() -> None:
    found = columns()
    gain = found["graph_logit"] - found["random_logit"]
    assert found["gain"].allclose(gain, equal_nan=True)
    assert found["drop"].allclose(found["full_logit"] - found["complement_logit"], equal_nan=True)


def test_classes_without_causes_have_no_score() -> None:
    for values in columns().values():
        assert values.isnan().tolist() == [False, False, False, True]


def test_a_sample_scores_the_same_alone() -> None:
    inputs, whole = small()[1], columns()
    alone = scores("graph_faithfulness", small_network(), inputs[1:2], 2, graph=GRAPH)
    for name, values in alone.items():
        assert float(values[0]) == pytest.approx(float(whole[name][1]), abs=1e-10)


def test_score_returns_the_gain() -> None:
    inputs = small()[1]
    found = score("graph_faithfulness", small_network(), inputs, CLASSES, graph=GRAPH)
    assert found.allclose(columns()["gain"], equal_nan=True)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("graph_faithfulness", {}, "got no graph"),
        ("graph_faithfulness", {"graph": GRAPH, "n_random": 0}, "expected at least 1"),
        ("graph_faithfulness", {"graph": GRAPH, "causes": "negative"}, "causes"),
        ("graph_faithfulness", {"graph": GRAPH, "other_outputs": "lost"}, "other_outputs"),
        ("sparseness", {}, "got no maps"),
    ],
)
def test_what_cannot_be_scored_is_refused(name: str, parameters: Any, message: str) -> None:
    with pytest.raises((ValueError, ConfigError), match=message):
        score(name, small_network(), small()[1], 0, **parameters)


CODE = '''
import torch
from torch import nn


class Images(torch.utils.data.Dataset):
    def __init__(self, n):
        generator = torch.Generator().manual_seed(1)
        self.targets = [index % 3 for index in range(n)]
        of_class = torch.rand(3, 1, 8, 8, generator=generator)[self.targets]
        self.images = (of_class + torch.rand(n, 1, 8, 8, generator=generator)) / 2

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.images[index], self.targets[index]


def images(n=40):
    return Images(n)


def model():
    """A network whose last layer is fitted to the images by ridge regression."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(96, 3),
    ).eval()
    data = images()
    with torch.no_grad():
        seen = network[:-1](data.images).double()
        wanted = 8.0 * torch.eye(3, dtype=torch.float64)[data.targets]
        gram = seen.T @ seen + 1e-3 * torch.eye(96, dtype=torch.float64)
        network[-1].weight.copy_(torch.linalg.solve(gram, seen.T @ wanted).T)
    return network
'''
GRAPHS = {"method": "causal_graph", "n_samples": 10, "n_held_out": 5, "n_bootstrap": 5}
MAPS = {"method": "causal_attribution", "layer": "2", "keep_children": True}


def configured(folder: Path, **sections: Any) -> Any:
    (folder / "code.py").write_text(CODE)
    settings = {
        "name": "graphs",
        "model": {"source": "python", "name": "code.py:model"},
        "data": {"source": "python", "function": "code.py:images"},
        "output": {"path": str(folder / "out"), "shard_size": 10},
        "engine": {"kind": "serial", "batch_size": 5},
        "metrics": {"graph_faithfulness": {"n_random": 2}},
        **sections,
    }
    file = folder / "run.yaml"
    file.write_text(json.dumps(settings))
    return load(file)


@pytest.mark.slow
def test_plans_without_graphs_or_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no entry of explainers finds any"):
        make_plan(configured(tmp_path, explainers={"saliency": {}}))
    target = {"weights": [0.5, 0.5, 0.0]}
    with pytest.raises(PlanError, match="a weighting of the outputs"):
        make_plan(configured(tmp_path, explainers={"graph": GRAPHS}, target=target))


@pytest.mark.slow
def test_a_run_scores_its_scan_and_maps_its_graphs(tmp_path: Path) -> None:
    entries = {"graph": GRAPHS, "where": MAPS, "saliency": {}}
    config = configured(
        tmp_path,
        explainers=entries,
        target=["predicted", "label"],
        metrics={"graph_faithfulness": {"n_random": 2}, "sparseness": {}},
    )
    assert run_config(config).exit_code == 0
    run = open_run(tmp_path / "out")
    stored = run.scores("graph_faithfulness", "graph")
    assert not run.scores("graph_faithfulness", "saliency")
    assert not run.scores("sparseness", "graph")
    data, model = user_code(tmp_path)
    images = data.images
    labels = torch.tensor(data.targets)
    network = explainers.Network(model, images[:2])
    graph = run.scans["graph"].load()
    for ending, target in {"": None, ".1": labels}.items():
        expected = scores("graph_faithfulness", network, images, target, graph=graph, n_random=2)
        assert bool(expected["gain"].isfinite().any())
        for name, values in expected.items():
            # float32, in batches of other sizes
            np.testing.assert_allclose(stored[name + ending], values, rtol=0.0, atol=1e-4)
    maps = explainers.get("causal_attribution")(network, graph=graph, layer="2", keep_children=True)
    explained = maps.explain(images, labels)
    assert bool(explained.relevance.any())
    of_label = run.maps["where"].values[:, 1]
    np.testing.assert_allclose(of_label, explained.relevance, rtol=0.0, atol=1e-5)
    index = run.array("where", "child_index")
    assert index.dims == ("sample", "target", "child")
    np.testing.assert_array_equal(index.values[:, 1], explained.arrays["child_index"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "graph_faithfulness" in page
    again = evaluate(run)
    assert again.n_scored == 0
    assert any(row.explainer == "graph" for row in again.aggregates)


@pytest.mark.long
def test_a_graph_that_only_maps_ask_for_is_scored_too(tmp_path: Path) -> None:
    run_config(configured(tmp_path, explainers={"where": MAPS}))
    found = open_run(tmp_path / "out").scores("graph_faithfulness", "causal_graph")
    assert np.isfinite(found["gain"]).any()


def user_code(folder: Path) -> tuple[Any, Any]:
    names: dict[str, Any] = {}
    exec(compile(CODE, "code.py", "exec"), names)
    return names["images"](), names["model"]()
