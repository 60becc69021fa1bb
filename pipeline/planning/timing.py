"""How long a run will take, by explaining one batch."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import torch

from explainers import Attribution, Samples, Scan, Trace, explaining
from pipeline.inputs import n_rows, to_model
from pipeline.planning.brief import brief
from pipeline.planning.sizing import one_pass, repeated, wait
from pipeline.threads import computing_threads

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from explainers import Cost, Explainer, Network, Target
    from pipeline.inputs import Inputs

MOST_PASSES = 250.0
"""Passes per sample of what is tried as it is: integrated gradients of 100 steps. A batch of more
takes minutes where the network is large."""


def seconds_for(
    found: Mapping[str, Explainer],
    network: Network,
    example: Inputs,
    targets: Sequence[Target],
    *,
    waiting: Collection[str] = (),
    n_samples: int,
    batch: int,
    threads: int,
) -> float:
    """Return the seconds that one worker takes for all samples, by explaining one batch.

    Explainers in `waiting` cannot be tried before their scan is done: theirs are estimated by
    their passes. What takes more than `MOST_PASSES` is tried in a brief form, and scaled by its
    passes; if it has none, or they depend on the sample, on the rows of the example alone.
    """
    whole = _trace(network, repeated(example, batch))
    few = _trace(network, example)
    with computing_threads(threads):
        one_pass(network, example)
        started = time.perf_counter()
        whole.output  # noqa: B018 - a lazy value, which all share
        wait(network)
        seconds = time.perf_counter() - started
        for name, explainer in found.items():
            if name not in waiting:
                started = time.perf_counter()
                times = _tried(explainer, whole, few, targets)
                wait(network)
                seconds += times * (time.perf_counter() - started)
    seconds *= _passes(found, network) / max(_passes(found, network, waiting), 1.0)
    return seconds * n_samples / batch


def _trace(network: Network, inputs: Inputs) -> Trace:
    rows = torch.arange(n_rows(inputs))
    given = to_model(inputs, network.device, network.dtype)
    return Trace(network, given, samples=Samples(rows, torch.zeros_like(rows)))


def _tried(explainer: Explainer, whole: Trace, few: Trace, targets: Sequence[Target]) -> float:
    """Explain a batch, or less; return how many times as much the batch would be."""
    if isinstance(explainer, Scan):
        explainer.fold([(whole, whole.who())])
    if not isinstance(explainer, Attribution):
        return 1.0
    tried, trace, times = _chosen(explainer, whole, few)
    for target in targets:
        explaining.explained(tried, trace, target)
    return times


def _chosen(explainer: Attribution, whole: Trace, few: Trace) -> tuple[Attribution, Trace, float]:
    network = whole.network
    n_passes = _number(explaining.cost(explainer, network))
    if n_passes <= MOST_PASSES:
        return explainer, whole, 1.0
    tried = None if math.isnan(n_passes) else brief(explainer, network)
    if tried is None:
        return explainer, few, whole.n_rows / few.n_rows
    return tried, whole, n_passes / _number(explaining.cost(tried, network))


def _number(cost: Cost) -> float:
    return cost.forward + cost.backward + cost.steps


def _passes(
    found: Mapping[str, Explainer], network: Network, without: Collection[str] = ()
) -> float:
    """Return the passes per sample of explainers together; the forward that they share is one.

    Those that are not known do not count.
    """
    own = [
        _number(explaining.cost(each, network))
        for name, each in found.items()
        if name not in without
    ]
    return 1.0 + sum(n_passes for n_passes in own if not math.isnan(n_passes))
