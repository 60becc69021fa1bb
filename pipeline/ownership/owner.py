"""The driver that works on a run's folder, as it signs there."""

from __future__ import annotations

import json
import socket
import uuid
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_TICK = 0.1
"""Seconds within which two readings of a start agree; clock ticks are a hundredth of one each."""


@dataclass(frozen=True)
class Owner:
    """A driver that works, or worked, on a run's folder."""

    pid: int
    """Its process."""
    process_started: float
    """When that process started, by the operating system's clock; for people."""
    host: str
    """Where it runs."""
    epoch: int
    """How often the run has been started, this time included."""
    is_released: bool = False
    """Whether it ended by itself."""
    token: str = ""
    """Drawn for this start: two starts of one process differ in nothing else."""
    since_boot: float | None = None
    """Seconds from the machine's start to the process's; tells a reused number from the owner, and
    unlike `process_started` does not move when the clock is set."""
    boot: str = ""
    """That start of the machine, where the operating system names it."""

    @classmethod
    def of_this_process(cls, epoch: int) -> Owner:
        """Return this process as the owner of a start."""
        process = psutil.Process()
        return cls(
            pid=process.pid,
            process_started=process.create_time(),
            host=socket.gethostname(),
            epoch=epoch,
            token=uuid.uuid4().hex,
            since_boot=_since_boot(process),
            boot=_boot(),
        )

    @classmethod
    def parse(cls, content: bytes | str) -> Owner:
        """Return the owner that `encode` wrote; later versions may have said more."""
        values: dict[str, Any] = json.loads(content)
        return cls(**{each.name: values[each.name] for each in fields(cls) if each.name in values})

    def encode(self) -> bytes:
        """Return it as a line of JSON."""
        return (json.dumps(asdict(self)) + "\n").encode()

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this host."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool | None:
        """Whether it still works on the folder; None where this host cannot tell."""
        if self.is_released:
            return False
        if not self.is_here:
            return None
        try:
            process = psutil.Process(self.pid)
            return self._is(process) and bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    @property
    def may_work(self) -> bool:
        """Whether it works on the folder, or may: one that this host cannot see is taken to."""
        return self.is_alive is not False

    def _is(self, process: psutil.Process) -> bool:
        if self.since_boot is None:  # signed by an earlier version
            return abs(process.create_time() - self.process_started) < _TICK
        return self.boot == _boot() and abs(_since_boot(process) - self.since_boot) < _TICK


def _since_boot(process: psutil.Process) -> float:
    # both move with the clock, by the same: the operating system counts ticks from its start
    return float(process.create_time() - psutil.boot_time())


def _boot() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""
