"""Runs a scan in this process over a loader; the pipeline does the same over shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explainers.base import Samples, Scan
from explainers.catalogue import build
from explainers.network import Network
from explainers.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from explainers.base import Result
    from explainers.bound import Model


def scan(model: Model, name: str, loader: Iterable[Any], *, seed: int = 0, **params: Any) -> Result:
    """Return the result of the scan `name` over the whole of `loader`.

    Parameters
    ----------
    model
        A module, any callable from inputs to logits, or a `Network`.
    name
        One of `available()`.
    loader
        Batches ``(inputs, label)`` or ``inputs``; it is read once for each round, so it has to
        be re-iterable (a list, a `DataLoader` without shuffling), not a generator.
    seed
        Seeds stochastic scans, together with each sample's position.
    **params
        The scan's parameters.

    Raises
    ------
    TypeError
        If `name` is not a scan, or `loader` can be read only once.
    ValueError
        If there is no batch.
    """
    explainer = build(name, **params)
    if not isinstance(explainer, Scan):
        raise TypeError(f"{name!r} is no scan; call explainers.explain(model, {name!r}, inputs)")
    if iter(loader) is loader:
        raise TypeError(
            f"got a {type(loader).__name__} that can be read once, expected a re-iterable of "
            "(inputs, label); a scan may read it several times: pass a list or a DataLoader"
        )
    network = _network(model, loader)
    explainer.check(network)
    results: dict[str, Result] = {}
    while (following := explainer.rounds(results)) is not None:
        state = following.scan.fold(_traced(network, loader, seed, name))
        results[following.name] = following.scan.finalise(state)
    return explainer.conclude(results)


def _network(model: Model, loader: Iterable[Any]) -> Network:
    if isinstance(model, Network):
        return model
    for batch in loader:
        return Network(model, _parted(batch)[0])
    raise ValueError("the loader has no batch, so there is nothing to scan")


def _traced(
    network: Network, loader: Iterable[Any], seed: int, namespace: str
) -> Iterator[tuple[Trace, Samples]]:
    start = 0
    for batch in loader:
        inputs, label = _parted(batch)
        samples = Samples(index=torch.arange(start, start + len(inputs)), label=label)
        start += len(inputs)
        yield Trace(network, inputs, samples=samples, seed=seed, namespace=namespace), samples


def _parted(batch: Any) -> tuple[Tensor, Tensor]:
    inputs, label = (batch, None) if isinstance(batch, Tensor) else (batch[0], batch[1])
    if label is None:
        return inputs, torch.full((len(inputs),), -1, dtype=torch.int64)
    return inputs, torch.as_tensor(label, dtype=torch.int64)
