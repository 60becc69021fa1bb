from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PlanError
from pipeline.shards import Shard, cut


@given(n_samples=st.integers(0, 500), shard_size=st.integers(1, 600))
def test_every_sample_is_in_one_shard_and_all_but_the_last_are_full(
    n_samples: int, shard_size: int
) -> None:
    shards = cut(n_samples, shard_size)
    assert [n for shard in shards for n in range(shard.start, shard.stop)] == list(range(n_samples))
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(len(shard) == shard_size for shard in shards[:-1])
    assert all(0 < len(shard) <= shard_size for shard in shards)


def test_rows_select_the_samples_of_a_shard() -> None:
    assert list(range(10))[cut(10, 4)[2].rows] == [8, 9]
    assert cut(10, 4)[1] == Shard(1, 4, 8)


@pytest.mark.parametrize(("n_samples", "shard_size"), [(10, 0), (10, -1), (-1, 4)])
def test_impossible_sizes_are_refused(n_samples: int, shard_size: int) -> None:
    with pytest.raises(PlanError, match="expected"):
        cut(n_samples, shard_size)
