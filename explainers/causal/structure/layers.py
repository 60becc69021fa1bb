"""What interventions are on: weighted layers, their neurons, and who reads what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from explainers.causal.structure.pairs import members_of
from explainers.registry import suggest

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.operators import Affine, Convolution, Linear, Operator


@dataclass(frozen=True, eq=False)
class Sources:
    """Which output channels of earlier layers the neurons of a layer are made of.

    Three tensors alike, sorted by neuron, then layer, then channel; no triple occurs twice.
    """

    neuron: Tensor
    """int64 ``(entries,)``."""
    layer: Tensor
    """int64 ``(entries,)``: position in `Structure.layers`."""
    channel: Tensor
    """int64 ``(entries,)``: output channel of that layer."""


@dataclass(frozen=True, eq=False)
class WeightedLayer:
    """A convolution that is not depthwise, or a linear map, as part of the graph of causes.

    Its neurons are what it reads: input channels; behind a flatten, the group of features that
    are one channel; behind attention, a head. In general, the input features that are made of the
    same channels of earlier layers, numbered in the order of their first feature.
    """

    name: str
    """Of its operator; each use of a shared module is a layer of its own."""
    kind: Literal["convolution", "linear"]
    operator: Convolution | Linear
    """As the program has it, with a batch norm folded into it."""
    unfolded: Operator | None
    """The operator before a norm was folded into it; None where none was."""
    norm: Affine | None
    """The norm that was folded in: from the value of `unfolded` to the operator's."""
    neuron_of: Tensor
    """int64 ``(features,)``: number of the neuron that an input channel, or feature, belongs to;
    -1 where it is made of nothing but the network's input and constants."""
    n_neurons: int
    n_outputs: int
    groups: int
    is_root: bool
    """Whether it reads the network's input alone: it has no neurons and is never tested."""
    level: int
    """0 if its outputs are the network's, up to what has no weights; otherwise one more than the
    highest level of the layers that read it."""
    sources: Sources
    refusal: str | None = None
    """Why it is not known what its neurons are: it cannot be tested, nor what only it reads; None
    where they are. `sources` then are all that may be meant."""


@dataclass(frozen=True, eq=False)
class Structure:
    """The weighted layers of a network, and which units each of their neurons stands for."""

    layers: tuple[WeightedLayer, ...]
    """In execution order; those that the outputs depend on."""
    levels: tuple[tuple[str, ...], ...]
    """Names of the layers that are tested together, those at the outputs first; no roots."""
    outputs: Sources
    """What the network's outputs are made of: `Sources.neuron` is the output."""

    def layer(self, name: str) -> WeightedLayer:
        """Return the layer of a name.

        Raises
        ------
        LookupError
            If there is none.
        """
        for one in self.layers:
            if one.name == name:
                return one
        raise LookupError(
            f"unknown weighted layer {name!r}; {suggest(name, [one.name for one in self.layers])}"
        )

    def starts(self, classes: Tensor) -> dict[str, Tensor]:
        """Return the effects with which the graphs of classes begin.

        Parameters
        ----------
        classes
            int64 ``(classes,)``: outputs of the network.

        Returns
        -------
        dict
            Layer name to bool ``(classes, n_outputs)``: which of its channels make up the logit,
            with nothing weighted in between. Layers of level 0 and those that skip to the output.
        """
        position, entry = members_of(self.outputs.neuron.to(classes.device), classes)
        layers = self.outputs.layer.to(classes.device)[entry]
        channels = self.outputs.channel.to(classes.device)[entry]
        return self._marked(position, layers, channels, len(classes))

    def passed_on(self, layer: str, selected: Tensor) -> dict[str, Tensor]:
        """Return which outputs of earlier layers the selected neurons of a layer are made of.

        Parameters
        ----------
        layer
            Its name.
        selected
            bool ``(classes, n_neurons)``.

        Returns
        -------
        dict
            Name of each layer that this one reads to bool ``(classes, n_outputs)``, to be joined
            with what others that read it pass on. Roots are among them.

        Raises
        ------
        LookupError
            If there is no such layer.
        NotImplementedError
            If its neurons are not known.
        ValueError
            If there are more or fewer neurons.
        """
        one = self.layer(layer)
        if one.refusal is not None:
            raise NotImplementedError(one.refusal)
        if selected.ndim != 2 or selected.shape[1] != one.n_neurons:
            raise ValueError(
                f"layer {layer!r} has {one.n_neurons} neurons, expected selected as "
                f"(classes, {one.n_neurons}), got {tuple(selected.shape)}"
            )
        sources, device = one.sources, selected.device
        layers, channels = sources.layer.to(device), sources.channel.to(device)
        row, entry = selected[:, sources.neuron.to(device)].nonzero(as_tuple=True)
        found = self._marked(row, layers[entry], channels[entry], len(selected))
        read = [self.layers[position] for position in torch.unique(sources.layer).tolist()]
        nothing = {
            producer.name: selected.new_zeros(len(selected), producer.n_outputs)
            for producer in read
        }
        return nothing | found

    def _marked(
        self, rows: Tensor, layers: Tensor, channels: Tensor, n_rows: int
    ) -> dict[str, Tensor]:
        """Return, for each layer, a bool matrix that is true at (row, channel)."""
        marked: dict[str, Tensor] = {}
        for position in torch.unique(layers).tolist():
            one, is_here = self.layers[position], layers == position
            found = torch.zeros(n_rows, one.n_outputs, dtype=torch.bool, device=rows.device)
            found[rows[is_here], channels[is_here]] = True
            marked[one.name] = found
        return marked
