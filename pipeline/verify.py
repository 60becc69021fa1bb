"""Check that what is stored is what the ledger vouches for, and make room for what is not."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline import paths
from pipeline.conflict import changes
from pipeline.entries import graph_scans
from pipeline.errors import IntegrityError, RunConflictError, XpipeError
from pipeline.ownership.lock import owner
from pipeline.sinks import graphs, metadata, nodes, results
from pipeline.spray import stored as analyses
from pipeline.store import EVALUATE, OWN, Run, open_run

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from pipeline.ledger import Entry

FIXES = {
    paths.PLAN: "restore it from a copy, or run again in another folder",
    paths.RUN_FILE: "undo the change, or `xpipe run` the file that the run was begun with, which "
    "writes it anew",
    paths.ENVIRONMENT: "restore it from a copy, or remove it, and with it what it says of versions",
}
"""What to do about documents by which everything else is judged, and which cannot be made anew."""

Kind = Literal["missing", "damaged", "stale", "orphan"]

THREADS = 4
"""That hash at a time; hashing leaves the interpreter, and a disk likes a queue."""


@dataclass(frozen=True, order=True)
class Problem:
    """Something in a run's folder that is not as it should be."""

    is_note: bool
    """Whether nothing has to be done: the object counts for nothing."""
    pass_name: str
    """Whose record vouches for it; empty if it belongs to no pass."""
    shard: int
    """The shard's index; -1 if it belongs to none."""
    object: str
    """Path relative to the run folder."""
    kind: Kind
    detail: str
    """What was got and what was expected."""

    def __str__(self) -> str:
        where = f" (pass {self.pass_name}, shard {self.shard})" if self.pass_name else ""
        return f"{self.kind}: {self.object}{where}: {self.detail}"


def verify(path: str | os.PathLike[str], repair: bool = False) -> list[Problem]:
    """Return what is wrong with a run, what matters first.

    Every object of every record is read and hashed; so are finalised results, graphs, the manifest
    and the metadata of maps. Objects that no record vouches for are notes: a run in progress has
    some.

    Parameters
    ----------
    path
        The run folder, a path or any fsspec URL.
    repair
        Whether to withdraw the records concerned and what was derived from them, so that
        resuming the run computes these shards again and no others.

    Raises
    ------
    StoreError
        If there is no run, or its plan cannot be read.
    RunConflictError
        If it is to be repaired while somebody works on it.
    IntegrityError
        If it is to be repaired and plan, run file or environment are not those of the run, so
        that nothing says what is right; nothing is removed then.
    """
    run = open_run(path)
    if repair:
        _refuse_if_owned(run)
    # Listed before the ledger is read: what is committed in between must not look orphaned.
    files = run.folder.files()
    entries, problems = _records(run)
    problems += _objects(run, entries)
    problems += _metadata(run)
    problems += _results(run)
    problems += _graphs(run)
    documents = _documents(run)
    problems += documents
    problems += _orphans(run, files, entries)
    if repair:
        _refuse_if_nothing_says_what_is_right(documents)
        _repair(run, entries, problems)
    return sorted(problems)


def _refuse_if_owned(run: Run) -> None:
    present = owner(run.path)
    if present is not None and present.is_alive:
        raise RunConflictError(
            f"process {present.pid} on {present.host!r} works on {run.path!r}",
            fix="`xpipe stop` it, repair, then `xpipe resume`",
            page="folder-in-use",
        )


def _records(run: Run) -> tuple[list[Entry], list[Problem]]:
    entries: list[Entry] = []
    problems: list[Problem] = []
    for pass_name in run.ledger.passes():
        for shard in run.ledger.shards(pass_name):
            path = paths.record_path(pass_name, shard)
            try:
                entry = run.ledger.entry(pass_name, shard)
            except IntegrityError as error:
                problems.append(Problem(False, pass_name, shard, path, "damaged", error.what))
                continue
            if entry is None:
                continue
            expected = _digest(run, pass_name)
            if expected is not None and entry.digest != expected:
                detail = f"its digest is {entry.digest[:12]}, expected {expected[:12]}"
                problems.append(Problem(False, pass_name, shard, path, "stale", detail))
            else:
                entries.append(entry)
    return entries, problems


