"""Causal graphs against editing weights: one sample at a time, and all samples at a time.

Ratios of CPU seconds of this process, on one thread, in float32; medians over rounds in which all
take turns, each over what it is compared with in its own round::

    OMP_NUM_THREADS=1 python -m benchmarks.causal_graph
    OMP_NUM_THREADS=1 python -m benchmarks.causal_graph --only resnet18 vgg16 --size 224 --samples 2

The published algorithm (`literal`) is an edit of the weights and a forward pass of one sample for
each neuron and sample. It is measured whole for one digit in each round, another each time, and
taken ten times; the scan finds the graphs of all ten at once. Whether both find the same graph is
printed. `original` is the architecture that was published with it, 226 neurons, trained on the
digits for some seconds; `quickstart` is the network of that run file, 112 neurons. With defaults
the scan finds intervals, frequencies and edges too, which the published algorithm does not.

`resnet18` and `vgg16` have random weights and see random images of one class, those that they
assign to it. They are compared with a loop that edits the weights of one neuron, runs all samples
forward and puts the weights back. The loop is not run for all neurons, which would take hours:
`--probes` interventions are timed in each round, at neurons spread over all layers, and their mean
is taken as many times as there are neurons in the layers that the scan reached. The scan is
measured whole, with the reading of the samples, statistics, selection and edges; the network is
read before, once. A level of a half makes graphs wide, because a narrow graph of few samples would
take next to nothing; how wide is printed. So is the recall of screening, as the scan estimates it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

import explainers
from benchmarks.lrp import NETWORKS, measure
from benchmarks.maximization import digits
from configs.causal_cifar10.model import LeNet
from configs.digits_lenet import load as lenet
from configs.quickstart.train import MEAN, STANDARD_DEVIATION
from explainers import Network
from explainers.causal.structure import structure_of
from tests.explainers.literal_causal_graph import Tested, learn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    Batches = list[tuple[Tensor, Tensor]]

LITERAL, LIMIT = 200, 1.0
"""Times faster than the published algorithm at least, and CPU seconds for ten classes at most."""
WIDE: dict[str, Any] = {"level": 0.5, "follow": "both"}
"""So that graphs of random networks from few samples are wide: narrow ones take little."""
COMPAT: dict[str, Any] = {"rule": "compat", "edges": "none", "n_bootstrap": 0}
"""What the published algorithm does, and nothing else."""
TARGETS = {"resnet18": 3, "vgg16": 10}
"""Times faster than the loop, without screening; with it three times that."""
SCREENING = 0.2
SAMPLES = 50
"""Of a digit class."""


@dataclass(frozen=True)
class Digits:
    """A network, so many digits of each class that it classifies right, and its layers."""

    network: Network
    model: nn.Module
    layers: list[nn.Module]
    channels: dict[int, int]
    parts: list[Tensor]

    @property
    def batches(self) -> Batches:
        """All digits with their labels."""
        labels = torch.arange(len(self.parts)).repeat_interleave(
            torch.tensor([len(part) for part in self.parts])
        )
        return list(zip(torch.cat(self.parts).split(250), labels.split(250), strict=True))


def pictures() -> tuple[Tensor, Tensor]:
    """Return all digits as the networks take them, of all classes in turn, and their labels."""
    images, labels = digits(5000)
    return (images - MEAN) / STANDARD_DEVIATION, labels


def quickstart() -> Digits:
    """Return the quickstart's network."""
    model = lenet().requires_grad_(False)
    layers = [model.conv1, model.conv2, model.linear1, model.linear2]
    return chosen(model, layers, {2: 32}, *pictures())


def original() -> Digits:
    """Return the published architecture, trained, on digits of 32 x 32 with equal channels."""
    torch.manual_seed(0)
    images, labels = pictures()
    images = functional.pad(images, (2, 2, 2, 2), value=-MEAN / STANDARD_DEVIATION)
    images = images.expand(-1, 3, -1, -1).contiguous()
    model = LeNet()
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(2):
        for rows in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimiser.step()
    model.eval().requires_grad_(False)
    layers = [model.conv1, model.conv2, model.linear1, model.linear2, model.linear3]
    return chosen(model, layers, {2: 16}, images, labels)


