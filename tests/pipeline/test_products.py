"""What a shard's products say of themselves when they are written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from pipeline.products import Products
from pipeline.sinks import tables
from pipeline.sinks.maps import LENGTH, Layout, MapSink
from tests.pipeline import stored

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_maps_that_are_not_finite_are_counted(tmp_path: Path, dtype: str) -> None:
    plan = stored.make_plan(dtype)
    shard = plan.shards[0]
    sink = MapSink(tmp_path)
    layouts = {name: Layout(stored.DIMS, stored.SHAPE, dtype) for name in ("lrp", "ig")}
    sink.create(layouts, plan.n_samples, plan.shard_size)
    products = Products.empty(shard, plan, ("lrp", "ig"), is_first=False)
    products.failures[0] = "broken"
    rows = list(range(1, len(shard)))
    maps = torch.ones(len(rows), *stored.SHAPE)
    products.put_array("ig", "relevance", rows, maps * 3e38)
    maps[0, 0, 0, 0], maps[0, 0, 0, 1], maps[1, 0, 1, 0] = torch.inf, -torch.inf, torch.nan
    products.put_array("lrp", "relevance", rows, maps)
    records = stored.make_manifest().slice(shard.start, shard.stop)
    with ThreadPoolExecutor(1) as executor:
        products.write(str(tmp_path), "explain", sink, plan, records, executor)
    assert products.not_finite == {"lrp": 2}
    assert np.isnan(products.arrays["lrp", "relevance"][0]).all()


@pytest.mark.parametrize("batch", [2, 4])
def test_rows_of_a_table_are_in_the_order_of_samples_and_targets(
    tmp_path: Path, batch: int
) -> None:
    plan = stored.make_plan(targets=("predicted", "label"))
    shard = plan.shards[1]
    products = Products.empty(shard, plan, (), is_first=False)
    # as they come: batch by batch, of each all rows of one target before those of the other
    for start in range(shard.start, shard.stop, batch):
        for target, sample, node in product(range(2), range(start, start + batch), range(3)):
            row = {"sample": sample, "target": target, "node": node}
            products.rows.setdefault("acd", []).append(row)
    records = stored.make_manifest().slice(shard.start, shard.stop)
    with ThreadPoolExecutor(1) as executor:
        products.write(str(tmp_path), "explain", MapSink(tmp_path), plan, records, executor)
    found = tables.read(tmp_path, "acd", [shard.index]).to_pylist()
    every = product(range(shard.start, shard.stop), range(2), range(3))
    assert [tuple(row.values()) for row in found] == list(every)


def test_a_slice_up_to_the_length_of_a_sample_without_tokens_is_empty(tmp_path: Path) -> None:
    plan = stored.make_plan()
    shard, sink = plan.shards[0], MapSink(tmp_path)
    sink.create({}, plan.n_samples, plan.shard_size, {LENGTH: Layout(dtype="int64")})
    products = Products(shard, {("", LENGTH): np.full(len(shard), -1)})
    known = stored.make_manifest().slice(shard.start, shard.stop)
    records = [replace(known[0], length=None), *(replace(each, length=3) for each in known[1:])]
    with ThreadPoolExecutor(1) as executor:
        products.write(str(tmp_path), "explain", sink, plan, records, executor)
    assert products.arrays["", LENGTH].tolist() == [0, *[3] * (len(shard) - 1)]
