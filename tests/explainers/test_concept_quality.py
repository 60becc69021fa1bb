"""Concept scores: closed forms on embeddings that are made for them."""

from __future__ import annotations

import math

import pytest
import torch

from explainers.concepts.quality import clarity, polysemanticity, quality, redundancy

NAN = float("nan")
# sums of at most a thousand products of numbers near one, in double precision
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def whole(embeddings: torch.Tensor) -> torch.Tensor:
    return torch.ones(embeddings.shape[:2], dtype=torch.bool)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(left: torch.Tensor, right: torch.Tensor) -> float:
    return float(left @ right / left.norm() / right.norm())


def around(angle: float, n: int) -> torch.Tensor:
    """Unit vectors that have the same cosine, cos^2(angle), with each other."""
    axes = torch.eye(n + 1, dtype=torch.float64)
    return math.cos(angle) * axes[:1] + math.sin(angle) * axes[1:]


def test_clarity_is_the_mean_cosine_of_pairs() -> None:
    embeddings = drawn(3, 6, 5)
    slow = [
        sum(cosine(a, b) for i, a in enumerate(one) for j, b in enumerate(one) if i != j) / 30
        for one in embeddings
    ]
    torch.testing.assert_close(
        clarity(embeddings, whole(embeddings)), torch.tensor(slow, dtype=torch.float64), **CLOSE
    )


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.2])
def test_clarity_of_a_cone_is_its_squared_cosine(angle: float) -> None:
    embeddings = 3.0 * around(angle, 7).unsqueeze(0)
    expected = torch.tensor([math.cos(angle) ** 2], dtype=torch.float64)
    torch.testing.assert_close(clarity(embeddings, whole(embeddings)), expected, **CLOSE)


def test_clarity_of_orthogonal_and_of_opposite_samples() -> None:
    orthogonal = torch.eye(4, dtype=torch.float64)
    opposite = torch.cat([orthogonal[:2], -orthogonal[:2]])
    embeddings = torch.stack([orthogonal, opposite])
    expected = torch.tensor([0.0, -1 / 3], dtype=torch.float64)
    torch.testing.assert_close(clarity(embeddings, whole(embeddings)), expected, **CLOSE)


def test_samples_that_are_not_there_change_nothing() -> None:
    embeddings = drawn(4, 9, 5)
    some = whole(embeddings)
    some[:, [2, 5]] = False
    kept = embeddings[:, some[0]].contiguous()
    absent = embeddings.masked_fill(~some.unsqueeze(2), NAN)
    for name, score in quality(absent, some).items():
        expected = quality(kept, whole(kept))[name]
        torch.testing.assert_close(score, expected, **(CLOSE if score.is_floating_point() else {}))


def test_redundancy_is_the_mean_greatest_cosine_of_mean_embeddings() -> None:
    embeddings = drawn(5, 3, 4)
    means = embeddings.mean(1)
    greatest, nearest = [], []
    for one in range(5):
        others = {other: cosine(means[one], means[other]) for other in range(5) if other != one}
        nearest.append(max(others, key=lambda other: others[other]))
        greatest.append(others[nearest[-1]])
    found, which = redundancy(embeddings, whole(embeddings))
    assert which.tolist() == nearest
    assert float(found) == pytest.approx(sum(greatest) / 5, rel=1e-9)


def test_a_concept_that_is_there_twice_is_redundant() -> None:
    axes = torch.eye(3, dtype=torch.float64).unsqueeze(1).repeat(1, 2, 1)
    embeddings = torch.cat([axes, 2.0 * axes[:1]])
    found, nearest = redundancy(embeddings, whole(embeddings))
    assert float(found) == pytest.approx(0.5)
    assert nearest.tolist() == [3, 0, 0, 0]


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.5, 3.0])
def test_polysemanticity_of_two_groups_is_one_minus_the_cosine_between_them(angle: float) -> None:
    direction = torch.tensor([angle, 0.0], dtype=torch.float64)
    centres = torch.stack([direction.cos(), direction.sin()], 1)  # (2, d)
    jitter = 0.001 * drawn(1, 3, 2)
    groups = torch.cat(
        [centres[:1] + jitter[0] - jitter[0].mean(0), 2.0 * centres[1:].repeat(4, 1)]
    )
    found = polysemanticity(groups.unsqueeze(0), whole(groups.unsqueeze(0)))
    assert float(found) == pytest.approx(1 - float(torch.cos(direction[0])), abs=1e-9)


def test_a_sample_alone_is_no_second_meaning() -> None:
    embeddings = torch.tensor([[[1.0, 0.0]] * 11 + [[0.0, 50.0]]], dtype=torch.float64)
    mean = embeddings[0].mean(0)
    expected = sum(1 - cosine(mean, sample) for sample in embeddings[0, :10]) / 10
    found = polysemanticity(embeddings, whole(embeddings))
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_samples_that_are_all_the_same_have_one_meaning() -> None:
    embeddings = torch.ones(1, 5, 3, dtype=torch.float64)
    assert float(polysemanticity(embeddings, whole(embeddings))) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_clusters_are_as_good_as_those_of_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    centres = 2.0 * drawn(6, 2, 4, seed=1)
    embeddings = centres.repeat(1, 6, 1) + 0.5 * drawn(6, 12, 4, seed=2)
    slow = []
    for one in embeddings:
        found = cluster.KMeans(2, n_init=10, random_state=123).fit(one.numpy())
        slow.append(1 - cosine(*torch.from_numpy(found.cluster_centers_)))
    torch.testing.assert_close(
        polysemanticity(embeddings, whole(embeddings)),
        torch.tensor(slow, dtype=torch.float64),
        **CLOSE,
    )


@pytest.mark.parametrize("name", ["clarity", "polysemanticity"])
def test_what_is_undefined_is_not_a_number(name: str) -> None:
    embeddings = drawn(4, 3, 2)
    valid = whole(embeddings)
    valid[0, 1:] = False
    valid[1] = False
    embeddings[2, 0] = 0.0
    found = quality(embeddings, valid)[name]
    assert found.isnan().tolist() == [True, True, True, False]


def test_concepts_without_a_direction_are_not_redundant() -> None:
    embeddings = drawn(4, 3, 2)
    valid = whole(embeddings)
    valid[0] = False
    embeddings[2] = 0.0
    found, nearest = redundancy(embeddings, valid)
    assert nearest.tolist() == [-1, 3, -1, 1]
    assert float(found) == pytest.approx(cosine(embeddings[1].mean(0), embeddings[3].mean(0)))
    alone, nearest = redundancy(embeddings[:2], valid[:2])
    assert alone.isnan()
    assert nearest.tolist() == [-1, -1]


def test_no_concepts_and_no_samples_are_all_right() -> None:
    for shape in ((0, 3, 2), (2, 0, 2)):
        embeddings = torch.zeros(shape)
        found = quality(embeddings, whole(embeddings))
        assert found["clarity"].shape == found["polysemanticity"].shape == shape[:1]
        assert found["redundancy"].isnan()


def test_scores_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = drawn(9, 5, 3).float()
    together = quality(embeddings, whole(embeddings))
    monkeypatch.setattr("explainers.concepts.quality._BLOCK", 1)
    apart = quality(embeddings, whole(embeddings))
    for name, score in together.items():
        assert torch.equal(score, apart[name]) or name == "redundancy"
    torch.testing.assert_close(together["redundancy"], apart["redundancy"])
    assert together["clarity"].dtype == torch.float32


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(concepts, n, d\)"):
        clarity(drawn(3, 2), torch.ones(3, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"torch\.bool"):
        clarity(drawn(3, 2, 4), torch.ones(3, 2))