def chosen(
    model: nn.Module,
    layers: list[nn.Module],
    channels: dict[int, int],
    images: Tensor,
    labels: Tensor,
) -> Digits:
    """Return the network with the first digits of each class that it classifies right."""
    with torch.no_grad():
        is_right = torch.cat([model(part).argmax(1) for part in images.split(500)]) == labels
    parts = [images[(labels == label) & is_right][:SAMPLES] for label in range(10)]
    return Digits(Network(model, images[:2]), model, layers, channels, parts)


DIGITS: dict[str, Callable[[], Digits]] = {"original": original, "quickstart": quickstart}


def scan(network: Network, batches: Batches, **parameters: Any) -> Callable[[], Any]:
    """Return our scan."""
    return lambda: explainers.scan(network, "causal_graph", batches, **parameters)


def literal(name: str, rounds: int) -> None:
    """Print how much faster the graphs of ten digits are learned, and whether they are the same."""
    given = DIGITS[name]()
    ours = scan(given.network, given.batches, n_samples=SAMPLES, n_held_out=0, **COMPAT)
    default = scan(given.network, given.batches, n_samples=SAMPLES, n_held_out=0)
    published: dict[int, list[Tested]] = {}

    def theirs() -> None:
        label = len(published) % 10
        images = given.parts[label].split(1)
        published[label] = learn(
            given.model, given.layers, images, label, SAMPLES, channels=given.channels
        )

    seconds = measure({"literal": theirs, "compat": ours, "default": default}, rounds)
    seconds["literal"] = [10 * one for one in seconds["literal"]]
    print(f"LeNet ({name}), ten digits, {SAMPLES} samples of each")
    print(f"{'literal':36}{statistics.median(seconds['literal']):>9.3f} s")
    for each in ("compat", "default"):
        print(f"{each:36}{statistics.median(seconds[each]):>9.3f} s      <= {LIMIT:g}")
        is_measure = (name, each) == ("original", "compat")
        row(f"literal / {each}", ratios(seconds, "literal", each), LITERAL if is_measure else None)
    found = ours()
    same = [is_same(found[label], layers) for label, layers in published.items()]
    print(f"the same graph: {sum(same)} of {len(same)} digits", flush=True)


def is_same(found: dict[str, Any], published: list[Tested]) -> bool:
    """Return whether two graphs have the same causes in every layer but the first."""
    pairs = zip(list(found.values())[1:], published[1:], strict=True)
    return all(ours["causes"].tolist() == theirs.causes for ours, theirs in pairs)


def variants(rounds: int) -> None:
    """Print CPU seconds of what can be asked for beside, of ten classes at once."""
    given = quickstart()
    settings: dict[str, dict[str, Any]] = {
        "held out": {"n_held_out": 10, "n_samples": 40},
        "exact edges": {"n_held_out": 0, "edges": "exact"},
        "sweep over five constants": {"n_held_out": 0, "sweep": (0.0, 0.01, 0.02, 0.05, 0.1)},
        "screening": {"n_held_out": 0, "screening": SCREENING},
    }
    runs = {
        name: scan(given.network, given.batches, **{"n_samples": SAMPLES, **each})
        for name, each in settings.items()
    }
    for name, own in measure(runs, rounds).items():
        print(f"{name:36}{statistics.median(own):>9.3f} s", flush=True)
    print(f"recall of screening: {recall(runs['screening']())}", flush=True)


