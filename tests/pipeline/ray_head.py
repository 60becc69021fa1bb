"""A head of a cluster on this machine, with a token and ports of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE = 120.0
"""Seconds for a head to come up on a busy machine; it needs about six."""


@dataclass(frozen=True)
class Head:
    """A cluster of one node."""

    address: str
    """Of its job server."""
    gcs: str
    """What drivers join: ``host:port``."""
    environment: dict[str, str]
    """What a client needs, the token included."""


@contextlib.contextmanager
def running_head(n_processors: int = 3, *options: str, mode: str = "token") -> Iterator[Head]:
    """Start a head with options of ``ray start``, and end it with all its processes."""
    # short: Ray's sockets lie below it
    folder = Path(tempfile.mkdtemp(prefix="xh", dir="/tmp"))
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(secrets.token_hex(32))
    found = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    needed = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    settings = {"RAY_AUTH_MODE": mode, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    environment = {**found, **needed, **settings}
    # jobs call `python`
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
    gcs, dashboard, agent, client = _free_ports(4)
    command = [
        str(Path(sys.executable).parent / "ray"),
        *("start", "--head", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats"),
        *("--dashboard-host=127.0.0.1", f"--num-cpus={n_processors}", f"--temp-dir={folder}/r"),
        *(f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        *(f"--dashboard-agent-listen-port={agent}", "--object-store-memory=134217728"),
        *options,
    ]
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True
    )
    try:
        head = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", needed)
        _await(head, process, folder / "log")
        yield head
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _await(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{head.address}/api/authentication_mode", timeout=5).close()
            return
        time.sleep(0.2)
    raise RuntimeError(f"no head came up:\n{log.read_text()}")


def _free_ports(n: int) -> list[int]:
    """Return ports above those that Ray gives to its workers, 10002 to 19999."""
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < n:
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            if sock.getsockname()[1] >= 20000:
                found.append(sock.getsockname()[1])
        return found
