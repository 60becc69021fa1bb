"""Whole runs in an object store: moto's S3 on loopback, undisturbed and behind a faulty network."""

from __future__ import annotations

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest

from pipeline import export, report, runs
from pipeline.compare import compare
from pipeline.errors import RunConflictError, StoreError
from pipeline.evaluate import evaluate
from pipeline.ledger import Ledger
from pipeline.object_store import refuse_unsafe
from pipeline.ownership import claims, heart, lock
from pipeline.paths import Folder
from pipeline.run import resume, run
from pipeline.verify import verify
from tests.pipeline.faulty_proxy import (
    BROKEN,
    CUT,
    HALVED,
    LOST,
    LOST_500,
    REFUSED,
    SLOW_DOWN,
    FaultyProxy,
)
from tests.pipeline.s3_server import forget_clients, s3, s3_server  # noqa: F401
from tests.pipeline.tiny_run import config_of, run_in_process, write_run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.drills import Seen

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "explainers": {"saliency": {}, "statistics": {"method": "moments"}},
    "data": {"limit": 16},
    "metrics": {"sparseness": {}},
}
COMPUTED = ("maps.zarr/", "samples/", "states/", "scans/", "scores/")
HOW = (SLOW_DOWN, LOST, BROKEN, CUT, HALVED, LOST_500)


def computed(folder: Folder) -> dict[str, bytes]:
    """Return every object that a run computes, by name."""
    return folder.read_all(name for name in folder.files() if name.startswith(COMPUTED))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return what the run computes on a disk."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(config_of(folder, **SMALL)).exit_code == 0
    return computed(Folder(folder / "out"))


def test_a_run_in_a_store_is_as_one_on_a_disk(
    tmp_path: Path,
    s3: str,  # noqa: F811
    undisturbed: dict[str, bytes],
) -> None:
    url = f"{s3}/runs/audit"
    summary = run(config_of(tmp_path, output={"path": url}, **SMALL))
    assert (str(summary.path), summary.exit_code, summary.n_done) == (url, 0, 16)
    assert str(summary.report) == f"{url}/report.html"
    folder = Folder(url)
    assert b"<html" in folder.read("report.html")
    assert computed(folder) == undisturbed
    assert verify(url) == []

    told = list(runs.events(url))
    assert [told[0]["event"], told[-1]["event"]] == ["run_started", "run_finished"]
    assert sum(each["event"] == "shard_committed" for each in told) >= 2
    assert [str(found) for found in runs.find(s3)] == [url]
    state = runs.state(url)
    assert (state["path"], state["state"], state["n_samples"]) == (url, "done", 16)

    target = export.export(url, "npz", tmp_path / "out.npz")
    assert target.stat().st_size > 0
    assert str(report.build(url)) == f"{url}/report.html"
    page = report.build(url, tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    assert page.with_suffix(".json").exists()
    assert evaluate(url, ["sparseness"]).n_scored == 0
    assert compare(url, summary.path).n_samples == 16


@pytest.mark.long
def test_what_was_committed_is_kept_and_what_is_damaged_is_done_again(
    tmp_path: Path,
    s3: str,  # noqa: F811
    undisturbed: dict[str, bytes],
) -> None:
    url = f"{s3}/audit"
    assert run(config_of(tmp_path, output={"path": url}, **SMALL)).exit_code == 0
    folder = Folder(url)
    damaged = next(name for name in computed(folder) if name.startswith("samples/explain/1"))
    folder.write(damaged, b"other")
    before = Ledger(url).entries("explain")
    problems, summary = runs.repair(url)
    assert [problem.object for problem in problems if not problem.is_note] == [damaged]
    assert summary is not None
    assert summary.exit_code == 0
    after = Ledger(url).entries("explain")
    assert after[0] == before[0]
    assert [entry.epoch for entry in after.values()] == [1, 2]
    assert computed(folder) == undisturbed
    other = config_of(tmp_path, output={"path": url}, **{**SMALL, "explainers": {"gradient": {}}})
    with pytest.raises(RunConflictError, match="saliency"):
        run(other)


@pytest.mark.drill(15)
def test_of_all_that_create_an_object_or_start_a_run_at_once_one_wins(
    s3: str,  # noqa: F811
    drill: Seen,
) -> None:
    folder = Folder(f"{s3}/race")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: folder.create("x", str(n).encode()), range(16)))
        assert sum(won) == 1
        assert folder.read("x") == str(won.index(True)).encode()

        def start(_: int) -> lock.Owner | None:
            try:
                return claims.acquire(folder, None)
            except RunConflictError:
                return None

        starts = [mine for mine in pool.map(start, range(8)) if mine is not None]
    assert starts == [lock.owner(folder.url)]
    drill(f"of 16 writers {sum(won)} won, of 8 starts {len(starts)}")


