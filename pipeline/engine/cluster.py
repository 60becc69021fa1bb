"""What is known of the cluster that Ray runs on: its nodes, and whether more may come."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING

from pipeline.engine.capacity import Demand, Node, shapes
from pipeline.errors import EngineError

if TYPE_CHECKING:
    from pipeline.engine import Settings

logger = logging.getLogger(__name__)

RECOUNT_SECONDS = 5.0
"""How often nodes are counted: a node takes longer than that to come."""
STATIC_PATIENCE = 60.0
"""Seconds that a worker waits for a node it fits on where no autoscaler is seen: nodes that are
started by hand or by a batch system come one after the other."""
GROWING_PATIENCE = 900.0
"""Likewise with an autoscaler: clouds take ten minutes to start a machine with GPUs."""
READ_ONLY_TYPE = "node_"
"""Begins the names of node types that Ray makes up where nothing can start a node."""


class Cluster:
    """The nodes of a platform that is running, against what a worker takes of them.

    Parameters
    ----------
    settings
        What workers are to be like.

    Raises
    ------
    EngineError
        If the demand contradicts itself, or GPUs are to be counted where there are none yet.
    """

    def __init__(self, settings: Settings) -> None:
        self._is_local = settings.address == "local"
        self.may_grow = not self._is_local and _has_autoscaler()
        self.demand = Demand.of(settings, self._gpus_per_worker(settings))
        self._patience = (
            self._default_patience() if settings.patience is None else (settings.patience)
        )
        self._waiting_since: float | None = None
        self._warned = 0.0

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive."""
        import ray

        return [
            Node(node["NodeID"], node["Resources"], node.get("Labels") or {})
            for node in ray.nodes()
            if node["Alive"]
        ]

    def capacity(self) -> int:
        """Return how many workers fit on the nodes that are alive."""
        return self.demand.workers_in(self.nodes())

    def worth_asking_for(self) -> int:
        """Return how many workers to ask for if as many as possible are wanted.

        An autoscaler sees actors that find no room, and starts nodes for them. As many again as
        there is room for doubles a cluster step by step, and never asks for a thousand nodes at
        once because a run has a thousand shards.
        """
        capacity = self.capacity()
        return capacity + max(1, capacity) if self.may_grow else max(1, capacity)

    def wait_for_room(self) -> None:
        """Take note that no worker has found room yet; called again and again until one has.

        Raises
        ------
        EngineError
            If workers fit on no node, and none that they fit on has come in time.
        """
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = self._warned = now
        nodes = self.nodes()
        if not self.demand.workers_in(nodes) and now - self._waiting_since >= self._patience:
            raise EngineError(
                f"a worker fits on no node: it takes {self.demand}, and the "
                f"{'machine' if self._is_local else 'cluster'} has {shapes(nodes)}",
                fix="ask for less (engine.threads, gpus_per_worker, accelerator_type, labels, "
                "resources), or start such a node"
                + (f"; {self._patience:g} s were waited for one" if self._patience else ""),
                page="no-room-for-workers",
            )
        if now - self._warned >= STATIC_PATIENCE:
            self._warned = now
            logger.warning("workers still wait for room: each takes %s", self.demand)

    def found_room(self) -> None:
        """Take note that a worker has come up."""
        self._waiting_since = None

    def _default_patience(self) -> float:
        if self._is_local:
            return 0.0
        return GROWING_PATIENCE if self.may_grow else STATIC_PATIENCE

    def _gpus_per_worker(self, settings: Settings) -> float:
        """Return the GPUs of a worker; ``auto`` is one where there are any.

        A cluster that grows may start its first GPU only when somebody asks for it. To compute
        on processors there is a guess that costs hours, and to ask for GPUs that never come is
        one that waits for ever: so nothing is guessed.
        """
        import torch

        if settings.gpus_per_worker != "auto":
            return float(settings.gpus_per_worker)
        has_gpus = any(node.resources.get("GPU") for node in self.nodes())
        if self._is_local:
            return float(has_gpus and torch.cuda.is_available())
        if has_gpus or settings.accelerator_type:
            return 1.0
        if self.may_grow:
            raise EngineError(
                "engine.gpus_per_worker is 'auto', and this cluster starts nodes as they are asked "
                "for: it has no GPU now, which does not say that none would come",
                fix="set engine.gpus_per_worker to 1 (or name an accelerator_type), or to 0 to "
                "compute on processors",
                page="gpus-not-known",
            )
        return 0.0


def _has_autoscaler() -> bool:
    """Say whether something starts nodes when actors wait for room."""
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    if is_autoscaler_v2(fetch_from_server=True):
        return True
    # no public call tells: what `ray status` prints is read where `ray status` reads it
    status = _internal_kv_get(b"__autoscaling_status")
    if not status:
        return False
    report = json.loads(status).get("autoscaler_report") or {}
    types = (report.get("node_type_mapping") or {}).values()
    return any(not str(name).startswith(READ_ONLY_TYPE) for name in types)
