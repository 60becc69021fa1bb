"""What is known of a schedule's occurrences: a file each, written when it starts and ends."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.errors import ScheduleError
from pipeline.paths import Folder
from pipeline.placeholders import names_at

if TYPE_CHECKING:
    from pathlib import Path

FINISHED = (0, 4, 5)
"""Exit codes of a run that came to its end: done, with a broken gate, with failures."""
OCCURRENCES = "occurrences"


@dataclass(frozen=True)
class Occurrence:
    """One due time, and what became of it."""

    due: str
    """When it was due, with its zone's offset, as ISO 8601."""
    path: str
    """The run's folder; relative to the project's where it is in it."""
    is_ours: bool
    """Whether the folder was begun by the schedule; a run that was there before is not."""
    digest: str = ""
    """That of the run's plan, once it ended."""
    run_exit_code: int | None = None
    """What the run ended with; None if it never did."""
    exit_code: int | None = None
    """What the occurrence ended with, gates against the run before included."""
    compared_with: str = ""
    """Folder of the run that it was compared with."""
    is_removed: bool = False
    """Whether the run's folder was removed, or was to be when the removal was cut off."""

    @property
    def moment(self) -> datetime:
        """When it was due."""
        return datetime.fromisoformat(self.due)

    @property
    def is_finished(self) -> bool:
        """Whether its run came to its end."""
        return self.run_exit_code in FINISHED

    @property
    def has_passed(self) -> bool:
        """Whether nothing was wrong with it."""
        return self.exit_code == 0


class History:
    """The occurrences of a schedule.

    Parameters
    ----------
    folder
        The schedule's state.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Folder(folder)

    def write(self, occurrence: Occurrence) -> None:
        """Keep what is known of an occurrence, in place of what was known."""
        text = json.dumps(asdict(occurrence), indent=2) + "\n"
        self.folder.write(_file(occurrence.moment), text.encode())

    def at(self, due: datetime) -> Occurrence | None:
        """Return what is known of the occurrence of a due time."""
        try:
            content = self.folder.read(_file(due))
        except FileNotFoundError:
            return None
        return _read(content, self.folder.at(_file(due)))

    def all(self) -> list[Occurrence]:
        """Return all occurrences, oldest first."""
        names = [name for name in self.folder.entries(OCCURRENCES) if name.endswith(".json")]
        files = [f"{OCCURRENCES}/{name}" for name in names if not name.startswith(".")]
        found = [_read(self.folder.read(file), self.folder.at(file)) for file in files]
        return sorted(found, key=lambda each: each.moment.timestamp())


def _file(due: datetime) -> str:
    return f"{OCCURRENCES}/{names_at(due)['utc']}.json"


def _read(content: bytes, path: str) -> Occurrence:
    try:
        values: dict[str, Any] = json.loads(content)
        return Occurrence(**values)
    except (ValueError, TypeError) as error:
        raise ScheduleError(
            f"{path} cannot be read: {error}",
            fix="remove the file: the run that it tells of is neither compared nor removed then",
        ) from error
