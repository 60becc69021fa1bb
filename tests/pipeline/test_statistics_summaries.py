"""Groups are summed up together as each would be by itself."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.statistics.summaries import macro, summarise, summarise_groups


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
