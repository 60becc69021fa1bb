"""Networks of torchvision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.models.source import Builder, ModelSource, register, unknown_architecture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.config import ModelConfig


@register("torchvision")
class Torchvision(ModelSource):
    """An architecture of ``torchvision.models`` by name."""

    def builder(self, config: ModelConfig, base: Path) -> Builder:
        """Return the architecture's function, which gives random weights."""
        from torchvision.models import get_model_builder, list_models

        try:
            builder: Callable[..., Any] = get_model_builder(config.name)
        except ValueError as error:
            raise unknown_architecture("torchvision", config.name, list_models()) from error
        return builder, {"weights": None, **config.params}

    def is_random(self, config: ModelConfig) -> bool:
        """Whether ``params`` names no weights of the library."""
        return config.params.get("weights") is None
