"""Commands that make runs: init, plan, run, resume."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cli import clusters, output, remote, verdicts
from cli.options import AsJson, Base, Limit, Only, Overrides, RunFile, RunFolder
from pipeline.quantities import duration, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.progress import EventLines, Reporter
    from pipeline.gates.verdict import Verdict
    from pipeline.plan import Plan
    from pipeline.run import RunSummary

Events = Annotated[
    bool,
    typer.Option("--events", help="Print every event as a line of JSON on stdout, for programs."),
]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Take the folder from an owner on another host that is dead."),
]


def init(
    name: Annotated[
        Path | None,
        typer.Argument(metavar="NAME", help="Folder to make; the template's name if not given."),
    ] = None,
    template: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="TEMPLATE",
            help="quickstart, all_methods, imagenet_folder, relmax, relmax_imagenet, "
            "boolean_strings, movie_reviews, adversarial_digits, rde_mnist, rde_stl10, "
            "rde_an8flower, causal_digits, causal_cifar10, causal_imagenet_folder, clever_hans "
            "or full_audit, which `audit` names, too; clusters for files that launch clusters.",
        ),
    ] = "quickstart",
    as_json: AsJson = False,
) -> None:
    """Copy a run file to begin with, and what belongs to it, into a new folder.

    Example:  xpipe init digits --from quickstart
    """
    from pipeline import templates

    written = templates.copy(template, name or Path(template))
    if as_json:
        output.as_json({"template": template, "files": written})
        return
    for path in written:
        output.line(str(path))
    if template == templates.CLUSTERS:
        output.note(f"next: read {written[0]}")
        return
    output.note(f"next: xpipe plan {written[0]}, then xpipe run {written[0]}")


def plan(
    config: RunFile,
    overrides: Overrides = None,
    limit: Limit = None,
    only: Only = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run few samples, to say how long all take.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a run file and show what it would do and cost; nothing is run or written.

    Model, data and explainers are checked against each other. Exits with 3 if they do not fit.

    Example:  xpipe plan quickstart/run.yaml --limit 200
    """
    from pipeline.config import load
    from pipeline.estimate import measured_plan
    from pipeline.gates.left_out import left_out
    from pipeline.planner import make_plan
    from pipeline.run import narrowed

    loaded = load(config, overrides or ())
    asked = narrowed(loaded, only, limit)
    made = measured_plan(asked) if measure else make_plan(asked).plan
    if as_json:
        import json

        output.as_json(json.loads(made.to_json()))
    else:
        _show_plan(made)
    verdicts.tell(left_out(loaded, asked))


def run(
    config: RunFile,
    overrides: Overrides = None,
    limit: Limit = None,
    only: Only = None,
    take_over: TakeOver = False,
    junit: verdicts.JUnit = None,
    address: remote.Address = None,
    detach: remote.Detach = False,
    ship: remote.Ship = None,
    as_events: Events = False,
    as_json: AsJson = False,
) -> None:
    """Run a run file; in a folder that holds the same run already, go on with it.

    Ctrl-C once finishes the shards in flight, twice stops at once; resume goes on from there.
    Exits with 4 if a gate is broken, else with 5 if samples failed or shards were given up.

    Example:  xpipe run quickstart/run.yaml -s engine.workers=2
    """
    from pipeline.addresses import is_job_server
    from pipeline.config import load
    from pipeline.gates.left_out import left_out
    from pipeline.run import narrowed
    from pipeline.run import run as run_config

    where = () if address is None else (f"engine.address={address}",)
    loaded = load(config, (*(overrides or ()), *where))
    asked = narrowed(loaded, only, limit)
    if is_job_server(loaded.engine.address):
        sent = remote.submit(
            asked, take_over=take_over, detach=detach, as_json=as_json, also=ship or ()
        )
        name, skipped = loaded.name, left_out(loaded, asked)
        _end(sent, name, f"runs/{name}", junit, skipped, as_json=as_json)
    remote.refuse_local_only(loaded.engine.address, detach=detach, also=ship)
    with _reporter(as_events=as_events) as reporter:
        summary = run_config(
            loaded, only=only, limit=limit, callbacks=(reporter,), take_over=take_over
        )
    summary = replace(summary, gates=(*summary.gates, *left_out(loaded, asked)))
    verdicts.write(junit, loaded.name, summary.gates)
    _conclude(summary, as_json=as_json, as_events=as_events)


