"""What lies on the disk: too little room, damage, and clocks that disagree about it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from pipeline.errors import StoreError
from pipeline.ledger import Ledger
from pipeline.run import resume
from pipeline.sinks.maps import MapSink
from pipeline.store import open_run
from pipeline.verify import verify
from tests.pipeline.tiny_run import (
    committed,
    events,
    run_in_process,
    run_tiny,
    stored,
    write_run,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.pipeline.drills import Seen

pytestmark = pytest.mark.slow

CHUNK = "maps.zarr/ig/relevance/c.3.0.0.0"
DEADLINE = 200.0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_tiny(folder).exit_code == 0
    return folder / "out"


def xpipe(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_of(result: Result) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path, after: Path) -> None:
    """Take all the room there is, once a file is there."""
    deadline = time.monotonic() + DEADLINE
    while not after.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    with open(folder / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))


@pytest.mark.drill(7)
def test_a_disk_that_somebody_fills_ends_the_run_which_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Path, undisturbed: Path, drill: Seen
) -> None:
    out = small_disk / "out"
    run_file = write_run(tmp_path / "cfg", out)
    (tmp_path / "cfg" / "slow").write_text("0.02")
    somebody = threading.Thread(target=_fill, args=(small_disk, out / "ledger/explain/0.json"))
    somebody.start()
    result = xpipe("run", run_file)
    somebody.join()
    drill(f"exit {result.exit_code}", error_of(result))
    assert result.exit_code == 1
    assert os.strerror(errno.ENOSPC) in error_of(result)
    assert "Traceback" not in result.stderr
    before = Ledger(out).entries("explain")
    assert 1 <= len(before) < 5
    # what is there is whole: nothing was committed that is not
    assert [problem for problem in verify(out) if not problem.is_note] == []
    (small_disk / "filler").unlink()
    (tmp_path / "cfg" / "slow").unlink()
    resumed = xpipe("resume", out)
    drill(f"{len(before)} shards kept", f"exit {resumed.exit_code} once there is room")
    assert resumed.exit_code == 0, resumed.stderr
    after = Ledger(out).entries("explain")
    assert {shard: after[shard] for shard in before} == before
    assert stored(out) == stored(undisturbed)


@pytest.mark.drill(8)
def test_a_damaged_chunk_is_not_read_and_is_computed_again(
    tmp_path: Path, undisturbed: Path, drill: Seen
) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    content = bytearray((out / CHUNK).read_bytes())
    content[len(content) // 2] ^= 1
    (out / CHUNK).write_bytes(content)
    with pytest.raises(Exception, match="checksum") as caught:
        open_run(str(out)).maps["ig"].values  # noqa: B018
    found = xpipe("verify", out)
    drill(f"reading: {caught.value}", f"exit {found.exit_code} of verify", found.stdout)
    assert found.exit_code == 1
    assert f"damaged: {CHUNK}" in found.stdout
    repaired = xpipe("verify", out, "--repair")
    drill(f"exit {repaired.exit_code} of repair", f"computed again: {committed(out)[10:]}")
    assert repaired.exit_code == 0, repaired.stderr
    assert committed(out)[10:] == [("explain", 3)]
    assert stored(out) == stored(undisturbed)
    assert xpipe("verify", out).exit_code == 0


@pytest.mark.drill(9)
def test_a_shard_that_is_gone_is_missed_whatever_the_ledger_says(
    tmp_path: Path, undisturbed: Path, drill: Seen
) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    (out / CHUNK).unlink()
    assert 3 in Ledger(out).entries("explain")
    found = xpipe("verify", out)
    drill(f"exit {found.exit_code} of verify", found.stdout)
    assert found.exit_code == 1
    assert f"missing: {CHUNK}" in found.stdout
    repaired = xpipe("verify", out, "--repair")
    drill(f"exit {repaired.exit_code} of repair", f"computed again: {committed(out)[10:]}")
    assert repaired.exit_code == 0, repaired.stderr
    assert committed(out)[10:] == [("explain", 3)]
    assert stored(out) == stored(undisturbed)


class _Backwards:
    """A clock that has gone back an hour whenever it is read."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        self.now -= 3600
        return self.now


@pytest.mark.drill(17)
def test_a_clock_that_runs_backwards_changes_neither_order_nor_results(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, drill: Seen
) -> None:
    out = tmp_path / "out"
    write = MapSink.write

    def fill_up(self: MapSink, name: str, array: str, shard: Any, values: Any) -> dict[str, str]:
        if shard.index >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, name, array, shard, values)

    with monkeypatch.context() as patched:
        patched.setattr(time, "time", _Backwards())
        with monkeypatch.context() as cut_off:
            cut_off.setattr(MapSink, "write", fill_up)
            with pytest.raises(StoreError):
                run_tiny(tmp_path)
        summary = resume(out)
        state = json.loads(xpipe("status", out, "--json").stdout)
    told = [event["time"] for event in events(out)]
    assert told == sorted(told, reverse=True), "the clock did run backwards"
    drill(f"{told[0] - told[-1]:.0f} s backwards from the first event to the last")
    drill(f"status says {state['state']!r}")
    drill.run(out, summary.exit_code)
    assert summary.exit_code == 0
    assert state["state"] == "done"
    assert sorted(set(committed(out))) == sorted(committed(out))
    assert [entry.epoch for entry in Ledger(out).entries("explain").values()] == [1, 1, 2, 2, 2]
    assert all(entry.seconds >= 0 for entry in Ledger(out).entries("explain").values())
    assert stored(out) == stored(undisturbed)


SKEWED = """

import time as _time

_real = _time.time


def _skewed():
    return _real() - 86400 * (1 + os.getpid() % 1000)


_time.time = _skewed
"""


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.drill(17)
def test_workers_whose_clocks_are_years_apart_store_the_same(
    tmp_path: Path, undisturbed: Path, drill: Seen
) -> None:
    run_file = write_run(tmp_path, engine={"kind": "ray"})
    code = (tmp_path / "tiny.py").read_text()
    (tmp_path / "tiny.py").write_text(code + SKEWED)
    # that both workers get something to do
    (tmp_path / "slow").write_text("0.05")
    process = run_in_process(run_file)
    _, error = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, error
    out = tmp_path / "out"
    started = {
        entry.worker: entry.started
        for name in ("explain", "statistics.low_rank")
        for entry in Ledger(out).entries(name).values()
    }
    apart = max(started.values()) - min(started.values())
    drill(f"{len(started)} workers, {apart / 86400:.0f} days apart")
    drill.run(out, process.returncode)
    assert len(started) == 2
    assert apart >= 86000
    found, expected = stored(out), stored(undisturbed)
    assert found.keys() == expected.keys()
    # these two name the digest of the run, which the line about the clock is part of
    naming = {"scans/statistics.json", "scans/statistics.zarr/zarr.json"}
    assert {name for name in found if found[name] != expected[name]} <= naming
