"""The driver that works on a run's folder, as it signs there."""

from __future__ import annotations

import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass, fields
from typing import Any

import psutil


@dataclass(frozen=True)
class Owner:
    """A driver that works, or worked, on a run's folder."""

    pid: int
    """Its process."""
    process_started: float
    """When that process started, by the operating system; tells a reused number from the owner."""
    host: str
    """Where it runs."""
    epoch: int
    """How often the run has been started, this time included."""
    is_released: bool = False
    """Whether it ended by itself."""
    token: str = ""
    """Drawn for this start: two starts of one process differ in nothing else."""

    @classmethod
    def of_this_process(cls, epoch: int) -> Owner:
        """Return this process as the owner of a start."""
        return cls(
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            host=socket.gethostname(),
            epoch=epoch,
            token=uuid.uuid4().hex,
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
            # psutil derives the time from clock ticks, a hundredth of a second each
            is_same = abs(process.create_time() - self.process_started) < 0.1
            return is_same and bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False