def resume(
    path: RunFolder,
    take_over: TakeOver = False,
    junit: verdicts.JUnit = None,
    detach: remote.Detach = False,
    base: Base = None,
    as_events: Events = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was stopped or killed; what is committed is not done again.

    A run that was sent to a cluster is sent there again. Exits as `xpipe run`.

    Example:  xpipe resume runs/quickstart
    """
    from pipeline import moved
    from pipeline.jobs.submission import noted, noted_run
    from pipeline.run import resume as resume_run

    job = noted(path)
    if base is not None:
        moved.rebase(path, base)
    elif job is not None:
        config = noted_run(job)
        sent = remote.submit(config, take_over=take_over, detach=detach, as_json=as_json, kept=path)
        _end(sent, config.name, path, junit, (), as_json=as_json)
    remote.refuse_local_only("local", detach=detach, also=())
    with moved.named(path), _reporter(as_events=as_events) as reporter:
        summary = resume_run(path, callbacks=(reporter,), take_over=take_over)
    verdicts.write(junit, Path(summary.path).name, summary.gates)
    _conclude(summary, as_json=as_json, as_events=as_events)


def _reporter(*, as_events: bool) -> "Reporter | EventLines":
    from cli.progress import EventLines, Reporter

    return EventLines() if as_events else Reporter()


def _end(
    sent: "tuple[RunSummary | None, int]",
    name: str,
    folder: str,
    junit: Path | None,
    skipped: "Sequence[Verdict]",
    *,
    as_json: bool,
) -> NoReturn:
    """Tell the end of a job as that of a local run, and exit with its code."""
    summary, code = sent
    if summary is not None:
        gates = (*summary.gates, *skipped)
        verdicts.write(junit, name, gates)
        _conclude(replace(summary, gates=gates, exit_code=code), as_json=as_json, again=folder)
    raise typer.Exit(code)


def _show_plan(plan: "Plan") -> None:
    shapes = [" x ".join(map(str, part.shape)) for part in plan.form.values()]
    output.fields(
        {
            "samples": f"{plan.n_samples} of {' and '.join(shapes)}, {plan.n_classes} classes",
            "shards": f"{len(plan.shards)} of {plan.shard_size} samples",
            "batches": f"{plan.batch_size} samples, {plan.threads} torch threads per worker",
            "targets": ", ".join(str(target) for target in plan.targets),
            "passes": ", ".join(entry.name for entry in plan.passes),
            "stored": ", ".join(f"{name} {size(n)}" for name, n in plan.bytes.items()),
        }
        | _expected(plan)
        | {"digest": plan.digest[:16]}
    )
    output.line("")
    spent = [name for cost in plan.costs.values() for name, number in cost.items() if number != 0]
    columns = tuple(dict.fromkeys(spent))
    rows: list[dict[str, Any]] = [
        {"explainer": name, "map": _map_of(plan, name)}
        | {key: "by the sample" if number is None else number for key, number in cost.items()}
        for name, cost in plan.costs.items()
    ]
    output.table(rows, ("explainer", "map", *columns), right=columns)
    for text in plan.notes:
        output.note(text)


def _expected(plan: "Plan") -> dict[str, str]:
    """Return how long the run will take; of explaining alone, if that is all that is known."""
    from pipeline.estimate import in_words

    if plan.estimate:
        return {"expected": in_words(plan.estimate)}
    return {} if plan.seconds is None else {"explaining, one worker": duration(plan.seconds)}


def _map_of(plan: "Plan", name: str) -> str | None:
    from pipeline.plan import split_name

    sizes = [
        ", ".join(f"{dim} {size}" for dim, size in zip(spec.dims, spec.shape, strict=True))
        for map_of, spec in plan.maps.items()
        if split_name(map_of)[0] == name
    ]
    return "; ".join(sizes) or None


def _conclude(
    summary: "RunSummary", *, as_json: bool, as_events: bool = False, again: str = ""
) -> None:
    """Print what became of a run, and exit with its code."""
    from dataclasses import asdict

    if as_events:
        output.json_line({"event": "summary", **asdict(summary)})
        raise typer.Exit(summary.exit_code)
    if as_json:
        output.as_json(asdict(summary))
    else:
        n_explained = summary.n_done - summary.n_failed
        output.line(
            f"{summary.path}: {n_explained} of {summary.n_samples} samples in "
            f"{duration(summary.seconds)}"
        )
        clusters.show(clusters.confirmed(summary.clusters))
        if summary.report is not None:
            output.line(f"report: {summary.report}")
    _tell_losses(summary)
    verdicts.tell(summary.gates)
    if summary.exit_code in (130, 143):
        if summary.report is None:
            output.note(f"interrupted; xpipe resume {again or summary.path} goes on")
        else:  # the page is the last thing that is made
            output.note("interrupted when all was done; nothing is left to go on with")
    raise typer.Exit(summary.exit_code)


def _tell_losses(summary: "RunSummary") -> None:
    """Print what is missing, and why."""
    if summary.n_failed:
        output.note(f"{summary.n_failed} samples failed; xpipe status {summary.path} names them")
        output.see("failed-samples")
    for text in summary.notes:
        output.note(text)
    for name, n_samples in summary.not_finite.items():
        output.note(f"{name}: the maps of {n_samples} samples are not finite")
    output.given_up(summary.quarantined)
