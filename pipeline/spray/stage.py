"""The spectral analysis of a run's maps: pool on the engine, analyse here, check on the engine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from explainers import Target
from explainers.concepts.conditions import CONDITION
from pipeline import paths
from pipeline.data import open_source, read_batch
from pipeline.errors import ConfigError
from pipeline.inputs import ALONE, is_one_picture, parts_of
from pipeline.sinks import columns as parquet
from pipeline.spray import stored
from pipeline.spray.analysis import PooledMaps, analyse
from pipeline.spray.counterfactual import judged
from pipeline.spray.parameters import Spray, build
from pipeline.spray.pooling import grid_of
from pipeline.spray.probes import Facts, Probe, probes
from pipeline.spray.tasks import CheckTask, PoolTask
from pipeline.threads import computing_threads
from pipeline.trust import basis_of, settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.ledger import Entry
    from pipeline.plan import MapSpec
    from pipeline.session import Session
    from pipeline.shards import Shard
    from pipeline.spray.result import Analysis
    from pipeline.store import Run
    from pipeline.task import Task

PICTURE = ("height", "width")


def chosen(
    run: Run, asked: Mapping[str, Mapping[str, Any]] | Sequence[str] | None
) -> dict[str, Spray]:
    """Return the analyses that are asked for by explainer; all is checked.

    Parameters
    ----------
    run
        Whose maps are analysed.
    asked
        Explainer to parameters; a name without means what the run file says of it, if anything.
        The run file's section if not given.

    Raises
    ------
    ConfigError
        If maps cannot be compared, or a parameter is wrong.
    """
    configured = run.config.spray
    given = configured if asked is None else asked
    if not isinstance(given, dict):
        given = {name: {} for name in given}
    found = build(run.config, {name: given[name] or configured.get(name, {}) for name in given})
    for name, spray in found.items():
        _check(run, name, spray)
    return found


def analyse_run(
    run: Run, asked: Mapping[str, Spray], shards: Sequence[Shard], session: Session
) -> tuple[Analysis, ...]:
    """Analyse maps of a run; what is there already is kept.

    Parameters
    ----------
    run
        Whose maps.
    asked
        See `chosen`.
    shards
        Those whose maps are committed.
    session
        Maps over shards.

    Returns
    -------
    tuple of Analysis
        Those that are done.
    """
    stages = (_Stage(run, name, spray, tuple(shards), session) for name, spray in asked.items())
    made = (stage.run() for stage in stages)
    return tuple(analysis for analysis in made if analysis is not None)


def _check(run: Run, name: str, spray: Spray) -> None:
    """Refuse maps that cannot be compared position by position, and classes nobody knows."""
    spec = run.plan.maps.get(name)
    reason, fix = "", "analyse another explainer's maps"
    if spec is None:
        reason = "it makes no maps of one input"
    elif CONDITION in spec.dims:
        reason = "it has a map for each condition"
    elif run.plan.lengths is not None:
        reason = "its maps differ in length"
    elif spray.by == "target" and not _has_class(run):
        reason, fix = "the run's target is no class", "set `by: prediction` or `by: label`"
    if reason:
        raise ConfigError(f"{run.config.where('spray', name)}: {reason}", fix=fix)


def _has_class(run: Run) -> bool:
    target = Target.parse(run.plan.targets[0])
    return target.layer is None and target.kind != "weights"


@dataclass
class _Stage:
    """The analysis of one explainer's maps."""

    explained: Run
    name: str
    spray: Spray
    shards: tuple[Shard, ...]
    session: Session

    def run(self) -> Analysis | None:
        """Return the analysis; None if the run is to stop, or nothing could be pooled."""
        pool = self._pool()
        if self.session.is_stopping or not pool:
            return None
        facts = (self._classes, self._facts.predictions, self._facts.labels)
        known = hashlib.sha256(b"".join(part.tobytes() for part in facts)).hexdigest()
        basis = _digest("clusters", basis_of(pool), asdict(self.spray), known)
        if self._said("result") and self._said("clusters") == basis:
            present = self._entries(stored.CHECK, str(self._said(stored.CHECK) or ""))
            if self._said("result") == basis_of(present, basis) and self._is_finished():
                return stored.read(self._path, self.name)
        return self._clustered(pool, basis)

    def _clustered(self, pool: dict[int, Entry], basis: str) -> Analysis | None:
        if self._said("clusters") != basis or not self._is_written():
            # what is there is of other maps or parameters
            stored.withdraw(self._path, self.name)
            with computing_threads(self.explained.plan.threads):
                analysis = self._analysed(pool)
            checks = list(self._probes(analysis))
            stored.write(self._path, self.name, analysis, stored.CLUSTERS)
            stored.write_probes(self._path, self.name, checks)
            self._say(clusters=basis, check=_digest("check", basis))
        found = self._outcomes() if stored.read_probes(self._path, self.name) else {}
        return None if found is None else self._judged(found, basis)

    def _judged(self, present: dict[int, Entry], basis: str) -> Analysis:
        analysis = stored.read(self._path, self.name, stored.CLUSTERS)
        if present:
            checks = stored.read_probes(self._path, self.name)
            analysis = judged(analysis, checks, self._read_outcomes(present))
        written = stored.write(self._path, self.name, analysis, stored.RESULT)
        for file in (stored.CLUSTERS, stored.PROBES):
            path = paths.spray_path(self.name, file)
            written[path] = self.explained.folder.digest(path)
        self._say(result=basis_of(present, basis))
        stored.finish(self._path, self.name, written)
        return analysis

    @property
    def _path(self) -> str:
        return str(self.explained.path)

    def _said(self, what: str) -> Any:
        return stored.stage(self._path, self.name).get(what)

    def _say(self, **digests: str) -> None:
        known = {**stored.stage(self._path, self.name), **digests}
        text = json.dumps(known, indent=1, sort_keys=True)
        self.explained.folder.write(paths.spray_path(self.name, stored.STAGE), text.encode())

    def _is_written(self) -> bool:
        files = (stored.CLUSTERS, stored.PROBES)
        return all(self.explained.folder.exists(paths.spray_path(self.name, f)) for f in files)

    def _is_finished(self) -> bool:
        if not stored.exists(self._path, self.name):
            return False
        return all(self.explained.folder.exists(p) for p in stored.objects(self._path, self.name))

    def _pass(self, part: str) -> str:
        return f"{paths.SPRAY}.{self.name}.{part}"

    def _entries(self, part: str, digest: str) -> dict[int, Entry]:
        return self.explained.ledger.current(self._pass(part), digest)

    def _mapped(self, task: Task, part: str, digest: str) -> dict[int, Entry]:
        """Map a task over the shards and return the records of all that are done."""
        done = settle(self._path, self._pass(part), digest)
        self.session.map(task, self._pass(part), self.shards, set(done))
        wanted = {shard.index for shard in self.shards}
        return {n: each for n, each in self._entries(part, digest).items() if n in wanted}

    def _pool(self) -> dict[int, Entry]:
        n_axes = len(self._sizes())
        grid, sign = self.spray.grid, self.spray.sign
        digest = _digest(stored.POOL, self.explained.plan.digest, self.name, grid, sign)
        if self._said(stored.POOL) != digest:
            self._say(pool=digest)
        task = PoolTask(self._path, self.name, n_axes, grid, sign, digest)
        return self._mapped(task, stored.POOL, digest)

    def _outcomes(self) -> dict[int, Entry] | None:
        """Return the records of the checks of all shards; None if some are missing."""
        digest = str(self._said(stored.CHECK))
        task = CheckTask(self._path, self.name, digest)
        done = self._mapped(task, stored.CHECK, digest)
        return done if len(done) == len(self.shards) else None

    def _read_outcomes(self, present: dict[int, Entry]) -> dict[str, NDArray[Any]]:
        folder = self.explained.folder
        parts = [
            parquet.arrays(parquet.from_file(folder, stored.outcomes_path(self.name, shard)))
            for shard in sorted(present)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _spec(self) -> MapSpec:
        return self.explained.plan.maps[self.name]

    def _sizes(self) -> tuple[int, ...]:
        """Return the sizes of the axes of a map that hold positions."""
        spec = self._spec()
        n_axes = 2 if tuple(spec.dims[-2:]) == PICTURE else 1
        return tuple(spec.shape[-n_axes:])

    def _analysed(self, pool: dict[int, Entry]) -> Analysis:
        """Return the analysis of what is pooled, not checked yet."""
        defined = [self._pooled(shard)["is_defined"] for shard in self._shards_of(pool)]
        samples = [
            shard.start + np.flatnonzero(each)
            for shard, each in zip(self._shards_of(pool), defined, strict=True)
        ]
        maps = PooledMaps(
            chunks=_Chunks(self, pool),
            grid=grid_of(self._sizes(), self.spray.grid),
            samples=np.concatenate(samples),
            n_undefined=int(sum((~each).sum() for each in defined)),
        )
        return analyse(maps, self._classes, self.spray, self.name)

    def _shards_of(self, pool: Mapping[int, Entry]) -> list[Shard]:
        return [shard for shard in self.shards if shard.index in pool]

    def _pooled(self, shard: Shard) -> dict[str, NDArray[Any]]:
        return stored.arrays_of(self._path, stored.pooled_path(self.name, shard.index))[1]

    @cached_property
    def _facts(self) -> Facts:
        """Return what is known of all samples; -1 where a shard is not done."""
        run, n = self.explained, self.explained.plan.n_samples
        label, prediction = np.full(n, -1), np.full(n, -1)
        known = run.samples().select(["index", "label", "prediction"]).to_pydict()
        label[known["index"]], prediction[known["index"]] = known["label"], known["prediction"]
        return Facts(prediction, label)

    @cached_property
    def _classes(self) -> NDArray[Any]:
        """Return the class of every sample, int64; -1 where a shard is not done."""
        known = {"label": self._facts.labels, "prediction": self._facts.predictions}
        if self.spray.by in known:
            return known[self.spray.by]
        target = np.asarray(self.explained.array("", "target").values)
        return np.asarray(target.reshape(len(target), -1)[:, 0], np.int64)

    def _probes(self, analysis: Analysis) -> Iterator[Probe]:
        """Yield what is to be checked; nothing where inputs have no positions as maps have."""
        plan = self.explained.plan
        is_alike = is_one_picture(plan.form) and len(plan.input_shape) - len(self._sizes()) in (
            0,
            1,
        )
        if not self.spray.n_checked or not is_alike or not _has_class(self.explained):
            return
        config = self.explained.config
        source = open_source(config.data, config.base)

        def read(samples: Sequence[int]) -> NDArray[Any]:
            manifest = self.explained.manifest
            records = [manifest.slice(sample, sample + 1)[0] for sample in samples]
            inputs, _, _ = read_batch(source, records, plan.form)
            return np.asarray(parts_of(inputs)[ALONE])

        yield from probes(analysis, self._facts, self._sizes(), read)


@dataclass(frozen=True)
class _Chunks:
    """Reads pooled maps shard by shard."""

    stage: _Stage
    pool: Mapping[int, Entry]

    def __call__(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        for shard in self.stage._shards_of(self.pool):
            held = self.stage._pooled(shard)
            rows = np.flatnonzero(held["is_defined"])
            yield shard.start + rows, held["vectors"][rows]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
