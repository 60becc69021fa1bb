"""A cluster of several nodes on this machine, with a token: what the engine's tests join."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.platform import _environment, _quiet

if TYPE_CHECKING:
    from collections.abc import Iterator

OBJECT_STORE_BYTES = 80 * 1024**2


@contextlib.contextmanager
def cluster_of_nodes(**head: Any) -> Iterator[Any]:
    """Start a head that takes no work, and yield Ray's `Cluster`: nodes are added to it."""
    folder = Path(tempfile.mkdtemp(prefix="xpipe-nodes-", dir="/tmp"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    values = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    }
    with _environment(values), _quiet():
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 0, "include_dashboard": False, "temp_dir": str(folder / "r")}
        cluster = Cluster(
            initialize_head=True,
            head_node_args={**options, "object_store_memory": OBJECT_STORE_BYTES, **head},
        )
        try:
            yield cluster
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def add_node(cluster: Any, env: dict[str, str] | None = None, **options: Any) -> Any:
    """Add a node; its processes see `env`."""
    before = dict(os.environ)
    os.environ.update(env or {})
    try:
        return cluster.add_node(object_store_memory=OBJECT_STORE_BYTES, **options)
    finally:
        os.environ.clear()
        os.environ.update(before)
