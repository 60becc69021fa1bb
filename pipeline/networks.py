"""The network of a run on the device where the work is done, read once per process."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch

from explainers.inputs.sources import sources
from pipeline.acceleration import gpus
from pipeline.errors import PlanError
from pipeline.examples import find_example
from pipeline.models import load_model, weights_digest
from pipeline.planning import fit

if TYPE_CHECKING:
    from explainers import Network
    from pipeline.config import RunConfig
    from pipeline.data import Source
    from pipeline.manifest import Manifest
    from pipeline.plan import Plan

_in_use: WeakValueDictionary[str, Network] = WeakValueDictionary()
"""Digest of the run to its network, as long as a worker holds it: passes follow each other in one
process, and reading a model as a program takes seconds."""


def network_of(config: RunConfig, plan: Plan, source: Source, manifest: Manifest) -> Network:
    """Return the network as the planner read it.

    Parameters
    ----------
    config
        What was asked for.
    plan
        What was decided: its digest covers the model's code and weights, and the samples.
    source, manifest
        Where samples are, and which: two of them tell the shape of inputs.

    Raises
    ------
    PlanError
        If the model cannot be built or read, or has other weights than the plan's.
    EngineError
        If this worker was given a GPU that is not there.
    """
    gpus.check_given()
    is_on_gpu = config.engine.gpus_per_worker != 0 and torch.cuda.is_available()
    key = f"{plan.digest} {'cuda' if is_on_gpu else 'cpu'}"
    network = _in_use.get(key)
    if network is None:
        model = load_model(config.model, config.base)
        digest = weights_digest(model)
        if digest != plan.weights_digest:
            raise PlanError(
                f"{config.where('model')}: the weights here have the digest {digest[:12]}, "
                f"expected {plan.weights_digest[:12]} as in the plan",
                fix="undo the change of the weights, or run again in another folder",
                page="weights-changed",
            )
        example, _ = find_example(source, manifest, model)
        network = fit.read_network(model, example, config.where("model"))
        if is_on_gpu:
            gpus.keep_to_share(config.engine)
            network = network.to(device="cuda")
        _in_use[key] = network
    return network


def vocabularies(network: Network) -> dict[str, int]:
    """Return how many tokens a network knows, by input that is tokens."""
    return {
        source.part: min(len(lookup.embedding.weight) for lookup in source.lookups)
        for source in sources(network)
        if source.lookups
    }
