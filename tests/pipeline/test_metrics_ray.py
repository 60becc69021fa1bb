"""Figures of a run among those that Ray exports for Prometheus, and what workers log, for real."""

from __future__ import annotations

import math
import re
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pipeline.engine import Settings
from pipeline.engine.metrics import PEAKS, SECONDS
from pipeline.engine.platform import platform
from tests.pipeline.tiny_run import events, run_tiny

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]

LAST = ("xpipe_shard_seconds_count", "explain")
"""Figure that is waited for; those of one export are of one moment."""
WAITING = ("xpipe_shards_waiting", "explain")
PATIENCE = 120.0
"""Seconds until Ray has exported; it does so every second here."""


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start Ray, which the run then joins, and give the address that Prometheus would ask."""
    import ray

    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    with platform(Settings(workers=2)):
        (node,) = ray.nodes()
        yield f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def figures(text: str) -> dict[tuple[str, str], float]:
    """Return name and pass to value of our figures; a bucket's name ends with its bound."""
    found = {}
    for line in text.splitlines():
        parts = re.fullmatch(r"ray_(xpipe_\w+)\{(.*)\} (\S+)", line)
        if parts is None or 'run="tiny"' not in parts[2] or parts[1].endswith("_sum"):
            continue  # Ray keeps counts per bucket, and makes sums of these
        in_pass = re.search(r'pass="([^"]*)"', parts[2])
        bound = re.search(r'le="([^"]*)"', parts[2])
        name = f"{parts[1]} {float(bound[1])}" if bound else parts[1]
        found[name, in_pass[1] if in_pass else ""] = float(parts[3])
    return found


def ask(address: str, found: dict[tuple[str, str], float], deadline: float) -> None:
    """Add figures to those found until all shards are among them."""
    while (found.get(LAST, 0) < 5 or found.get(WAITING, 1)) and time.monotonic() < deadline:
        time.sleep(0.2)
        with urllib.request.urlopen(address, timeout=10) as answer:
            found |= figures(answer.read().decode())


def test_the_cluster_sees_what_a_run_does(exported: str, tmp_path: Path) -> None:
    bad = {"source": "python", "function": "tiny.py:images", "params": {"bad": {"3": "nan"}}}
    found: dict[tuple[str, str], float] = {}
    deadline = time.monotonic() + PATIENCE
    with ThreadPoolExecutor(1) as pool:
        # asked all the time: what was exported in the middle of the pass is seen first, and gauges
        # are gone two exports after they were set
        asking = pool.submit(ask, exported, found, deadline)
        summary = run_tiny(tmp_path, data=bad, engine={"kind": "ray"})
        asking.result()
    assert summary.exit_code == 5
    own = {name: value for (name, in_pass), value in found.items() if in_pass == "explain"}
    buckets = {name: own.pop(name) for name in list(own) if "_bucket " in name}
    assert own == {
        "xpipe_shards_committed_total": 5,
        "xpipe_samples_total": 40,
        "xpipe_samples_failed_total": 1,
        "xpipe_shards_waiting": 0,
        "xpipe_shard_seconds_count": 5,
        "xpipe_worker_peak_bytes_count": 5,
    }
    told = [each for each in events(tmp_path / "out", "shard_committed")]
    told = [each for each in told if each["pass_name"] == "explain"]
    assert buckets == {
        f"{name}_bucket {bound}": sum(each[field] <= bound for each in told)
        for name, field, bounds in (
            ("xpipe_shard_seconds", "seconds", SECONDS),
            ("xpipe_worker_peak_bytes", "peak_memory", PEAKS),
        )
        for bound in (*bounds, math.inf)
    }
    (said,) = events(tmp_path / "out", "worker_logged")
    assert (said["pass_name"], said["shard"], said["attempt"]) == ("explain", 0, 1)
    assert said["worker"].startswith("worker-")
    assert "image_3" in said["message"]
