"""Metrics agree as far as they order explainers alike; ranks are over blocks that are named."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.aggregate import Groups
from pipeline.agreement import Ranking, Scores, _over_classes, _over_metrics, disagreement
from pipeline.report.rank_diagram import draw
from pipeline.report.sections.ranks import _verdict
from pipeline.statistics import Friedman, kendall

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = ("lrp", "gradient", "random", "sobel")


def columns(*order: float, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Return scores of 30 samples whose means are in this order."""
    noise = np.random.default_rng(seed).normal(size=(len(order), 30))
    return dict(zip(NAMES, np.array(order)[:, None] + noise, strict=False))


@pytest.fixture
def found() -> Scores:
    return {
        "flipping": columns(0.0, 1.0, 2.0, 3.0),
        "reversed": columns(3.0, 2.0, 1.0, 0.0, seed=1),
        "partly": columns(0.0, 1.0, 2.0, seed=2),
        "alone": {"graph": np.zeros(30)},
    }


def test_agreement_is_kendalls_tau_within_samples_and_of_means(found: Scores) -> None:
    known = disagreement(found)
    assert known is not None
    assert (known.metrics, known.explainers) == (("flipping", "reversed", "partly"), NAMES)
    for i, j in itertools.product(range(3), repeat=2):
        one, other = found[known.metrics[i]], found[known.metrics[j]]
        shared = [name for name in NAMES if name in one and name in other]
        each = [
            kendall([one[name][n] for name in shared], [other[name][n] for name in shared])
            for n in range(30)
        ]
        assert known.per_sample[i, j] == pytest.approx(np.mean(each))
    assert known.of_means[0, 1] == pytest.approx(-1.0)
    assert known.of_means[0, 2] == pytest.approx(1.0)


def test_two_explainers_are_too_few_to_agree_on(found: Scores) -> None:
    pair = {"lrp": np.zeros(30), "sobel": np.ones(30)}
    assert disagreement({"flipping": pair, "sparseness": pair}) is None
    known = disagreement({**found, "short": pair, "partly": found["partly"]})
    assert known is not None
    assert "short" not in known.metrics


def test_classes_are_blocks_where_there_are_five() -> None:
    groups = Groups({}, np.repeat(np.arange(6), 5))
    ranking = _over_classes("flipping", columns(2.0, 0.0, 6.0, 4.0), groups)
    assert ranking is not None
    assert (ranking.blocks, ranking.test.n_blocks) == ("classes", 6)
    assert ranking.explainers == ("gradient", "lrp", "sobel", "random")
    few = Groups({}, np.repeat(np.arange(3), 10))
    assert _over_classes("flipping", columns(2.0, 0.0, 6.0, 4.0), few) is None


def test_a_metric_of_few_explainers_is_left_out_and_named() -> None:
    six = {f"metric{n}": columns(0.0, 5.0, 9.0, 13.0, seed=n) for n in range(5)}
    six["dear"] = columns(0.0, 5.0, seed=5)
    ranking = _over_metrics(six)
    assert ranking is not None
    assert (ranking.test.n_blocks, len(ranking.explainers)) == (5, 4)
    assert ranking.left_out == ("dear",)
    assert "Left out, for they score fewer explainers: dear." in _verdict(ranking)


def test_metrics_are_blocks_of_the_explainers_that_all_score(found: Scores) -> None:
    assert _over_metrics(found) is None
    five = {f"metric{n}": columns(0.0, 5.0, 9.0, 13.0, seed=n) for n in range(5)}
    five["metric0"].pop("sobel")
    ranking = _over_metrics(five)
    assert ranking is not None
    assert (ranking.metric, ranking.blocks) == ("", "metrics")
    assert ranking.explainers == ("lrp", "gradient", "random")
    assert ranking.test.mean_ranks == (1.0, 2.0, 3.0)
    assert ranking.left_out == ()


def ranking(*ranks: float, p: float = 0.01) -> Ranking:
    names = tuple(f"explainer{n}" for n in range(len(ranks)))
    return Ranking("", "classes", names, Friedman(10, len(ranks), ranks, 9.0, p, 4.0, 1.0))


def test_bars_join_what_is_closer_than_the_difference() -> None:
    assert ranking(1.0, 1.8, 2.5, 3.9).bars() == ((0, 1), (1, 2))
    assert ranking(1.0, 2.5, 3.9).bars() == ()
    assert ranking(1.0, 1.2, 1.4, 3.9).bars() == ((0, 2),)
    # without any difference over all, pairs are not compared
    assert ranking(1.0, 2.5, 3.9, p=0.2).bars() == ((0, 2),)


def test_the_diagram_says_in_words_what_it_shows() -> None:
    drawn = draw(ranking(1.0, 1.8, 2.5, 3.9), "Mean ranks")
    assert "Mean ranks: explainer0 1.00, explainer1 1.80" in drawn
    assert "Not told apart: explainer0, explainer1; explainer1, explainer2." in drawn
    assert "critical difference 1.00" in drawn
    assert drawn == draw(ranking(1.0, 1.8, 2.5, 3.9), "Mean ranks")
    assert "critical difference" not in draw(ranking(1.0, 2.0, 3.0, p=0.5), "Mean ranks")
