from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from pipeline.errors import RunConflictError
from pipeline.ownership import lock
from pipeline.ownership.lock import Owner, acquire, owner, refuse_if_owned, release

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.drills import Seen


def rewrite(path: Path, **changes: Any) -> None:
    values = json.loads((path / "owner.json").read_text())
    (path / "owner.json").write_text(json.dumps({**values, **changes}))


def test_a_live_owner_is_not_disturbed_and_is_named(tmp_path: Path) -> None:
    mine = acquire(tmp_path)
    assert owner(tmp_path) == mine
    assert mine.is_alive
    with pytest.raises(RunConflictError, match=f"process {os.getpid()}"):
        acquire(tmp_path)
    with pytest.raises(RunConflictError, match=f"process {os.getpid()}"):
        acquire(tmp_path, take_over=True)
    with pytest.raises(RunConflictError):
        refuse_if_owned(tmp_path)


def test_each_start_is_an_epoch(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        mine = acquire(tmp_path)
        assert mine.epoch == epoch
        release(tmp_path, mine)
        assert owner(tmp_path).is_alive is False  # type: ignore[union-attr]


def test_a_dead_owner_on_this_host_is_replaced(tmp_path: Path) -> None:
    code = (
        "from pipeline.ownership.lock import acquire; import os; "
        f"acquire({str(tmp_path)!r}); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    dead = owner(tmp_path)
    assert dead is not None
    assert not dead.is_released
    assert dead.is_alive is False
    assert acquire(tmp_path).epoch == 2


def test_a_reused_process_number_is_not_taken_for_the_owner(tmp_path: Path) -> None:
    mine = acquire(tmp_path)
    assert mine.since_boot is not None
    rewrite(tmp_path, since_boot=mine.since_boot - 60)
    assert acquire(tmp_path).epoch == 2
    rewrite(tmp_path, boot="another start of this machine")
    assert acquire(tmp_path).epoch == 3


@pytest.mark.drill(17)
@pytest.mark.parametrize("step", [-86400.0, 3600.0])
def test_a_live_owner_is_known_after_the_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float, drill: Seen
) -> None:
    acquire(tmp_path)
    booted, created = psutil.boot_time(), psutil.Process().create_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: booted + step)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: created + step)
    with pytest.raises(RunConflictError, match=f"process {os.getpid()}") as caught:
        acquire(tmp_path)
    drill(f"clock set by {step:+.0f} s", caught.value.what.replace(str(tmp_path), "the folder"))


def test_owners_that_earlier_versions_signed_are_known(tmp_path: Path) -> None:
    mine = acquire(tmp_path)
    rewrite(tmp_path, since_boot=None, boot="")
    with pytest.raises(RunConflictError):
        acquire(tmp_path)
    rewrite(tmp_path, since_boot=None, process_started=mine.process_started - 60)
    assert acquire(tmp_path).epoch == 2


def test_an_owner_on_another_host_is_replaced_only_when_asked(tmp_path: Path) -> None:
    acquire(tmp_path)
    rewrite(tmp_path, host="elsewhere")
    with pytest.raises(RunConflictError, match="'elsewhere'"):
        acquire(tmp_path)
    assert acquire(tmp_path, take_over=True).epoch == 2


def test_who_was_replaced_does_not_release_the_folder_of_the_new_owner(tmp_path: Path) -> None:
    first = acquire(tmp_path)
    rewrite(tmp_path, host="elsewhere")
    second = acquire(tmp_path, take_over=True)
    release(tmp_path, first)
    assert owner(tmp_path) == second


def test_nobody_owns_a_new_folder(tmp_path: Path) -> None:
    assert owner(tmp_path) is None
    assert owner(tmp_path / "missing") is None


def test_an_owner_survives_json(tmp_path: Path) -> None:
    mine = acquire(tmp_path / "new")
    assert Owner(**json.loads((tmp_path / "new" / "owner.json").read_text())) == mine


def test_a_full_disk_does_not_hide_what_ended_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine = acquire(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    release(tmp_path, mine)
    released = owner(tmp_path)
    assert released is not None
    assert released.is_released
    assert released.epoch == 1
    monkeypatch.undo()
    mine = acquire(tmp_path)
    monkeypatch.setattr(lock, "_write", full)
    monkeypatch.setattr(lock, "OWNER", "gone.json")
    monkeypatch.setattr(lock, "owner", lambda path: mine)
    release(tmp_path, mine)
    assert "could not be given back" in caplog.text
