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

HELD = 1 << 24
"""Numbers that are held of the samples of a round for the next, 64 MiB in float32."""


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
        If there are no samples, or not one label for each row. An empty batch is nothing.
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
    rows = _Rows(network, loader, seed, name)
    results: dict[str, Result] = {}
    while (following := explainer.rounds(results)) is not None:
        state = following.scan.fold(rows.traced(following.samples))
        results[following.name] = following.scan.finalised(state)
    return explainer.conclude(results)


def _network(model: Model, loader: Iterable[Any]) -> Network:
    if isinstance(model, Network):
        return model
    for batch in loader:
        inputs, _ = _parted(batch)
        if len(_held(inputs)[0]):
            return Network(model, inputs)
    raise ValueError("the loader has no batch with samples, so there is nothing to scan")


class _Rows:
    """Rows of a loader; of few that several rounds ask for, values are computed once."""

    def __init__(self, network: Network, loader: Iterable[Any], seed: int, namespace: str) -> None:
        self._network = network
        self._loader = loader
        self._who: dict[str, Any] = {"seed": seed, "namespace": namespace}
        self._wanted: Tensor | None = None
        self._held: list[Trace] = []

    def traced(self, wanted: Tensor | None) -> Iterator[tuple[Trace, Samples]]:
        """Yield traces of the rows that are wanted, of all if None."""
        last = self._wanted
        if last is not None and wanted is not None and torch.equal(last, wanted):
            for held in self._held:
                yield self._like(held), held.who()
        else:
            yield from self._read(wanted)

    def _read(self, wanted: Tensor | None) -> Iterator[tuple[Trace, Samples]]:
        self._wanted, self._held = None, []
        n_rows = 0
        room = HELD if wanted is not None and self._network.is_program else 0
        for trace, samples in _traced(self._network, self._loader, wanted=wanted, **self._who):
            yield trace, samples
            n_rows += trace.n_rows
            if room > 0:
                held = self._like(trace)
                room -= sum(value.numel() for value in held.values.kept.values())
                self._held = [*self._held, held] if room > 0 else []
        if wanted is None and not n_rows:
            raise ValueError("the loader has no samples, so there is nothing to scan")
        self._wanted = wanted if room > 0 else None

    def _like(self, trace: Trace) -> Trace:
        """Return a trace with the same values; walks and what else was memoised are not kept."""
        made = Trace(self._network, trace._given, samples=trace.samples, **self._who)
        made.once("values", lambda: trace.values)
        return made


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
        n_rows = len(_held(inputs)[0])
        if not n_rows:
            continue
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
    held = _held(inputs)
    is_held = isinstance(held, tuple | list) and len(held) > 0
    return is_held and all(isinstance(part, Tensor) for part in held)


def _held(inputs: Any) -> Any:
    """Return the tensors of inputs, if that is what they hold."""
    if isinstance(inputs, Tensor):
        return [inputs]
    return list(inputs.values()) if isinstance(inputs, dict) else inputs
