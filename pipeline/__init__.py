from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.store import open_run

__all__ = ["open_run"]


def __getattr__(name: str) -> Any:
    if name == "open_run":
        from pipeline.store import open_run

        return open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
