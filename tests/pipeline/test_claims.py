"""Ownership of a run in an object store, and how its owner is asked to stop; fsspec's memory."""

from __future__ import annotations

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from pipeline import runs, told
from pipeline.callbacks import event_log
from pipeline.errors import PlanError, RunConflictError, StoreError
from pipeline.events import NotFinite, RunFinished
from pipeline.interrupts import Interrupts
from pipeline.object_store import refuse_unsafe
from pipeline.ownership import claims, heart, lock
from pipeline.ownership.heart import Heart
from pipeline.ownership.owner import Owner
from pipeline.paths import Folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(claims, "BEAT", 0.02)
    monkeypatch.setattr(claims, "WINDOW", 0.1)
    return Folder(f"memory://{tmp_path.name}/run")


def elsewhere(folder: Folder, mine: Owner) -> None:
    """Make an owner one of another host, whose process cannot be seen."""
    values = json.loads(mine.encode())
    folder.write(f"owners/{mine.epoch}.json", json.dumps({**values, "host": "far"}).encode())


def wait_for(is_done: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not is_done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_each_start_claims_an_epoch_and_a_live_owner_is_not_disturbed(folder: Folder) -> None:
    for epoch in (1, 2, 3):
        mine = lock.acquire(folder.url)
        assert mine.epoch == epoch
        assert lock.owner(folder.url) == mine
        for take_over in (False, True):
            with pytest.raises(RunConflictError, match=f"process {mine.pid}"):
                lock.acquire(folder.url, take_over=take_over)
            with pytest.raises(RunConflictError):
                lock.refuse_if_owned(folder.url, take_over=take_over)
        lock.release(folder.url, mine)
        assert lock.owner(folder.url).is_alive is False  # type: ignore[union-attr]


def test_of_many_starts_at_once_one_wins(folder: Folder) -> None:
    together = threading.Barrier(8)

    def start(_: int) -> Owner | None:
        present = claims.current(folder)
        together.wait()
        try:
            return claims.acquire(folder, present)
        except RunConflictError:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [mine for mine in pool.map(start, range(8)) if mine is not None]
    assert won == [lock.owner(folder.url)]


def test_an_owner_elsewhere_is_followed_only_if_its_heart_stands_still(folder: Folder) -> None:
    mine = lock.acquire(folder.url)
    elsewhere(folder, mine)
    lock.refuse_if_owned(folder.url)
    ended = threading.Event()

    def beat() -> None:
        count = 0
        while not ended.wait(0.005):
            count += 1
            claims.beat(folder, mine, count)

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(RunConflictError, match="heartbeat"):
        lock.acquire(folder.url)
    ended.set()
    thread.join()
    assert lock.acquire(folder.url).epoch == 2


def test_an_owner_elsewhere_is_not_watched_when_the_user_vouches_for_its_end(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(folder, lock.acquire(folder.url))
    monkeypatch.setattr(claims, "WINDOW", 1e9)
    assert lock.acquire(folder.url, take_over=True).epoch == 2


@pytest.mark.parametrize("place", ["disk", "store"])
def test_who_was_taken_over_stops(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(heart, "LISTEN", 0.02)
    path = folder.url if place == "store" else str(tmp_path / "run")
    mine = lock.acquire(path)
    interrupts = Interrupts()
    with Heart(path, mine, interrupts):
        time.sleep(0.1)
        assert interrupts.received is None
        later = Owner.of_this_process(mine.epoch + 1)
        name = f"owners/{later.epoch}.json" if place == "store" else lock.OWNER
        Folder(path).write(name, later.encode())
        wait_for(lambda: interrupts.received)
    assert interrupts.exit_code == 130
    lock.release(path, mine)
    assert lock.owner(path) == later


@pytest.mark.parametrize("place", ["disk", "store"])
def test_whoever_can_write_the_folder_can_stop_the_run(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(heart, "LISTEN", 0.02)
    path = folder.url if place == "store" else str(tmp_path / "run")
    mine = lock.acquire(path)
    interrupts = Interrupts()
    with Heart(path, mine, interrupts):
        far = Owner(pid=1, process_started=0, host="far", epoch=mine.epoch)
        monkeypatch.setattr(runs, "owner", lambda _: far)
        assert runs.stop(path) == far
        wait_for(lambda: interrupts.received)
        assert interrupts.received == signal.SIGINT
    # the next start is not asked
    assert Folder(path).files("stop") == []


def test_a_second_request_interrupts_at_once_and_only_once(folder: Folder) -> None:
    mine = lock.acquire(folder.url)
    with Interrupts() as interrupts, Heart(folder.url, mine, interrupts):
        ask = threading.Timer(0.1, heart.ask_to_stop, (folder.url, mine), {"now": True})
        ask.start()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20)
        time.sleep(0.2)  # nothing comes after it
        assert interrupts.exit_code == 130


def test_nobody_can_be_stopped_where_nobody_works(folder: Folder) -> None:
    with pytest.raises(StoreError, match="nobody works"):
        runs.stop(folder.url)
    mine = lock.acquire(folder.url)
    lock.release(folder.url, mine)
    with pytest.raises(StoreError, match="nobody works"):
        runs.stop(folder.url)


def test_a_store_that_ignores_conditions_is_refused(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_unsafe(folder)
    assert folder.files() == []

    def ignoring(path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        with folder.fs.open(path, "wb") as file:
            file.write(value)

    monkeypatch.setattr(folder.fs, "pipe_file", ignoring)
    with pytest.raises(PlanError, match="If-None-Match"):
        refuse_unsafe(folder)


def test_a_client_that_looks_before_it_writes_is_refused(tmp_path: Path) -> None:
    from fsspec.implementations.local import LocalFileSystem

    folder = Folder(tmp_path)
    refuse_unsafe(folder)
    folder.is_local = False

    class Checking(LocalFileSystem):
        """As file systems of fsspec are that have no conditional write."""

    folder.fs = Checking(skip_instance_cache=True)
    with pytest.raises(PlanError, match="If-None-Match"):
        refuse_unsafe(folder)


def test_a_record_whose_answer_was_lost_is_its_writers_own(folder: Folder) -> None:
    assert folder.claim("record", b"mine")
    assert folder.claim("record", b"mine")  # as a request that is repeated finds it
    assert not folder.claim("record", b"of another")
    assert not folder.create("record", b"mine")


def test_a_store_that_is_gone_does_not_hide_what_ended_the_run(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = lock.acquire(folder.url)

    def fail() -> None:
        with Heart(folder.url, mine, Interrupts()):
            monkeypatch.setattr(folder.fs, "pipe_file", refused)
            monkeypatch.setattr(folder.fs, "rm", refused)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    lock.release(folder.url, mine)
    monkeypatch.undo()
    assert lock.owner(folder.url) == mine


def test_events_that_cannot_be_written_are_written_with_later_ones(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "INTERVAL", 0.01)
    monkeypatch.setattr(event_log, "FULL", 200)
    log = event_log.event_log(folder, 3)
    with monkeypatch.context() as patched:
        patched.setattr(folder.fs, "pipe_file", refused)
        log(NotFinite("explain", "a", 1))
        time.sleep(0.1)
        assert list(told.events(folder)) == []
    for name in "bcd":
        log(NotFinite("explain", name, 1))
        time.sleep(0.03)
    log(RunFinished(0, 1, 0, (), 1.0, ""))
    found = list(told.events(folder))
    assert [each.get("explainer") for each in found] == ["a", "b", "c", "d", None]
    assert len(folder.entries("events")) > 1


def refused(*_: Any, **__: Any) -> None:
    raise OSError("no route to host")
