"""The network of a run on the device where the work is done, read once per process."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch

from pipeline import fit
from pipeline.models import load_model

if TYPE_CHECKING:
    from explainers import Network
    from pipeline.config import RunConfig
    from pipeline.data import Source
    from pipeline.manifest import Manifest

_in_use: WeakValueDictionary[str, Network] = WeakValueDictionary()
"""Digest of the run to its network, as long as a worker holds it: passes follow each other in one
process, and reading a model as a program takes seconds."""


def network_of(config: RunConfig, digest: str, source: Source, manifest: Manifest) -> Network:
    """Return the network as the planner read it.

    Parameters
    ----------
    config
        What was asked for.
    digest
        Of the run: it covers the model's code and weights, and the samples.
    source, manifest
        Where samples are, and which: two of them tell the shape of inputs.

    Raises
    ------
    PlanError
        If the model cannot be built or read.
    """
    is_on_gpu = config.engine.gpus_per_worker != 0 and torch.cuda.is_available()
    key = f"{digest} {'cuda' if is_on_gpu else 'cpu'}"
    network = _in_use.get(key)
    if network is None:
        model = load_model(config.model, config.base)
        example, _ = fit.find_example(source, manifest)
        network = fit.read_network(model, example, config.where("model"))
        if is_on_gpu:
            network = network.to(device="cuda")
        _in_use[key] = network
    return network
