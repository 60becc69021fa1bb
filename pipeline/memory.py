"""How much memory a worker's process has held at most."""

from __future__ import annotations

import resource
import sys


def peak() -> int:
    """Return bytes: of tensors on the GPU if this process uses one, else of the process.

    Torch is asked only where somebody has imported it already.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # kilobytes, but for macOS
    return held if sys.platform == "darwin" else held * 1024
