"""Names to classes, found in a package and in entry points."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")


def suggest(name: str, known: Sequence[str]) -> str:
    """Return ``did you mean 'x'?`` for a near miss, else the list of what is known."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known are: {', '.join(sorted(known))}"


class Registry(Generic[T]):
    """Names to things that register themselves when their module is imported.

    Modules are imported on first use: every module of `packages`, then the entry points of
    `group`, so that a new thing is one new file and nothing else is edited.

    Parameters
    ----------
    kind
        What the things are called in messages, for example ``explainer``.
    packages
        Packages whose modules hold them.
    group
        Entry-point group through which other distributions add theirs.
    """

    def __init__(self, kind: str, packages: Sequence[str], group: str) -> None:
        self.kind = kind
        self.packages = tuple(packages)
        self.group = group
        self._things: dict[str, T] = {}
        self._is_discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters a thing under `name`.

        Raises
        ------
        ValueError
            If another thing has the name already.
        """

        def enter(thing: T) -> T:
            present = self._things.get(name)
            if present is not None and _origin(present) != _origin(thing):
                raise ValueError(
                    f"{self.kind} {name!r} is registered twice: {present!r} and {thing!r}"
                )
            self._things[name] = thing
            return thing

        return enter

    def get(self, name: str) -> T:
        """Return what is registered under `name`.

        Raises
        ------
        LookupError
            If there is nothing; the message names the nearest known name.
        """
        self._discover()
        try:
            return self._things[name]
        except KeyError:
            raise LookupError(
                f"unknown {self.kind} {name!r}; {suggest(name, list(self._things))}"
            ) from None

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        self._discover()
        return tuple(sorted(self._things))

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _discover(self) -> None:
        if self._is_discovered:
            return
        self._is_discovered = True
        for package_name in self.packages:
            package = importlib.import_module(package_name)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{package_name}.{module.name}")
        for entry in entry_points(group=self.group):
            entry.load()


def _origin(thing: object) -> tuple[str, str]:
    return (getattr(thing, "__module__", ""), getattr(thing, "__qualname__", repr(thing)))
