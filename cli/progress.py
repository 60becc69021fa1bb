"""Progress on stderr: a bar with rate and remaining time, plain lines when nobody looks."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol, Self

from cli import output
from pipeline import events
from pipeline.quantities import duration

if TYPE_CHECKING:
    from rich.progress import TaskID

    from pipeline.task import ShardError

LINE_INTERVAL = 5.0
"""Seconds between plain lines: a log of an hour stays below a thousand lines."""


class Display(Protocol):
    """What shows how far a pass is."""

    def start(self, pass_name: str, done: int, total: int) -> None:
        """Show a pass of which `done` of `total` samples were there already."""

    def advance(self, n_samples: int) -> None:
        """Show further samples as done."""

    def finish(self) -> None:
        """Show the pass as ended."""

    def say(self, text: str) -> None:
        """Print a line beside the display."""

    def close(self) -> None:
        """Restore the terminal."""


class Plain:
    """Lines of text: at the start of a pass, every few seconds, at its end."""

    def __init__(self) -> None:
        self._name = ""
        self._before = self._done = self._total = 0
        self._started = self._printed = 0.0

    def start(self, pass_name: str, done: int, total: int) -> None:
        """Print how much there is to do."""
        self._name, self._before, self._done, self._total = pass_name, done, done, total
        self._started = self._printed = time.monotonic()
        known = f", {done} of them done earlier" if done else ""
        self.say(f"{pass_name}: {total} samples{known}")

    def advance(self, n_samples: int) -> None:
        """Print a line if the last one is old enough."""
        self._done += n_samples
        now = time.monotonic()
        if now - self._printed >= LINE_INTERVAL:
            self._printed = now
            self.say(self._state(now))

    def finish(self) -> None:
        """Print how long it took."""
        seconds = time.monotonic() - self._started
        self.say(f"{self._name}: {self._done}/{self._total} in {duration(seconds)}")

    def say(self, text: str) -> None:
        """Print the line."""
        output.note(text)

    def close(self) -> None:
        """Nothing to restore."""

    def _state(self, now: float) -> str:
        rate = (self._done - self._before) / max(now - self._started, 1e-9)
        text = f"{self._name}: {self._done}/{self._total}"
        if rate > 0:
            left = duration((self._total - self._done) / rate)
            text += f", {rate:.1f} samples/s, {left} left"
        return text


class Bar:
    """A bar per pass, redrawn in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None
        self._before = 0
        self._started = 0.0
        self._progress.start()

    def start(self, pass_name: str, done: int, total: int) -> None:
        """Add a bar."""
        self._before, self._started = done, time.monotonic()
        self._task = self._progress.add_task(pass_name, total=total, completed=done, rate="")

    def advance(self, n_samples: int) -> None:
        """Move the bar."""
        if self._task is None:
            return
        task = self._progress.tasks[self._progress.task_ids.index(self._task)]
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (task.completed + n_samples - self._before) / seconds
        self._progress.update(self._task, advance=n_samples, rate=f"{rate:.1f} samples/s")

    def finish(self) -> None:
        """Stop the clock of the bar."""
        if self._task is not None:
            self._progress.stop_task(self._task)
            self._task = None

    def say(self, text: str) -> None:
        """Print the line above the bar."""
        from rich.text import Text

        self._progress.console.print(Text(text))

    def close(self) -> None:
        """Leave the bar as it is, and give the cursor back."""
        self._progress.stop()


class Reporter:
    """A callback of a run that drives a display.

    Parameters
    ----------
    display
        Where to show it; a bar if stderr is a terminal, else lines.
    """

    def __init__(self, display: Display | None = None) -> None:
        self._display: Display = display or (Bar() if sys.stderr.isatty() else Plain())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._display.close()

    def say(self, text: str) -> None:
        """Print a line beside the display."""
        self._display.say(text)

    def __call__(self, event: events.Event) -> None:
        """Show an event; those that this display has no words for are passed over."""
        display = self._display
        match event:
            case events.PassStarted():
                display.start(event.pass_name, event.n_samples_done, event.n_samples)
            case events.ShardCommitted() | events.ShardSkipped():
                display.advance(event.n_samples)
            case events.PassFinished():
                display.finish()
            case _:
                text = describe(event)
                if text:
                    display.say(text)


class EventLines:
    """A callback of a run that prints every event as a line of JSON on stdout.

    Collectors of logs read them, and who has sent the run to a cluster follows it by them: they
    need nothing that both sides can reach but the log.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to restore."""

    def __call__(self, event: events.Event) -> None:
        """Print an event, with seconds since 1970."""
        output.json_line({"time": round(time.time(), 3), **events.record(event)})


def describe(event: events.Event) -> str:
    """Return an event in words, or nothing if it is only of use to machines."""
    match event:
        case events.RunStarted():
            again = f", start {event.epoch}" if event.epoch > 1 else ""
            return (
                f"{event.path}: {event.n_samples} samples in {event.n_shards} shards, "
                f"passes {', '.join(event.passes)}{again}"
            )
        case events.ShardFailed():
            where = f"{event.pass_name}: shard {event.shard}, attempt {event.attempt}"
            return f"{where} failed and is tried again: {_first_line(event.error)}"
        case events.ShardQuarantined():
            where = f"{event.pass_name}: shard {event.shard}, attempt {event.attempt}"
            return f"{where} failed and the shard is given up: {_first_line(event.error)}"
        case events.WorkerLost():
            where = f"{event.pass_name}: worker {event.worker}"
            return f"{where} was lost at shard {event.shard}: {event.reason}"
        case events.WorkerLogged():
            return f"{event.worker}: {event.level.lower()}: {event.message}"
        case events.NotFinite():
            return (
                f"warning: {event.explainer}: {event.n_samples} samples have maps that are not "
                "finite"
            )
        case events.ScanFinished():
            return f"scan {event.scan} is finished"
        case events.StageFinished():
            return f"{event.stage}: {event.detail}" if event.detail else event.stage
    return ""


def _first_line(error: ShardError) -> str:
    message = error.message.strip()
    return f"{error.type}: {message.splitlines()[0]}" if message else error.type
