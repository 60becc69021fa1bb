from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from pipeline.data import Record
from pipeline.manifest import Manifest
from pipeline.prefetch import DEPTH, N_WAITING, Reader, open_decoders
from pipeline.shards import Shard
from pipeline.writer import MAX_WAITING, Writer


@dataclass
class Counting:
    """A source that remembers what was read, and cannot read sample 5."""

    decode_threads: int = 1
    seen: list[int] = field(default_factory=list)

    def load(self, record: Record) -> torch.Tensor:
        self.seen.append(record.index)
        if record.index == 5:
            raise OSError("truncated")
        return torch.full((1, 2, 2), float(record.index))


def reader(source: Any, pool: ThreadPoolExecutor, n: int = 20) -> Reader:
    records = [Record(index, f"s{index}", str(index), label=index % 3) for index in range(n)]
    return Reader(source, Manifest(records), (1, 2, 2), pool, is_pinned=False)


def test_batches_are_those_of_the_shard_in_order_without_bad_samples() -> None:
    with ThreadPoolExecutor(1) as pool:
        batches = list(reader(Counting(), pool).batches(Shard(1, 4, 11), 3))
    assert [batch.index.tolist() for batch in batches] == [[4, 6], [7, 8, 9], [10]]
    assert [batch.rows for batch in batches] == [[0, 2], [3, 4, 5], [6]]
    assert batches[0].inputs[:, 0, 0, 0].tolist() == [4, 6]
    assert batches[0].label.tolist() == [1, 0]
    assert list(batches[0].failures) == [1]
    assert "truncated" in batches[0].failures[1]
    assert batches[0].sample_ids == ("s4", "s5", "s6")


def test_only_what_is_wanted_is_read() -> None:
    source = Counting()
    with ThreadPoolExecutor(1) as pool:
        wanted = reader(source, pool).batches(Shard(1, 4, 11), 2, [1, 2, 6])
        batches = list(wanted)
        assert list(reader(source, pool).batches(Shard(0, 0, 4), 2, [])) == []
    assert [batch.index.tolist() for batch in batches] == [[6], [10]]
    assert [batch.rows for batch in batches] == [[2], [6]]
    assert [list(batch.failures) for batch in batches] == [[1], []]
    assert source.seen == [5, 6, 10]


def test_reading_is_ahead_but_not_far_ahead() -> None:
    source = Counting()
    with ThreadPoolExecutor(1) as pool:
        batches = reader(source, pool).batches(Shard(0, 0, 20), 1)
        next(batches)
        pool.submit(int).result()
        assert len(source.seen) == DEPTH + 1
        batches.close()


def test_the_writer_holds_so_many_shards_and_no_more() -> None:
    writer = Writer()
    may_write = threading.Event()
    futures = [writer.submit(may_write.wait) for _ in range(MAX_WAITING)]
    late: list[Any] = []
    thread = threading.Thread(target=lambda: late.append(writer.submit(int)))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    may_write.set()
    thread.join(10)
    writer.close()
    assert [future.result() for future in futures] == [True] * MAX_WAITING
    assert late[0].result() == 0


def test_what_the_writer_raises_is_in_the_future() -> None:
    writer = Writer()
    future = writer.submit(lambda: [][0])
    with pytest.raises(IndexError):
        future.result()
    writer.close()


@dataclass
class Meeting(Counting):
    """A source whose samples wait until so many are being read at once."""

    decode_threads: int = 3
    is_remote: bool = False
    name: str = "meeting"

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.decode_threads)

    def load(self, record: Record) -> torch.Tensor:
        self.barrier.wait(30)
        return super().load(record)


def test_threads_share_a_batch_and_its_order_stays() -> None:
    source = Meeting()
    with ThreadPoolExecutor(1) as pool, open_decoders(source, 3) as decoders:  # type: ignore[arg-type]
        shared = replace(reader(source, pool), decoders=decoders)
        batches = list(shared.batches(Shard(0, 0, 12), 6))
        names = {thread.name for thread in threading.enumerate() if "decoder" in thread.name}
    assert [batch.index.tolist() for batch in batches] == [[0, 1, 2, 3, 4], [6, 7, 8, 9, 10, 11]]
    assert sorted(source.seen) == list(range(12))
    # the same three for both batches
    assert len(names) == 3


@pytest.mark.parametrize("depth", [1, 4])
def test_as_many_batches_are_read_ahead_as_asked_for(depth: int) -> None:
    source = Counting()
    with ThreadPoolExecutor(1) as pool:
        batches = replace(reader(source, pool), depth=depth).batches(Shard(0, 0, 20), 2)
        next(batches)
        pool.submit(int).result()
        assert len(source.seen) == 2 * (depth + 1)
        batches.close()


def test_threads_are_those_of_use_on_the_processors_there_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipeline.prefetch.processors", lambda: 4)
    cases = [
        (Meeting(8), "auto", 4),
        (Meeting(3), "auto", 3),
        (Meeting(2, is_remote=True), "auto", N_WAITING),
        (Meeting(2), 6, 6),
        (Meeting(8, is_remote=True), 3, 3),
        # no two threads may call it
        (Meeting(1), "auto", 1),
        (Meeting(1, is_remote=True), "auto", 1),
    ]
    for source, asked, expected in cases:
        with open_decoders(source, asked) as decoders:  # type: ignore[arg-type]
            assert decoders._max_workers == expected
    assert not caplog.records
    with open_decoders(Meeting(1), 6) as decoders:  # type: ignore[arg-type]
        assert decoders._max_workers == 1
    assert "is read by one thread" in caplog.text
