"""Who builds networks: each source is a class in a file of its own."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from explainers.registry import Registry
from pipeline.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.config import ModelConfig

Builder = tuple["Callable[..., Any]", dict[str, Any]]
"""What builds a network, and its keyword arguments."""


class ModelSource(ABC):
    """Builds the networks of a library; has no state."""

    @abstractmethod
    def builder(self, config: ModelConfig, base: Path) -> Builder:
        """Return what builds the network of the section `model`; paths are relative to `base`.

        Raises
        ------
        PlanError
            If the library is not installed, or has no such network.
        """

    def files(self, config: ModelConfig, base: Path) -> tuple[Path, ...]:
        """Return the files, other than weights, that say how the network is built."""
        return ()

    def is_random(self, config: ModelConfig) -> bool:
        """Whether the network has random weights as long as ``model.weights`` names no file."""
        return not config.params.get("pretrained")

    def notes(self, config: ModelConfig, base: Path) -> tuple[str, ...]:
        """Return what a reader of the plan should know of the network, such as what it wants."""
        return ()


model_sources: Registry[type[ModelSource]] = Registry(
    "model source", ["pipeline.models"], "xpipe.models"
)
"""Sources by the name that ``model.source`` gives."""


def register(name: str) -> Any:
    """Return a decorator that enters a source class under `name`."""
    return model_sources.register(name)


def find(config: ModelConfig, place: str = "model.source") -> ModelSource:
    """Return the source of the section `model`; `place` is where the run file names it.

    Raises
    ------
    ConfigError
        If there is none of this name.
    """
    try:
        return model_sources.get(config.source)()
    except LookupError as error:
        raise ConfigError(
            f"{place}: {error}", fix="name one of these sources", page="unknown-name"
        ) from error


def unknown_architecture(library: str, name: str, known: Sequence[str]) -> PlanError:
    """Return the error that a library has no network of this name."""
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see its documentation"
    return PlanError(f"{library} has no model {name!r}", fix=hint, page="unknown-model")
