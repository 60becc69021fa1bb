"""What makes a concept of one sample of a run: its composition, computed when it is asked for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from explainers import Samples, Target, Trace
from explainers.composites.composed import Composed
from explainers.concepts.composition import Decomposer
from explainers.concepts.kinds import given_kinds
from explainers.maximization.scan import Maximization
from explainers.registry import suggest
from pipeline.data import open_source, read_one
from pipeline.entries import build_explainers
from pipeline.errors import PlanError, SampleError, StoreError
from pipeline.inputs import stacked, to_model
from pipeline.networks import network_of
from pipeline.planning import fit
from pipeline.store import open_run

if TYPE_CHECKING:
    import os

    from explainers import Explainer, Network
    from explainers.concepts.composition_graph import Composition
    from pipeline.data import Record, Source
    from pipeline.manifest import Manifest
    from pipeline.store import Run


CHANNELS = "channels"
"""The kind of concepts where none is given."""


@dataclass(frozen=True)
class Asked:
    """Which concept is decomposed, and how; None for what the run's entries say, or their like."""

    layer: str | None = None
    """Of the concept; by default the last of the layers."""
    concept: int | None = None
    """Its number; by default that which is most relevant in the sample."""
    layers: tuple[str, ...] = ()
    """Layers whose concepts may be part of it; by default those of the run's maximization scan,
    or all convolutions and linear layers."""
    target: str | int | None = None
    """Whose relevance is decomposed; by default the run's, of several the first."""
    explainer: str | None = None
    """Entry of the run whose composite is taken; by default the first that has one."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Further fields of `Decomposer`: ``width``, ``start``, ``abs_norm``."""


def sample_composition(
    path: str | os.PathLike[str], sample: str, asked: Asked | None = None
) -> Composition:
    """Return what makes a concept of a sample of a run; the model is read and run for it.

    Parameters
    ----------
    path
        Folder of the run.
    sample
        Its id, or its position in the run.
    asked
        What is decomposed.

    Raises
    ------
    StoreError
        If there is no such run or sample.
    SampleError
        If the sample cannot be read.
    PlanError
        If the network has no such layer or concept, or no relevance.
    """
    asked = asked or Asked()
    run = open_run(path)
    record = _record(run.manifest, sample)
    config = run.config
    source = open_source(config.data, config.base, config.where)
    network = network_of(config, run.plan, source, run.manifest)
    entries = build_explainers(config)
    composed = _composed(entries, asked.explainer)
    targets = fit.check_targets(config, run.manifest, network)
    trace = _trace(source, record, network, run)
    target = targets[0] if asked.target is None else _target(asked.target, network)
    try:
        composed.check_composite(network)
        decomposer = _decomposer(entries, network, asked)
        choose = composed.resolved.choose(network)
        return decomposer.composition(trace, choose, target)
    except LookupError as error:
        raise PlanError(
            str(error.args[0]), fix=f"`xpipe inspect {run.path}/run.yaml` lists the layers"
        ) from error
    except (ValueError, TypeError, NotImplementedError) as error:
        raise PlanError(
            str(error.args[0]), fix="`xpipe graph --help` says what can be asked for"
        ) from error


def _target(asked: str | int, network: Network) -> Target:
    try:
        target = Target.parse(asked)
        target.check(network.n_outputs)
    except ValueError as error:
        raise PlanError(
            str(error.args[0]), fix="give --target predicted, label, runner_up or a class"
        ) from error
    return target


def _record(manifest: Manifest, sample: str) -> Record:
    ids = manifest.sample_ids
    if sample in ids:
        position = ids.index(sample)
    elif sample.isdecimal() and int(sample) < len(ids):
        position = int(sample)
    else:
        # not suggest: ids may be tens of thousands
        near = difflib.get_close_matches(sample, ids, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise StoreError(
            f"the run has no sample {sample!r}{hint}",
            fix=f"give its id, such as {ids[0]!r}, or its position from 0 to {len(ids) - 1}",
            page="not-in-run",
        )
    return manifest.slice(position, position + 1)[0]


def _trace(source: Source, record: Record, network: Network, run: Run) -> Trace:
    sample = read_one(source, record)
    if isinstance(sample, str):
        raise SampleError(f"{record.sample_id}: {sample}", fix="choose another sample")
    inputs = to_model(stacked([sample]), network.device, network.dtype)
    who = Samples(torch.tensor([record.index]), torch.tensor([record.label]))
    return Trace(network, inputs, samples=who, seed=run.config.seed)


def _composed(entries: dict[str, Explainer], name: str | None) -> Composed:
    """Return the entry whose rules are taken; the default composite where there is none."""
    found = {entry: each for entry, each in entries.items() if isinstance(each, Composed)}
    if name is None:
        return next(iter(found.values()), Composed())
    if name not in found:
        raise PlanError(
            f"no entry {name!r} of the run has a composite; {suggest(name, list(found))}",
            fix="name another, or leave --explainer out",
        )
    return found[name]


def _decomposer(entries: dict[str, Explainer], network: Network, asked: Asked) -> Decomposer:
    scans = [each for each in entries.values() if isinstance(each, Maximization)]
    layers = asked.layers or (scans[0].layers if scans else None)
    layer = asked.layer
    if layer is None:
        layer = network.match(layers)[-1] if layers else _last(network)
    decomposer = Decomposer(layer=layer, concept=asked.concept, layers=layers, **asked.fields)
    return decomposer.with_kinds(_kinds(entries, network), network)


def _kinds(entries: dict[str, Explainer], network: Network) -> dict[str, Any]:
    """Return the kind of each layer's concepts: as the first scan has it, or else other entries."""
    found: dict[str, Any] = {}
    for each in entries.values():
        if isinstance(each, Maximization):
            given = given_kinds(each.concepts, network)
            of_scan = {name: given.get(name, CHANNELS) for name in network.match(each.layers)}
            found = of_scan | found
    for each in entries.values():
        # any method that names concepts: methods are not imported here
        if callable(kinds := getattr(each, "kinds", None)):
            found = kinds(network) | found
    # one value may go by several names, of which those with a kind go before others
    return {name: kind for name, kind in found.items() if kind != CHANNELS}


def _last(network: Network) -> str:
    """Return the last convolution, or else the last linear layer."""
    for kind in ("type:Convolution", "type:Linear"):
        try:
            return network.match(kind)[-1]
        except LookupError:
            continue
    raise LookupError("the network has no convolution and no linear layer; name a layer")