def loop(name: str, asked: argparse.Namespace) -> None:
    """Print how much faster a network's graph is learned than by a forward for each neuron."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval().requires_grad_(False)
    drawn = torch.randn(4 * asked.samples, 3, asked.size, asked.size)
    with torch.no_grad():
        guesses = model(drawn).argmax(1)
    label = int(guesses.mode()[0])
    images = drawn[guesses == label][: asked.samples]
    network = Network(model, images[:2])
    batches = [(images, torch.full((len(images),), label))]
    common = {"classes": [label], "n_samples": asked.samples, "n_held_out": 0, **WIDE}
    found: dict[str, dict[Any, Any]] = {}

    def learned(which: str, **parameters: Any) -> None:
        found[which] = explainers.scan(network, "causal_graph", batches, **common, **parameters)

    runs = {
        "probes": partial(probe, model, images, asked.probes),
        "exact": partial(learned, "exact"),
        "screening": partial(learned, "screening", screening=SCREENING),
    }
    seconds = measured(runs, asked.rounds)
    print(f"{name}, {len(images)} samples of {asked.size} x {asked.size}")
    for each, factor in (("exact", 1), ("screening", 3)):
        n_neurons, share = reached(network, found[each][label]), linked(network, found[each][label])
        print(f"{each}: {n_neurons} neurons; of the channels {share:.2f} are effects")
        own = [n_neurons / asked.probes * one for one in ratios(seconds, "probes", each)]
        row(f"loop / {each}", own, factor * TARGETS[name])
    print(f"recall of screening: {recall(found['screening'])}", flush=True)


def measured(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds of each, round by round; all last long enough to need no warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    return seconds


@torch.no_grad()
def probe(model: nn.Module, images: Tensor, n_probes: int) -> None:
    """Edit, run all samples and put back, at neurons spread over the layers."""
    weights = [each for each in model.parameters() if each.ndim > 1]
    for number in range(n_probes):
        weight = weights[number * len(weights) // n_probes]
        neuron = number % weight.shape[1]
        before = weight[:, neuron].clone()
        weight[:, neuron] = 0.0
        model(images)
        weight[:, neuron] = before


def reached(network: Network, graph: dict[str, Any]) -> int:
    """Return how many neurons there are in the layers that the scan reached."""
    layers = {layer.name: layer for layer in structure_of(network).layers}
    return sum(
        layers[name].n_neurons
        for name, found in graph.items()
        if "te" in found and len(found["effects"])
    )


def linked(network: Network, graph: dict[str, Any]) -> float:
    """Return the share of the channels that are effects, of all layers below the last."""
    counts = [
        (len(graph[layer.name]["effects"]), layer.n_outputs)
        for layer in structure_of(network).layers
        if layer.level > 0
    ]
    return sum(few for few, _ in counts) / sum(all_ for _, all_ in counts)


def recall(result: dict[Any, Any]) -> str:
    """Return the mean over classes and layers, and the smallest."""
    found = torch.tensor(
        [
            float(layer["recall"])
            for label, graph in result.items()
            if isinstance(label, int)
            for layer in graph.values()
            if "recall" in layer
        ]
    )
    found = found[found.isfinite()]
    return (
        f"{float(found.mean()):.3f} (least {float(found.min()):.3f})" if len(found) else "unknown"
    )


def ratios(seconds: dict[str, list[float]], slow: str, fast: str) -> list[float]:
    """Return the ratio of each round."""
    return [one / other for one, other in zip(seconds[slow], seconds[fast], strict=True)]


def row(name: str, own: list[float], target: float | None) -> None:
    """Print a ratio and what it should be."""
    asked = "" if target is None else f"  >= {target:g}"
    print(
        f"{name:36}{statistics.median(own):>9.1f} times  ({min(own):.1f}-{max(own):.1f}){asked}",
        flush=True,
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = [*DIGITS, "variants", *TARGETS]
    parser.add_argument("--only", nargs="*", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    began = time.process_time()
    for part in asked.only:
        if part in DIGITS:
            literal(part, asked.rounds)
        elif part == "variants":
            variants(asked.rounds)
        else:
            loop(part, asked)
    print(f"{time.process_time() - began:.0f} s of CPU time in all")


if __name__ == "__main__":
    main()
