"""What a run file's section `callbacks` names: who else is told what happens in a run."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

from explainers.registry import Registry
from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.config import RunConfig
    from pipeline.events import Event

RESERVED = ("method",)
"""What an entry can say beside parameters."""


class Opened(Protocol):
    """A callback for one start of a run."""

    def __call__(self, event: Event) -> None:
        """Take notice of an event."""

    def close(self) -> None:
        """Finish: nothing else will happen."""


class Listener(ABC):
    """Somebody who wants to know; a frozen dataclass, whose fields are its parameters.

    What it opens lives in the driver, in a thread of its own: it may take its time, and what it
    raises ends itself and never the run.
    """

    name: ClassVar[str] = ""
    """Of its entry; set when it is registered."""
    extra: ClassVar[str] = ""
    """The extra that installs what it needs."""
    library: ClassVar[str] = ""
    """The package that it needs, as it is imported."""

    @abstractmethod
    def open(self, config: RunConfig, path: str) -> Opened:
        """Return the callback for one start of a run.

        Parameters
        ----------
        config
            What was asked for.
        path
            Folder of the run; what it holds is there from the first event on.
        """

    def check(self, where: str) -> None:
        """Refuse an entry whose library is not installed.

        Parameters
        ----------
        where
            The entry's place in the run file.

        Raises
        ------
        PlanError
            If it is not.
        """
        if self.library and not _is_installed(self.library):
            raise PlanError(
                f"{where}: {self.name} needs the package {self.library!r}, which is not installed",
                fix=f"pip install 'xpipe-xai[{self.extra}]', or remove the entry",
                page="missing-extra",
            )


listeners: Registry[type[Listener]] = Registry(
    "callback", ("pipeline.callbacks",), "xpipe.callbacks"
)


def register(name: str) -> Callable[[type[Listener]], type[Listener]]:
    """Return a decorator that enters a listener under `name` and tells it its name."""

    def enter(listener: type[Listener]) -> type[Listener]:
        listener.name = name
        return listeners.register(name)(listener)

    return enter


def _is_installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:  # of a parent package
        return False
