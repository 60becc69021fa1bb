"""Where schedules are kept: a file each, in a folder that belongs to the project.

Beside the run files and not in the user's home: a schedule is part of what is audited. It goes
into version control with the run file that it starts, is read in a review, and is there on the
machine, in the container or in the job that the system's scheduler starts.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import run_file
from pipeline.complaints import complaints
from pipeline.errors import ConfigError, RunConflictError, ScheduleError
from pipeline.ownership import lock
from pipeline.paths import Folder
from pipeline.schedule.times import Times

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline.run_file import Keys, RunFile

FOLDER = "schedules"
"""Where schedules are kept, in the project's folder."""
STATE = ".state"
"""Folder in it for what is known of occurrences; no part of the project's history."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
"""What systemd and Kubernetes take as a name."""
_LONGEST = 52
"""Characters of a CronJob's name: Kubernetes adds eleven to name its jobs, up to 63."""


class Schedule(BaseModel):
    """What is run when."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    config: str
    """The run file, relative to the project's folder, in which runs are started, too."""
    cron: str
    """Minute, hour, day of the month, month, day of the week; or an alias such as ``@daily``."""
    timezone: str = "UTC"
    """Zone by IANA's name in which `cron`, and the date in paths, is meant."""
    set: tuple[str, ...] = ()
    """What is changed in the run file, ``a.b=c`` each."""
    keep: Annotated[int, Field(ge=1)] | None = None
    """How many finished runs of the schedule are kept; all if not given."""
    compare: bool = False
    """Whether each run is compared with that before it, and the relative gates are judged."""
    baseline: Literal["previous", "passed"] = "previous"
    """What it is compared with: the finished run before it, or the last that broke no gate and
    had no failure."""
    address: str | None = None
    """A cluster to which runs are submitted, such as ``http://head:8265``; the run file's engine
    if not given."""

    @property
    def times(self) -> Times:
        """When it is due."""
        return Times(self.cron, self.timezone)


class Book:
    """The schedules of a project.

    Parameters
    ----------
    folder
        Where they are kept; the project is the folder above.
    """

    def __init__(self, folder: str | Path = FOLDER) -> None:
        self.folder = Path(folder)

    @property
    def project(self) -> Path:
        """The folder in which runs are started, to which paths are relative."""
        return self.folder.absolute().parent

    def file(self, name: str) -> Path:
        """Return where a schedule is kept."""
        return self.folder / f"{name}.yaml"

    def state(self, name: str) -> Path:
        """Return the folder of what is known of a schedule's occurrences."""
        return self.folder / STATE / name

    def located(self, path: str) -> str:
        """Return where a path of the project is, from wherever one is; URLs stay as they are."""
        return path if "://" in path else str(self.project / path)

    def relative(self, path: str) -> str:
        """Return a path relative to the project, where it is in it: projects are moved."""
        inside = "://" not in path and Path(path).is_relative_to(self.project)
        return str(Path(path).relative_to(self.project)) if inside else path

    def names(self) -> list[str]:
        """Return the names of all schedules, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.yaml"))

    def read(self, name: str) -> Schedule:
        """Return a schedule.

        Raises
        ------
        ScheduleError
            If there is none of this name, or its file does not say what can be run.
        """
        path = self.file(name)
        if not path.is_file():
            known = ", ".join(self.names()) or "none"
            raise ScheduleError(
                f"there is no schedule {name!r} in {self.folder}; known: {known}",
                fix="xpipe schedule add makes one; run in the project's folder, or give --in",
            )
        try:
            return checked(run_file.parse(path.read_text(encoding="utf-8"), str(path)))
        except ConfigError as error:
            raise ScheduleError(error.what, fix=error.fix, page=error.page) from error

    def add(self, name: str, schedule: Schedule) -> Path:
        """Keep a schedule, and return its file.

        Raises
        ------
        ScheduleError
            If the name is taken, or is none for systemd and Kubernetes.
        """
        if not _NAME.fullmatch(name) or len(name) > _LONGEST:
            raise ScheduleError(
                f"{name!r} is no name of a schedule: expected at most {_LONGEST} of a-z, 0-9 and "
                "'-', the ends no '-'",
                fix="choose a name such as nightly-audit: systemd and Kubernetes use it, too",
            )
        values = schedule.model_dump(mode="json", exclude_defaults=True)
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        if not Folder(self.folder).create(f"{name}.yaml", text.encode()):
            raise ScheduleError(
                f"there is a schedule {name!r} already: {self.file(name)}",
                fix=f"edit that file, or xpipe schedule remove {name} first",
            )
        self.ignore_state()
        return self.file(name)

    def remove(self, name: str) -> None:
        """Forget a schedule; its runs are left as they are.

        Raises
        ------
        ScheduleError
            If there is none.
        RunConflictError
            If it is running.
        """
        if not self.file(name).is_file():
            self.read(name)  # says so
        present = lock.owner(self.state(name))
        if present is not None and present.is_alive:
            raise RunConflictError(
                f"schedule {name!r} is being run by process {present.pid}",
                fix="wait for it, or stop its run with xpipe stop",
                page="schedule-overlap",
            )
        self.file(name).unlink()
        shutil.rmtree(self.state(name), ignore_errors=True)

    def ignore_state(self) -> None:
        """Keep what is known of occurrences out of version control."""
        Folder(self.folder / STATE).create(".gitignore", b"*\n")

    def run_file_at(self, schedule: Schedule, moment: datetime | None) -> tuple[RunFile, Path]:
        """Return what a schedule's run file says at a moment, and the file's folder.

        Parameters
        ----------
        schedule
            Which.
        moment
            What ``{{ date }}`` stands for; placeholders are left in if not given.

        Raises
        ------
        ConfigError
            If it cannot be read.
        """
        path = self.project / schedule.config
        address = () if schedule.address is None else (_override(schedule.address),)
        overrides = (*schedule.set, *address)
        said = run_file.read_open(path, overrides)
        return (said if moment is None else run_file.fill(said, moment)), path.parent


def _override(address: str) -> str:
    return f"engine.address={json.dumps(address)}"


def checked(said: RunFile) -> Schedule:
    """Return the schedule that a file describes.

    Raises
    ------
    ScheduleError
        If it cannot be: all that is wrong, with its place.
    """
    try:
        schedule = Schedule.model_validate_json(json.dumps(said.values, default=str))
    except ValidationError as error:
        found = complaints(error, said.values, said.where, _fields)
        known = ", ".join(Schedule.model_fields)
        raise ScheduleError("\n".join(found), fix=f"fields of a schedule are {known}") from error
    for field, read in (("cron", "expression"), ("timezone", "zone")):
        try:
            getattr(schedule.times, read)
        except ScheduleError as error:
            where = said.where(field)
            raise ScheduleError(f"{where}: {error.what}", fix=error.fix, page=error.page) from error
    return schedule


def _fields(_: Keys) -> list[str]:
    return list(Schedule.model_fields)
