"""One batch through the network: shared forward, memoised backwards, per-sample randomness."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from explainers import baselines, kept, reference
from explainers.base import Samples
from explainers.cut import Cut, begun, ended
from explainers.rules.gradient import gradient as gradient_table
from explainers.rules.walking import Walked, walk
from explainers.sampling.randomness import RandomRows

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from torch import Tensor

    from explainers.baselines import Baseline
    from explainers.inputs.structure import Inputs
    from explainers.kept import Kept
    from explainers.network import Network
    from explainers.rules.table import Choose
    from explainers.targets import Target

T = TypeVar("T")


class Trace(RandomRows):
    """What explainers of one batch share.

    Nothing is computed before it is asked for, and nothing twice.

    Parameters
    ----------
    network
        What the batch goes through.
    inputs
        ``(batch, ...)``, of the network's dtype and on its device; a tuple or dict of several.
    samples
        Who the rows are; None outside a data set, where a row is its number.
    seed
        Of the run.
    namespace
        Whose randomness this is: the explainer's name in the run.
    carried
        Of a part of a network: the values that it takes over, for the same rows.
    for_gradients
        Whether values are dropped that the walk of a gradient does not, or no longer, look at;
        they are computed again for whoever asks.

    Raises
    ------
    ValueError
        If the inputs do not fit the network.
    """

    def __init__(
        self,
        network: Network,
        inputs: Inputs,
        *,
        samples: Samples | None = None,
        seed: int = 0,
        namespace: str = "",
        carried: Mapping[str, Tensor] | None = None,
        for_gradients: bool = False,
    ) -> None:
        self._parts = tuple(part.detach() for part in network.parts(inputs))
        if samples is not None and len(samples.index) != self.n_rows:
            raise ValueError(
                f"got {len(samples.index)} samples for a batch of {self.n_rows} rows; "
                f"give one sample per row"
            )
        self.network = network
        self.samples = samples
        self.seed = seed
        self.namespace = namespace
        self.for_gradients = for_gradients
        self.carried: Mapping[str, Tensor] = carried or {}
        """What the part of a network takes over from the whole, by operator."""
        self.parent: Trace | None = None
        """The trace of the same rows of which this is a part."""
        self._origin: tuple[Trace, Tensor | None] | None = None
        # all below is shared by the copies that `named` makes
        self._made: dict[Hashable, Any] = {}
        self._walked: dict[Hashable, Walked] = {}
        self._weights: dict[Target, Tensor] = {}
        self._references: list[tuple[Baseline, str, Trace]] = []
        self._parts_of: dict[Hashable, Trace] = {}

    @property
    def n_rows(self) -> int:
        """Of the batch."""
        return len(self._parts[0])

    @property
    def numbers(self) -> tuple[torch.dtype, torch.device]:
        """Type and device of random numbers."""
        dtype = self.network.dtype
        dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
        return dtype, self._parts[0].device

    @property
    def inputs(self) -> Tensor:
        """The one input, ``(batch, ...)``.

        Raises
        ------
        TypeError
            If there are several; what explains them gets a trace that `starting_at` has packed.
        """
        if len(self._parts) > 1:
            raise TypeError(
                f"the network has {len(self._parts)} inputs, expected one tensor; explain it by "
                "explainers.explaining.explained, which packs them"
            )
        return self._parts[0]

    @property
    def parts(self) -> dict[str, Tensor]:
        """The inputs by name; ``""`` for a tensor alone."""
        return dict(zip(self.network.structure.names, self._parts, strict=True))

    @property
    def values(self) -> Kept:
        """Value of every operator, by operator name.

        Raises
        ------
        NotImplementedError
            If the network is not a program.
        """
        return self.once("values", lambda: kept.computed(self))

    @property
    def _given(self) -> Any:
        return self.network.structure.filled(self._parts)

    @property
    def output(self) -> Tensor:
        """Logits, ``(batch, classes)``, detached."""
        if self.network.is_program:
            return self.values[self.network.output_name]
        if len(self._parts) == 1:
            return self._recorded()[1].detach()
        return self.once("output", lambda: self.network(self._given))

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` makes; made once for the key, whoever asks for this batch."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    @property
    def prediction(self) -> Tensor:
        """Index of the largest output, ``(batch,)``."""
        return self.output.argmax(1)

    def layer(self, path: str) -> Tensor:
        """Return the value of a layer, as a forward hook on its module would see it."""
        return self.network.value(path, self.values)

    def cotangent(self, target: Target) -> Tensor:
        """Return the weights of the outputs in what is explained, ``(batch, classes)``."""
        weights = self._weights.get(target)
        if weights is None:
            weights = target.weights(self.output, self.samples)
            self._weights[target] = weights
        return weights

    def selected(self, target: Target) -> Tensor:
        """Return what is explained, ``(batch,)``: the weighted sum of the outputs."""
        if target.layer is not None:
            ended_, plain = self.ending_at(target)
            return ended_.selected(plain)
        return (self.output * self.cotangent(target)).sum(1)

    def gradient(self, target: Target) -> Tensor:
        """Return the derivative of what is explained with respect to the inputs.

        Raises
        ------
        TypeError
            If the inputs are not floating-point numbers.
        """
        if not self.inputs.is_floating_point():
            raise TypeError(
                f"got inputs of {self.inputs.dtype}, expected floating-point numbers; "
                f"integers have no gradient: explain the embedding instead"
            )
        if self.network.is_program:
            return self.backward(gradient_table.find, target, key="gradient")
        key = ("gradient", target)
        if key not in self._walked:
            source, output = self._recorded()
            with torch.enable_grad():
                selected = (output * self.cotangent(target)).sum()
            (relevance,) = torch.autograd.grad(
                selected, source, retain_graph=True, materialize_grads=True
            )
            self._walked[key] = Walked(relevance, {})
        return self._walked[key].relevance

    def backward(
        self,
        choose: Choose,
        target: Target,
        *,
        key: Hashable,
        start: Tensor | None = None,
        record: Sequence[str] = (),
    ) -> Tensor:
        """Return the relevance of the inputs by a walk with the rules that are chosen.

        Parameters
        ----------
        choose
            Operator to rule: ``table.find``, or a composite.
        target
            What is explained.
        key
            Names the choice: walks with the same key and target are done once.
        start
            Relevance of the output; by default the target's weights, as for a gradient.
            LRP starts from ``trace.cotangent(target) * trace.output``.
        record
            Layers whose relevance is kept for `relevance_at`.
        """
        return self.walk(choose, target, key=key, start=start, record=record).relevance

    def walk(
        self,
        choose: Choose,
        target: Target,
        *,
        key: Hashable,
        start: Tensor | None = None,
        record: Sequence[str] = (),
    ) -> Walked:
        """Return what `backward` finds, with recorded layers and what rules kept back."""
        names = {self.network.operator(layer).name for layer in record}
        memoised = self._walked.get((key, target))
        if memoised is not None and names <= memoised.layers.keys():
            return memoised
        if memoised is not None:
            names |= memoised.layers.keys()
        with torch.no_grad():
            start = self.cotangent(target) if start is None else start
            release = self.values.release if self.for_gradients and not names else None
            walked = walk(self.network, self.values, start, choose, sorted(names), release)
        self._walked[key, target] = walked
        return walked

    def relevance_at(self, layer: str, target: Target, *, key: Hashable) -> Tensor:
        """Return the relevance of a layer that an earlier `backward` recorded.

        Raises
        ------
        LookupError
            If it was not recorded.
        """
        name = self.network.operator(layer).name
        walked = self._walked.get((key, target))
        if walked is None or name not in walked.layers:
            raise LookupError(
                f"the relevance of layer {layer!r} was not recorded for {key!r}; "
                f"call backward(..., key={key!r}, record=[{layer!r}]) first"
            )
        return walked.layers[name]

    def at(self, inputs: Inputs, rows: Tensor | None = None) -> Trace:
        """Return a trace of the same network at other inputs.

        Parameters
        ----------
        inputs
            ``(new batch, ...)``.
        rows
            For each new row, the row here that it belongs to; by default the same rows.
        """
        samples, carried = self.samples, self.carried
        n_rows = len(self.network.parts(inputs)[0])
        if rows is None and n_rows != self.n_rows:
            raise ValueError(
                f"got {n_rows} rows, the trace has {self.n_rows}; "
                f"pass rows= to say which of these each belongs to"
            )
        if rows is not None:
            who, chosen = self.who(), rows.to("cpu")
            samples = Samples(who.index[chosen], who.label[chosen])
            if isinstance(self.network, Cut) and carried:
                carried = self.network.gathered(carried, rows)
        made = self._like(self.network, inputs, samples, carried)
        made._origin = (self, rows)
        return made

    def starting_at(self, layers: str | Sequence[str]) -> Trace:
        """Return the trace of the part of the network behind layers; made once.

        The layers' values are its input: of one layer as they are, of several packed into
        ``(batch, total)``. What reaches the output without passing them is carried along.

        Parameters
        ----------
        layers
            Names of layers, or of inputs; what is refused says `explainers.cut.begun`.
        """
        names = (layers,) if isinstance(layers, str) else tuple(layers)
        if ("start", names) not in self._parts_of:
            cut = begun(self.network, names)
            values = self.values if cut.is_program else self.parts
            others = {**values, **self.carried}
            carried = {name: others[name] for name in cut.carried}
            self._parts_of["start", names] = self._part(cut, cut.entered(values), carried)
        return self._parts_of["start", names].named(self.namespace)

    def ending_at(self, target: Target) -> tuple[Trace, Target]:
        """Return the trace of the part that ends with the target's layer, and what is meant of it.

        The output is the layer's value, ``(batch, units)``; a unit is then a weights-target. A
        target of the outputs is returned as it is.
        """
        if target.layer is None:
            return self, target
        key = ("end", target.layer)
        if key not in self._parts_of:
            cut = ended(self.network, target.layer)
            carried = {name: self.carried[name] for name in cut.carried}
            self._parts_of[key] = self._part(cut, self._given, carried)
        return self._parts_of[key].named(self.namespace), target.of_units(self.network)

    def named(self, namespace: str) -> Trace:
        """Return the trace with randomness of its own; what is computed is shared."""
        if namespace == self.namespace:
            return self
        named = copy.copy(self)
        named.namespace = namespace
        return named

    def _part(self, cut: Cut, inputs: Inputs, carried: Mapping[str, Tensor]) -> Trace:
        made = self._like(cut, inputs, self.samples, carried)
        made.parent = self
        return made

    def _like(
        self,
        network: Network,
        inputs: Inputs,
        samples: Samples | None,
        carried: Mapping[str, Tensor],
    ) -> Trace:
        return Trace(
            network,
            inputs,
            samples=samples,
            seed=self.seed,
            namespace=self.namespace,
            carried=carried,
            for_gradients=self.for_gradients,
        )

    def baseline(self, baseline: Any) -> Tensor:
        """Return what stands for absence, ``(1, ...)`` or ``(batch, ...)``.

        Parameters
        ----------
        baseline
            None (zero), a number, a word, a tensor and more: see `baselines.resolve`. For several
            inputs a tuple or dict of these; for tokens the index of one; for a layer what it is
            for the inputs, or a tensor shaped as the layer's value. See `explainers.reference`.
        """
        if self._origin is None:
            return reference.of_trace(self, baseline)
        origin, rows = self._origin
        of_origin = origin.baseline(baseline)
        return of_origin if rows is None or len(of_origin) == 1 else of_origin[rows]

    def reference(self, baseline: Any) -> Trace:
        """Return the trace at a baseline: of one row where all rows share it; made once."""
        whose = self.namespace if baselines.is_drawn(baseline) else ""
        for known, namespace, trace in self._references:
            if namespace == whose and reference.is_same(known, baseline):
                return trace
        inputs = self.baseline(baseline).to(self.inputs)
        rows = None
        if len(inputs) != self.n_rows and self.carried:
            inputs = inputs.expand(self.n_rows, *inputs.shape[1:])
        elif len(inputs) != self.n_rows:
            rows = torch.zeros(len(inputs), dtype=torch.int64)
        made = self.at(inputs, rows)
        self._references.append((baseline, whose, made))
        return made

    def _recorded(self) -> tuple[Tensor, Tensor]:
        return self.once("recorded", lambda: self.network.recorded(self.inputs, self.carried))
