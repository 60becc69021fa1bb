"""Score maps in memory: the library's way to a metric, without a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipeline.metrics.again import explained
from pipeline.metrics.metric import Case, Metric, Subject, build

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.trace import Trace


def score(
    name: str,
    model: Any,
    inputs: Tensor,
    target: Any,
    relevance: Tensor | None = None,
    mask: Tensor | None = None,
    explainer: Any = None,
    compat: str | None = None,
    labels: Tensor | None = None,
    graph: Any = None,
    **params: Any,
) -> Tensor:
    """Return one score, or one curve, per sample.

    Parameters
    ----------
    name
        A registered metric.
    model
        A module or a `explainers.Network`; None will do for metrics that read maps alone.
    inputs
        What was explained, ``(batch, ...)``.
    target
        What was explained for: None (the predicted class), an int, ints, or weights.
    relevance
        Maps of these inputs; not changed. None for metrics that score graphs, and for those that
        explain again: then `explainer` makes them.
    mask
        Where the objects are, bool, ``(batch, height, width)``.
    explainer
        What made the maps, for metrics that explain again: ``explainers.get(name)(model)``, or
        anything with Captum's ``attribute(inputs, target=...)``.
    compat
        ``quantus`` for that library's definition, where the metric has such a mode.
    labels
        True classes, int64 ``(batch,)``, for metrics that count what the network gets right.
    graph
        Result of the scan `causal_graph`, for metrics that score graphs.
    **params
        Parameters of the metric.

    See Also
    --------
    scores : all columns of a metric.
    """
    metric, columns = _evaluate(
        name, model, inputs, target, relevance, mask, explainer, compat, labels, graph, params
    )
    return columns[metric.returned or metric.headline]


def scores(
    name: str,
    model: Any,
    inputs: Tensor,
    target: Any,
    relevance: Tensor | None = None,
    mask: Tensor | None = None,
    explainer: Any = None,
    compat: str | None = None,
    labels: Tensor | None = None,
    graph: Any = None,
    **params: Any,
) -> dict[str, Tensor]:
    """Return every column of a metric, one row per sample; parameters as for `score`."""
    return _evaluate(
        name, model, inputs, target, relevance, mask, explainer, compat, labels, graph, params
    )[1]


def _evaluate(
    name: str,
    model: Any,
    inputs: Tensor,
    target: Any,
    relevance: Tensor | None,
    mask: Tensor | None,
    explainer: Any,
    compat: str | None,
    labels: Tensor | None,
    graph: Any,
    params: dict[str, Any],
) -> tuple[Metric, dict[str, Tensor]]:
    from explainers.targets import Target

    settings = params if compat is None else {**params, "compat": compat}
    metric = build(name, settings, name)
    needs_network = "network" in metric.requires
    seed = getattr(explainer, "seed", 0)
    trace = _trace(model, inputs, labels, seed) if needs_network else None
    case = Case(trace, Target.parse(target), mask=mask)
    if relevance is None:
        relevance = _maps(metric, case, inputs, explainer)
    if relevance.shape[0] != inputs.shape[0]:
        raise ValueError(
            f"got {relevance.shape[0]} maps for {inputs.shape[0]} inputs, expected one map each"
        )
    subject = Subject(relevance.detach().to(inputs.device), explainer, graph)
    return metric, metric.scores(case, {name: subject})[name]


def _maps(metric: Metric, case: Case, inputs: Tensor, explainer: Any) -> Tensor:
    """Return what is scored where no maps were given."""
    if "graph" in metric.requires:
        return inputs.new_empty(len(inputs), 0)
    if "explainer" not in metric.requires or explainer is None:
        raise ValueError(
            f"got no maps, expected a tensor: {metric.name} scores maps of these inputs"
        )
    return explained(explainer, case.network_trace(), case.target, case)


def _trace(model: Any, inputs: Tensor, labels: Tensor | None, seed: int) -> Trace:
    from explainers.base import Samples
    from explainers.network import Network
    from explainers.trace import Trace

    if model is None:
        raise ValueError("got no model, expected one: this metric runs the network again")
    network = model if isinstance(model, Network) else Network(model, inputs)
    samples = None if labels is None else Samples(torch.arange(len(inputs)), labels)
    return Trace(network, inputs, samples=samples, seed=seed)