def _digest(run: Run, pass_name: str) -> str | None:
    """Return the digest that records of a pass must have; None if nothing says."""
    if pass_name.startswith(f"{paths.SPRAY}."):
        return analyses.digest_of_pass(run.path, pass_name)
    if not pass_name.startswith(EVALUATE):
        return run.plan.digest
    path = paths.judged_path(pass_name.removeprefix(EVALUATE))
    try:
        judged: dict[str, Any] = json.loads(run.folder.read(path))
    except (FileNotFoundError, ValueError):
        return None
    digest = judged.get("digest")
    return None if digest is None else str(digest)


def _objects(run: Run, entries: Iterable[Entry]) -> list[Problem]:
    vouched = [(entry, name, digest) for entry in entries for name, digest in entry.objects.items()]
    names = sorted({name for _, name, _ in vouched})
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(names, pool.map(_Hash(run.folder), names), strict=True))
    return [
        _mismatch(name, digest, found[name], entry.pass_name, entry.shard)
        for entry, name, digest in vouched
        if found[name] != digest
    ]


def _mismatch(
    name: str, expected: str, got: str | None, pass_name: str = "", shard: int = -1
) -> Problem:
    if got is None:
        detail = "its record vouches for it, but it is not there"
        return Problem(False, pass_name, shard, name, "missing", detail)
    detail = f"its SHA-256 is {got[:12]}, expected {expected[:12]}"
    return Problem(False, pass_name, shard, name, "damaged", detail)


class _Hash:
    """Digest of a file by name; None where there is none."""

    def __init__(self, folder: paths.Folder) -> None:
        self._folder = folder

    def __call__(self, name: str) -> str | None:
        try:
            return self._folder.digest(name)
        except FileNotFoundError:
            return None


def _metadata(run: Run) -> list[Problem]:
    found = metadata.damaged(run.folder).items()
    return [Problem(False, "", -1, path, "damaged", detail) for path, detail in found]


def _results(run: Run) -> list[Problem]:
    """Return what is wrong with results of scans, and with graphs."""
    problems: list[Problem] = []
    every = [(paths.result_record_path(scan), results, scan) for scan in results.names(run.path)]
    every += [(paths.graph_record_path(scan), graphs, scan) for scan in graphs.names(run.path)]
    every += [(paths.spray_record_path(name), analyses, name) for name in analyses.names(run.path)]
    for path, sink, scan in every:
        try:
            objects = sink.objects(run.path, scan)
        except ValueError as error:
            problems.append(Problem(False, "", -1, path, "damaged", str(error)))
            continue
        with ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(_Hash(run.folder), objects)
            problems += [
                _mismatch(name, objects[name], got)
                for name, got in zip(objects, found, strict=True)
                if got != objects[name]
            ]
    return problems


def _graphs(run: Run) -> list[Problem]:
    """Return which finished scans have no graphs, where their method finds some."""
    try:
        wanted = graph_scans(run.config)
    except (FileNotFoundError, XpipeError):
        return []  # what is wrong with the run file is said of that
    detail = "the scan is finished, and its graphs are not there; `xpipe resume` writes them"
    without = [name for name in results.names(run.path) if not graphs.exists(run.path, name)]
    return [
        Problem(False, "", -1, paths.graph_record_path(name), "missing", detail)
        for name in without
        if name in wanted
    ]


def _documents(run: Run) -> list[Problem]:
    """Compare the documents of the run with the digests that they have of each other."""
    try:
        digests = run.environment.get("digests", {})
    except XpipeError as error:
        return [Problem(False, "", -1, paths.ENVIRONMENT, "damaged", error.what)]
    stated: list[tuple[str, str, Callable[[], str]]] = [
        (paths.PLAN, "plan", lambda: run.folder.digest(paths.PLAN)),
        (paths.PLAN, "run", lambda: run.plan.digest),
        (paths.PLAN, "manifest", lambda: run.plan.manifest_digest),
        (paths.MANIFEST, "manifest", lambda: run.manifest.digest()),
    ]
    expected = {"manifest": run.plan.manifest_digest} | digests
    problems = _run_file(run, digests.get("config"))
    for name, which, got in stated:
        try:
            if which in expected and got() != expected[which]:
                problems.append(_mismatch(name, expected[which], got()))
        except XpipeError as error:
            problems.append(Problem(False, "", -1, name, "damaged", error.what))
    return problems


