"""Why an actor died, and whether that may be its shard's fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

NODE_DIED = "its node has died"
"""Ray's words for it; they are looked for only where the actor's node is not known."""


@dataclass(frozen=True)
class Loss:
    """The death of a worker."""

    reason: str
    """What is known about it."""
    is_excused: bool
    """Whether its machine went, which is not held against the shard."""


def is_loss(error: BaseException) -> bool:
    """Say whether an error means that the actor, or the way to it, is gone."""
    from ray import exceptions

    # killed for memory, an actor raises no RayActorError
    kinds = (
        exceptions.RayActorError,
        exceptions.OutOfMemoryError,
        exceptions.NodeDiedError,
        exceptions.WorkerCrashedError,
    )
    return isinstance(error, kinds)


def loss_of(error: BaseException, node: str, alive: Container[str]) -> Loss:
    """Return what is to be made of an error of which `is_loss` holds.

    A process that dies is told by its node within a second. So an actor that cannot be reached
    without anybody's word about it (``ActorUnavailableError``) means that the node, or the network
    to it, has gone: Ray itself needs half a minute to be sure, and shards need not wait for that.

    Parameters
    ----------
    error
        From a call of the actor.
    node
        Identifies the actor's node; empty if it never came up.
    alive
        Nodes that are alive.
    """
    from ray import exceptions

    text = str(error)
    if isinstance(error, exceptions.OutOfMemoryError):
        told = "; ".join(text.splitlines()[:2])
        return Loss(f"Ray killed the worker because its machine ran out of memory: {told}", False)
    is_gone = node not in alive if node else NODE_DIED in text
    if getattr(error, "preempted", False):
        return Loss(f"its node was preempted: {text}", True)
    if isinstance(error, exceptions.ActorUnavailableError | exceptions.NodeDiedError) or is_gone:
        return Loss(f"its node was lost: {text}", True)
    return Loss(text, False)
