"""One shard of a pass: each batch is traced once, and every explainer reads that trace."""

from __future__ import annotations

import contextlib
import operator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import torch

from explainers import Samples, Trace, explaining
from explainers.resizing import resized
from pipeline import relative_errors
from pipeline.acceleration import parity
from pipeline.acceleration.switches import PLAIN, Accelerator
from pipeline.acceleration.transfer import moved
from pipeline.folds import Fold
from pipeline.inputs import mapped, to_model
from pipeline.lengths import whole_shape
from pipeline.plan import map_name, suffix
from pipeline.products import Products
from pipeline.reexplaining import as_stored
from pipeline.sinks.maps import relevance_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from explainers import Attribution, Explained, Network, Round, State, Target
    from pipeline.plan import Plan
    from pipeline.prefetch import Batch
    from pipeline.shards import Shard

TracedFold: TypeAlias = "Fold[tuple[Trace, Samples], State]"


class Explanation:
    """What a pass does with a shard.

    Parameters
    ----------
    network
        On the device where the work is done.
    plan
        Targets, seeds and the form of maps.
    seed
        Of the run.
    attributions
        Explainer to what makes its maps.
    rounds
        Scan to the round that is folded.
    is_first
        Whether this is the first pass, which also tells what the network says.
    accelerator
        How passes of attributions are made; scans are folded in float32.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        seed: int,
        attributions: Mapping[str, Attribution],
        rounds: Mapping[str, Round],
        targets: tuple[Target, ...],
        *,
        is_first: bool,
        accelerator: Accelerator = PLAIN,
    ) -> None:
        self.network = network
        self._accelerator = accelerator
        self._fast = accelerator.applied(network)
        self._plan = plan
        self._seed = seed
        self._attributions = attributions
        self._rounds = rounds
        self._targets = targets
        self._is_first = is_first
        self._forms = {name: self._form(name, each) for name, each in attributions.items()}
        self.sample_ids: tuple[str, ...] = ()
        """Samples of the batch that is being computed."""

    def _form(self, name: str, attribution: Attribution) -> Mapping[str, explaining.Form]:
        """Return the form of maps of the longest samples, with the names that the plan has."""
        found = explaining.form(attribution, self.network)
        if self._plan.lengths is None:
            return found
        return {
            part: (self._named(map_name(name, part), dims), sizes)
            for part, (dims, sizes) in found.items()
        }

    def _named(self, of_map: str, dims: tuple[str, ...]) -> tuple[str, ...]:
        known = self._plan.maps[of_map].dims
        if len(known) == len(dims):
            return known
        # channels are summed, and the plan does not have them
        rest = iter(known)
        return tuple(name if name == "channel" else next(rest) for name in dims)

    def wanted(self, shard: Shard) -> list[int] | None:
        """Return which rows of a shard anybody wants to see, ascending; None for all."""
        samples = [each.samples for each in self._rounds.values()]
        chosen = [each for each in samples if each is not None]
        if self._is_first or self._attributions or len(chosen) < len(samples) or not samples:
            return None
        rows = torch.arange(shard.start, shard.stop)
        found: list[int] = torch.isin(rows, torch.cat(chosen)).nonzero()[:, 0].tolist()
        return found

    def explain(self, shard: Shard, batches: Iterable[Batch]) -> Products:
        """Return what the pass makes of a shard."""
        names = list(self._attributions)
        products = Products.empty(shard, self._plan, names, is_first=self._is_first)
        with self._folds() as folds:
            for batch in moved(batches, self.network.device):
                self.sample_ids = batch.sample_ids
                products.failures |= batch.failures
                if batch.rows:
                    self._explain_batch(products, batch, folds)
                products.settle(keep_last=True)
            products.settle()
            for name, fold in folds.items():
                products.states[name, self._rounds[name].name] = fold.finish()
        self.sample_ids = ()
        return products

    @contextlib.contextmanager
    def _folds(self) -> Iterator[dict[str, TracedFold]]:
        folds: dict[str, TracedFold] = {}
        try:
            for name, each in self._rounds.items():
                folds[name] = Fold(each.scan.fold)
            yield folds
        finally:
            for fold in folds.values():
                fold.abandon()

    def _explain_batch(
        self, products: Products, batch: Batch, folds: Mapping[str, TracedFold]
    ) -> None:
        with self._accelerator.numbers(self.network.device):
            trace, samples = self._trace(batch, self._fast)
            if len(self._attributions) + len(folds) > 1:
                trace.output  # noqa: B018 - computed now, so that everybody shares it
            if self._is_first:
                self._describe(products, batch.rows, trace)
            for name, attribution in self._attributions.items():
                found = [
                    explaining.explained(attribution, trace.named(name), target)
                    for target in self._targets
                ]
                self._enter(products, name, batch.rows, found, trace.network)
        if not folds:
            return
        with PLAIN.numbers(self.network.device):
            if self._accelerator.changes(self.network.device):
                trace, samples = self._trace(batch, self.network)
            for name, fold in folds.items():
                self._fold(products, name, fold, batch, (trace.named(name), samples))

    def differences(self, batch: Batch) -> list[parity.Difference]:
        """Return how far maps of a batch are from those of plain float32, by explainer."""
        fast, exact = (self._trace(batch, each)[0] for each in (self._fast, self.network))
        return parity.differences(self._attributions, fast, exact, self._targets, self._accelerator)

    def _fold(
        self,
        products: Products,
        name: str,
        fold: TracedFold,
        batch: Batch,
        given: tuple[Trace, Samples],
    ) -> None:
        """Fold those samples of a batch that a round wants to see, and enter what it keeps."""
        rows, each = batch.rows, self._rounds[name]
        if each.samples is not None:
            chosen = torch.isin(batch.index, each.samples).nonzero()[:, 0]
            if len(chosen) < len(rows):
                rows = [rows[position] for position in chosen.tolist()]
                given = self._trace(_part(batch, chosen), self.network)
                given = (given[0].named(name), given[1])
        if rows:
            fold.push(given)
            for array, values in each.scan.records(*given).items():
                products.put_record(name, array, rows, values)

    def _trace(self, batch: Batch, network: Network) -> tuple[Trace, Samples]:
        device = network.device
        # on the host, where seeds are made of them and labels are checked without waiting
        samples = Samples(batch.index, batch.label)
        inputs = to_model(batch.inputs, device, network.dtype)
        return Trace(resized(network, inputs), inputs, samples=samples, seed=self._seed), samples

    def _describe(self, products: Products, rows: list[int], trace: Trace) -> None:
        """Enter what the network says, and what of it is explained."""
        products.put_array("", "prediction", rows, trace.prediction)
        products.put_fact("prediction", rows, trace.prediction)
        products.put_fact("logit", rows, trace.selected(self._targets[0]).double())
        classes = [_classes(trace, target) for target in self._targets]
        products.put_array("", "target", rows, self._joined(classes))

    def _enter(
        self,
        products: Products,
        name: str,
        rows: list[int],
        found: list[Explained],
        network: Network,
    ) -> None:
        maps = [explaining.by_part(each.relevance, self.network).values() for each in found]
        of_parts = zip(*maps, strict=True)
        attribution = self._attributions[name]
        dims, _ = next(iter(self._forms[name].values()))
        axes = attribution.axes(dims)
        for (part, form), of_targets in zip(self._forms[name].items(), of_parts, strict=True):
            self._enter_map(products, (name, relevance_of(part)), rows, form[0], list(of_targets))
        for array in found[0].arrays:
            values = self._joined([each.arrays[array] for each in found])
            if found[0].arrays[array].ndim == 1:
                self._enter_fact(products, f"{name}.{array}", rows, values)
            else:
                whole = self._whole((name, array), values, axes.get(array), network)
                products.put_array(name, array, rows, values, whole)
        products.axes |= {(name, array): named for array, named in axes.items()}
        errors = [relative_errors.relative_error(attribution, each, self.network) for each in found]
        known = [each for each in errors if each is not None]
        if len(known) == len(found):
            self._enter_fact(
                products, f"{name}.{relative_errors.RELATIVE}", rows, self._joined(known)
            )
        for target, each in enumerate(found):
            for table, entries in each.tables.items():
                place = products.rows.setdefault(f"{name}.{table}" if table else name, [])
                place.extend(self._row(products, rows, target, entry) for entry in entries)

    def _whole(
        self,
        place: tuple[str, str],
        values: Tensor,
        named: tuple[str, ...] | None,
        network: Network,
    ) -> tuple[int, ...] | None:
        """Return the shape of a row of an array, as it is stored, where samples differ in length.

        `network` is that of the batch.
        """
        if self._plan.lengths is None:
            return None
        name, array = place
        shape = tuple(values.shape[1:])
        lead = shape[:1] if self._plan.has_target_dimension else ()
        here = explaining.form(self._attributions[name], network)
        longest = self._plan.lengths.longest
        return lead + whole_shape(
            array, shape[len(lead) :], named, here, self._forms[name], longest
        )

    def _enter_map(
        self,
        products: Products,
        place: tuple[str, str],
        rows: list[int],
        dims: tuple[str, ...],
        of_targets: list[Tensor],
    ) -> None:
        relevance = as_stored(self._joined(of_targets).float(), dims, self._plan.channels)
        whole = None if self._plan.lengths is None else products.arrays[place].shape[1:]
        products.put_array(*place, rows, relevance, whole)

    def _enter_fact(self, products: Products, column: str, rows: list[int], values: Tensor) -> None:
        if not self._plan.has_target_dimension:
            products.put_fact(column, rows, values)
            return
        for target in range(len(self._targets)):
            products.put_fact(column + suffix(target), rows, values[:, target])

    def _row(
        self, products: Products, rows: list[int], target: int, entry: dict[str, object]
    ) -> dict[str, object]:
        """Return a table's row with its sample in place of its position in the batch."""
        position = entry["row"]
        rest = {key: value for key, value in entry.items() if key != "row"}
        who = {"sample": products.shard.start + rows[int(str(position))]}
        if self._plan.has_target_dimension:
            who["target"] = target
        return {**who, **rest}

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """Return the parts of each target as one tensor, with a dimension for it if there is."""
        return torch.stack(parts, dim=1) if self._plan.has_target_dimension else parts[0]


def _part(batch: Batch, chosen: Tensor) -> Batch:
    """Return a batch with some of its rows, as far as a trace looks at it."""
    inputs = mapped(operator.itemgetter(chosen), batch.inputs)
    return replace(batch, inputs=inputs, index=batch.index[chosen], label=batch.label[chosen])


def _classes(trace: Trace, target: Target) -> Tensor:
    """Return the class that is explained, or -1 where it is a mixture of several, or a unit."""
    if target.kind in ("weights", "unit"):
        return torch.full_like(trace.prediction, -1)
    return trace.cotangent(target).argmax(1)
