"""Groups are summed up together as each would be by itself."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.statistics.summaries import (
    macro,
    macro_of_shares,
    of_shares,
    student_t,
    summarise,
    summarise_groups,
)


def test_groups_are_summed_up_as_if_alone() -> None:
    values = np.random.default_rng(0).normal(size=(23, 3))
    values[[0, 5, 7, 8, 9], [0, 1, 2, 2, 2]] = np.nan
    starts = np.array([0, 1, 7, 10])
    together = summarise_groups(values, starts)
    for place, part in enumerate(np.split(values, starts[1:])):
        for column in range(3):
            known = part[:, column][~np.isnan(part[:, column])]
            found = together[place, column]
            assert (found.n, found.n_undefined) == (len(known), len(part) - len(known))
            if not len(known):
                assert np.isnan([found.mean, found.median, found.std]).all()
                continue
            assert found.mean == pytest.approx(known.mean())
            assert found.median == pytest.approx(np.median(known))
            if len(known) > 1:
                assert found.std == pytest.approx(known.std(ddof=1))
            else:
                assert np.isnan([found.std, found.low]).all()
    # 2.16037 is the quantile of 13 degrees of freedom
    whole = summarise(np.arange(14.0)[:, None])
    assert whole.high[0] - 6.5 == pytest.approx(2.16037 * whole.std[0] / np.sqrt(14), rel=1e-5)


def test_no_samples_are_no_summary() -> None:
    nothing = summarise(np.empty((0, 2)))
    assert nothing.n.tolist() == [0, 0]
    assert np.isnan(nothing.mean).all()


def test_macro_means_weigh_classes_alike() -> None:
    values = np.array([[1.0], [3.0], [5.0], [7.0], [np.nan]])
    found = macro(summarise_groups(values, np.array([0, 3, 4])))
    assert found.mean[0] == 5.0
    assert (found.n[0], found.n_undefined[0]) == (4, 1)
    assert found.std[0] == pytest.approx(np.std([3.0, 7.0], ddof=1))


def coverage(sizes: tuple[int, ...], *, n_trials: int = 3000) -> float:
    """Return how often the interval holds the mean of classes of these sizes."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=len(sizes))
    values = rng.normal(np.repeat(means, sizes)[:, None], 1, (sum(sizes), n_trials))
    found = macro(summarise_groups(values, np.cumsum((0, *sizes[:-1]))))
    return float(((found.low <= means.mean()) & (means.mean() <= found.high)).mean())


def test_macro_intervals_cover_where_classes_are_small() -> None:
    # a normal quantile covers 91.8 % here; 3,000 trials have a standard error of .4 %
    assert coverage((2,) * 10) >= 0.94
    assert coverage((2,) * 9 + (1,)) >= 0.94
    assert coverage((200, 3, 3, 3, 3)) >= 0.94


def test_macro_means_of_classes_of_one_sample_have_no_interval() -> None:
    starts = np.arange(3)
    found = macro(summarise_groups(np.array([[1.0], [2.0], [4.0]]), starts))
    assert np.isnan([found.low[0], found.high[0]]).all()


def test_macro_degrees_of_freedom_are_welchs_of_two_classes() -> None:
    first, second = np.array([1.0, 2.0, 4.0, 4.5]), np.array([0.0, 3.0, 9.0])
    values = np.concatenate([first, second])[:, None]
    found = macro(summarise_groups(values, np.array([0, 4])))
    v, w = first.var(ddof=1) / 4, second.var(ddof=1) / 3
    degrees = (v + w) ** 2 / (v**2 / 3 + w**2 / 2)
    assert 2 < degrees < 3
    half = student_t(degrees) * np.sqrt(v + w) / 2
    assert found.high[0] - found.mean[0] == pytest.approx(half)


def test_macro_shares_stay_within_0_and_1_and_have_a_width() -> None:
    starts = np.array([0, 4, 8])
    classes = of_shares(summarise_groups(np.repeat([[1.0, 0.0]], 9, axis=0), starts))
    whole = macro_of_shares(classes)
    # classes of 4, 4 and 1 say as much as 9 / (1/4 + 1/4 + 1) = 6 samples
    assert (whole.low[0], whole.high[1]) == pytest.approx((0.6097, 0.3903), abs=1e-4)
    assert (whole.high[0], whole.low[1]) == pytest.approx((1.0, 0.0))
    rare = np.zeros((30, 1))
    rare[3] = 1.0
    found = macro_of_shares(of_shares(summarise_groups(rare, np.array([0, 10, 20]))))
    assert 0 <= found.low[0] < found.mean[0] < found.high[0] < 0.3
    # one class alone has nearly its own interval: its variance counts n - 1
    alone = of_shares(summarise_groups(rare, np.array([0])))
    assert macro_of_shares(alone).high == pytest.approx(alone.high[0], abs=5e-3)
