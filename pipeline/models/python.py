"""Networks that a function of the user builds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import user_code
from pipeline.models.source import Builder, ModelSource, register

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.config import ModelConfig


@register("python")
class Python(ModelSource):
    """``file.py:function`` beside the run file, or ``package.module:function``."""

    def builder(self, config: ModelConfig, base: Path) -> Builder:
        """Return the function."""
        return user_code.find(config.name, base), dict(config.params)

    def files(self, config: ModelConfig, base: Path) -> tuple[Path, ...]:
        """Return the file, if a file has the function."""
        path = user_code.file_of(config.name, base)
        return () if path is None else (path,)

    def is_random(self, config: ModelConfig) -> bool:
        """Return False: what a function does is its own affair."""
        return False
