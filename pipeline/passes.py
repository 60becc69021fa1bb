"""The passes of a run in order: explain, fold, decide, fold again, until every scan is done."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from explainers import Scan
from explainers.base import united
from pipeline import reduce, trust
from pipeline.data import open_source
from pipeline.entries import with_results
from pipeline.environment import provenance
from pipeline.events import NotFinite, ScanFinished
from pipeline.networks import network_of
from pipeline.products import coordinates, layouts
from pipeline.sinks import graphs, results
from pipeline.sinks.maps import MapSink
from pipeline.store import open_run
from pipeline.threads import computing_threads
from pipeline.worker import ExplainTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from explainers import Explainer, Result, Round
    from pipeline.config import RunConfig
    from pipeline.data import Source
    from pipeline.ledger import Entry
    from pipeline.plan import Pass, Plan
    from pipeline.session import Session


@dataclass(frozen=True)
class _Large:
    """A round whose result is never in memory as a whole."""

    round: Round
    entries: Mapping[int, Entry]
    """Records of the shards that it is made from."""


@dataclass
class Passes:
    """Goes through the passes of a run; what is committed is not done again."""

    session: Session
    """The start of the run that this belongs to."""
    config: RunConfig
    """What was asked for."""
    plan: Plan
    """What was decided."""
    explainers: Mapping[str, Explainer]
    """Entries, without the results of scans that they need."""
    entries: dict[str, dict[int, Entry]] = field(default_factory=dict)
    """Pass to the records that it ended with."""
    scans: dict[str, Result] = field(default_factory=dict)
    """Results of scans that are done."""

    def run(self) -> None:
        """Do every pass that can be done; stops in between where a signal asks for it."""
        sink = MapSink(self._path)
        names = [name for each in self.plan.passes for name in each.attributions]
        sink.create(
            layouts(self.plan, names),
            self.plan.n_samples,
            self.plan.shard_size,
            coordinates=coordinates(self.plan),
        )
        for each in self.plan.passes:
            self._run_pass(each)
            if self.session.is_stopping:
                return
            # methods may have found arrays of their own
            sink.consolidate()

    def _run_pass(self, each: Pass) -> None:
        first = {name: self._first_round(name) for name in each.scans}
        rounds = {name: found for name, found in first.items() if found is not None}
        wanted = {name: self.plan.needs.get(name, {}) for name in each.attributions}
        needed = sorted({scan for needs in wanted.values() for scan in needs.values()})
        if any(scan not in self.scans for scan in needed):
            return  # its shards were all given up; the summary says so
        basis = trust.basis_of(*(self._basis(scan) for scan in needed)) if needed else ""
        attributions = {name: self._with_results(name) for name in each.attributions}
        self._map(each.name, attributions, rounds, basis)
        self._warn(each)
        for name in each.scans:
            if self.session.is_stopping:
                return
            self._finish_scan(name, each.name, rounds.get(name))

    def _map(
        self,
        pass_name: str,
        attributions: Mapping[str, Explainer],
        rounds: Mapping[str, Round],
        basis: str,
    ) -> None:
        task = ExplainTask(
            self._path, self.config, self.plan, pass_name, dict(attributions), dict(rounds)
        )
        done = trust.settle(self._path, pass_name, self.plan.digest, basis)
        self.session.map(task, pass_name, self.plan.shards, done)
        self.entries[pass_name] = self._committed(pass_name)

    def _warn(self, each: Pass) -> None:
        """Tell which explainers of a pass have maps that are not finite."""
        if each.attributions and not self.session.is_stopping:
            for name, counted in open_run(self._path).not_finite(each.name).items():
                self.session.emit(NotFinite(each.name, name, counted))

    def _finish_scan(self, name: str, pass_name: str, current: Round | None) -> None:
        """Finalise a scan's first round, and map the others as long as it has any."""
        scan = self._scan(name)
        found: dict[str, Result] = {}
        large: list[_Large] = []
        while current is not None:
            entries = self.entries[pass_name]
            if not entries:
                return  # nothing to finalise: every shard was given up
            if current.is_large:
                large.append(_Large(current, entries))
            with computing_threads(self.plan.threads):
                found[current.name] = self._finalised(name, current, entries)
            current = scan.rounds(found)
            if current is not None:
                basis = trust.basis_of(name, *self._passes_of(name))
                pass_name = f"{name}.{current.name}"
                self._map(pass_name, {}, {name: current}, basis)
                if self.session.is_stopping:
                    return
        # what was kept of large ones is in them
        small: dict[str, Result] = {each.round.name: {} for each in large}
        self._conclude(name, scan, {**found, **small}, large)

    def _finalised(self, name: str, each: Round, entries: Mapping[int, Entry]) -> Result:
        """Return a round's result, of a large one what later rounds need of it."""
        if not each.is_large:
            return reduce.finalise(self._path, name, each, entries)
        if not each.is_needed:
            return {}
        return united(
            each.scan.gist(part) for part in reduce.parts(self._path, name, each, entries)
        )

    def _conclude(
        self, name: str, scan: Scan, found: Mapping[str, Result], large: Sequence[_Large]
    ) -> None:
        """Write a scan's result and graphs, unless they are there, made from the same records."""
        self.scans[name] = scan.conclude(found)
        basis = self._basis(name)
        if results.exists(self._path, name) and trust.is_result_of(self._path, name, basis):
            self._write_graphs(name, scan)
            return
        graphs.withdraw(self._path, name)
        following = (reduce.parts(self._path, name, each.round, each.entries) for each in large)
        parts = map(scan.stored, itertools.chain([self.scans[name]], *following))
        with computing_threads(self.plan.threads):
            origin = provenance(self.config, self.plan, name, scan)
            results.write_parts(self._path, name, parts, origin, scan.axes, scan.attributes)
        trust.note_result_of(self._path, name, basis)
        self._write_graphs(name, scan)
        self.session.emit(ScanFinished(name))

    def _write_graphs(self, name: str, scan: Scan) -> None:
        """Write the graphs that a scan found, unless they are there."""
        if not scan.has_graphs or graphs.exists(self._path, name):
            return
        run = open_run(self._path)
        source = open_source(self.config.data, self.config.base)
        origin = provenance(self.config, self.plan, name, scan)
        with computing_threads(self.plan.threads):
            network = network_of(self.config, self.plan, source, run.manifest)
            found = scan.graphs(self.scans[name], network)
            graphs.write(
                self._path,
                name,
                ((file, _described(graph, source, origin)) for file, graph in found),
            )

    def _passes_of(self, scan: str) -> list[Mapping[int, Entry]]:
        """Return the records of the passes that a scan has had, in order."""
        first = next(each.name for each in self.plan.passes if scan in each.scans)
        names = [first, *(name for name in self.entries if name.startswith(f"{scan}."))]
        return [self.entries.get(name, {}) for name in names]

    def _basis(self, scan: str) -> str:
        """Return the digest of the records that a scan's result is made from."""
        return trust.basis_of(*self._passes_of(scan))

    def _committed(self, pass_name: str) -> dict[int, Entry]:
        from pipeline.ledger import Ledger

        return Ledger(self._path).current(pass_name, self.plan.digest)

    def _first_round(self, name: str) -> Round | None:
        return self._scan(name).rounds({})

    def _scan(self, name: str) -> Scan:
        found = self.explainers[name]
        if not isinstance(found, Scan):
            raise TypeError(f"{name!r} is a {type(found).__name__}, expected a scan")
        return found

    def _with_results(self, name: str) -> Explainer:
        """Return an explainer with the results that it needs in their places."""
        return with_results(self.explainers[name], self.plan.needs.get(name, {}), self.scans)

    @property
    def _path(self) -> str:
        return str(self.session.path)


def _described(
    graph: Mapping[str, Any], source: Source, origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a graph with the name of its class, where the source has one, and its origin."""
    names, label = source.class_names or (), graph.get("class", -1)
    name = {"name": names[label]} if 0 <= label < len(names) else {}
    return {**graph, **name, "provenance": origin}
