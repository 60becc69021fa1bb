"""Commands that watch and stop runs: stop, list, status, logs."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import output
from cli.options import AsJson, RunFolder
from pipeline.quantities import duration

WATCH_INTERVAL = 1.0
"""Seconds between looks at a run."""


def stop(
    path: RunFolder,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for the shards in flight.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a live run on this machine to stop: it finishes the shards in flight, then ends.

    Example:  xpipe stop runs/quickstart
    """
    from pipeline.runs import stop as stop_run

    owner = stop_run(path, now=now)
    if as_json:
        output.as_json({"path": path, "pid": owner.pid, "now": now})
        return
    manner = "at once" if now else "after the shards in flight"
    output.line(f"{path}: process {owner.pid} was asked to stop {manner}")
    output.note(f"later: xpipe resume {path}")


def list_runs(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where to look for runs.")] = Path(
        "runs"
    ),
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder with their state.

    Example:  xpipe list runs
    """
    from pipeline.runs import find

    rows = [_row(folder) for folder in find(path)]
    if as_json:
        output.as_json(rows)
    elif rows:
        output.table(
            rows, ("run", "state", "samples", "failed", "done"), right=("samples", "failed", "done")
        )
    else:
        output.note(f"no run in {path}")


def _row(folder: Path) -> dict[str, Any]:
    from pipeline.runs import state

    try:
        return _summary(state(folder))
    except Exception as error:  # whatever is wrong with one folder, the others are listed
        output.note(f"{folder} cannot be read: {type(error).__name__}: {error}")
        return {"run": str(folder), "state": "unreadable"} | dict.fromkeys(
            ("samples", "failed", "done")
        )


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
    as_json: AsJson = False,
) -> None:
    """Show how far a run is, who works on it, and which samples failed.

    Example:  xpipe status runs/quickstart --watch
    """
    from pipeline.runs import state

    while True:
        now = state(path)
        if as_json:
            output.json_line(now) if watch else output.as_json(now)
        else:
            _show(now)
        if not watch or now["state"] != "running":
            return
        time.sleep(WATCH_INTERVAL)


def _show(state: dict[str, Any]) -> None:
    output.line(f"{state['path']}: {state['state']}, {state['n_samples']} samples")
    if state["owner"] is not None:
        output.line(f"process {state['owner']['pid']} on {state['owner']['host']}")
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
    output.table(rows, columns, right=columns[1:])
    for failure in state["failures"]:
        output.line(f"failed: {failure['sample']}: {failure['reason']}")
    for name, n_samples in state["not_finite"].items():
        output.line(f"not finite: {name}: the maps of {n_samples} samples")


def logs(
    path: RunFolder,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on printing until the run ends.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print what happened in a run: passes, shards, retries, losses, with times.

    Example:  xpipe logs runs/quickstart --follow
    """
    from pipeline.runs import events

    for event in events(path, follow=follow):
        if as_json:
            output.json_line(event)
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
