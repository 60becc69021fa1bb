"""Runs a scan in this process over a loader; the pipeline does the same over shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explainers.base import Samples, Scan
from explainers.catalogue import build
from explainers.explaining import check
from explainers.inference import outside_inference_mode
from explainers.labels import samples_of
from explainers.network import Network
from explainers.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from explainers.base import Result
    from explainers.bound import Model


@outside_inference_mode
def scan(model: Model, name: str, loader: Iterable[Any], *, seed: int = 0, **params: Any) -> Result:
    """Return the result of the scan `name` over the whole of `loader`.

    Parameters
    ----------
    model
        A module, any callable from inputs to logits, or a `Network`.
    name
        One of `available()`.
    loader
        Batches ``(inputs, labels)``, the labels integers ``(batch,)`` or None, or ``inputs``, a
        tensor or a dict of them (a tuple of inputs needs labels, or None, beside it); it is read
        once for each round, so it has to be re-iterable (a list, a `DataLoader` without
        shuffling), not a generator.
    seed
        Seeds stochastic scans, together with each sample's position.
    **params
        The scan's parameters.

    Raises
    ------
    TypeError
        If `name` is not a scan, `loader` can be read only once or gives no batches, or labels
        are no integers.
    ValueError
        If there is no batch, or not one label for each row.
    """
    explainer = build(name, **params)
    if not isinstance(explainer, Scan):
        raise TypeError(f"{name!r} is no scan; call explainers.explain(model, {name!r}, inputs)")
    if isinstance(loader, Tensor):
        raise TypeError(
            f"got a tensor of shape {tuple(loader.shape)}, expected a re-iterable of "
            "(inputs, labels); pass [inputs], [(inputs, labels)] or a DataLoader"
        )
    if iter(loader) is loader:
        raise TypeError(
            f"got a {type(loader).__name__} that can be read once, expected a re-iterable of "
            "(inputs, labels); a scan may read it several times: pass a list or a DataLoader"
        )
    network = _network(model, loader)
    check(explainer, network)
    results: dict[str, Result] = {}
    while (following := explainer.rounds(results)) is not None:
        state = following.scan.fold(_traced(network, loader, seed, name, following.samples))
        results[following.name] = following.scan.finalised(state)
    return explainer.conclude(results)


def _network(model: Model, loader: Iterable[Any]) -> Network:
    if isinstance(model, Network):
        return model
    for batch in loader:
        return Network(model, _parted(batch)[0])
    raise ValueError("the loader has no batch, so there is nothing to scan")


def _traced(
    network: Network,
    loader: Iterable[Any],
    seed: int,
    namespace: str,
    wanted: Tensor | None = None,
) -> Iterator[tuple[Trace, Samples]]:
    start = 0
    for batch in loader:
        inputs, labels = _parted(batch)
        n_rows = len(network.structure.parts(inputs)[0])
        samples = samples_of(n_rows, labels, start)
        start += n_rows
        if wanted is not None:
            rows = torch.isin(samples.index, wanted).nonzero()[:, 0]
            if not len(rows):
                continue
            parts = network.structure.parts(inputs)
            inputs = network.structure.filled([part[rows.to(part.device)] for part in parts])
            samples = Samples(samples.index[rows], samples.label[rows])
        yield Trace(network, inputs, samples=samples, seed=seed, namespace=namespace), samples


def _parted(batch: Any) -> tuple[Any, Any]:
    """Return inputs and labels."""
    if isinstance(batch, Tensor) or (isinstance(batch, dict) and _are_inputs(batch)):
        return batch, None
    if isinstance(batch, tuple | list) and len(batch) > 1 and _are_inputs(batch[0]):
        return batch[0], batch[1]
    found = type(batch).__name__
    if isinstance(batch, tuple | list):
        found += f" of {', '.join(type(part).__name__ for part in batch[:3])}"
    raise TypeError(
        f"got a batch that is a {found}, expected inputs or (inputs, labels) with inputs a "
        "tensor (batch, ...), or a tuple or dict of them; wrap the loader so that it gives such "
        "batches"
    )


def _are_inputs(inputs: Any) -> bool:
    if isinstance(inputs, Tensor):
        return True
    held = list(inputs.values()) if isinstance(inputs, dict) else inputs
    is_held = isinstance(held, tuple | list) and len(held) > 0
    return is_held and all(isinstance(part, Tensor) for part in held)
