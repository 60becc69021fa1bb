"""Heat maps of reference samples, many concepts at once, against one concept at a time.

ResNet18 with random weights and norms as if trained, at 224 x 224. References of all convolutions
are drawn: of each layer some channels, of each some samples among those of one batch, each with the
neuron that scored most. For every one of them the heat map of the channel and that of the neuron
are made, which start at the layer. Ratios of CPU seconds of this process, medians over rounds in
which all take turns, each over ours of its own round; a concept at a time is

- `explain`: what one would do without the pass: ``explainers.explain`` with `concept_relevance`, a
  call for each channel with all its samples, and one for each neuron;
- `conditional`: our own conditional relevance, a call for each channel with all its samples and a
  call for its neurons, each with a forward pass of its own;
- `zennit`: the same as zennit-crp's ``get_max_reference``, written with zennit: a pass for each
  channel with all its samples, from the layer back, and another for its neurons. This is the one
  to which the bar of a factor of five belongs::

    OMP_NUM_THREADS=1 python -m benchmarks.references
    OMP_NUM_THREADS=1 python -m benchmarks.references --images 4 --channels 2 --references 4
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

import explainers
from benchmarks.lrp import NETWORKS, measure
from explainers import Network
from explainers.base import Samples
from explainers.catalogue import build
from explainers.composites import find
from explainers.concepts.conditional import conditional
from explainers.concepts.references import References
from explainers.concepts.references.listed import Listed
from explainers.targets import Target
from explainers.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Maps = dict[tuple[str, int], tuple[Tensor, Tensor]]
    """By layer and channel: heat maps of the channel, and of the neurons, of its samples."""

TARGET = 5.0
"""Times one concept at a time, as zennit-crp's ``get_max_reference`` goes: `zennit`."""
COMPOSITE = "epsilon_plus_flat"


def drawn(network: Network, n_images: int, n_channels: int, n_references: int) -> References:
    """Return references of all convolutions, of some channels each."""
    layers = network.match("type:Convolution")
    scan = build("relevance_maximization", layers=layers, k=n_references, references=n_references)
    listed = {}
    for layer, concepts in scan.concepts_of(network).items():
        sample = torch.full((n_references, concepts.n), -1)
        chosen = torch.randperm(concepts.n)[:n_channels]
        for channel in chosen:
            sample[:, channel] = torch.randperm(n_images)[:n_references]
        n_positions = torch.Size(concepts.shape).numel()
        listed[layer] = Listed(sample, torch.randint(n_positions, sample.shape))
    return References(scan, listed)


def at_once(network: Network, images: Tensor, references: References) -> Callable[[], Maps]:
    """Return what the pass over a batch makes; float16 maps of channels are all it keeps."""
    index = torch.arange(len(images))
    samples = Samples(index, torch.zeros_like(index))

    def run() -> Maps:
        state = references.fold([(Trace(network, images), samples)])
        found: Maps = {}
        for layer, listed in references.listed.items():
            maps = state[f"{layer}/references/heatmap"].float()
            maps = maps * state[f"{layer}/references/scale"][:, None, None]
            for channel in _channels(listed):
                of_channel = state[f"{layer}/references/channel"] == channel
                order = state[f"{layer}/references/sample"][of_channel].argsort()
                place = listed.sample[:, channel].argsort().argsort()
                found[layer, channel] = (maps[of_channel][order][place],) * 2
        return found

    return run


def one_by_one(network: Network, images: Tensor, references: References) -> Callable[[], Maps]:
    """Return a call of conditional relevance for each channel, and one for its neurons."""
    choose, target = find(COMPOSITE).choose(network), Target.parse(None)

    def maps(layer: str, rows: Tensor, conditions: list[dict[str, object]]) -> Tensor:
        trace = Trace(network, images[rows])
        found = conditional(trace, target, conditions, choose, start=layer, pairing="zip")
        return found.heatmaps.sum(1)

    def run() -> Maps:
        found: Maps = {}
        for layer, listed in references.listed.items():
            for channel in _channels(listed):
                rows, places = listed.sample[:, channel], listed.position[:, channel].tolist()
                neurons = [{layer: {channel: place}} for place in places]
                whole = maps(layer, rows, [{layer: channel}] * len(rows))
                found[layer, channel] = (whole, maps(layer, rows, neurons))
        return found

    return run