def test_a_bucket_that_is_not_there_is_refused_before_anything_is_planned(
    tmp_path: Path,
    s3: str,  # noqa: F811
) -> None:
    refuse_unsafe(Folder(s3))
    with pytest.raises(StoreError, match="missing-bucket") as caught:
        run(config_of(tmp_path, output={"path": "s3://missing-bucket/run"}, model={"name": "no"}))
    assert "make the bucket" in caught.value.fix


class _Faults:
    """Fails the first answer about each record, and every so manyth other request."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._n = 0
        self._kinds = cycle(HOW)
        self._records: set[str] = set()

    def __call__(self, method: str, path: str, headers: dict[str, str]) -> str | None:
        if "If-None-Match" in headers and path not in self._records:
            self._records.add(path)
            # done, and not told: what is repeated finds its own
            return LOST if len(self._records) % 2 else LOST_500
        self._n += 1
        return next(self._kinds) if self._n % self._every == 0 else None


@pytest.mark.drill(19)
@pytest.mark.long
def test_a_network_that_fails_often_changes_nothing(
    tmp_path: Path,
    s3: str,  # noqa: F811
    s3_server: str,  # noqa: F811
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    drill: Seen,
) -> None:
    with FaultyProxy(s3_server, _Faults(every=12)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        forget_clients()
        url = f"{s3}/audit"
        assert run(config_of(tmp_path, output={"path": url}, **SMALL)).exit_code == 0
        assert computed(Folder(url)) == undisturbed
        told = list(runs.events(url))
        forget_clients()
    assert set(HOW) <= set(proxy.counted)
    # every shard was computed once, and knew its own record
    kinds = [event["event"] for event in told if event["event"].startswith("shard_")]
    assert set(kinds) == {"shard_committed"}
    drill(f"requests: {dict(proxy.counted)}", f"events of shards: {sorted(set(kinds))}")


@pytest.mark.drill(19)
@pytest.mark.long
def test_a_store_that_is_full_ends_the_run_which_can_be_resumed(
    tmp_path: Path,
    s3: str,  # noqa: F811
    s3_server: str,  # noqa: F811
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    drill: Seen,
) -> None:
    def full(method: str, path: str, headers: dict[str, str]) -> str | None:
        return REFUSED if method == "PUT" and "/samples/explain/1" in path else None

    url = f"{s3}/audit"
    with FaultyProxy(s3_server, full) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        forget_clients()
        with pytest.raises(StoreError, match="samples/explain/1") as caught:
            run(config_of(tmp_path, output={"path": url}, **SMALL))
        forget_clients()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    forget_clients()
    assert list(Ledger(url).entries("explain")) == [0]
    assert resume(url).exit_code == 0
    assert computed(Folder(url)) == undisturbed
    drill(caught.value.what, f"shards after it is resumed: {list(Ledger(url).entries('explain'))}")


def test_a_refusal_for_want_of_space_is_known_by_its_number(
    s3: str,  # noqa: F811
    s3_server: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FaultyProxy(s3_server, lambda *_: REFUSED) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        forget_clients()
        with pytest.raises(StoreError, match="cannot write") as caught:
            Folder(s3).write("x", b"x")
        forget_clients()
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.long
def test_a_request_in_the_folder_stops_a_run_of_another_process(
    tmp_path: Path,
    s3: str,  # noqa: F811
    undisturbed: dict[str, bytes],
) -> None:
    url = f"{s3}/audit"
    run_file = write_run(tmp_path, output={"path": url}, **SMALL)
    (tmp_path / "slow").write_text("0.5")
    process = run_in_process(run_file)
    deadline = time.monotonic() + 120
    while not Folder(url).entries("ledger/explain"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    present = lock.owner(url)
    assert present is not None
    heart.ask_to_stop(url, present, now=False)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    (tmp_path / "slow").unlink()
    assert resume(url).exit_code == 0
    assert computed(Folder(url)) == undisturbed


@pytest.mark.long
@pytest.mark.ray
def test_workers_in_other_processes_write_the_same(
    tmp_path: Path,
    s3: str,  # noqa: F811
    undisturbed: dict[str, bytes],
) -> None:
    url = f"{s3}/audit"
    config = config_of(
        tmp_path, output={"path": url}, **SMALL, engine={"kind": "ray", "workers": 2}
    )
    assert run(config).exit_code == 0
    assert computed(Folder(url)) == undisturbed
    assert verify(url) == []
