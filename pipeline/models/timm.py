"""Networks of timm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import PlanError
from pipeline.models.source import Builder, ModelSource, register, unknown_architecture

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.config import ModelConfig


@register("timm")
class Timm(ModelSource):
    """An architecture of timm by name."""

    def builder(self, config: ModelConfig, base: Path) -> Builder:
        """Return what makes it, with random weights unless ``params`` asks for others."""
        try:
            import timm
        except ImportError as error:
            raise PlanError(
                f"the model {config.name!r} needs timm, which is not installed",
                fix="pip install 'xpipe-xai[timm]'",
                page="missing-extra",
            ) from error
        if not timm.is_model(config.name):
            raise unknown_architecture("timm", config.name, timm.list_models())
        return timm.create_model, {
            "model_name": config.name,
            "pretrained": False,
            **config.params,
        }
