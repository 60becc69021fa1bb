"""Commands that watch and stop runs, here and on clusters: stop, list, status, logs."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import output
from cli.options import AsJson, JobServer, RunFolder
from pipeline.quantities import duration

WATCH_INTERVAL = 1.0
"""Seconds between looks at a run."""


def stop(
    path: RunFolder,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for the shards in flight.")
    ] = False,
    address: JobServer = None,
    as_json: AsJson = False,
) -> None:
    """Ask a live run to stop: it finishes the shards in flight, then ends.

    Example:  xpipe stop runs/quickstart
    """
    from pipeline.jobs.watching import job_of, stop_job
    from pipeline.runs import stop as stop_run

    found = job_of(path, address)
    if found is not None:
        stop_job(*found, now=now)
        told: dict[str, Any] = {"job": found[1].submission, "address": found[0].address}
        who, path = f"job {found[1].submission}", str(found[1].folder)
    else:
        owner = stop_run(path, now=now)
        told = {"path": path, "pid": owner.pid}
        who = f"process {owner.pid}"
    if as_json:
        output.as_json(told | {"now": now})
        return
    manner = "at once" if now else "after the shards in flight"
    output.line(f"{path}: {who} was asked to stop {manner}")
    output.note(f"later: xpipe resume {path}")


def list_runs(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Where to look for runs.")] = "runs",
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder with their state, and those that were sent to clusters from it.

    Example:  xpipe list runs
    """
    from pipeline.jobs.submission import NOTE
    from pipeline.runs import find

    jobs = sorted(Path(path).glob(f"**/{NOTE}")) if "://" not in path else []
    rows = [_row(str(folder)) for folder in find(path)]
    present = {row["run"] for row in rows}
    rows += [_job_row(note.parent) for note in jobs if str(note.parent) not in present]
    if as_json:
        output.as_json(rows)
    elif rows:
        output.table(
            rows, ("run", "state", "samples", "failed", "done"), right=("samples", "failed", "done")
        )
    else:
        output.note(f"no run in {path}")


def _row(folder: str) -> dict[str, Any]:
    from pipeline.runs import state

    try:
        return _summary(state(folder))
    except Exception as error:  # whatever is wrong with one folder, the others are listed
        return _unreadable(folder, error)


def _job_row(folder: Path) -> dict[str, Any]:
    """Return what the note of a job says; no cluster is asked, as it may be gone."""
    from pipeline.jobs.submission import noted

    try:
        job = noted(folder)
    except Exception as error:
        return _unreadable(str(folder), error)
    said = "" if job is None else f"job at {job.address}"
    return {"run": str(folder), "state": said} | dict.fromkeys(("samples", "failed", "done"))


def _unreadable(folder: str, error: Exception) -> dict[str, Any]:
    output.note(f"{folder} cannot be read: {type(error).__name__}: {error}")
    return {"run": folder, "state": "unreadable"} | dict.fromkeys(("samples", "failed", "done"))


def _summary(state: dict[str, Any]) -> dict[str, Any]:
    shards = [(entry["done"], entry["shards"]) for entry in state["passes"]]
    n_done, n_shards = (sum(column) for column in zip(*shards, strict=True)) if shards else (0, 0)
    return {
        "run": state["path"],
        "state": state["state"],
        "samples": state["n_samples"],
        "failed": state["n_failed"],
        "done": f"{100 * n_done // n_shards if n_shards else 0} %",
    }


def status(
    path: RunFolder,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every second until the run ends.")
    ] = False,
    address: JobServer = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a run is, who works on it, and which samples failed.

    Example:  xpipe status runs/quickstart --watch
    """
    looks = _looks(path, address)
    if as_json:
        for now in looks:
            output.json_line(now) if watch else output.as_json(now)
            if not watch:
                return
    elif watch and sys.stdout.isatty():
        _watch_in_place(looks)
    elif watch:
        _watch_by_lines(looks)
    else:
        _show(next(looks))


def _looks(path: str, address: str | None) -> Iterator[dict[str, Any]]:
    """Yield the state of a run again and again, up to that in which it has ended."""
    from pipeline.jobs import watching
    from pipeline.runs import state

    found = watching.job_of(path, address)
    while True:
        now = state(path) if found is None else watching.state(*found)
        yield now
        if not now["is_live"]:
            return
        time.sleep(WATCH_INTERVAL)


def _watch_in_place(looks: Iterator[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        for now in looks:
            # lines of tables hold the codes of their bold heads
            live.update(Text.from_ansi("\n".join(_lines(now))), refresh=True)


def _watch_by_lines(looks: Iterator[dict[str, Any]]) -> None:
    """Print a line whenever something has changed, and all there is to know at the end."""
    last, now = "", None
    for now in looks:
        text = ", ".join(f"{row['pass']} {row['done']}/{row['shards']}" for row in now["passes"])
        text = f"{now['path']}: {now['state']}, {text or 'no pass yet'}, {now['n_failed']} failed"
        if text != last:
            output.note(text)
        last = text
    if now is not None:
        _show(now)


def _show(state: dict[str, Any]) -> None:
    for text in _lines(state):
        output.line(text)


def _lines(state: dict[str, Any]) -> Iterator[str]:
    yield f"{state['path']}: {state['state']}, {state['n_samples']} samples"
    if "job" in state:
        yield f"job {state['job']} at {state['address']}, results in {state['output']}"
    if state["owner"] is not None and state["is_live"]:
        yield f"process {state['owner']['pid']} on {state['owner']['host']}"
    rows = [
        {
            "pass": entry["pass"],
            "shards": f"{entry['done']}/{entry['shards']}",
            "samples": entry["samples"],
            "failed": entry["failed"],
            "worker time": duration(entry["seconds"]),
        }
        for entry in state["passes"]
    ]
    columns = ("pass", "shards", "samples", "failed", "worker time")
    yield from output.table_lines(rows, columns, right=columns[1:])
    for failure in state["failures"]:
        yield f"failed: {failure['sample']}: {failure['reason']}"
    for name, n_samples in state["not_finite"].items():
        yield f"not finite: {name}: the maps of {n_samples} samples"


def logs(
    path: RunFolder,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on printing until the run ends.")
    ] = False,
    address: JobServer = None,
    as_json: AsJson = False,
) -> None:
    """Print what happened in a run: passes, shards, retries, losses, with times.

    Example:  xpipe logs runs/quickstart --follow
    """
    from pipeline.jobs import watching
    from pipeline.runs import events

    found = watching.job_of(path, address)
    if found is None:
        told = events(path, follow=follow)
    else:
        told = watching.events(*found, follow_on=follow)
    for event in told:
        if as_json:
            output.json_line(event)
        elif event.get("event") == watching.OUTPUT:
            output.line(str(event["text"]))
        else:
            output.line(_in_words(event))


def _in_words(event: dict[str, Any]) -> str:
    at = event.get("time")
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else "-"
    kind = str(event.get("event", "?")).replace("_", " ")
    error = event.get("error") or {}
    about = {
        key: value
        for key, value in event.items()
        if key not in ("time", "event", "error") and value not in (None, "", [])
    }
    words = " ".join(f"{key}={_short(value)}" for key, value in about.items())
    reason = f" {error.get('type')}: {error.get('message')}" if error else ""
    return f"{clock}  {kind}  {words}{reason}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return ",".join(str(entry) for entry in value)
    return str(value)
