"""Who is told what happens during a run: one class each, discovered; none can end the run."""

from __future__ import annotations

from pipeline.callbacks.guarded import Apart, Guarded
from pipeline.callbacks.listener import RESERVED, Listener, Opened, listeners, register

__all__ = ["RESERVED", "Apart", "Guarded", "Listener", "Opened", "listeners", "register"]
