"""What can go wrong in a run: each error says what to do and which exit code it means."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator


class XpipeError(Exception):
    """Base of all errors that a user is meant to read.

    Parameters
    ----------
    what
        What was got and what was expected, lower case.
    fix
        What to do about it.
    page
        Name of the page in ``docs/errors`` about it; that of its kind if not given.
    """

    exit_code: ClassVar[int] = 1
    page_of_kind: ClassVar[str] = "error"

    def __init__(self, what: str, *, fix: str = "", page: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix
        self.page = page or self.page_of_kind

    def __str__(self) -> str:
        return f"{self.what}\n  to fix: {self.fix}" if self.fix else self.what

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.fix, self.page))


def _rebuild(kind: type[XpipeError], what: str, fix: str, page: str) -> XpipeError:
    return kind(what, fix=fix, page=page)


class ConfigError(XpipeError, ValueError):
    """The run file, or an override, does not say something that can be run."""

    exit_code = 3
    page_of_kind = "config"


class PlanError(XpipeError, ValueError):
    """The run file is well-formed, but model, data or explainers do not fit each other."""

    exit_code = 3
    page_of_kind = "plan"


class RunConflictError(XpipeError, RuntimeError):
    """The folder belongs to another live run, or to a run with another digest."""

    exit_code = 3
    page_of_kind = "conflict"


class SampleError(XpipeError, ValueError):
    """One sample cannot be used; the run goes on without it."""

    page_of_kind = "failed-samples"


class StoreError(XpipeError, OSError):
    """The store cannot be read or written."""

    page_of_kind = "store"


class IntegrityError(StoreError):
    """What is stored does not match the record that vouches for it."""

    page_of_kind = "integrity"


class EngineError(XpipeError, RuntimeError):
    """Workers could not be started or kept alive."""

    page_of_kind = "engine"


class JobError(XpipeError, RuntimeError):
    """A cluster did not take a job, or does not say what became of it."""

    page_of_kind = "job"


class ScheduleError(XpipeError, ValueError):
    """A schedule cannot be read, or asks for what cannot be."""

    exit_code = 3
    page_of_kind = "schedule"


@contextlib.contextmanager
def written_at(place: str) -> Iterator[None]:
    """Put the place in the run file before what a PlanError in a with block says."""
    try:
        yield
    except PlanError as error:
        raise PlanError(f"{place}: {error.what}", fix=error.fix, page=error.page) from error