def explained(network: Network, images: Tensor, references: References) -> Callable[[], Maps]:
    """Return a call of `concept_relevance` for each channel, and one for each of its neurons."""

    def maps(layer: str, rows: Tensor, chosen: object) -> Tensor:
        found = explainers.explain(
            network,
            "concept_relevance",
            images[rows],
            start_layer=layer,
            conditions={layer: chosen},
            composite=COMPOSITE,
        )
        assert isinstance(found, torch.Tensor)
        return found.sum(1)

    def run() -> Maps:
        found: Maps = {}
        for layer, listed in references.listed.items():
            for channel in _channels(listed):
                rows, places = listed.sample[:, channel], listed.position[:, channel].tolist()
                neurons = [
                    maps(layer, row, {channel: place})
                    for row, place in zip(rows.split(1), places, strict=True)
                ]
                found[layer, channel] = (maps(layer, rows, channel), torch.cat(neurons))
        return found

    return run


def zennits(model: nn.Module, images: Tensor, references: References) -> Callable[[], Maps]:
    """Return a pass of zennit for each channel, and one for its neurons."""
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer

    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    EpsilonPlusFlat(canonizers=[ResNetCanonizer()]).register(model)
    values: dict[str, Tensor] = {}
    for layer in references.listed:
        module = model.get_submodule(layer)
        module.register_forward_hook(_keeper(values, layer))

    def maps(layer: str, rows: Tensor, chosen: tuple[object, ...]) -> Tensor:
        leaf = images[rows].requires_grad_()
        model(leaf)
        value = values[layer]
        start = torch.zeros_like(value)
        start[chosen] = value.detach()[chosen]
        (relevance,) = torch.autograd.grad(value, leaf, start)
        return relevance.sum(1)

    def run() -> Maps:
        found: Maps = {}
        for layer, listed in references.listed.items():
            for channel in _channels(listed):
                rows = listed.sample[:, channel]
                whole = maps(layer, rows, (slice(None), channel))
                places = torch.unravel_index(listed.position[:, channel], values[layer].shape[2:])
                neurons = (torch.arange(len(rows)), channel, *places)
                found[layer, channel] = (whole, maps(layer, rows, neurons))
        return found

    return run


def _keeper(values: dict[str, Tensor], layer: str) -> Callable[..., None]:
    def keep(_module: nn.Module, _inputs: object, value: Tensor) -> None:
        values[layer] = value

    return keep


def _channels(listed: Listed) -> list[int]:
    found: list[int] = (listed.sample[0] >= 0).nonzero()[:, 0].tolist()
    return found


def agreement(ours: Maps, other: Maps) -> float:
    """Return the largest difference of channels' maps over the largest value of each."""
    pairs = ((ours[key][0], other[key][0]) for key in ours)
    return max(float((one - two).abs().max() / two.abs().max()) for one, two in pairs)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--channels", type=int, default=1, help="of each layer")
    parser.add_argument("--references", type=int, default=8, help="of each channel")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--without-zennit", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = NETWORKS["resnet18"]().eval().requires_grad_(False)
    images = torch.randn(asked.images, 3, asked.size, asked.size)
    network = Network(model, images[:1])
    references = drawn(network, asked.images, asked.channels, asked.references)
    runs = {
        "references": at_once(network, images, references),
        "explain": explained(network, images, references),
        "conditional": one_by_one(network, images, references),
    }
    if not asked.without_zennit:
        runs["zennit"] = zennits(model, images, references)
    began = time.process_time()
    seconds = measure(runs, asked.rounds)
    for name, run in runs.items():
        pairs = zip(seconds[name], seconds["references"], strict=True)
        ratios = [one / other for one, other in pairs]
        print(
            f"{name:14}{statistics.median(seconds[name]):>8.2f} s"
            f"{statistics.median(ratios):>8.2f}x{min(ratios):>8.2f}-{max(ratios):.2f}"
        )
        if name != "references":
            print(f"{'':14}differs by {agreement(runs['references'](), run()):.1e}", flush=True)
    n_maps = sum(int((one.sample >= 0).sum()) for one in references.listed.values())
    print(
        f"{n_maps} references; {TARGET:.0f}x or more is asked for against one concept at a time as "
        f"zennit-crp's get_max_reference makes them (zennit); {time.process_time() - began:.0f} s "
        "of CPU time in all"
    )


if __name__ == "__main__":
    main()
