"""One self-contained page about a run; each module of `sections` is a section of it.

A section offers ``title``, ``order`` and ``render``, or ``render_against`` in its place if it
compares the run with earlier ones.
"""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import quote

from pipeline import paths
from pipeline.errors import XpipeError
from pipeline.report import machine, page, sections
from pipeline.report.sections import failures
from pipeline.snapshot import Snapshot
from pipeline.store import open_run
from pipeline.urls import located

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.store import Run

__all__ = ["ComparingSection", "Section", "build", "discover"]


logger = logging.getLogger(__name__)
FAILURES = "failures"
"""Anchor of the section that lists what is not there."""
_FILE = re.compile(r'<a href="(?!#|[a-z]+:)')


class Section(Protocol):
    """What a module of `pipeline.report.sections` offers."""

    __name__: str
    title: str
    """Heading, and entry in the page's navigation."""
    order: int
    """Sections are shown in ascending order."""

    def render(self, run: Run) -> str | None:
        """Return the section's HTML (escaped, without external requests), or None to stay out."""


class ComparingSection(Protocol):
    """What a module offers in place of `Section` if it compares runs."""

    __name__: str
    title: str
    order: int

    def render_against(self, run: Run, previous: tuple[Run, ...]) -> str | None:
        """Return the section's HTML, or None to stay out, as it does if there are none before.

        Parameters
        ----------
        run
            The run that the page is about.
        previous
            Earlier runs to compare it with, in the order that they were named.
        """


def discover() -> list[Section | ComparingSection]:
    """Return all sections in the order of the page."""
    names = (module.name for module in pkgutil.iter_modules(sections.__path__))
    modules = [
        cast("Section | ComparingSection", importlib.import_module(f"{sections.__name__}.{name}"))
        for name in names
    ]
    return sorted(modules, key=lambda section: (section.order, section.__name__))


def build(
    path: str | PurePath | Run,
    out: str | PurePath | None = None,
    *,
    against: Sequence[str | PurePath | Run] = (),
) -> PurePath:
    """Write the page about a run, with report.json beside it, and return where the page is.

    Parameters
    ----------
    path
        The run's folder, or the opened run.
    out
        The file to write, on a disk or in an object store, what is for programs beside it under the
        same name and ``.json``; ``report.html`` in the run's folder if not given.
    against
        Earlier runs that it is compared with, as folders or opened.
    """
    run = _opened(path)
    previous = tuple(_opened(each) for each in against)
    contents = _contents(run, previous)
    if out is not None:
        home = _home(run, located(out))
        contents = [(anchor, title, _from(home, text)) for anchor, title, text in contents]
    html = page.document(run.config.name, contents)
    if out is None:
        run.folder.write(paths.REPORT, html.encode())
        run.folder.write(paths.MACHINE, machine.text(run).encode())
        return located(run.path) / paths.REPORT
    target = located(out)
    folder = paths.Folder(target.parent)
    folder.write(target.name, html.encode())
    folder.write(target.with_suffix(".json").name, machine.text(run).encode())
    return target


def _home(run: Run, page: PurePath) -> str:
    """Return where the run's files are from a page; by their URL if the two are in two stores."""
    home = located(run.path)
    if isinstance(home, Path) and isinstance(page, Path):
        return os.path.relpath(home, page.parent)
    return str(home)


def _opened(path: str | PurePath | Run) -> Run:
    run = open_run(path) if isinstance(path, (str, PurePath)) else path
    return Snapshot(run)


def _contents(run: Run, previous: tuple[Run, ...]) -> list[tuple[str, str, str]]:
    """Return anchor, title and content of each section, whether or not others are damaged."""
    contents: dict[str, tuple[str, str]] = {}
    broken: list[tuple[str, str, XpipeError]] = []
    for section in discover():
        anchor = section.__name__.rsplit(".", 1)[-1]
        try:
            content = _rendered(section, run, previous)
        except XpipeError as error:
            logger.warning("the section %s of the page cannot be shown: %s", section.title, error)
            broken.append((anchor, section.title, error))
            content = failures.in_place(error)
        if content is not None:
            contents[anchor] = section.title, content
    if broken:
        title, content = contents.get(FAILURES, (failures.title, ""))
        contents[FAILURES] = title, content + failures.of_sections(broken)
    return [(anchor, title, content) for anchor, (title, content) in contents.items()]


def _from(home: str, content: str) -> str:
    """Return a section for a page elsewhere: files of the run are found from there."""
    place = located(home)
    # in a path, what stands before a colon would be taken for a protocol
    href = quote(place.as_posix(), safe="/" if isinstance(place, Path) else "/:")
    # within text and attributes, quotation marks are escaped
    return _FILE.sub(lambda found: f"{found[0]}{href}/", content)


def _rendered(
    section: Section | ComparingSection, run: Run, previous: tuple[Run, ...]
) -> str | None:
    compare = getattr(section, "render_against", None)
    if compare is not None:
        return cast("str | None", compare(run, previous))
    return cast("Section", section).render(run)
