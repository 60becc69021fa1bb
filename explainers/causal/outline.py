"""What rounds have to know of a network that only workers have: its layers, and who reads whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.causal.interventions.planned import refusals
from explainers.causal.structure import structure_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from explainers.base import State
    from explainers.causal.structure import WeightedLayer
    from explainers.network import Network

_KEY = "outline"
_STARTS = "starts"
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def dtype_of(network: Network) -> torch.dtype:
    """Return in which numbers a network computes its logits; its inputs may be whole numbers."""
    dtype: torch.dtype = structure_of(network).layers[-1].operator.weight.dtype
    return dtype


def check_tested(network: Network, names: Sequence[str]) -> None:
    """Refuse to test layers on which there are no interventions, and say which can be tested.

    Parameters
    ----------
    network
        A program.
    names
        Of the layers that are to be tested.

    Raises
    ------
    NotImplementedError
        If there are no interventions on one of them.
    """
    structure = structure_of(network)
    refused = refusals(network, [each for each in structure.layers if not each.is_root])
    asked = [name for name in names if name in refused]
    if not asked:
        return
    lowest = _lowest(structure.layers, {*refused})
    say = (
        f"there are graphs down to {', '.join(lowest)}: layers={lowest}"
        if lowest
        else "no other layer can be tested without it"
    )
    others = f" (and {len(asked) - 1} more)" if len(asked) > 1 else ""
    raise NotImplementedError(
        f"layer {asked[-1]!r}{others} cannot be tested: {refused[asked[-1]]}; {say}"
    )


def _lowest(layers: Sequence[WeightedLayer], refused: set[str]) -> list[str]:
    """Return names that imply all layers which can be tested: who reads a layer is tested too."""
    reads = {
        each.name: {layers[position].name for position in torch.unique(each.sources.layer).tolist()}
        for each in layers
    }
    for each in reversed(layers):
        if each.name in refused:
            refused = refused | reads[each.name]
    alive = {each.name for each in layers if not each.is_root} - refused
    return [each.name for each in layers if each.name in alive and not reads[each.name] & alive]


@dataclass(frozen=True, eq=False)
class Reader:
    """A weighted layer, without its weights."""

    name: str
    """Of its operator."""
    n_neurons: int
    """How many it reads."""
    n_outputs: int
    """Its channels."""
    level: int
    """0 where nothing weighted lies between it and the outputs."""
    is_root: bool
    """Whether it reads the network's input only."""
    sources: Tensor
    """What its neurons are made of: neuron, position of the layer, channel; int64, ``(3, n)``."""


@dataclass(frozen=True, eq=False)
class Outline:
    """The layers in execution order; it can be kept in the state of a scan."""

    layers: tuple[Reader, ...]
    """In execution order."""
    starts: Mapping[str, Tensor]
    """Layer to its channels that each output of the network is made of, bool,
    ``(outputs, channels)``."""
    dtype: torch.dtype
    """Of the logits."""

    @classmethod
    def of(cls, network: Network) -> Outline:
        """Return a network's outline."""
        structure = structure_of(network)
        layers = tuple(
            Reader(
                each.name,
                each.n_neurons,
                each.n_outputs,
                each.level,
                each.is_root,
                torch.stack([each.sources.neuron, each.sources.layer, each.sources.channel]).cpu(),
            )
            for each in structure.layers
        )
        starts = structure.starts(torch.arange(network.n_outputs))
        dtype = dtype_of(network)
        return cls(layers, {name: each.cpu() for name, each in starts.items()}, dtype)

    def entries(self) -> State:
        """Return tensors that say the same, as a part of a state."""
        state = {f"{_KEY}/dtype": torch.tensor([_DTYPES.index(self.dtype)])}
        for position, each in enumerate(self.layers):
            facts = [each.n_neurons, each.n_outputs, each.level, int(each.is_root)]
            state[f"{_KEY}/{position}/facts/{each.name}"] = torch.tensor(facts)
            state[f"{_KEY}/{position}/sources/{each.name}"] = each.sources
        for name, channels in self.starts.items():
            state[f"{_KEY}/{_STARTS}/{name}"] = channels
        return state

    @classmethod
    def read(cls, state: State) -> Outline:
        """Return the outline that is in a state."""
        facts: dict[int, tuple[str, list[int]]] = {}
        sources: dict[int, Tensor] = {}
        starts: dict[str, Tensor] = {}
        for key, entry in state.items():
            head, *rest = key.split("/", 3)
            if head != _KEY:
                continue
            if rest[0] == _STARTS:
                starts["/".join(rest[1:])] = entry
            elif rest[0].isdigit() and rest[1] == "facts":
                facts[int(rest[0])] = (rest[2], entry.tolist())
            elif rest[0].isdigit():
                sources[int(rest[0])] = entry
        layers = tuple(
            Reader(name, n_neurons, n_outputs, level, bool(is_root), sources[position])
            for position, (name, (n_neurons, n_outputs, level, is_root)) in sorted(facts.items())
        )
        dtype = _DTYPES[int(state[f"{_KEY}/dtype"])] if layers else torch.float32
        return cls(layers, starts, dtype)

    def layer(self, name: str) -> Reader:
        """Return the layer of a name."""
        return next(each for each in self.layers if each.name == name)

    def levels(self, names: Sequence[str] | None = None) -> tuple[tuple[str, ...], ...]:
        """Return the layers that are tested in one round, those next to the outputs first.

        Parameters
        ----------
        names
            Down to which layers; those that read these are among the levels as well. None for all.
        """
        wanted = {each.name for each in self.layers} if names is None else self._readers_of(names)
        found: dict[int, list[str]] = {}
        for each in self.layers:
            if each.name in wanted and not each.is_root:
                found.setdefault(each.level, []).append(each.name)
        return tuple(tuple(found[level]) for level in sorted(found))

    def begun(self, classes: Sequence[int]) -> dict[str, Tensor]:
        """Return each layer's channels that the outputs of classes are made of, as `effects`."""
        rows = torch.tensor(classes, dtype=torch.int64)
        return {
            each.name: self.starts[each.name][rows].clone()
            if each.name in self.starts
            else torch.zeros(len(classes), each.n_outputs, dtype=torch.bool)
            for each in self.layers
        }

    def pass_on(self, name: str, selected: Tensor, effects: dict[str, Tensor]) -> None:
        """Add to effects the channels that the selected neurons of a layer are made of.

        Parameters
        ----------
        name
            The layer.
        selected
            Its neurons of each class, bool, ``(classes, neurons)``.
        effects
            Layer to channels, bool, ``(classes, channels)``; changed in place.
        """
        neuron, layer, channel = self.layer(name).sources
        for position in torch.unique(layer).tolist():
            each, of_layer = self.layers[position], layer == position
            count = torch.zeros(len(selected), each.n_outputs, dtype=torch.int64)
            chosen = selected[:, neuron[of_layer]].long()
            count.index_add_(1, channel[of_layer], chosen)
            effects[each.name] |= count > 0

    def _readers_of(self, names: Sequence[str]) -> set[str]:
        """Return the layers of some names, and all that lie between them and the outputs."""
        positions = {each.name: position for position, each in enumerate(self.layers)}
        wanted = {positions[name] for name in names}
        # in execution order who reads comes behind
        for position, each in enumerate(self.layers):
            if wanted & set(torch.unique(each.sources[1]).tolist()):
                wanted.add(position)
        return {self.layers[position].name for position in wanted}
