"""One self-contained page about a run; each module of `sections` is a section of it."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from pipeline import paths
from pipeline.report import page, sections
from pipeline.store import open_run

if TYPE_CHECKING:
    from pipeline.store import Run

__all__ = ["Section", "build", "discover"]


class Section(Protocol):
    """What a module of `pipeline.report.sections` offers."""

    __name__: str
    title: str
    """Heading, and entry in the page's navigation."""
    order: int
    """Sections are shown in ascending order."""

    def render(self, run: Run) -> str | None:
        """Return the section's HTML (escaped, without external requests), or None to stay out."""


def discover() -> list[Section]:
    """Return all sections in the order of the page."""
    modules = [
        cast("Section", importlib.import_module(f"{sections.__name__}.{module.name}"))
        for module in pkgutil.iter_modules(sections.__path__)
    ]
    return sorted(modules, key=lambda section: (section.order, section.__name__))


def build(path: str | Path | Run, out: str | Path | None = None) -> Path:
    """Write the page about a run and return where it is.

    Parameters
    ----------
    path
        The run's folder, or the opened run.
    out
        The file to write; ``report.html`` in the run's folder if not given.
    """
    run = open_run(path) if isinstance(path, (str, Path)) else path
    rendered = [(section, section.render(run)) for section in discover()]
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
        return Path(run.path) / paths.REPORT
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html, encoding="utf-8")
    return target
