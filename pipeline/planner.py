"""From a run file to a plan: everything is decided, and refused, before anything is spent."""

from __future__ import annotations

import functools
import hashlib
import json
import operator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from explainers import Attribution, Samples, Scan, Trace
from explainers.inputs.sources import is_one_tensor
from pipeline import array_files, models, scorable
from pipeline.acceleration import gpus, trying
from pipeline.acceleration.switches import PLAIN, Accelerator
from pipeline.data import open_source, select_records, selection_notes
from pipeline.entries import build_callbacks, build_explainers, build_metrics, needs_of
from pipeline.errors import PlanError, written_at
from pipeline.examples import find_example
from pipeline.gates.places import check_places
from pipeline.inputs import ALONE, form_of, is_one_picture, mapped, to_model
from pipeline.manifest import Manifest
from pipeline.plan import EXPLAIN, Pass, Plan
from pipeline.planning import fit, sizing, timing, trial
from pipeline.planning.shortest import Shortest, timed, who
from pipeline.shards import cut
from pipeline.spray.parameters import build as build_analyses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from explainers import Explainer, Network, Target
    from pipeline.config import RunConfig
    from pipeline.inputs import Form, Inputs
    from pipeline.metrics import Metric
    from pipeline.plan import MapSpec
    from pipeline.planning.trial import Trial


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan, and what had to be made to make it."""

    plan: Plan
    manifest: Manifest
    network: Network
    explainers: dict[str, Explainer]
    """Those of the run file, and scans that they need; results of scans are not in them yet."""


@dataclass(frozen=True, eq=False)
class _Parts:
    """What is known once everything has been found to fit."""

    config: RunConfig
    manifest: Manifest
    network: Network
    explainers: dict[str, Explainer]
    targets: tuple[Target, ...]
    example: Inputs
    samples: Samples
    weights_digest: str
    code_digest: str
    shortest: Shortest | None
    """Of samples that differ in length; `network` and `example` are of the longest then."""
    source_notes: tuple[str, ...]
    class_note: str
    """That the network has more outputs than the data has classes, if so."""


def make_plan(config: RunConfig, *, measure: bool = False) -> Planned:
    """Return what a run will do.

    Two samples are read. The model is built and read as a program, and every explainer and
    metric is checked against it.

    Parameters
    ----------
    config
        What was asked for.
    measure
        Explain one batch to estimate the time of explaining; `pipeline.estimate` does more.

    Raises
    ------
    ConfigError
        If a source, explainer, metric or one of their parameters is unknown or wrong.
    PlanError
        If model, weights, data, targets and explainers do not fit each other.
    """
    build_analyses(config)
    build_callbacks(config)
    parts = _fit(config)
    plan = _decide(parts)
    check_places(config, plan)
    if measure:
        plan = replace(plan, seconds=_seconds(parts, plan.batch_size))
    return Planned(plan, parts.manifest, parts.network, parts.explainers)


def digest_of(config: RunConfig, manifest: str, weights: str, code: str) -> str:
    """Return the digest of everything that results depend on."""
    parts = {"config": config.digest(), "manifest": manifest, "weights": weights, "code": code}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _fit(config: RunConfig) -> _Parts:
    # cheap things first: names, then data, then the model, and last its program
    found = build_explainers(config)
    metrics = build_metrics(config)
    source = open_source(config.data, config.base, config.where)
    with written_at(config.where("data")):
        records = source.records()
        source_notes = (*source.notes(), *selection_notes(config.data, records))
        manifest = Manifest(select_records(config.data, records, config.seed, source))
        if not len(manifest):
            raise PlanError("there are no samples", fix="see data.source", page="no-samples")
    fit.check_metrics(config, metrics, manifest)
    model = models.load_model(config.model, config.base, config.where)
    example, indices = find_example(source, manifest, model)
    n_classes = fit.count_classes(model, example, config.where("model"))
    class_note = fit.check_classes(config, source, n_classes)
    fit.check_labels(config, records, n_classes)
    network, seconds = timed(fit.read_network, model, example, config.where("model"))
    targets = fit.check_targets(config, manifest, network)
    fit.check_explainers(config, found, network, manifest, targets)
    _check_metrics(config, metrics, network, example, targets)
    shortest = Shortest.of(config, source, manifest, network, (example, indices, seconds))
    if shortest is not None:
        fit.check_explainers(config, found, shortest.network, manifest, targets)
    files = [*models.code_files(config.model, config.base), *source.code_files()]
    files += array_files.of_entries(config.explainers, config.base)  # which explainers have found
    return _Parts(
        config=config,
        manifest=manifest,
        network=network,
        explainers=found,
        targets=targets,
        example=example,
        samples=who(manifest, indices),
        shortest=shortest,
        weights_digest=models.weights_digest(model),
        code_digest=models.code_digest(files),
        source_notes=source_notes,
        class_note=class_note,
    )


def _check_metrics(
    config: RunConfig,
    metrics: Mapping[str, Metric],
    network: Network,
    example: Inputs,
    targets: Sequence[Target],
) -> None:
    form = form_of(mapped(operator.itemgetter(0), example))
    for name, metric in metrics.items():
        where = functools.partial(config.where, "metrics", name)
        fit.check_metric(metric, config.metrics[name], where, network, form, targets)


def _decide(parts: _Parts) -> Plan:
    config, n_samples, n_targets = parts.config, len(parts.manifest), len(parts.targets)
    needs, manifest_digest = needs_of(config), parts.manifest.digest()
    parts, trials, beside = _tried(parts, needs)
    form = form_of(mapped(operator.itemgetter(0), parts.example))
    shortest = None if parts.shortest is None else parts.shortest.network
    maps = sizing.map_specs(parts.explainers, parts.network, config.output.channels, shortest)
    batch, shard, size_note = _sizes(parts, maps, beside)
    switches = _switches(parts)
    return Plan(
        digest=digest_of(config, manifest_digest, parts.weights_digest, parts.code_digest),
        n_samples=n_samples,
        shard_size=shard,
        batch_size=batch,
        threads=config.engine.threads,
        **_of_samples(parts, form),
        n_classes=parts.network.n_outputs,
        targets=fit.target_specs(config),
        has_target_dimension=config.has_target_dimension,
        passes=_passes(parts.explainers, needs),
        maps=maps,
        costs=sizing.costs(parts.explainers, parts.network, n_samples, n_targets),
        bytes=sizing.stored_bytes(
            maps,
            trials,
            parts.network,
            beside=beside,
            n_samples=n_samples,
            n_targets=n_targets,
            n_shards=len(cut(n_samples, shard)),
            dtype=config.output.dtype,
        ),
        manifest_digest=manifest_digest,
        weights_digest=parts.weights_digest,
        code_digest=parts.code_digest,
        dtype=config.output.dtype,
        channels=config.output.channels,
        needs=needs,
        notes=(*_notes(parts, trials), *_unscored(config, maps, form), *switches, *size_note),
    )


def _of_samples(parts: _Parts, form: Form) -> dict[str, Any]:
    """Return what a plan says of the samples, given the form of the longest."""
    return {
        "input_shape": form[ALONE].shape if ALONE in form else (),
        "inputs": {} if is_one_picture(form) else form,
        "lengths": None if parts.shortest is None else parts.shortest.lengths,
    }


def _tried(
    parts: _Parts, needs: Mapping[str, Mapping[str, str]]
) -> tuple[_Parts, dict[str, Trial], int]:
    """Return explainers as they will be once scans are done, after all were tried on the example.

    With them, what scans did with it, and the bytes of arrays beside maps.
    """
    config, found, batches = parts.config, parts.explainers, _batches(parts)
    trials = trial.scans(config, found, batches)
    results = trial.results(trials, len(parts.manifest))
    beside = max(
        trial.check_attributions(config, found, trace, parts.targets, needs, results)
        for trace, _ in batches
    )
    awaited = trial.awaited(found, needs, results, len(parts.manifest))
    return replace(parts, explainers=awaited), trials, beside


def _sizes(parts: _Parts, maps: Mapping[str, Any], beside: int) -> tuple[int, int, tuple[str, ...]]:
    """Return the sizes of batches and shards, and what is to be said of the former."""
    engine, n_samples = parts.config.engine, len(parts.manifest)
    batch, shard = engine.batch_size, parts.config.output.shard_size
    notes: tuple[str, ...] = ()
    if batch == "auto":
        at_most = n_samples if shard == "auto" else min(shard * sizing.MIN_BATCHES, n_samples)
        if gpus.are_elsewhere(engine):
            batch = sizing.guessed_batch(parts.network, parts.example, at_most, gpus.share(engine))
            notes = (gpus.guess_note(batch),)
        else:
            network = _where_it_will_run(parts)
            share = gpus.share(engine)
            batch = sizing.batch_size(network, parts.example, at_most, engine.threads, share)
    if shard == "auto":
        shard = sizing.shard_size(maps, n_samples, len(parts.targets), batch, beside)
    return batch, shard, notes


def _switches(parts: _Parts) -> tuple[str, ...]:
    """Return what is to be said of precision, layout and compilation; nothing by default."""
    if Accelerator.of(parts.config.engine) == PLAIN:
        return ()
    network = _where_it_will_run(parts)
    return trying.notes(
        parts.config,
        parts.explainers,
        network,
        parts.example,
        parts.samples,
        parts.targets,
        waiting=needs_of(parts.config),
    )


def _where_it_will_run(parts: _Parts) -> Network:
    if parts.config.engine.gpus_per_worker != 0 and torch.cuda.is_available():
        return parts.network.to(device="cuda")
    return parts.network


def _seconds(parts: _Parts, batch: int) -> float:
    return timing.seconds_for(
        parts.explainers,
        _where_it_will_run(parts),
        parts.example,
        parts.targets,
        waiting=needs_of(parts.config),
        n_samples=len(parts.manifest),
        batch=batch,
        threads=parts.config.engine.threads,
    )


def _batches(parts: _Parts) -> list[tuple[Trace, Samples]]:
    """Return the traces of what is tried: of the longest samples, and of the shortest."""
    ends: list[_Parts | Shortest] = [parts] if parts.shortest is None else [parts, parts.shortest]
    return [(_trace(each, parts.config.seed), each.samples) for each in ends]


def _trace(end: _Parts | Shortest, seed: int) -> Trace:
    network = end.network
    inputs = to_model(end.example, network.device, network.dtype)
    return Trace(network, inputs, samples=end.samples, seed=seed)


def _passes(
    found: Mapping[str, Explainer], needs: Mapping[str, Mapping[str, str]]
) -> tuple[Pass, ...]:
    """Return the first pass, and one for each set of scans that attributions wait for."""
    attributions = [name for name, each in found.items() if isinstance(each, Attribution)]
    scans = tuple(name for name, each in found.items() if isinstance(each, Scan))
    waiting: dict[tuple[str, ...], list[str]] = {}
    for name in attributions:
        waiting.setdefault(tuple(sorted(set(needs.get(name, {}).values()))), []).append(name)
    first = Pass(EXPLAIN, tuple(waiting.pop((), ())), scans)
    later = [
        Pass(f"{EXPLAIN}.{'+'.join(wanted)}", tuple(names)) for wanted, names in waiting.items()
    ]
    return (first, *later)


def _unscored(config: RunConfig, maps: Mapping[str, MapSpec], form: Form) -> tuple[str, ...]:
    found = build_metrics(config).items()
    said = (scorable.in_words(name, scorable.unscored(each, maps, form)) for name, each in found)
    return tuple(text for text in said if text)


def _notes(parts: _Parts, trials: Mapping[str, Trial]) -> tuple[str, ...]:
    notes = [each.note(name, len(parts.manifest)) for name, each in trials.items()]
    if parts.shortest is not None:
        notes += parts.shortest.notes
    notes += [f"data: {note}" for note in parts.source_notes]
    if parts.class_note:
        notes.append(parts.class_note)
    if not parts.network.is_program:
        notes.append(f"the model is opaque, values and gradients only: {parts.network.reason}")
    model = parts.config.model
    source = models.find(model)
    if model.weights is None and source.is_random(model):
        notes.append(f"the weights of {model.name} are random: model.weights names no file")
    notes += [f"model: {note}" for note in source.notes(model, parts.config.base)]
    for name, each in parts.explainers.items():
        layer = each.source_layer if isinstance(each, Attribution) else None
        if layer is None and is_one_tensor(parts.network):
            notes += [f"{name}: {note}" for note in each.notes(parts.network)]
    added = [name for name in parts.explainers if name not in parts.config.explainers]
    notes += [
        f"{name}: added{_asked_for(parts.explainers[name])}, as other explainers need its result"
        for name in added
    ]
    return tuple(notes)


def _asked_for(explainer: Explainer) -> str:
    """Return those of an explainer's parameters that are not its defaults, in words."""
    if not is_dataclass(explainer):
        return ""
    said = ", ".join(
        f"{each.name}: {getattr(explainer, each.name)}"
        for each in fields(explainer)
        if each.init and getattr(explainer, each.name) != each.default
    )
    return f" with {said}" if said else ""
