from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import IntegrityError
from pipeline.ledger import Entry, Ledger

if TYPE_CHECKING:
    from pathlib import Path

ENTRY = Entry("explain", 3, "digest", {"maps.zarr/lrp/relevance/c.3.0.0.0": "ab"}, n_samples=4)


def test_a_record_is_read_as_it_was_entered(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.commit(ENTRY)
    assert ledger.entry("explain", 3) == ENTRY
    assert ledger.entry("explain", 4) is None
    assert ledger.entry("other", 3) is None
    assert ledger.entries("other") == {}


def test_the_first_writer_wins(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.commit(ENTRY)
    assert not ledger.commit(replace(ENTRY, attempt=2))
    assert ledger.entries("explain") == {3: ENTRY}


def test_the_first_writer_wins_on_other_file_systems(tmp_path: Path) -> None:
    ledger = Ledger(f"memory://{tmp_path.name}")
    assert ledger.commit(ENTRY)
    assert not ledger.commit(replace(ENTRY, attempt=2))
    assert ledger.entries("explain") == {3: ENTRY}
    assert ledger.passes() == ("explain",)
    ledger.withdraw("explain", 3)
    assert ledger.entries("explain") == {}


def test_of_many_threads_one_wins(tmp_path: Path) -> None:
    def commit(attempt: int) -> bool:
        return Ledger(tmp_path).commit(replace(ENTRY, attempt=attempt))

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(commit, range(100)))
    assert sum(won) == 1
    stored = Ledger(tmp_path).entry("explain", 3)
    assert stored is not None
    assert stored.attempt == won.index(True)
    assert len(list(tmp_path.rglob("*"))) == 3  # two folders and the record; no temporary files


def _commit_all(root: str, attempt: int, start: object) -> list[bool]:
    start.wait()  # type: ignore[attr-defined]
    ledger = Ledger(root)
    return [ledger.commit(replace(ENTRY, shard=shard, attempt=attempt)) for shard in range(40)]


@pytest.mark.slow
def test_of_many_processes_one_wins_each_shard(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(4) as pool:
        start = manager.Barrier(4)
        won = pool.starmap(_commit_all, [(str(tmp_path), n, start) for n in range(4)])
    assert [sum(shard) for shard in zip(*won, strict=True)] == [1] * 40
    for shard, entry in Ledger(tmp_path).entries("explain").items():
        assert won[entry.attempt][shard]


def test_records_come_in_the_order_of_shards_and_passes_by_name(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for shard in (10, 2, 1):
        ledger.commit(replace(ENTRY, shard=shard))
    ledger.commit(replace(ENTRY, pass_name="aggregate.all"))
    assert list(ledger.entries("explain")) == [1, 2, 10]
    assert ledger.passes() == ("aggregate.all", "explain")


def test_a_record_of_another_digest_is_not_current(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.commit(ENTRY)
    ledger.commit(replace(ENTRY, shard=4, digest="other"))
    assert list(ledger.current("explain", "digest")) == [3]


def test_a_withdrawn_record_can_be_entered_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.commit(ENTRY)
    ledger.withdraw("explain", 3)
    ledger.withdraw("explain", 3)
    assert ledger.entry("explain", 3) is None
    assert ledger.commit(replace(ENTRY, attempt=2))


def test_what_a_killed_writer_leaves_counts_for_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.commit(ENTRY)
    (tmp_path / "ledger/explain/.4.json.1f.tmp").write_bytes(b'{"pass_na')
    (tmp_path / "ledger/explain/notes.txt").write_bytes(b"")
    assert ledger.entries("explain") == {3: ENTRY}


def test_every_damaged_byte_of_a_record_is_noticed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.commit(ENTRY)
    path = tmp_path / "ledger/explain/3.json"
    content = path.read_bytes()
    for position in range(len(content)):
        if content[position : position + 1].isspace():
            continue  # white space between values says nothing
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match="damaged"):
            ledger.entry("explain", 3)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", json.dumps({"shard": 3}).encode()])
def test_what_is_no_record_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger/explain/3.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"explain/3\.json"):
        Ledger(tmp_path).entries("explain")
