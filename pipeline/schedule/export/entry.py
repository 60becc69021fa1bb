"""What an exported entry starts: one command, in one folder, by its absolute path."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.schedule.book import Book, Schedule


@dataclass(frozen=True)
class Entry:
    """A schedule, and how one of its occurrences is started."""

    name: str
    """The schedule."""
    schedule: Schedule
    """What it says."""
    folder: Path
    """The project's, absolute: in it the command is run."""
    book: Path
    """Folder of the schedules, absolute."""
    program: tuple[str, ...]
    """How xpipe is called where nothing is on the path."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """What comes after the program."""
        from pipeline.schedule.book import FOLDER

        is_usual = self.book == self.folder / FOLDER
        return ("schedule", "run", self.name, *(() if is_usual else ("--in", str(self.book))))

    @property
    def log(self) -> Path:
        """Where what it prints is kept, where the scheduler has no log of its own."""
        return self.book / f"{self.name}.log"


def entry_of(book: Book, name: str) -> Entry:
    """Return what starts an occurrence of a schedule with the xpipe that runs now.

    Raises
    ------
    ScheduleError
        If there is no such schedule.
    """
    return Entry(name, book.read(name), book.project, book.folder.absolute(), _program())


def _program() -> tuple[str, ...]:
    beside = Path(sys.executable).with_name("xpipe")
    found = str(beside) if beside.is_file() else shutil.which("xpipe")
    return (sys.executable, "-m", "cli.main") if found is None else (found,)
