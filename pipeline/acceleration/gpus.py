"""Where the GPUs of a run are, and how much of one a worker has."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import torch

from pipeline.errors import EngineError

if TYPE_CHECKING:
    from pipeline.config import EngineConfig

LEAST_MEMORY = 16 * 2**30
"""Bytes of the smallest GPUs that data centres offer (T4, V100)."""


GIVEN = "XPIPE_HAS_GPU"
"""Environment variable of a worker: 1 if the engine has given it a GPU, or a share of one."""


def check_given() -> None:
    """Refuse to compute on the CPU of a worker that has been given a GPU.

    Raises
    ------
    EngineError
        If torch sees no GPU on it.
    """
    if os.environ.get(GIVEN) != "1" or torch.cuda.is_available():
        return
    built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
    raise EngineError(
        f"a worker on {platform.node()} was given a GPU, but torch sees none there: torch "
        f"{torch.__version__} {built}",
        fix="install the GPU's driver, and a torch that goes with it, on the worker's node, or "
        "set engine.gpus_per_worker to 0 to compute on the CPU",
        page="gpu-without-cuda",
    )


def share(engine: EngineConfig) -> float:
    """Return which part of a GPU a worker has: 0.25 where four share one."""
    asked = engine.gpus_per_worker
    return min(float(asked), 1.0) if asked not in ("auto", 0) else 1.0


def are_elsewhere(engine: EngineConfig) -> bool:
    """Whether workers have GPUs and this process has none: the head of a cluster often does not.

    With ``auto`` on a cluster nobody knows before it answers; the CPU of this machine is
    measured then, which gives a batch that any GPU takes.
    """
    is_asked = engine.gpus_per_worker not in ("auto", 0) or engine.accelerator_type is not None
    return is_asked and engine.kind != "serial" and not torch.cuda.is_available()


def guess_note(batch: int) -> str:
    """Return what a plan says of a batch size that could not be measured."""
    return (
        f"batches of {batch} are a guess: workers have GPUs, and there is none here to measure on; "
        "what does not fit is halved, and engine.batch_size sets another"
    )


def memory(device: torch.device, part: float) -> int:
    """Return the bytes that a worker can count on: its part of the GPU, if that much is free.

    What this process holds already counts as free: networks are read before batches are measured.
    Zero where the device is no GPU.
    """
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return min(int(part * total), free + torch.cuda.memory_reserved(device))


def keep_to_share(engine: EngineConfig) -> None:
    """Keep this worker from taking the memory of those that share its GPU.

    Memory runs out for who asks for too much, who halves its batches, and not for its neighbour.
    """
    if share(engine) < 1.0 and engine.kind != "serial" and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share(engine))