def _run_file(run: Run, expected: str | None) -> list[Problem]:
    """Name what was changed in the run file, of what results depend on."""
    if expected is None:
        return []
    try:
        if run.config.digest() == expected:
            return []
        found = changes(run, run.config) or ["in what, is not known"]
        detail = f"edited after the run began: {', '.join(found)}"
    except XpipeError as error:
        detail = error.what
    return [Problem(False, "", -1, paths.RUN_FILE, "damaged", detail)]


def _refuse_if_nothing_says_what_is_right(documents: Iterable[Problem]) -> None:
    """Refuse to judge by a plan that may be wrong itself, or to resume what was another run."""
    for problem in documents:
        if problem.object in FIXES:
            raise IntegrityError(
                f"{problem.object} is not as the run began, or it and {paths.ENVIRONMENT} "
                f"disagree: {problem.detail}",
                fix=FIXES[problem.object],
                page="damaged-documents",
            )


def _orphans(run: Run, files: Iterable[str], entries: Iterable[Entry]) -> list[Problem]:
    vouched = {name for entry in entries for name in entry.objects}
    for explainer in analyses.names(run.path):
        vouched |= _vouched(run, explainer)
    finished = tuple(
        f"{path}/"
        for path in (
            *(paths.result_path(scan) for scan in results.names(run.path)),
            *(paths.graph_path(scan) for scan in graphs.names(run.path)),
        )
    )
    problems = []
    for name in files:
        folder = name.partition("/")[0]
        if paths.is_temporary(name):
            detail = "a writer was killed before it was in place"
        # Documents in JSON describe others and belong to no shard.
        elif folder in paths.SHARDED and not name.endswith(".json") and name not in vouched:
            detail = "no record vouches for it"
        elif (
            folder in (paths.SCANS, paths.GRAPHS)
            and name.count("/") > 1
            and not name.startswith(finished)
        ):
            detail = "the result that it belongs to is not complete"
        else:
            continue
        problems.append(Problem(True, "", -1, name, "orphan", detail))
    return problems


def _vouched(run: Run, explainer: str) -> set[str]:
    """Return what the record of a spectral analysis vouches for."""
    try:
        return set(analyses.objects(run.path, explainer))
    except ValueError:
        return set()  # that it is damaged is told already


def _repair(run: Run, entries: Iterable[Entry], problems: Iterable[Problem]) -> None:
    known = {(entry.pass_name, entry.shard): entry for entry in entries}
    vouched = {name: digest for entry in known.values() for name, digest in entry.objects.items()}
    mended = metadata.mend(run.folder, vouched)
    broken = [problem for problem in problems if not problem.is_note]
    for problem in broken:
        if problem.pass_name and problem.object not in mended:
            _withdraw(run, problem, known.get((problem.pass_name, problem.shard)))
        elif problem.object.startswith(f"{paths.SCANS}/"):
            results.withdraw(run.path, problem.object.split("/")[1].rpartition(".")[0])
        elif problem.object.startswith(f"{paths.GRAPHS}/"):
            graphs.withdraw(run.path, problem.object.split("/")[1].removesuffix(".json"))
        elif problem.object.startswith(f"{paths.SPRAY}/"):
            analyses.withdraw(run.path, problem.object.split("/")[1].removesuffix(".json"))
    if broken:
        # Made from what was broken, perhaps; all are made again from what is stored.
        for derived in (paths.REPORT, paths.MACHINE, paths.AGGREGATES, paths.COMPARISONS):
            run.folder.remove(derived)
    for problem in problems:
        if paths.is_temporary(problem.object):
            run.folder.remove(problem.object)


def _withdraw(run: Run, problem: Problem, entry: Entry | None) -> None:
    """Withdraw a record and what was derived from its shard: scores, and results of scans."""
    run.ledger.withdraw(problem.pass_name, problem.shard)
    if problem.object.endswith(f"/{nodes.DOCUMENT}"):
        run.folder.remove(problem.object)
    names = () if entry is None else entry.objects
    scans = {name.split("/")[1] for name in names if name.startswith(f"{paths.STATES}/")}
    planned = [each for each in run.plan.passes if each.name == problem.pass_name]
    for scan in scans.union(*(each.scans for each in planned)):
        results.withdraw(run.path, scan)
    if any(each.attributions for each in planned):
        for pass_name in run.ledger.passes():
            if pass_name.startswith(OWN):
                run.ledger.withdraw(pass_name, problem.shard)
