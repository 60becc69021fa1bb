"""One batch through the network: shared forward, memoised backwards, per-sample randomness."""

from __future__ import annotations

import hashlib
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from explainers import baselines
from explainers.base import Samples
from explainers.rules.gradient import gradient as gradient_table
from explainers.rules.table import Walked, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from torch import Tensor

    from explainers.baselines import Baseline
    from explainers.network import Network
    from explainers.rules.table import Choose
    from explainers.targets import Target


class Trace:
    """What explainers of one batch share.

    Nothing is computed before it is asked for, and nothing twice.

    Parameters
    ----------
    network
        What the batch goes through.
    inputs
        ``(batch, ...)``, of the network's dtype and on its device.
    samples
        Who the rows are; None outside a data set, where a row is its number.
    seed
        Of the run.
    namespace
        Whose randomness this is: the explainer's name in the run.

    Raises
    ------
    ValueError
        If the inputs do not fit the network.
    """

    def __init__(
        self,
        network: Network,
        inputs: Tensor,
        *,
        samples: Samples | None = None,
        seed: int = 0,
        namespace: str = "",
    ) -> None:
        network.check(inputs)
        if samples is not None and len(samples.index) != len(inputs):
            raise ValueError(
                f"got {len(samples.index)} samples for a batch of {len(inputs)} rows; "
                f"give one sample per row"
            )
        self.network = network
        self.inputs = inputs.detach()
        self.samples = samples
        self.seed = seed
        self.namespace = namespace
        self._values: Mapping[str, Tensor] | None = None
        self._opaque: tuple[Tensor, Tensor] | None = None
        self._walked: dict[Hashable, Walked] = {}
        self._weights: dict[Target, Tensor] = {}
        self._references: list[tuple[Baseline, Trace]] = []

    @property
    def values(self) -> Mapping[str, Tensor]:
        """Value of every operator, by operator name.

        Raises
        ------
        NotImplementedError
            If the network is not a program.
        """
        if self._values is None:
            self._values = MappingProxyType(self.network.run(self.inputs))
        return self._values

    @property
    def output(self) -> Tensor:
        """Logits, ``(batch, classes)``, detached."""
        if self.network.is_program:
            return self.values[self.network.output_name]
        return self._recorded()[1].detach()

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
            walked = walk(self.network, self.values, start, choose, sorted(names))
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

    def at(self, inputs: Tensor, rows: Tensor | None = None) -> Trace:
        """Return a trace of the same network at other inputs.

        Parameters
        ----------
        inputs
            ``(new batch, ...)``.
        rows
            For each new row, the row here that it belongs to; by default the same rows.
        """
        if rows is None:
            if len(inputs) != len(self.inputs):
                raise ValueError(
                    f"got {len(inputs)} rows, the trace has {len(self.inputs)}; "
                    f"pass rows= to say which of these each belongs to"
                )
            samples = self.samples
        else:
            rows = rows.to("cpu")
            who = self._who()
            samples = Samples(who.index[rows], who.label[rows])
        return Trace(
            self.network, inputs, samples=samples, seed=self.seed, namespace=self.namespace
        )

    def baseline(self, baseline: Baseline) -> Tensor:
        """Return what stands for absence, ``(1, ...)`` or ``(batch, ...)``; see `baselines`."""
        return baselines.resolve(baseline, self.inputs)

    def reference(self, baseline: Baseline) -> Trace:
        """Return the trace at a baseline: of one row where all rows share it; made once."""
        for known, trace in self._references:
            if known is baseline or (isinstance(known, float | int) and known == baseline):
                return trace
        inputs = self.baseline(baseline)
        rows = (
            None if len(inputs) == len(self.inputs) else torch.zeros(len(inputs), dtype=torch.int64)
        )
        made = self.at(inputs.to(self.inputs), rows)
        self._references.append((baseline, made))
        return made

    def generator(self, purpose: str, row: int) -> torch.Generator:
        """Return a generator that depends on seed, namespace, purpose and the row's sample only."""
        who = str(self._indices[row])
        text = "\0".join((str(self.seed), self.namespace, purpose, who))
        digest = hashlib.sha256(text.encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))

    def noise(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Return standard normal numbers, ``(batch, *shape)``, each row from its generator."""
        return self._drawn(torch.randn, purpose, shape)

    def uniform(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Return numbers from [0, 1), ``(batch, *shape)``, each row from its generator."""
        return self._drawn(torch.rand, purpose, shape)

    def _drawn(self, draw: Callable[..., Tensor], purpose: str, shape: Sequence[int]) -> Tensor:
        drawn = torch.empty(len(self.inputs), *shape, dtype=self.network.dtype)
        for row, numbers in enumerate(drawn):
            draw(*shape, generator=self.generator(purpose, row), out=numbers)
        return drawn.to(self.inputs.device)

    @cached_property
    def _indices(self) -> list[int]:
        indices: list[int] = self._who().index.tolist()
        return indices

    def _who(self) -> Samples:
        if self.samples is not None:
            return self.samples
        rows = torch.arange(len(self.inputs))
        return Samples(rows, torch.full_like(rows, -1))

    def _recorded(self) -> tuple[Tensor, Tensor]:
        if self._opaque is None:
            self._opaque = self.network.recorded(self.inputs)
        return self._opaque
