"""Where the page about an error lies on this machine: what went wrong is explained offline."""

from __future__ import annotations

import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

DISTRIBUTION = "xpipe-xai"
INSTALLED = "share/doc/xpipe/errors"
"""Where a wheel puts the pages, below the prefix that it is installed to."""


def link(page: str) -> Path | None:
    """Return the file of a page of ``docs/errors``.

    None if it is not on this machine: nodes of a cluster are sent the packages alone.
    """
    for folder in _folders():
        file = folder / f"{page}.md"
        if file.is_file():
            return file
    return None


def _folders() -> tuple[Path, ...]:
    checkout = Path(__file__).parents[1] / "docs" / "errors"
    prefix = Path(sysconfig.get_path("data")) / INSTALLED
    return (checkout, *_recorded(), prefix)


def _recorded() -> tuple[Path, ...]:
    """Return the folder in the record of the installation, which knows of --user."""
    try:
        files = distribution(DISTRIBUTION).files or ()
    except PackageNotFoundError:
        return ()
    pages = [file for file in files if file.parent.as_posix().endswith(INSTALLED)]
    return (Path(str(pages[0].locate())).resolve().parent,) if pages else ()
