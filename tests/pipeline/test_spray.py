"""Pooled maps, their moments, the Laplacian of their graph, and what regions do to a network."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.sparse import block_diag, csr_matrix

from pipeline import parameters
from pipeline.errors import ConfigError, StoreError
from pipeline.spray import Analysis, Cluster, Counterfactual, Spray, View, spray, stored
from pipeline.spray.clusters import evidence, gini, hot_region
from pipeline.spray.counterfactual import judged, outcomes
from pipeline.spray.findings import left_out
from pipeline.spray.moments import EXACT, Factors, Moments, projected
from pipeline.spray.parameters import build
from pipeline.spray.pooling import grid_of, pooled
from pipeline.spray.probes import Facts, Probe, probes
from pipeline.spray.regions import imputation, positions
from pipeline.spray.spectrum import eigenpairs

if TYPE_CHECKING:
    from pathlib import Path

RANDOM = np.random.default_rng(0)


def test_maps_are_summed_over_channels_and_cells_and_have_norm_1() -> None:
    maps = RANDOM.standard_normal((3, 2, 7, 5))
    found, is_defined = pooled(maps, 2, 3, "absolute")
    assert grid_of((7, 5), 3) == (3, 2)
    expected = np.zeros((3, 3, 2))
    for row in range(7):
        for column in range(5):
            expected[:, row // 3, column // 3] += np.abs(maps[:, :, row, column].sum(axis=1))
    expected /= expected.sum(axis=(1, 2), keepdims=True)
    assert is_defined.all()
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_map_that_says_nothing_is_undefined_and_touches_no_other(bad: float) -> None:
    maps = RANDOM.standard_normal((3, 1, 4, 4))
    alone, _ = pooled(maps, 2, None, "signed")
    maps[1] = bad
    found, is_defined = pooled(maps, 2, None, "signed")
    assert is_defined.tolist() == [True, False, True]
    assert not found[1].any()
    np.testing.assert_array_equal(found[[0, 2]], alone[[0, 2]])


def test_the_sign_is_taken_after_channels_are_summed() -> None:
    maps = np.array([[[[3.0, -1.0]], [[-1.0, -1.0]]]])
    for sign, expected in (
        ("signed", [0.5, -0.5]),
        ("absolute", [0.5, 0.5]),
        ("positive", [1.0, 0.0]),
    ):
        np.testing.assert_array_equal(pooled(maps, 2, None, sign)[0], [expected])


def test_merged_moments_are_those_of_all() -> None:
    rows = RANDOM.standard_normal((40, 6)) + 100
    merged = (
        Moments.of(rows[:1], 0).merged(Moments.of(rows[1:13], 0)).merged(Moments.of(rows[13:], 0))
    )
    np.testing.assert_allclose(merged.mean, rows.mean(axis=0), rtol=1e-14)
    # 1e-11 of 40: the shift of 100 costs four of sixteen digits, squared
    np.testing.assert_allclose(merged.scatter, 39 * np.cov(rows.T), atol=1e-9)


def test_truncated_merges_keep_the_first_directions() -> None:
    scales = 0.5 ** np.arange(30)
    rows = RANDOM.standard_normal((200, 30)) * scales + np.arange(30)
    exact = Moments.of(rows, 0).directions(4)
    parts = [Factors.of(part, 12) for part in np.array_split(rows, 7)]
    total = parts[0]
    for part in parts[1:]:
        total = total.merged(part)
    # what is cut off is 0.5**12 of the first
    np.testing.assert_allclose(np.abs((exact * total.directions(4)).sum(axis=0)), 1, atol=1e-6)


def test_a_projection_does_not_depend_on_the_cut() -> None:
    rows = RANDOM.standard_normal((30, 8)).astype(np.float32)
    whole = projected(lambda: [rows], 3)
    cut = projected(lambda: np.split(rows, [7, 7, 20]), 3)
    np.testing.assert_allclose(whole, cut, atol=1e-6)
    np.testing.assert_array_equal(projected(lambda: [rows], 8), rows)
    assert EXACT >= 64 * 64


def test_the_spectrum_is_that_of_the_whole_laplacian() -> None:
    blocks = [np.triu(RANDOM.random((n, n)) < 0.6, 1).astype(float) for n in (9, 6, 5)]
    links = block_diag([block + block.T for block in blocks]).toarray()
    order = RANDOM.permutation(20)
    links = links[order][:, order]
    values, vectors = eigenpairs(csr_matrix(links), 7)
    scale = 1 / np.sqrt(links.sum(axis=1))
    laplacian = np.eye(20) - scale[:, None] * links * scale
    np.testing.assert_allclose(values, np.linalg.eigvalsh(laplacian)[:7], atol=1e-12)
    np.testing.assert_allclose(laplacian @ vectors, vectors * values, atol=1e-12)
    assert (values[:3] == 0).all()
    assert values[3] > 0.01


def test_clusters_are_as_many_as_zeros_or_as_the_gap_tells() -> None:
    few = Spray(max_clusters=4)
    assert evidence(np.array([0, 0.001, 0.3, 0.4, 0.5, 0.6]), few) == (1, pytest.approx(0.299), 2)
    assert evidence(np.array([0, 0.1, 0.12, 0.4, 0.5, 0.9]), few) == (0, pytest.approx(0.28), 3)
    assert evidence(np.zeros(6), few)[2] == 4
    # maps that are all the same: the step from the first is no gap
    assert evidence(np.array([0, 1, 1, 1, 1, 1.0]), few)[2] == 1
    assert evidence(np.zeros(6), Spray(n_clusters=5))[2] == 5


def test_strategies_that_hang_together_by_a_few_maps_are_told_apart_too() -> None:
    four_tags = np.array([0, 0.0041, 0.0265, 0.0424, 0.1005, 0.1122, 0.1394, 0.19])
    n_zero, _, count = evidence(four_tags, Spray())
    assert (n_zero, count) == (1, 4)
    # of one tag, parts that fall asunder keep what is within them together
    one_tag = np.array([0, 0, 0.0577, 0.0771, 0.1206, 0.1511, 0.2122, 0.2167])
    assert evidence(one_tag, Spray())[2] == 2


def test_the_hot_region_is_the_least_that_holds_the_share() -> None:
    contrast = np.array([-1.0, 4.0, 1.0, 3.0, 2.0, 0.0])
    assert np.flatnonzero(hot_region(contrast, 0.7, 1.0)).tolist() == [1, 3]
    assert np.flatnonzero(hot_region(contrast, 0.71, 1.0)).tolist() == [1, 3, 4]
    assert np.flatnonzero(hot_region(contrast, 1.0, 0.3)).tolist() == [1]
    assert not hot_region(-np.abs(contrast), 0.7, 1.0).any()


def test_the_gini_index_is_that_of_its_definition() -> None:
    values = RANDOM.random(9)
    differences = np.abs(values[:, None] - values).sum()
    assert gini(values) == pytest.approx(differences / (2 * 9 * values.sum()))
    assert gini(np.zeros(4)) == 0


def test_cells_are_found_again_in_inputs_of_another_size() -> None:
    hot = np.array([[True, False], [False, True]])
    np.testing.assert_array_equal(positions(hot, 2, (4, 4), (4, 4)), np.kron(hot, np.ones((2, 2))))
    np.testing.assert_array_equal(
        positions(hot, None, (2, 2), (6, 6)), np.kron(hot, np.ones((3, 3)))
    )


def test_imputed_pixels_are_weighted_means_of_their_neighbours() -> None:
    mask = np.zeros((5, 6), bool)
    mask[0:2, 1:4] = True
    mask[4, 5] = True
    image = RANDOM.random((5, 6))
    filled = image.copy()
    filled[mask] = imputation(mask).astype(np.float64) @ image[~mask]
    for row, column in np.argwhere(mask):
        total = weights = 0.0
        for i in range(max(0, row - 1), min(5, row + 2)):
            for j in range(max(0, column - 1), min(6, column + 2)):
                if (i, j) != (row, column):
                    weight = 1 / 12 if i != row and j != column else 1 / 6
                    total, weights = total + weight * filled[i, j], weights + weight
        # float32 weights
        assert filled[row, column] == pytest.approx(total / weights, abs=1e-6)
    assert not imputation(np.ones((2, 2), bool)).size


class Corner:
    """Says class 1 where the top left pixel is bright, else class 0 (or 2 where all is dark)."""

    def __init__(self) -> None:
        self.n_rows = 0

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        self.n_rows += len(inputs)
        corner, rest = inputs[:, 0, 0, 0], inputs[:, 0, 3, 3]
        return torch.stack([4 * rest, 8 * corner - 1, torch.ones_like(corner)], dim=1)


def corner_pictures() -> tuple[torch.Tensor, np.ndarray]:
    pictures = torch.zeros(12, 1, 4, 4, dtype=torch.float64)
    pictures[:8, 0, 3, 3] = 1.0
    pictures[:4, 0, 0, 0] = 1.0
    return pictures, Corner()(pictures).argmax(dim=1).numpy()


def a_cluster(label: int, medoids: tuple[int, ...], hot: np.ndarray) -> Cluster:
    mean = np.where(hot, 0.9, 0.1 / 3).astype(np.float32)
    return Cluster(label, 4, 0.5, medoids, mean, mean, hot, 0.5, (0.25, 0.25), 1.0)


def an_analysis(**changed: Any) -> Analysis:
    hot = np.array([[True, False], [False, False]])
    clusters = (a_cluster(0, (0, 1), hot), a_cluster(1, (6,), ~hot))
    samples, labels = np.arange(8), np.array([0] * 4 + [1] * 4, np.int32)
    embedding, values = np.ones((8, 2), np.float32), np.array([0.0, 0.001])
    view = View("class:1", 1, 8, samples, labels, embedding, values, 1, 0.0, 1.0, clusters)
    told = {"grid": 2, "n_checked": 5, "seed": 0, "flip_rate": 0.3, **changed}
    return Analysis({"class:1": view}, (2, 2), 8, 0, {3: 2}, "lrp", told)


def corner_probes(**changed: Any) -> tuple[Analysis, list[Probe], torch.Tensor]:
    pictures, said = corner_pictures()
    # the four that say another class although they belong to the view are neither in nor out
    facts = Facts(said, np.array([1] * 8 + [2] * 4))
    analysis = an_analysis(**changed)

    def read(samples: Any) -> np.ndarray:
        return pictures[list(samples)].numpy()

    return analysis, list(probes(analysis, facts, (4, 4), read)), pictures


def test_a_region_that_decides_alone_is_a_clever_hans_and_the_other_is_not() -> None:
    analysis, checks, pictures = corner_probes()
    network: Any = Corner()
    found = outcomes(network, pictures, np.arange(12), checks, 5)
    first, second = judged(analysis, checks, found).views["class:1"].clusters
    assert (first.verdict, second.verdict) == ("clever_hans", "cluster")
    outcome = first.counterfactual
    assert outcome is not None
    assert (outcome.n_inside, outcome.n_outside, outcome.n_pasted) == (4, 0, 4)
    assert (outcome.flip_rate, outcome.control_rate) == (1.0, 0.0)
    # erased, the corner takes its dark neighbours' value
    assert outcome.erase_lost_inside == 1.0
    assert outcome.erase_drop_inside > 0.9
    assert np.isnan(outcome.erase_drop_outside)
    assert judged(an_analysis(flip_rate=0.6), checks, found).clever_hans == ()


def test_of_one_target_for_all_others_are_told_by_what_the_network_says_and_by_the_truth() -> None:
    pictures, said = corner_pictures()
    analysis = an_analysis()
    view = analysis.views["class:1"]
    every = {"n": 12, "samples": np.arange(12), "labels": np.array([0] * 4 + [1] * 8, np.int32)}
    analysis.views["class:1"] = View(**{**vars(view), **every})
    facts = Facts(said, np.array([1] * 5 + [2] * 7))
    (check, _) = probes(analysis, facts, (4, 4), lambda rows: pictures[list(rows)].numpy())
    assert set(check.others) <= set(range(5, 12))
    assert len(check.others) == 5


def test_outcomes_depend_neither_on_shards_nor_on_batches() -> None:
    _, checks, pictures = corner_probes()
    network: Any = Corner()
    whole = outcomes(network, pictures, np.arange(12), checks, 64)
    parts = [
        outcomes(network, pictures[rows], np.arange(12)[rows], checks, 3)
        for rows in (slice(0, 5), slice(5, 5), slice(5, 12))
    ]
    order = np.lexsort((whole["sample"], whole["kind"], whole["probe"]))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in whole}
    again = np.lexsort((joined["sample"], joined["kind"], joined["probe"]))
    for name, values in whole.items():
        np.testing.assert_array_equal(values[order], joined[name][again])


def test_unchanged_samples_are_asked_once() -> None:
    _, checks, pictures = corner_probes()
    network: Any = Corner()
    found = outcomes(network, pictures, np.arange(12), checks, 64)
    assert network.n_rows == len(found["probe"]) + len(np.unique(found["sample"]))


def test_a_cluster_cut_in_two_is_no_control_of_itself() -> None:
    hot = np.array([[True, False], [False, False]])
    analysis = an_analysis()
    view = analysis.views["class:1"]
    clusters = (*view.clusters, a_cluster(2, (2,), hot))
    analysis.views["class:1"] = View(**{**vars(view), "clusters": clusters})
    pictures, said = corner_pictures()
    facts = Facts(said, np.array([1] * 8 + [2] * 4))
    checks = list(probes(analysis, facts, (4, 4), lambda rows: pictures[list(rows)].numpy()))
    assert [check.controls.max() for check in checks if check.label != 1] == [0.0, 0.0]


def test_what_is_stored_is_what_was_found(tmp_path: Path) -> None:
    analysis, checks, pictures = corner_probes()
    network: Any = Corner()
    found = judged(analysis, checks, outcomes(network, pictures, np.arange(12), checks, 5))
    root = str(tmp_path)
    with pytest.raises(StoreError, match="no finished spectral analysis"):
        stored.read(root, "lrp")
    written = stored.write(root, "lrp", found, stored.RESULT)
    stored.finish(root, "lrp", written)
    again = stored.read(root, "lrp")
    assert stored.write(root, "lrp", again, stored.RESULT) == written
    assert again.skipped == {3: 2}
    before, after = found.views["class:1"], again.views["class:1"]
    np.testing.assert_array_equal(before.labels, after.labels)
    # as text, in which NaN is NaN
    assert repr(before.clusters[0].counterfactual) == repr(after.clusters[0].counterfactual)
    assert isinstance(after.clusters[1].counterfactual, Counterfactual)
    assert after.clusters[0].medoids == (0, 1)
    stored.write_probes(root, "lrp", checks)
    np.testing.assert_array_equal(stored.read_probes(root, "lrp")[1].patches, checks[1].patches)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_neighbours": 3}, "did you mean 'n_neighbors'"),
        ({"grid": 0}, "got grid 0, expected at least 1"),
        ({"hot_area": 0.0}, "expected a share above 0"),
        ({"views": []}, "expected class, global or both"),
        ({"n_clusters": 16}, "expected more than max_clusters and n_clusters"),
        ({"min_samples": 10}, "expected more than n_neighbors"),
        ({"by": "cluster"}, "target"),
        ({"min_samples": 2, "n_neighbors": 1}, "got min_samples 2, expected at least 3"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parameters.build(Spray, given, "spray.lrp")


@pytest.mark.parametrize("given", [{"sign": "foo"}, {"by": "nope"}, {"views": ("class", "all")}])
def test_python_refuses_words_that_run_files_refuse(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Spray(**given)


def test_no_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one value of one map"):
        spray(np.zeros((0, 1, 12, 12)))


def test_a_plan_asks_for_the_library_that_the_analysis_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config: Any = None
    with pytest.raises(ConfigError, match="needs scikit-learn"):
        build(config, {"lrp": {}})
    assert build(config, {}) == {}


def test_classes_that_are_left_out_are_named() -> None:
    analysis = replace(an_analysis(min_samples=3), explainer="lrp")
    assert list(left_out(analysis)) == [
        "Not analysed, as they have fewer than 3 maps (min_samples): classes 3 (2)."
    ]
    assert list(left_out(replace(analysis, views={}))) == [
        "No class was analysed, as all have fewer than 3 maps (min_samples): 3 (2)."
    ]
    assert list(left_out(replace(analysis, skipped={}))) == []
