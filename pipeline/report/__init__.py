"""One self-contained page about a run; each module of `sections` is a section of it.

A section offers ``title``, ``order`` and ``render``, or ``render_against`` in its place if it
compares the run with earlier ones.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from pipeline import paths
from pipeline.report import machine, page, sections
from pipeline.store import open_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.store import Run

__all__ = ["ComparingSection", "Section", "build", "discover"]


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
    path: str | Path | Run,
    out: str | Path | None = None,
    *,
    against: Sequence[str | Path | Run] = (),
) -> Path:
    """Write the page about a run, with report.json beside it, and return where the page is.

    Parameters
    ----------
    path
        The run's folder, or the opened run.
    out
        The file to write, what is for programs beside it under the same name and ``.json``;
        ``report.html`` in the run's folder if not given.
    against
        Earlier runs that it is compared with, as folders or opened.
    """
    run = _opened(path)
    previous = tuple(_opened(each) for each in against)
    rendered = [(section, _rendered(section, run, previous)) for section in discover()]
    html = page.document(
        run.config.name,
        [
            (section.__name__.rsplit(".", 1)[-1], section.title, content)
            for section, content in rendered
            if content is not None
        ],
    )
    if out is None:
        run.folder.write(paths.REPORT, html.encode())
        run.folder.write(paths.MACHINE, machine.text(run).encode())
        return Path(run.path) / paths.REPORT
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html, encoding="utf-8")
    target.with_suffix(".json").write_text(machine.text(run), encoding="utf-8")
    return target


def _opened(path: str | Path | Run) -> Run:
    return open_run(path) if isinstance(path, (str, Path)) else path


def _rendered(
    section: Section | ComparingSection, run: Run, previous: tuple[Run, ...]
) -> str | None:
    compare = getattr(section, "render_against", None)
    if compare is not None:
        return cast("str | None", compare(run, previous))
    return cast("Section", section).render(run)
